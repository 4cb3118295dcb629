"""Which voxels carry labels, which of them are held out, and which planes are worth learning.

Labels are split by voxels, not by slices: a contiguous slab is unlabelled in every training view, so that no slice of
another axis carries its labels into training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .box import Box
from .settings import AXIS_LETTERS, axis_letters
from .volume import UNLABELLED, Grid, value_counts

LARGEST_ASPECT = 3.0
"""Planes whose pixels are longer than this many times their width are not worth learning unless asked for."""

FEW_PLANES = 10
FEW_VOXELS = 20_000
"""With fewer labelled planes or voxels than this, a held-out slab is only borrowed from training, not taken from it."""

STROKE_DENSITY = 0.1
"""Labels are strokes where a labelled voxel finds less than this part of its plane labelled."""

_INDEXED_VOXELS = 500_000  # of one class in one volume; a random choice of more is as good


@dataclass(frozen=True)
class Slab:
    """The voxels from plane ``start`` up to, not including, ``stop`` along an array axis."""

    axis: int
    start: int
    stop: int

    def of(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the slab of an array (Z, Y, X) without copying."""
        return array[(slice(None),) * self.axis + (slice(self.start, self.stop),)]

    def box(self, shape: tuple[int, ...]) -> Box:
        """Return the slab of a volume of a shape."""
        return self._between(self.start, self.stop, shape)

    def beyond(self, shape: tuple[int, ...]) -> tuple[Box, Box]:
        """Return what lies before and behind the slab in a volume of a shape; both may be empty."""
        return self._between(0, self.start, shape), self._between(self.stop, shape[self.axis], shape)

    def _between(self, start: int, stop: int, shape: tuple[int, ...]) -> Box:
        spans = [(start, stop) if axis == self.axis else (0, side) for axis, side in enumerate(shape)]
        return Box((spans[0][0], spans[1][0], spans[2][0]), (spans[0][1], spans[1][1], spans[2][1]))


@dataclass(frozen=True)
class HoldOut:
    """A slab in each volume (or None there) whose labels measure instead of teach.

    Attributes:
        slabs: One entry a volume.
        for_good: True where enough labels remain without it; otherwise it joins the training at its end.
    """

    slabs: tuple[Slab | None, ...]
    for_good: bool


def seen(labels: NDArray[np.uint8], box: Box, hidden: Sequence[Box] = ()) -> NDArray[np.uint8]:
    """Return a copy of the labels in a box, ``UNLABELLED`` where other boxes hide them."""
    part = labels[box.window].copy()
    for each in hidden:
        if common := box.common(each):
            part[common.seen_from(box.start).window] = UNLABELLED
    return part


def seen_planes(labels: NDArray[np.uint8], hidden: Sequence[Box] = ()) -> Iterator[NDArray[np.uint8]]:
    """Yield the planes (Y, X) of labels, ``UNLABELLED`` where boxes hide them; the labels are not changed."""
    for z in range(len(labels)):
        yield seen(labels, Box((z, 0, 0), (z + 1, *labels.shape[1:])), hidden)[0]


def planes(grid: Grid, axes: str) -> str:
    """Return the letters of the axes whose planes are worth learning or predicting.

    ``"all"`` leaves out planes one voxel wide, and planes of a strongly anisotropic grid in which the pixels are more
    than ``LARGEST_ASPECT`` times longer than wide. Axes that are asked for by letter stay.
    """
    if axes != "all":
        return axis_letters(axes)
    kept = ""
    for axis, letter in enumerate(AXIS_LETTERS):
        rows, columns = (a for a in range(3) if a != axis)
        aspect = grid.spacing[rows] / grid.spacing[columns]
        wide = min(grid.shape[rows], grid.shape[columns]) > 1
        if wide and 1 / LARGEST_ASPECT <= aspect <= LARGEST_ASPECT:
            kept += letter
    return kept or AXIS_LETTERS[_finest_axis(grid)]


def _finest_axis(grid: Grid) -> int:
    """Return the axis whose planes have the most, then the finest pixels."""
    across = [[a for a in range(3) if a != axis] for axis in range(3)]
    scores = [(min(min(grid.shape[a] for a in pair), 2), -max(grid.spacing[a] for a in pair)) for pair in across]
    return scores.index(max(scores))


def plane_counts(labels: NDArray[np.uint8], values: Sequence[int]) -> list[NDArray[np.int64]]:
    """Return for each array axis how many voxels of each value every plane holds: three arrays (planes, values)."""
    counts = [np.zeros((side, len(values)), np.int64) for side in labels.shape]
    for z, plane in enumerate(labels):
        for n, value in enumerate(values):
            rows = np.count_nonzero(plane == value, axis=1)
            if rows.any():
                counts[0][z, n] = rows.sum()
                counts[1][:, n] += rows
                counts[2][:, n] += np.count_nonzero(plane == value, axis=0)
    return counts


def hold_out(labels: Sequence[NDArray[np.uint8]], values: Sequence[int], part: float) -> HoldOut | None:
    """Choose what validates: in each volume the slab that holds about ``part`` of every class.

    Args:
        labels: One array (Z, Y, X) a volume.
        values: Those that count.
        part: 0 to 0.5; 0 holds nothing out.

    Returns:
        None where nothing can be held out without losing most of a class.
    """
    if part == 0:
        return None
    counts = [plane_counts(each, values) for each in labels]
    slabs = tuple(_best_slab(axes, part) for axes in counts)
    if not any(slabs):
        return None
    voxels = sum(int(axes[0].sum()) for axes in counts)
    enough = voxels >= FEW_VOXELS and sum(map(_labelled_planes, counts)) >= FEW_PLANES
    return HoldOut(slabs, for_good=enough)


def _labelled_planes(counts: list[NDArray[np.int64]]) -> int:
    """Return in how many planes the labels lie, along the axis where they lie in fewest."""
    return min(int(np.count_nonzero(of_axis.any(axis=1))) for of_axis in counts)


def _best_slab(counts: list[NDArray[np.int64]], part: float) -> Slab | None:
    """Return the slab whose share of the rarest-held class is largest, while at least half of every class remains."""
    best, best_score = None, 0.0
    for axis, planes_ in enumerate(counts):
        sums = np.vstack([np.zeros_like(planes_[:1]), np.cumsum(planes_, axis=0)])
        labelled = sums.sum(axis=1)
        for start in np.flatnonzero(planes_.any(axis=1)):
            stop = int(np.searchsorted(labelled, labelled[start] + part * labelled[-1]))
            if stop >= len(labelled):
                break
            score = _slab_score(sums[stop] - sums[start], sums[-1], part)
            if score > best_score:
                best, best_score = Slab(axis, int(start), stop), score
    return best


def _slab_score(held: NDArray[np.int64], totals: NDArray[np.int64], part: float) -> float:
    shares = held / np.maximum(totals, 1)
    if shares.max() > 0.5:
        return 0.0
    return float(np.minimum(shares, part).sum() - np.maximum(shares - part, 0).sum())


def labelled_counts(labels: NDArray[np.uint8], hidden: Sequence[Box] = ()) -> list[NDArray[np.int64]]:
    """Return for each array axis how many voxels of every plane are labelled, and not hidden."""
    counts = [np.zeros(side, np.int64) for side in labels.shape]
    for z, plane in enumerate(seen_planes(labels, hidden)):
        is_labelled = plane != UNLABELLED
        counts[1] += np.count_nonzero(is_labelled, axis=1)
        counts[2] += np.count_nonzero(is_labelled, axis=0)
        counts[0][z] = np.count_nonzero(is_labelled)
    return counts


def plane_density(counts: Sequence[NDArray[np.int64]], axis: int) -> float:
    """Return which part of its plane, perpendicular to an array axis, a labelled voxel finds labelled on the mean.

    Args:
        counts: How many voxels of every plane are labelled, see ``labelled_counts``.
        axis: Of the planes.
    """
    plane = np.prod([len(of_axis) for other, of_axis in enumerate(counts) if other != axis])
    labelled = counts[axis].astype(float)
    return float(np.square(labelled).sum() / max(1.0, labelled.sum()) / plane)


def are_strokes(labels: NDArray[np.uint8]) -> bool:
    """Tell whether labels are brush strokes rather than annotated slices or regions: thin in every plane."""
    counts = labelled_counts(labels)
    return max(plane_density(counts, axis) for axis in range(3)) < STROKE_DENSITY


def axis_shares(labels: NDArray[np.uint8], axes: str, hidden: Sequence[Box] = ()) -> NDArray[np.float64]:
    """Return how often planes of each axis should be learned from, (len(axes),), sum 1.

    A plane that crosses the labelled slices carries a few lines of labels only, and teaches less for the same work:
    the share goes with the square root of the part of its plane that a labelled voxel finds labelled.
    """
    counts = labelled_counts(labels, hidden)
    shares = np.sqrt([plane_density(counts, AXIS_LETTERS.index(letter)) for letter in axes])
    return shares / shares.sum() if shares.sum() > 0 else np.full(len(axes), 1 / len(axes))


@dataclass(frozen=True)
class LabelledVoxels:
    """Where the labels of one volume lie.

    Attributes:
        by_class: For each class value an array (n, 3) of voxel indices (z, y, x); a random choice where there are many.
        counts: How many voxels each class really has.
    """

    by_class: dict[int, NDArray[np.int32]]
    counts: dict[int, int]

    @classmethod
    def of(cls, labels: NDArray[np.uint8], rng: np.random.Generator, hidden: Sequence[Box] = ()) -> LabelledVoxels:
        """Find those that are not hidden, plane by plane; memory stays bounded for fully labelled volumes."""
        counts = value_counts(seen_planes(labels, hidden))[:UNLABELLED]
        values = [int(v) for v in np.flatnonzero(counts)]
        kept = {value: min(1.0, _INDEXED_VOXELS / counts[value]) for value in values}
        found: dict[int, list[NDArray[np.int32]]] = {value: [] for value in values}
        for z, plane in enumerate(seen_planes(labels, hidden)):
            all_rows, all_columns = np.nonzero(plane != UNLABELLED)
            classes = plane[all_rows, all_columns]
            for value in np.unique(classes).tolist():
                rows, columns = all_rows[classes == value], all_columns[classes == value]
                if kept[value] < 1:
                    chosen = rng.random(len(rows)) < kept[value]
                    rows, columns = rows[chosen], columns[chosen]
                if len(rows):
                    found[value].append(np.stack([np.full_like(rows, z), rows, columns], axis=1).astype(np.int32))
        return cls(
            {value: np.concatenate(parts) for value, parts in found.items() if parts},
            {value: int(counts[value]) for value in values},
        )
