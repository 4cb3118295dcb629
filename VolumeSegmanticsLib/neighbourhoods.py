"""Boxes of voxels with what lies around them, cut for the local model; beyond its sides a volume goes on mirrored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .box import Box
from .features import Features, Margin
from .intensity import Intensity
from .volume import Grid, Volume

_LARGEST = 1_000_000  # voxels of a box, without its margin
_CHEAP = 0.25  # what a voxel costs that only coarse octaves see, as a part of one that the first sees
_LONGEST_LEAF = 8  # boxes of so few voxels a side are not split further


def features_on(grid: Grid, octaves: int) -> Features:
    """Return what is measured on a grid."""
    z, y, x = (side == 1 for side in grid.shape)
    return Features(octaves, grid.spacing, (z, y, x))


def cut(image: Volume, box: Box, margin: Sequence[int], intensity: Intensity) -> Tensor:
    """Return a box with a margin as float32 (C, Z, Y, X), values 0 … 1.

    Args:
        image: The volume; only what is needed of it is read.
        box: It may reach beyond the volume.
        margin: Voxels on each side, (Z, Y, X).
        intensity: Grey-value statistics that are applied.
    """
    places = [
        mirrored(np.arange(start - m, stop + m), side)
        for start, stop, m, side in zip(box.start, box.stop, margin, image.grid.shape, strict=True)
    ]
    window = tuple(slice(int(place.min()), int(place.max()) + 1) for place in places)
    values = intensity.scale(np.asarray(image.array[window]).reshape(-1, image.channels))
    values = values.reshape(*(w.stop - w.start for w in window), image.channels)
    for axis, (place, inside) in enumerate(zip(places, window, strict=True)):
        if len(place) != inside.stop - inside.start or (np.diff(place) != 1).any():
            values = values.take(place - inside.start, axis=axis)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, 3, 0)))


def mirrored(places: NDArray[np.intp], side: int) -> NDArray[np.intp]:
    """Return where on an axis of some voxels the values of any places come from."""
    places = places % (2 * side)
    return np.where(places < side, places, 2 * side - 1 - places)


def aligned(start: NDArray[np.intp], stop: NDArray[np.intp], multiple: Margin) -> Box:
    """Return the smallest box on multiples that holds the voxels from ``start`` up to, not including, ``stop``."""
    step = np.array(multiple)
    low, high = start // step * step, -(-stop // step) * step
    return Box(tuple(low.tolist()), tuple(high.tolist()))


def boxes_around(voxels: NDArray[np.intp], features: Features) -> Iterator[tuple[Box, NDArray[np.intp]]]:
    """Yield boxes that hold all of some voxels (n, 3), each with the indices of its voxels.

    A box is split where its two parts, each with its margin, are less work than the whole.
    """
    waiting = [np.arange(len(voxels))] if len(voxels) else []
    while waiting:
        rows = waiting.pop()
        box = _box_of(voxels[rows], features)
        parts = min(_splits(voxels, rows), key=lambda parts: _sum_of(parts, voxels, features), default=None)
        if parts is not None and (
            math.prod(box.shape) > _LARGEST or _sum_of(parts, voxels, features) < work(box, features)
        ):
            waiting += parts
        else:
            yield box, rows


def work(box: Box, features: Features) -> float:
    """Return how much work the features of a box are, about in voxels."""
    first, whole = (
        math.prod(n + 2 * m for n, m in zip(box.shape, margin, strict=True))
        for margin in (features.plan[0].margin, features.margin)
    )
    return first + _CHEAP * (whole - first)


def _sum_of(parts: list[NDArray[np.intp]], voxels: NDArray[np.intp], features: Features) -> float:
    return sum(work(_box_of(voxels[part], features), features) for part in parts)


def _box_of(voxels: NDArray[np.intp], features: Features) -> Box:
    return aligned(voxels.min(axis=0), voxels.max(axis=0) + 1, features.multiple)


def _splits(voxels: NDArray[np.intp], rows: NDArray[np.intp]) -> Iterator[list[NDArray[np.intp]]]:
    """Yield ways to part voxels in two: along each axis at the widest gap, and in the middle of the longest."""
    sides = np.ptp(voxels[rows], axis=0)
    for axis in range(3):
        if sides[axis] < _LONGEST_LEAF:
            continue
        places = np.unique(voxels[rows, axis])
        cuts = {int(places[np.argmax(np.diff(places)) + 1])}
        if axis == np.argmax(sides):
            cuts.add(int(places[0] + places[-1] + 1) // 2)
        for at in sorted(cuts):
            is_low = voxels[rows, axis] < at
            yield [rows[is_low], rows[~is_low]]
