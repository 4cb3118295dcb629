"""Opening and closing by a ball whose radius is a length, so that it is round in voxels that are not cubes."""

from __future__ import annotations

import numpy as np
import SimpleITK

from ..classes import UNLABELLED
from .arrays import Labels, Mask, Objects, Spacing, box_of, counted, grown, reach
from .surroundings import given_up

_ROUNDING = 1e-5
"""Of a squared distance, which has float32's digits: a voxel whose centre lies on the ball belongs to it."""


def near(mask: Mask, distance: float, spacing: Spacing) -> Mask:
    """Return which voxels lie within a distance of a mask, from centre to centre, the mask included.

    Source: Maurer, Qi, Raghavan (2003), IEEE Trans. PAMI 25, 265–270, for the distances.
    """
    return mask | (_squared_distances(mask, spacing) <= distance**2 * (1 + _ROUNDING))


def nearer(mask: Mask, distance: float, spacing: Spacing) -> Mask:
    """Return which voxels lie nearer to a mask than a distance, the mask included."""
    return mask | (_squared_distances(mask, spacing) < distance**2 * (1 - _ROUNDING))


def opened(labels: Labels, value: int, radius: float, *, spacing: Spacing) -> tuple[Labels, int]:
    """Take from a class what no ball inside it reaches; it takes the class of its surroundings.

    Beyond the border of the volume the class is thought to go on. The result is stable: a second time changes nothing.
    """
    mask = labels == value
    box = grown(box_of(mask), (1, 1, 1), labels.shape)
    lost = np.zeros_like(mask)
    lost[box] = mask[box] & ~near(_eroded(mask[box], radius, spacing), radius, spacing)
    pieces = Objects.of(lost)
    return counted(labels, given_up(labels, pieces.pieces(np.ones(len(pieces), np.bool_)), [value], spacing))


def closed(labels: Labels, value: int, radius: float, *, spacing: Spacing) -> tuple[Labels, int]:
    """Give a class what no ball outside it reaches, whatever class that was; unlabelled voxels stay.

    Beyond the border of the volume everything is thought to go on as it is at the border.
    """
    mask, wide = labels == value, [voxels + 1 for voxels in reach(radius, spacing)]
    inner, result = box_of(mask), labels.copy()
    outer = grown(inner, wide, labels.shape)
    beyond = [(n - i.start + o.start, n - o.stop + i.stop) for n, i, o in zip(wide, inner, outer, strict=True)]
    joined = _eroded(near(np.pad(mask[outer], beyond, "edge"), radius, spacing), radius, spacing)
    kept = tuple(slice(before, side - after) for (before, after), side in zip(beyond, joined.shape, strict=True))
    result[outer][joined[kept] & (labels[outer] != UNLABELLED)] = value
    return counted(labels, result)


def _eroded(mask: Mask, radius: float, spacing: Spacing) -> Mask:
    return ~near(~mask, radius, spacing)


def _squared_distances(mask: Mask, spacing: Spacing) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the squared distance of each voxel outside a mask to it, float32; infinite where the mask is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    squared = SimpleITK.SignedMaurerDistanceMap(
        image, insideIsPositive=False, squaredDistance=True, useImageSpacing=True
    )
    found: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = SimpleITK.GetArrayFromImage(squared)
    return found
