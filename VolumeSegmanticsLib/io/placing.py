"""Bringing labels from their own grid onto an image's."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..volume import SAME_POINT_VOXELS, Grid

Labels = NDArray[np.uint8]


def placed(labels: Labels, source: Grid, target: Grid, outside: int) -> Labels | None:
    """Move labels onto another grid without changing any: cropped, padded, axes exchanged or turned round.

    3D Slicer turns an axis of left-handed volumes round, so its segmentations of them lie on a reversed grid.

    Args:
        labels: (Z, Y, X) on ``source``.
        source: Where the labels lie.
        target: Where they are wanted.
        outside: The value of voxels that the labels do not reach.

    Returns:
        Labels on ``target``, or None where the grids lie no whole voxels apart.
    """
    step = np.linalg.solve(target.affine, source.affine)  # index of the source to index of the target
    whole = np.rint(step)
    if not _is_turn(whole[:3, :3]) or _apart_voxels(step, whole, source.shape) > SAME_POINT_VOXELS:
        return None
    order = np.abs(whole[:3, :3]).argmax(axis=1)
    signs = whole[:3, :3].sum(axis=1)
    moved = labels.transpose(order)[tuple(slice(None, None, int(sign)) for sign in signs)]
    start = [int(s) - (n - 1) * (sign < 0) for s, n, sign in zip(whole[:3, 3], moved.shape, signs, strict=True)]
    return _pasted(moved, start, target.shape, outside)


def _is_turn(matrix: NDArray[Any]) -> bool:
    """True where each axis becomes exactly one axis, forwards or backwards."""
    return bool((np.abs(matrix).sum(axis=0) == 1).all() and (np.abs(matrix).sum(axis=1) == 1).all())


def _apart_voxels(step: NDArray[Any], whole: NDArray[Any], shape: tuple[int, ...]) -> float:
    corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in shape))]).T
    return float(np.abs((step - whole) @ corners).max())


def _pasted(labels: Labels, start: list[int], shape: tuple[int, ...], outside: int) -> Labels:
    if not any(start) and labels.shape == shape:
        return labels
    pasted = np.full(shape, outside, np.uint8)
    ours = tuple(slice(max(0, s), max(0, min(n, s + m))) for s, m, n in zip(start, labels.shape, shape, strict=True))
    theirs = tuple(slice(max(0, -s), max(0, min(m, n - s))) for s, m, n in zip(start, labels.shape, shape, strict=True))
    pasted[ours] = labels[theirs]
    return pasted


def resampled(labels: Labels, source: Grid, target: Grid, outside: int) -> Labels:
    """Give each voxel of another grid the label of the nearest voxel in the world, slice by slice.

    Args:
        labels: (Z, Y, X) on ``source``.
        source: Where the labels lie.
        target: Where they are wanted.
        outside: The value of voxels that lie beyond the labels.
    """
    step = np.linalg.solve(source.affine, target.affine)  # index of the target to index of the source
    y, x = np.meshgrid(*(np.arange(n) for n in target.shape[1:]), indexing="ij")
    answer = np.full(target.shape, outside, np.uint8)
    for z in range(target.shape[0]):
        places = [np.floor(row[0] * z + row[1] * y + row[2] * x + row[3] + 0.5).astype(int) for row in step[:3]]
        inside = np.logical_and.reduce([(p >= 0) & (p < n) for p, n in zip(places, labels.shape, strict=True)])
        answer[z][inside] = labels[tuple(p[inside] for p in places)]
    return answer
