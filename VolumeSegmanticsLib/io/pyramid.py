"""Pyramids: a volume, and the same at half the resolution, and so on, for viewers that show overviews first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..volume import Grid

SHORTEST = 64
"""Voxels: no axis is halved to fewer."""

MOST_HALVINGS = 6
"""So that every level of a piece that begins at a multiple of 64 begins at a whole voxel."""

Halves = tuple[bool, bool, bool]


@dataclass(frozen=True)
class Level:
    """One resolution of a volume.

    Attributes:
        grid: Where its voxels lie.
        factors: Voxels of the volume along one of its voxels, (Z, Y, X).
        halves: Which axes were halved since the level before.
    """

    grid: Grid
    factors: tuple[int, int, int]
    halves: Halves


def levels(grid: Grid, *, averages: bool) -> list[Level]:
    """Return all levels of a pyramid, the finest first.

    Args:
        grid: Of the volume.
        averages: Whether a voxel is the mean of those that it replaces, and lies in their middle, or the first one.
    """
    found = [Level(grid, (1, 1, 1), (False, False, False))]
    while len(found) <= MOST_HALVINGS:
        last = found[-1]
        z, y, x = (n >= 2 * SHORTEST for n in last.grid.shape)
        if not (z or y or x):
            break
        factors = tuple(f << half for f, half in zip(last.factors, (z, y, x), strict=True))
        shape = tuple(-(-n // f) for n, f in zip(grid.shape, factors, strict=True))
        affine = grid.affine
        affine[:3, 3] += affine[:3, :3] @ [(f - 1) / 2 * averages for f in factors]
        affine[:3, :3] *= factors
        found.append(Level(Grid.from_affine(shape, affine), factors, (z, y, x)))  # type: ignore[arg-type]
    return found


def halved(voxels: NDArray[Any], halves: Halves, *, averages: bool) -> NDArray[Any]:
    """Return voxels (Z, Y, X) or (Z, Y, X, C) at half the resolution along some axes.

    Means of integers are rounded; at an odd end the last voxel counts alone.
    """
    if not averages or not any(halves):
        return voxels[tuple(slice(None, None, 1 + half) for half in halves)]
    means = voxels.astype(np.result_type(voxels.dtype, np.float32))
    for axis in (axis for axis in range(3) if halves[axis]):
        even = means.take(range(0, means.shape[axis], 2), axis)
        odd = means.take(range(1, means.shape[axis], 2), axis)
        inner = tuple(slice(0, n) for n in odd.shape)
        even[inner] = (even[inner] + odd) / 2
        means = even
    return (np.rint(means) if voxels.dtype.kind in "ui" else means).astype(voxels.dtype)
