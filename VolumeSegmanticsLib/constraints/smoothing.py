"""Smooth borders: the Potts model, in which every face between two classes costs something."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..classes import UNLABELLED
from ..volume import value_counts
from .arrays import Labels, Mask, Spacing, counted

ROUNDS = 10
"""After these it stops, whether or not a voxel would still change."""

_SLAB_VOXELS = 2**22
_GAIN = 1e-4
"""What a change must at least gain: rounding is no reason."""


def smooth(labels: Labels, strength: float, *values: int, spacing: Spacing) -> tuple[Labels, int]:
    """Let voxels take the class of most of their neighbours, where that outweighs what they were.

    Iterated conditional modes (Besag 1986, J. R. Stat. Soc. B 48, 259–302) on the Potts model: a voxel that leaves its
    own class costs 1, and each face between two classes costs ``strength`` times the area of the face, where 1 is the
    mean area of a voxel's faces. No two voxels that touch change at once, so the sum of the costs falls until nothing
    changes any more, or for ``ROUNDS`` rounds.

    Args:
        labels: uint8 (Z, Y, X).
        strength: 0.3 takes away single voxels, 1 rounds edges off.
        values: Only these classes exchange voxels; all where there are none.
        spacing: Of the voxels; it gives the areas.
    """
    present = np.flatnonzero(value_counts(labels)[:UNLABELLED])
    voting = np.intersect1d(present, values) if values else present
    if len(voting) < 2:
        return labels.copy(), 0
    padded = np.pad(labels, 1, constant_values=UNLABELLED)
    areas = np.prod(spacing) / np.array(spacing)
    weights = strength * areas / areas.mean()
    for _ in range(ROUNDS):
        if not sum(_sweep(padded, labels, voting, weights, colour) for colour in (0, 1)):
            break
    return counted(labels, np.ascontiguousarray(padded[1:-1, 1:-1, 1:-1]))


def _sweep(padded: Labels, labels: Labels, voting: NDArray[np.intp], weights: NDArray[np.float64], colour: int) -> int:
    """Change voxels of one colour of a three-dimensional chessboard, slab by slab; return how many changed."""
    changed = 0
    step = max(1, _SLAB_VOXELS // labels[0].size)
    for start in range(0, len(labels), step):
        own = labels[start : start + step]
        z, y, x = np.ogrid[tuple(slice(n) for n in own.shape)]
        turn = (z + y + x + start) % 2 == colour
        changed += _settle(padded[start : start + len(own) + 2], own, turn, voting, weights)
    return changed


def _settle(slab: Labels, own: Labels, turn: Mask, voting: NDArray[np.intp], weights: NDArray[np.float64]) -> int:
    """Give the voxels whose turn it is their best class, in place; return how many changed."""
    now = slab[1:-1, 1:-1, 1:-1]
    neighbours = [(weights[axis], _shifted(slab, axis, step)) for axis in range(3) for step in (0, 2)]
    column = np.full(256, len(voting), np.intp)  # in the votes; those that do not vote share the last
    column[voting] = np.arange(len(voting))
    at_border = np.zeros(own.shape, np.bool_)
    for _, neighbour in neighbours:
        at_border |= neighbour != now
    where = np.nonzero(at_border & turn & (column[now] < len(voting)))
    each = np.arange(len(where[0]))
    votes = np.zeros((len(voting) + 1, len(each)))
    votes[column[own[where]], each] += 1
    for weight, neighbour in neighbours:
        votes[column[neighbour[where]], each] += weight
    before = column[now[where]]
    best = votes[:-1].argmax(axis=0)
    better = votes[best, each] > votes[before, each] + _GAIN
    now[tuple(index[better] for index in where)] = voting[best[better]]
    return int(np.count_nonzero(better))


def _shifted(slab: Labels, axis: int, step: int) -> Labels:
    """Return the neighbours of a slab's inner voxels: those before (0) or behind (2) along an axis."""
    window = [slice(1, -1)] * 3
    window[axis] = slice(step, slab.shape[axis] - 2 + step)
    return slab[tuple(window)]
