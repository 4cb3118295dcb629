"""Voxels that stay in their file until a box of them is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Window = tuple[slice, slice, slice]
ReadBox = Callable[[Window], NDArray[Any]]


@dataclass(frozen=True)
class LazyArray:
    """An array (Z, Y, X) or (Z, Y, X, C) that reads what it is cut with.

    It has what a ``Volume`` asks of an array, and NumPy turns it into one where it needs all values.

    Attributes:
        shape: As of an array.
        dtype: Of one value.
        read: Reads a box of voxels; its slices have a start and a stop, and no step. Opens and closes the file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: ReadBox

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """What all values would take in memory."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Read slice by slice, as an array is gone through."""
        return (self[z : z + 1][0] for z in range(len(self)))

    def __getitem__(self, window: Any) -> NDArray[Any]:
        """Read a box, as ``array[2:5, :, 10:20]`` or ``array[2:5]``."""
        parts = window if isinstance(window, tuple) else (window,)
        if len(parts) > 3 or any(not isinstance(part, slice) or part.step not in (None, 1) for part in parts):
            raise IndexError("Lazy voxels are read by boxes: slices without a step.")
        z, y, x = (slice(*part.indices(n)) for part, n in zip((*parts, *_ALL)[:3], self.shape, strict=False))
        if any(part.start >= part.stop for part in (z, y, x)):
            sides = (max(0, part.stop - part.start) for part in (z, y, x))
            return np.empty((*sides, *self.shape[3:]), self.dtype)
        return self.read((z, y, x))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        values = self[:]
        return values if dtype is None else values.astype(dtype, copy=False)


_ALL = (slice(None),) * 3
