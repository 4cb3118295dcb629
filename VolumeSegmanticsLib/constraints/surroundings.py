"""What becomes of voxels that a class gives up: they take the class that is nearest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .arrays import Labels, Mask, Piece, Spacing, grown, labelled


def given_up(labels: Labels, pieces: Iterable[Piece], values: Iterable[int], spacing: Spacing) -> Labels:
    """Return labels in which each voxel of the pieces has the class of the nearest voxel that is of another one.

    Unlabelled voxels have no class to give. Where there is no other class at all, a piece stays as it is.

    Args:
        labels: uint8 (Z, Y, X).
        pieces: The voxels to change.
        values: Classes that they cannot take: their own, and perhaps more.
        spacing: Distances are measured in it.
    """
    result, is_source = labels.copy(), labelled(values)
    for piece in pieces:
        _fill(result, labels, piece, is_source, spacing)
    return result


def _fill(result: Labels, labels: Labels, piece: Piece, is_source: Mask, spacing: Spacing) -> None:
    """Fill a piece, looking first into the voxels around it, then as far as it takes."""
    voxels: tuple[int, ...] = (1, 1, 1)
    while True:
        crop = grown(piece.box, voxels, labels.shape)
        is_all = all(part.stop - part.start == size for part, size in zip(crop, labels.shape, strict=True))
        known, inside = is_source[labels[crop]], piece.within(crop)
        if known.any():
            nearest = _nearest(known, inside, spacing)
            needed = _voxels_to(nearest, inside, spacing)
            # all around is known, or nothing outside the box can be nearer
            if is_all or (known | inside).all() or all(have >= need for have, need in zip(voxels, needed, strict=True)):
                result[crop][inside] = labels[crop][tuple(nearest)]
                return
            voxels = needed
        elif is_all:
            return
        else:
            voxels = tuple(2 * n for n in voxels)


def _nearest(known: Mask, inside: Mask, spacing: Spacing) -> NDArray[Any]:
    """Return for each voxel inside the index (3, voxels) of the nearest known one."""
    index = ndimage.distance_transform_edt(~known, sampling=spacing, return_distances=False, return_indices=True)
    found: NDArray[Any] = index[:, inside]
    return found


def _voxels_to(nearest: NDArray[Any], inside: Mask, spacing: Spacing) -> tuple[int, ...]:
    """Return how many voxels along each axis the largest of the distances found reaches."""
    away = (nearest - np.array(np.nonzero(inside))) * np.array(spacing)[:, None]
    largest = float(np.sqrt((away**2).sum(axis=0).max()))
    return tuple(int(np.ceil(largest / step)) for step in spacing)
