"""Arrays larger than memory, in a file, as bricks: boxes of voxels that each lie there in one piece.

In a file that goes slice by slice, a slab of X slices is spread over all of it, and reading it means reading
everything. A slab of bricks takes about the same effort whatever its axis.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Window = tuple[slice, slice, slice]
Voxels = tuple[int, int, int]


@dataclass(frozen=True)
class Bricks:
    """An array (Z, Y, X) or (Z, Y, X, C) in a file of its own.

    Bricks follow each other along X, then Y, then Z, and so do the voxels of a brick. Those at the far ends are filled
    up. Every call opens and closes the file: several threads may read, and write what does not overlap.

    Attributes:
        path: The file.
        shape: Of the array.
        dtype: Of one value.
        brick: Voxels of a brick along (Z, Y, X).
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    brick: Voxels

    @property
    def nbytes(self) -> int:
        """What the file takes on the disk."""
        return math.prod(self._counts) * self._brick_bytes

    def create(self) -> None:
        """Make the file; all values are 0, and take no space yet where the file system knows gaps."""
        with self.path.open("wb") as file:
            file.truncate(self.nbytes)

    def read(self, window: Window) -> NDArray[Any]:
        """Return the voxels of a box whose slices have a start and a stop."""
        box = np.empty((*(part.stop - part.start for part in window), *self.shape[3:]), self.dtype)
        with self.path.open("rb", buffering=0) as file:
            for row in self._rows(window):
                box[row.in_box] = self._row_from(file, row)[row.own]
        return box

    def write(self, window: Window, values: NDArray[Any]) -> None:
        """Replace the voxels of a box, and wait until the disk has them; bricks that it cuts keep the others."""
        with self.path.open("r+b", buffering=0) as file:
            for row in self._rows(window):
                if row.is_cut:
                    voxels = self._row_from(file, row)
                else:
                    voxels = np.zeros((*row.sides, *self.shape[3:]), self.dtype)
                voxels[row.own] = values[row.in_box]
                self._row_into(file, row, voxels)
            os.fsync(file.fileno())

    @property
    def _counts(self) -> Voxels:
        """How many bricks there are along (Z, Y, X)."""
        z, y, x = (-(-n // side) for n, side in zip(self.shape, self.brick, strict=False))
        return z, y, x

    @property
    def _brick_bytes(self) -> int:
        return math.prod((*self.brick, *self.shape[3:])) * self.dtype.itemsize

    def _rows(self, window: Window) -> Iterator[_Row]:
        """Yield the bricks that a box touches, as rows along X: these lie in the file in one piece."""
        z_range, y_range, x_range = (
            range(part.start // side, -(-part.stop // side)) for part, side in zip(window, self.brick, strict=True)
        )
        for z, y in itertools.product(z_range, y_range):
            low = tuple(n * side for n, side in zip((z, y, x_range.start), self.brick, strict=True))
            sides = (*self.brick[:2], self.brick[2] * len(x_range))
            number = (z * self._counts[1] + y) * self._counts[2] + x_range.start
            yield _Row.of(number * self._brick_bytes, low, sides, window, self.shape)

    def _row_from(self, file: IO[bytes], row: _Row) -> NDArray[Any]:
        """Read a row of bricks as one box."""
        bricks = np.empty((row.sides[2] // self.brick[2], *self.brick, *self.shape[3:]), self.dtype)
        room = memoryview(bricks.reshape(-1).view(np.uint8))
        file.seek(row.offset)
        while room:
            count = file.readinto(room)  # type: ignore[attr-defined]
            if not count:
                raise OSError(f"{self.path.name} is cut short")
            room = room[count:]
        return np.moveaxis(bricks, 0, 2).reshape(*row.sides, *self.shape[3:])

    def _row_into(self, file: IO[bytes], row: _Row, voxels: NDArray[Any]) -> None:
        """Write a row of bricks."""
        z, y, x = self.brick
        bricks = np.moveaxis(voxels.reshape(z, y, -1, x, *self.shape[3:]), 2, 0)
        rest = memoryview(np.ascontiguousarray(bricks).reshape(-1).view(np.uint8))
        file.seek(row.offset)
        while rest:
            rest = rest[file.write(rest) :]


@dataclass(frozen=True)
class _Row:
    """Some bricks that follow each other along X, and what they have in common with a box.

    Attributes:
        offset: Where they begin in the file, in bytes.
        sides: Voxels along (Z, Y, X), all together.
        in_box: Where their part of the box lies in the box.
        own: Where it lies in them.
        is_cut: True where they also hold voxels of the array that are not in the box.
    """

    offset: int
    sides: Voxels
    in_box: Window
    own: Window
    is_cut: bool

    @classmethod
    def of(cls, offset: int, low: tuple[int, ...], sides: Voxels, window: Window, shape: tuple[int, ...]) -> _Row:
        in_box, own, is_cut = [], [], False
        for start, side, part, n in zip(low, sides, window, shape, strict=False):
            first, last = max(start, part.start), min(start + side, part.stop)
            in_box.append(slice(first - part.start, last - part.start))
            own.append(slice(first - start, last - start))
            is_cut |= first > start or last < min(start + side, n)
        return cls(offset, sides, (in_box[0], in_box[1], in_box[2]), (own[0], own[1], own[2]), is_cut)
