"""Whether a sample lies the same way in all annotated slices, as a patient in a scanner does.

Then mirrored and turned crops show what never occurs, and a network that is to learn them too learns more slowly.
Fibres, grains and pores have no such order: for them every mirrored crop is one more example.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .slicing import FEW_PLANES, labelled_counts, plane_density
from .volume import UNLABELLED, value_counts

_BLOCKS = 4  # places along a side of the slice
_WHOLE = 0.5  # part of a slice that is labelled in an annotated one, at least
_ALIKE = 0.5  # of a class, on the mean, that finds its place in the mirrored or turned slice

_TURNS = ((-1, 1, 0), (1, -1, 0), (1, 1, 1))  # order of rows, order of columns, quarter turns


def is_oriented(labels: Sequence[NDArray[np.uint8]]) -> bool:
    """Tell whether mirrored or turned slices would have materials where the annotated ones have none.

    Args:
        labels: One array (Z, Y, X) of class indices a volume; voxels without a label are ``UNLABELLED``.

    Returns:
        False also where too few slices are annotated to tell.
    """
    return bool(labels) and all(_is_oriented_along_an_axis(each) for each in labels)


def _is_oriented_along_an_axis(labels: NDArray[np.uint8]) -> bool:
    counts = labelled_counts(labels)
    return any(_is_oriented(labels, axis, counts) for axis in range(3))


def _is_oriented(labels: NDArray[np.uint8], axis: int, counts: list[NDArray[np.int64]]) -> bool:
    """Tell it from the slices perpendicular to an axis; ``counts`` says how many voxels of every plane are labelled."""
    slices = np.moveaxis(labels, axis, 0)
    annotated = np.count_nonzero(counts[axis])
    if annotated < FEW_PLANES or plane_density(counts, axis) < _WHOLE or min(slices.shape[1:]) < _BLOCKS:
        return False
    places = _places(slices)
    return min(_overlap(places, _mirrored(places, *turn)) for turn in _TURNS) < _ALIKE


def _mirrored(places: NDArray[np.float64], rows: int, columns: int, quarters: int) -> NDArray[np.float64]:
    return np.rot90(places[:, ::rows, ::columns], quarters, axes=(1, 2))


def _places(slices: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return which part of each place every class fills, on the mean over all slices: (classes, places, places)."""
    every = np.array([[value_counts(block) for block in row] for row in _blocks(slices)], float)[..., :UNLABELLED]
    counts = every[..., every.any(axis=(0, 1))]
    return np.moveaxis(counts / np.maximum(counts.sum(axis=2, keepdims=True), 1), 2, 0)


def _blocks(slices: NDArray[np.uint8]) -> Iterator[list[NDArray[np.uint8]]]:
    for rows in np.array_split(slices, _BLOCKS, axis=1):
        yield np.array_split(rows, _BLOCKS, axis=2)


def _overlap(places: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return which part of a class lies where it lies in the others too, on the mean over the classes."""
    common = np.minimum(places, others).sum(axis=(1, 2))
    return float(np.mean(common / places.sum(axis=(1, 2))))
