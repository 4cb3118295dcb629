"""A part of a volume that may be larger than the memory: a box of it, or an overview whose voxels are means of many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .box import Box
from .errors import SettingsError
from .volume import Grid, Volume

SLAB_BYTES = 2**24
"""About as much is read at once: some hundredths of a second, so that a caller can breathe in between."""


def overview(volume: Volume, box: Box, step: int, *, breathe: Callable[[float], object] = lambda part: None) -> Volume:
    """Return a box of a volume, each voxel the mean of ``step`` × ``step`` × ``step`` of its voxels.

    The last voxels along an axis are means of fewer where the sides are no multiples of the step.

    Args:
        volume: Memory-mapped or lazy; it is read slab by slab.
        box: Which part of it.
        step: 1 takes the voxels as they are.
        breathe: Called after every slab with the part (0 … 1) that is done; what it raises ends the reading.

    Returns:
        Voxels of the same type (means of integers are rounded), at their true place: the middle of a mean is the
        middle of the voxels that it stands for.

    Raises:
        SettingsError: The step is less than 1.
    """
    if step < 1:
        raise SettingsError(f"The step is {step}.", "It is 1 for the voxels themselves, or more for means.")
    z, y, x = (-(-n // step) for n in box.shape)
    answer = np.empty((z, y, x, *volume.array.shape[3:]), volume.array.dtype)
    thick = _slab(volume, box, step)
    for first in range(0, z, thick):
        last = min(z, first + thick)
        planes = slice(box.start[0] + first * step, min(box.stop[0], box.start[0] + last * step))
        slab = np.asarray(volume.array[planes, box.window[1], box.window[2]])
        answer[first:last] = slab if step == 1 else _means(slab, step, answer.dtype)
        breathe(last / z)
    return Volume(answer, coarser(box.grid(volume.grid), step))


def coarser(grid: Grid, step: int) -> Grid:
    """Return the grid of means of ``step`` voxels along each axis of a grid."""
    affine = grid.affine
    affine[:3, 3] += affine[:3, :3] @ np.full(3, (step - 1) / 2)
    affine[:3, :3] *= step
    z, y, x = (-(-n // step) for n in grid.shape)
    return Grid.from_affine((z, y, x), affine)


def _slab(volume: Volume, box: Box, step: int) -> int:
    """Return how many slices of the answer are made at once."""
    plane_bytes = box.shape[1] * box.shape[2] * volume.channels * volume.array.dtype.itemsize
    return max(1, SLAB_BYTES // (plane_bytes * step))


def _means(slab: NDArray[Any], step: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the means of blocks; sums go plane by plane, so that little more than the slab is in memory."""
    starts = [np.arange(0, n, step) for n in slab.shape[:3]]
    exact: type[Any] = np.float64 if slab.dtype.itemsize > 2 else np.float32
    sums = np.zeros((len(starts[0]), len(starts[1]), len(starts[2]), *slab.shape[3:]), np.float64)
    for z, plane in enumerate(slab):
        rows = np.add.reduceat(plane.astype(exact), starts[1], axis=0)
        sums[z // step] += np.add.reduceat(rows, starts[2], axis=1)
    for axis, (n, first) in enumerate(zip(slab.shape, starts, strict=False)):
        counts = np.diff([*first, n])
        sums /= counts.reshape([-1 if a == axis else 1 for a in range(sums.ndim)])
    return np.rint(sums).astype(dtype) if dtype.kind in "ui" else sums.astype(dtype)
