"""What must hold between classes: one only inside others, two apart, layers in order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arrays import Labels, Mask, Objects, Spacing, box_of, counted, grown, labelled, reach, table_of
from .morphology import nearer
from .surroundings import given_up

_COLUMN_VOXELS = 2**23
"""Voxels whose order is found at once; one byte for each and each layer."""


def inside(labels: Labels, value: int, *others: int, spacing: Spacing, share: float = 100.0) -> tuple[Labels, int]:
    """Let objects of a class that do not lie inside the others take the class of their surroundings.

    An object, 26-connected, lies inside where the voxels that it touches by faces are of the other classes. The border
    of the volume and unlabelled voxels say nothing.

    Args:
        labels: uint8 (Z, Y, X).
        value: The class that is only allowed inside.
        others: The classes inside of which it is allowed.
        spacing: Distances to the surroundings are measured in it.
        share: Percent of an object's faces that have to lie against the others.
    """
    objects = Objects.of(labels == value)
    touched = [_faces(labels, objects, table) for table in (table_of(others), labelled([value]))]
    outside = touched[0] * 100 < share * touched[1]
    return counted(labels, given_up(labels, objects.pieces(outside), [value], spacing))


def _faces(labels: Labels, objects: Objects, table: Mask) -> NDArray[np.int64]:
    """Count for each object the faces that it shares with voxels of some classes."""
    counts = np.zeros(len(objects) + 1, np.int64)
    for axis in range(3) if len(objects) else ():
        for step in (-1, 1):
            own, neighbour = list(objects.box), list(objects.box)
            low, high = objects.box[axis].start, objects.box[axis].stop
            low, high = max(low, -step), min(high, labels.shape[axis] - step)
            own[axis], neighbour[axis] = slice(low, high), slice(low + step, high + step)
            within = tuple(slice(o.start - b.start, o.stop - b.start) for o, b in zip(own, objects.box, strict=True))
            numbers = objects.numbers[within][table[labels[tuple(neighbour)]]]
            counts += np.bincount(numbers, minlength=len(counts))
    return counts[1:]


def apart(labels: Labels, value: int, other: int, distance: float, *, spacing: Spacing) -> tuple[Labels, int]:
    """Let the voxels of a class that lie nearer to another one than a distance take the class nearest to them.

    The first class gives way, to a third one. Distances are those of voxel centres. The result is stable.
    """
    mask, rival = labels == value, labels == other
    if not (mask.any() and rival.any()):
        return labels.copy(), 0
    box = grown(box_of(rival), reach(distance, spacing), labels.shape)
    close = np.zeros_like(mask)
    close[box] = mask[box] & nearer(rival[box], distance, spacing)
    pieces = Objects.of(close)
    chosen = pieces.pieces(np.ones(len(pieces), np.bool_))
    return counted(labels, given_up(labels, chosen, [value, other], spacing))


def layers(labels: Labels, axis: int, *values: int) -> tuple[Labels, int]:
    """Bring classes into an order along an array axis, with as few changes as possible in each column of voxels.

    Only voxels of these classes change, and only to one of them: in each column the longest sequence that is in order
    stays (found by dynamic programming, exactly), and the others take the layer that they lie in.
    """
    rank = np.full(256, -1, np.int16)
    rank[list(values)] = np.arange(len(values))
    result = labels.copy()
    columns, known = np.moveaxis(result, axis, 0), np.array(values, np.uint8)
    step = max(1, _COLUMN_VOXELS // (columns.shape[0] * columns.shape[2]))
    for start in range(0, columns.shape[1], step):
        window = columns[:, start : start + step]
        ranks = rank[window]
        ordered = known[_in_order(ranks, len(values))]
        window[...] = np.where(ranks >= 0, ordered, window)
    return counted(labels, result)


def _in_order(ranks: NDArray[np.int16], count: int) -> NDArray[np.int16]:
    """Return ranks that never fall along axis 0 and agree with as many of the given ones as possible; -1 is free."""
    agreed = np.zeros((count, *ranks.shape[1:]), np.int32)  # with layers up to this one, so far
    is_last = np.empty((len(ranks), count, *ranks.shape[1:]), np.bool_)  # whether the voxel is of just this layer
    for n, row in enumerate(ranks):
        for k in range(count):
            agreed[k] += row == k
            is_last[n, k] = True if k == 0 else agreed[k] >= agreed[k - 1]
            if k:
                np.maximum(agreed[k], agreed[k - 1], out=agreed[k])
    found = np.empty_like(ranks)
    layer = np.full(ranks.shape[1:], count - 1, np.int16)
    for n in reversed(range(len(ranks))):
        for k in reversed(range(1, count)):
            layer[(layer == k) & ~is_last[n, k]] = k - 1
        found[n] = layer
    return found
