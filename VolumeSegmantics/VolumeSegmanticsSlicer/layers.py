"""The layers of a segmentation on a volume's grid, as arrays.

Slicer keeps segments in images that several of them share, each with a label value of its own, and that reach only as
far as something is painted. They are read slice by slice from where they lie; only those on other voxels than the
volume's (oversampled, differently placed) are copied and moved first.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from VolumeSegmanticsLib.io.placing import placed, resampled
from VolumeSegmanticsLib.volume import Grid

Slice = tuple[tuple[slice, slice], NDArray[Any]]
"""A window of a slice, and label values or the positions of segments in it."""


@dataclass(frozen=True)
class Layer:
    """Label values that lie on voxels of the volume's grid, and not beyond.

    Attributes:
        voxels: (Z, Y, X), whole numbers of any integer type.
        positions: Label value to position of the segment, 0 for none; the last entry stands for unknown values.
        start: Where on the grid voxel (0, 0, 0) lies.
        lost: How many painted voxels lay beyond the grid.
        resampled: Whether they were painted on other voxels than these.
    """

    voxels: NDArray[Any]
    positions: NDArray[np.uint8]
    start: tuple[int, ...] = (0, 0, 0)
    lost: int = 0
    resampled: bool = False

    @classmethod
    def of(cls, voxels: NDArray[Any], positions: NDArray[np.uint8], source: Grid, grid: Grid) -> Layer:
        """Bring label values from where they lie onto a grid; only a shift by whole voxels goes without a copy."""
        if voxels.dtype.kind == "f":
            voxels = voxels.astype(np.int32)
        start = grid.start_of(source)
        if start is not None:
            return cls(voxels, positions, start)._cropped(grid.shape)
        painted = np.stack([positions.take(one_slice, mode="clip") for one_slice in voxels])
        turned = placed(painted, source, grid, 0)
        if turned is not None:
            return cls(turned, _AS_THEY_ARE, lost=np.count_nonzero(painted) - np.count_nonzero(turned))
        start, shape = _box(source, grid)
        moved = np.zeros(shape, np.uint8)
        if moved.size:
            moved = resampled(painted, source, grid.part(start, shape), 0)
        lost = 0 if moved.any() else np.count_nonzero(painted)  # how much of it is lost, two samplings cannot tell
        return cls(moved, _AS_THEY_ARE, start, lost, resampled=True)

    def inside(self, start: tuple[int, ...], shape: tuple[int, ...]) -> Layer:
        """Return the part in a box of the grid, as seen from the box's first voxel; nothing counts as lost."""
        seen = tuple(ours - theirs for ours, theirs in zip(self.start, start, strict=True))
        window = tuple(slice(max(0, -first), max(0, n - first)) for first, n in zip(seen, shape, strict=True))
        return replace(self, voxels=self.voxels[window], start=tuple(max(0, first) for first in seen))

    def _cropped(self, shape: tuple[int, ...]) -> Layer:
        part = self.inside((0, 0, 0), shape)
        is_whole = part.voxels.shape == self.voxels.shape
        return part if is_whole else replace(part, lost=self.painted() - part.painted())

    def painted(self) -> int:
        """Return how many voxels belong to a segment."""
        return sum(np.count_nonzero(self.positions.take(one_slice, mode="clip")) for one_slice in self.voxels)

    def slice_at(self, z: int) -> Slice | None:
        """Return where in a slice of the grid anything is painted, and the positions there; None without any."""
        return _with_positions(self._values_at(z), self.positions)

    def kept(self) -> Kept:
        """Return what is painted now, whatever becomes of the voxels."""
        kept = {}
        for z in range(self.start[0], self.start[0] + len(self.voxels)):
            if found := self._values_at(z):
                kept[z] = found[0], found[1].copy()
        return Kept(kept, self.positions)

    def _values_at(self, z: int) -> Slice | None:
        row = z - self.start[0]
        if not 0 <= row < len(self.voxels):
            return None
        columns = _span(self.voxels[row], axis=0)
        if columns is None:
            return None
        rows = _span(self.voxels[row][:, columns], axis=1)
        assert rows is not None, "there are columns"
        _, y, x = self.start
        window = slice(y + rows.start, y + rows.stop), slice(x + columns.start, x + columns.stop)
        return window, self.voxels[row][rows, columns]


@dataclass(frozen=True)
class Kept:
    """What was painted in a layer: strokes take far less room than the voxels around them.

    Attributes:
        slices: Index of a slice of the grid to a window of it and the label values there.
        positions: As in `Layer`.
    """

    slices: Mapping[int, Slice]
    positions: NDArray[np.uint8]

    def slice_at(self, z: int) -> Slice | None:
        """Return what `Layer.slice_at` returned."""
        return _with_positions(self.slices.get(z), self.positions)


def _with_positions(values: Slice | None, positions: NDArray[np.uint8]) -> Slice | None:
    return values and (values[0], positions.take(values[1], mode="clip"))


def _span(painted: NDArray[Any], axis: int) -> slice | None:
    """Return from where to where anything is painted, seen along an axis of a slice; None without any."""
    found = np.flatnonzero(np.bitwise_or.reduce(painted, axis=axis))
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else None


_AS_THEY_ARE = np.arange(256, dtype=np.uint8)


def _box(source: Grid, grid: Grid) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """Return start and shape of the box of a grid's voxels that another grid reaches; it may be empty."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((-0.5, n - 0.5) for n in source.shape))])
    places = (np.linalg.solve(grid.affine, source.affine) @ corners.T)[:3]
    low = np.clip(np.floor(places.min(axis=1)), 0, grid.shape).astype(int)
    high = np.clip(np.ceil(places.max(axis=1)) + 1, low, grid.shape).astype(int)
    z, y, x = (high - low).tolist()
    return tuple(low.tolist()), (z, y, x)


def merged(
    layers: Sequence[Layer | Kept], values: Sequence[int], shape: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], int]:
    """Return the class value of each voxel, and how many voxels belong to several segments.

    Args:
        layers: On the grid; the segment of the highest position wins.
        values: The class value of voxels without a segment, then those of the segments by position.
        shape: Of the grid.
    """
    class_values = np.array(values, np.uint8)
    answer, overlapping = np.full(shape, class_values[0], np.uint8), 0
    winners = np.empty(shape[1:], np.uint8)
    for z, answer_slice in enumerate(answer):
        painted = [found for layer in layers if (found := layer.slice_at(z)) is not None]
        if not painted:
            continue
        winners[:] = 0
        for window, positions in painted:
            there = winners[window]
            if len(painted) > 1:
                overlapping += np.count_nonzero(there[positions > 0])
            np.maximum(there, positions, out=there)
        np.take(class_values, winners, out=answer_slice, mode="clip")
    return answer, overlapping
