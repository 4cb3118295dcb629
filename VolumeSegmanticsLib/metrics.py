"""How good a prediction is, voxel by voxel: confusion, Dice, Jaccard and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .volume import UNLABELLED, LabelClass, LabelMap

Counts = NDArray[np.int64]
Parts = NDArray[np.float64]

BLOCK_VOXELS = 2**21
"""Voxels that are counted at once: about 20 MB of temporary arrays."""


@dataclass(frozen=True)
class ClassPair:
    """One material, and the values that stand for it.

    Attributes:
        label: Name and colour; from the truth where it has the class.
        predicted: Its value in the prediction; None where only the truth has the class.
        true: Its value in the truth; None where only the prediction has the class.
    """

    label: LabelClass
    predicted: int | None
    true: int | None


@dataclass(frozen=True, eq=False)
class Scores:
    """What a prediction got right, over the voxels that are labelled in the truth.

    Dice and Jaccard of a class that is in neither truth nor prediction are NaN, as are its precision and recall; so is
    the precision of a class that is never predicted, and the recall of one that is not in the truth. Means are taken
    over the classes that are in the truth or in the prediction.

    Attributes:
        classes: One a row of the figures. Two may share a value where classes were matched by name.
        confusion: int64 (true class, predicted class), voxels.
        unlabelled: int64 (true class,), voxels that the prediction leaves unlabelled: wrong answers, each one.
    """

    classes: tuple[LabelClass, ...]
    confusion: Counts
    unlabelled: Counts

    @cached_property
    def true_voxels(self) -> Counts:
        """Voxels of each class in the truth."""
        voxels: Counts = self.confusion.sum(axis=1) + self.unlabelled
        return voxels

    @cached_property
    def predicted_voxels(self) -> Counts:
        """Voxels of each class in the prediction, where the truth is labelled."""
        voxels: Counts = self.confusion.sum(axis=0)
        return voxels

    @property
    def voxels(self) -> int:
        """How many voxels are labelled in the truth."""
        return int(self.true_voxels.sum())

    @property
    def hits(self) -> Counts:
        """Voxels of each class that truth and prediction share."""
        return self.confusion.diagonal()

    @property
    def dice(self) -> Parts:
        """2 · hits / (true + predicted), for each class."""
        return _ratio(2 * self.hits, self.true_voxels + self.predicted_voxels)

    @property
    def jaccard(self) -> Parts:
        """Hits / union, for each class; also called IoU."""
        return _ratio(self.hits, self.true_voxels + self.predicted_voxels - self.hits)

    @property
    def precision(self) -> Parts:
        """Which part of what is predicted as a class is that class."""
        return _ratio(self.hits, self.predicted_voxels)

    @property
    def recall(self) -> Parts:
        """Which part of a class is found."""
        return _ratio(self.hits, self.true_voxels)

    @property
    def accuracy(self) -> float:
        """Which part of all voxels is right."""
        return float(self.hits.sum() / self.voxels) if self.voxels else math.nan

    @property
    def mean_dice(self) -> float:
        """Mean over the classes that are in the truth or in the prediction."""
        return _mean(self.dice)

    @property
    def mean_jaccard(self) -> float:
        """Mean over the classes that are in the truth or in the prediction."""
        return _mean(self.jaccard)

    @property
    def true_fractions(self) -> Parts:
        """Volume fraction of each class in the truth."""
        return _ratio(self.true_voxels, np.full_like(self.true_voxels, self.voxels))

    @property
    def predicted_fractions(self) -> Parts:
        """Volume fraction of each class in the prediction, of the voxels that are labelled in the truth."""
        return _ratio(self.predicted_voxels, np.full_like(self.true_voxels, self.voxels))

    @property
    def baseline(self) -> Scores:
        """The scores of the trivial answer: every voxel is of the largest class."""
        confusion = np.zeros_like(self.confusion)
        confusion[:, np.argmax(self.true_voxels)] = self.true_voxels
        return Scores(self.classes, confusion, np.zeros_like(self.unlabelled))

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as what JSON holds; NaN becomes None."""
        return {
            "voxels": self.voxels,
            **self._overall(),
            "baseline": self.baseline._overall(),
            "classes": [
                {"value": c.value, "name": c.name} | {name: _plain(getattr(self, name)[i]) for name in CLASS_FIGURES}
                for i, c in enumerate(self.classes)
            ],
            "confusion": self.confusion.tolist(),
        }

    def _overall(self) -> dict[str, float | None]:
        return {name: _plain(getattr(self, name)) for name in ("accuracy", "mean_dice", "mean_jaccard")}

    def table(self) -> str:
        """Return the figures as aligned text, one class a line."""
        heads = ["class", *(title for title, _ in COLUMNS)]
        rows = [[c.name, *(f"{getattr(self, name)[i]:.4f}" for _, name in COLUMNS)] for i, c in enumerate(self.classes)]
        rows += [_mean_row("mean", self), _mean_row("all one class", self.baseline)]
        lines = _aligned([heads, *rows])
        lines.append(f"accuracy {self.accuracy:.4f} over {self.voxels} voxels")
        if self.unlabelled.any():
            lines.append(f"{self.unlabelled.sum()} voxels are unlabelled in the prediction and count as wrong")
        return "\n".join(lines)


COLUMNS = (
    ("Dice", "dice"),
    ("Jaccard", "jaccard"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("true part", "true_fractions"),
    ("found part", "predicted_fractions"),
)
"""The columns of ``Scores.table``: title and attribute."""

CLASS_FIGURES = (*(name for _, name in COLUMNS), "true_voxels", "predicted_voxels", "unlabelled")
"""What ``Scores.to_dict`` tells of each class."""


def _ratio(part: Counts, whole: Counts) -> Parts:
    """Divide; NaN where the whole is 0."""
    ratio: Parts = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return ratio


def _mean(parts: Parts) -> float:
    """Return the mean of what is not NaN; NaN where nothing is left."""
    known = parts[~np.isnan(parts)]
    return float(known.mean()) if known.size else math.nan


def _plain(number: float | np.int64) -> float | int | None:
    if math.isnan(number):
        return None
    return int(number) if isinstance(number, np.integer) else float(number)


def _mean_row(title: str, scores: Scores) -> list[str]:
    return [title, f"{scores.mean_dice:.4f}", f"{scores.mean_jaccard:.4f}", *[""] * (len(COLUMNS) - 2)]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def score(prediction: LabelMap, truth: LabelMap) -> Scores:
    """Compare a prediction with the truth, where the truth is labelled.

    Classes are matched as ``match_classes`` says. A voxel that is labelled in the truth and unlabelled in the
    prediction counts as wrong.

    Raises:
        InputError: The grids differ, or the truth has no labelled voxel.
    """
    if prediction.grid != truth.grid:
        raise InputError(
            f"Prediction and truth lie on different grids: {prediction.grid.difference(truth.grid)}.",
            "Predict the image that the truth was painted on, or resample one of them.",
        )
    pairs = match_classes(prediction, truth)
    predicted = [pair.predicted for pair in pairs]
    joint = _joint_counts(prediction.array, truth.array)
    _refuse_strays(joint, [pair.true for pair in pairs], [*predicted, UNLABELLED])
    if not joint.any():
        raise InputError("The truth has no labelled voxel.", "Take a label file in which something is painted.")
    table = _rows_and_columns(joint, [pair.true for pair in pairs], [*predicted, UNLABELLED])
    return Scores(tuple(pair.label for pair in pairs), table[:, :-1], table[:, -1])


def match_classes(prediction: LabelMap, truth: LabelMap) -> tuple[ClassPair, ...]:
    """Find which values of the two label maps mean the same material.

    Where both maps carry names of their own ("Fibre", not "Class 2"), classes of the same name belong together,
    whatever their values; otherwise, or where a name occurs twice in a map, classes of the same value do.

    Returns:
        The classes of the truth, then those that only the prediction has.
    """
    by_name = all(_has_own_names(labels.classes) for labels in (prediction, truth))

    def key(label: LabelClass) -> int | str:
        return label.name if by_name else label.value

    predicted, true = ({key(c): c for c in labels.classes} for labels in (prediction, truth))
    return tuple(
        ClassPair(true.get(k) or predicted[k], _value(predicted.get(k)), _value(true.get(k)))
        for k in dict.fromkeys([*true, *predicted])
    )


def wrong_voxels(
    prediction: NDArray[np.uint8], truth: NDArray[np.uint8], pairs: tuple[ClassPair, ...]
) -> NDArray[np.bool_]:
    """Return where a prediction is wrong: bool, of the shape of the two arrays; False where the truth is unlabelled."""
    meant = np.full(256, UNLABELLED, np.uint8)  # the truth's value for each predicted one
    for pair in pairs:
        if pair.predicted is not None and pair.true is not None:
            meant[pair.predicted] = pair.true
    wrong: NDArray[np.bool_] = (truth != UNLABELLED) & (meant[prediction] != truth)
    return wrong


def _has_own_names(classes: tuple[LabelClass, ...]) -> bool:
    own = any(not c.is_plain for c in classes)
    return own and len({c.name for c in classes}) == len(classes)


def _value(label: LabelClass | None) -> int | None:
    return None if label is None else label.value


def confusion(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], values: Sequence[int]) -> Counts:
    """Count how often each value stands where each other should.

    Args:
        prediction: uint8 of any three-dimensional shape, possibly memory-mapped; read block by block.
        truth: As ``prediction``; voxels of 255 are left out.
        values: The class values, in the order of the result; 255 may be one of them, for the prediction's sake.

    Returns:
        int64 (true value, predicted value), voxels.

    Raises:
        InputError: The shapes differ, or a counted voxel has a value that is not in ``values``.
    """
    if prediction.shape != truth.shape:
        raise InputError(f"The prediction has the shape {prediction.shape}, the truth {truth.shape}.")
    joint = _joint_counts(prediction, truth)
    _refuse_strays(joint, values, values)
    return _rows_and_columns(joint, values, values)


def _joint_counts(prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> Counts:
    """Count all pairs of values: int64 (256 true, 256 predicted); the row of 255 is left 0."""
    joint = np.zeros(256 * 256, np.int64)
    for box in _boxes(truth.shape):
        pairs = truth[box].astype(np.uint16) * 256 + prediction[box]
        joint += np.bincount(pairs.ravel(), minlength=256 * 256)
    table = joint.reshape(256, 256)
    table[UNLABELLED] = 0
    return table


def _boxes(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Cut an array into boxes of whole rows, each of about ``BLOCK_VOXELS`` at most."""
    rows = max(1, min(shape[1], BLOCK_VOXELS // shape[2]))
    deep = max(1, BLOCK_VOXELS // (rows * shape[2]))
    for z in range(0, shape[0], deep):
        for y in range(0, shape[1], rows):
            yield slice(z, z + deep), slice(y, y + rows)


def _refuse_strays(joint: Counts, true: Sequence[int | None], predicted: Sequence[int | None]) -> None:
    for name, voxels, known in (("truth", joint.sum(axis=1), true), ("prediction", joint.sum(axis=0), predicted)):
        strays = sorted(set(np.flatnonzero(voxels).tolist()) - set(known))
        if strays:
            raise InputError(f"The {name} holds values that are none of its classes: {strays}.")


def _rows_and_columns(joint: Counts, rows: Sequence[int | None], columns: Sequence[int | None]) -> Counts:
    """Pick from all pairs; None picks zeros."""
    picked: Counts = joint[np.ix_([r or 0 for r in rows], [c or 0 for c in columns])]
    picked[[r is None for r in rows]] = 0
    picked[:, [c is None for c in columns]] = 0
    return picked
