"""Training of the local model: which painted voxels are learned from, their features, and what is held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import devices
from .box import Box
from .card import ModelCard
from .dataset import Example
from .events import Progress, Report, ignore
from .features import Features, local_variance
from .intensity import Intensity
from .local_fitting import Painted
from .local_learning import Learned, Learner
from .models.local import DEFAULT_OCTAVES
from .neighbourhoods import aligned, boxes_around, cut, features_on, work
from .prepare import Prepared
from .settings import TrainSettings
from .slicing import LabelledVoxels, seen_planes
from .volume import UNLABELLED, value_counts

_OCTAVES = (2, 1, 3)  # that are tried on held-out strokes; the first is left only for one that is clearly better
_WORK = 16_000_000  # voxels whose features are computed at most: a few seconds
MOST = 200_000
"""Painted voxels that are learned from; of more, a random choice."""
_SAMPLES, _SAMPLE_SIDE = 96, 16  # boxes of voxels anywhere, painted or not


class LocalTrainer:
    """One training of a local model.

    Args:
        prepared: Images and labels.
        card: What is known before; its settings need not say how many octaves.
        settings: The user's choice.
        report: Takes ``Progress``, ``EpochEnded`` and ``Log``; may raise ``Cancelled``.
    """

    def __init__(self, prepared: Prepared, card: ModelCard, settings: TrainSettings, report: Report = ignore) -> None:
        self.prepared, self.card, self.settings, self.report = prepared, card, settings, report
        self.device = devices.choose(settings.device)
        self.intensity = Intensity.from_dict(card.intensity)
        counts = np.sum([value_counts(seen_planes(e.labels, e.hidden)) for e in prepared.examples], axis=0)[:UNLABELLED]
        self.parts = parts_for(counts, settings.validation_part)

    def run(self) -> Learned:
        """Train to the end.

        Raises:
            ResourceError: The device is not there.
        """
        rng = np.random.default_rng(self.settings.seed)
        tried = (self.settings.octaves,) if self.settings.octaves else _OCTAVES if self.parts else (DEFAULT_OCTAVES,)
        painted = self._painted(max(tried), rng)
        learner = Learner(self.card, self.settings, self.device, report=self.report)
        return learner.learn(painted, tried, self.parts, lambda octaves: self._samples(octaves, rng))

    def _painted(self, octaves: int, rng: np.random.Generator) -> Painted:
        """Compute the features of the painted voxels, of as many as a few seconds allow."""
        boxes = [
            (n, features, box, voxels, values)
            for n, example in enumerate(self.prepared.examples)
            for features in (features_on(example.image.grid, octaves),)
            for box, voxels, values in _labelled_boxes(example, features, rng)
        ]
        kept = affordable([(values, work(box, features)) for _, features, box, _, values in boxes], rng)
        found, variances, classes, places = [], [], [], []
        for count, index in enumerate(kept):
            self.report(Progress("features", count, len(kept)))
            n, features, box, voxels, values = boxes[index]
            measured = self._measured(n, features, box)
            z, y, x = torch.from_numpy(voxels - np.array(box.start)).to(self.device).T
            found.append(measured[:, z, y, x])
            variances.append(self._variances(n, features, box)[z, y, x])
            classes.append(values)
            places.append(np.column_stack([np.full(len(voxels), n), voxels]))
        self.report(Progress("features", len(kept), len(kept)))
        values = np.concatenate(classes)
        parts = parts_of(values, np.concatenate(places), max(1, self.parts))
        chosen = np.sort(rng.permutation(len(values))[:MOST])
        return Painted(
            torch.cat(found, dim=1)[:, torch.from_numpy(chosen).to(self.device)],
            torch.from_numpy(values[chosen].astype(np.int64)).to(self.device),
            torch.from_numpy(parts[chosen]).to(self.device),
            self.card.channels,
            len(self.card.classes),
            torch.cat(variances),
        )

    def _variances(self, n: int, features: Features, box: Box) -> Tensor:
        """Return how much grey values vary around each voxel of a box, (Z, Y, X)."""
        margin = [2 * fine for fine in features.fine]
        block = cut(self.prepared.examples[n].image, box, margin, self.intensity).to(self.device)
        return local_variance(block.mean(dim=0, keepdim=True), features.fine)[1][0]

    def _measured(self, n: int, features: Features, box: Box) -> Tensor:
        with torch.inference_mode():
            measured = features.of(
                cut(self.prepared.examples[n].image, box, features.margin, self.intensity).to(self.device)
            )
        return measured.clone()  # no tensor of the inference mode reaches the training

    def _samples(self, octaves: int, rng: np.random.Generator) -> Iterator[Tensor]:
        """Yield features (features, N) of boxes anywhere in the images."""
        for k in range(_SAMPLES):
            n = k % len(self.prepared.examples)
            grid = self.prepared.examples[n].image.grid
            features = features_on(grid, octaves)
            sides = np.minimum(_SAMPLE_SIDE, grid.shape)
            start = np.array([rng.integers(0, n - side + 1) for n, side in zip(grid.shape, sides, strict=True)])
            yield self._measured(n, features, aligned(start, start + sides, features.multiple)).flatten(1)


def parts_for(counts: NDArray[np.int64], part: float) -> int:
    """Return how many parts are held out in turn; 0 where a class has too few voxels to do without some of them.

    Args:
        counts: Painted voxels of each class.
        part: Of them all that is held out at a time.
    """
    parts = min(round(1 / part), int(counts[counts > 0].min())) if part else 0
    return parts if parts > 1 else 0


def _labelled_boxes(
    example: Example, features: Features, rng: np.random.Generator
) -> Iterator[tuple[Box, NDArray[np.intp], NDArray[np.int64]]]:
    """Yield boxes with their labelled voxels (n, 3) and the class indices of these."""
    by_class = LabelledVoxels.of(example.labels, rng, example.hidden).by_class
    if not by_class:
        return
    voxels = np.concatenate(list(by_class.values())).astype(np.intp)
    values = np.concatenate([np.full(len(found), index, np.int64) for index, found in by_class.items()])
    for box, rows in boxes_around(voxels, features):
        yield box, voxels[rows], values[rows]


def affordable(
    boxes: Sequence[tuple[NDArray[np.int64], float]], rng: np.random.Generator, most: float = _WORK
) -> list[int]:
    """Return which boxes, each with its classes and its work, are learned from: all, or some of every class.

    Args:
        boxes: The classes of a box's voxels, and how much work its features are.
        rng: Chooses among boxes that are too many.
        most: Work that is done for all of them together, but for the richest of each class.
    """
    order = rng.permutation(len(boxes)).tolist()
    classes = sorted({int(value) for values, _ in boxes for value in np.unique(values)})
    richest = [max(order, key=lambda n, c=index: int((boxes[n][0] == c).sum())) for index in classes]  # type: ignore[misc]
    kept, spent = [], 0.0
    for n in dict.fromkeys([*richest, *order]):
        if n in richest or spent + boxes[n][1] <= most:
            kept.append(n)
            spent += boxes[n][1]
    return sorted(kept)


def parts_of(classes: NDArray[np.int64], places: NDArray[np.intp], count: int) -> NDArray[np.int64]:
    """Return for each voxel the part that it is held out with: of every class a stretch of its places in order.

    Voxels of one stroke, which lie beside each other, so come into the same part or into two that follow each other.
    """
    parts = np.empty(len(classes), np.int64)
    for index in np.unique(classes):
        rows = np.flatnonzero(classes == index)
        rows = rows[np.lexsort(places[rows].T[::-1])]
        parts[rows] = np.arange(len(rows)) * count // len(rows)
    return parts
