"""What predictions in parts read and keep on the disk: pages of mapped files, bricks, and results in layers."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from .bricks import Window
from .io.lazy import LazyArray
from .volume import Volume

Meaning = Callable[[NDArray[Any]], NDArray[np.uint8]]
"""What stored values of a slice mean."""

_SAMPLED = 9  # slices that are looked at to know an image again, and to compare its grey values with those of training
_SAMPLED_SIDE = 512  # px of them


class Stored(Protocol):
    """Values of all voxels, wherever they are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the volume."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one value."""
        ...

    def read(self, window: Window) -> NDArray[Any]:
        """Return the values of a box."""
        ...


class Layers:
    """A result in bricks, read some slices at a time, which are kept: slices are mostly asked for in turn.

    Args:
        stored: Mostly bricks.
        thickness: Slices that are read together.
        meaning: What becomes of stored values, slice by slice.
    """

    def __init__(self, stored: Stored, thickness: int, meaning: Meaning) -> None:
        self._stored, self._thickness, self._meaning = stored, thickness, meaning
        self._start, self._layer = -1, np.empty((0, 0, 0), stored.dtype)

    def lazy(self) -> NDArray[np.uint8]:
        """Return the result as an array that reads what it is cut with."""
        array: NDArray[np.uint8] = cast(Any, LazyArray(self._stored.shape, np.dtype(np.uint8), self._read))
        return array

    def _read(self, window: Window) -> NDArray[np.uint8]:
        values = self._values(window)
        told: NDArray[np.uint8] = np.empty(values.shape, np.uint8)
        for told_slice, stored_slice in zip(told, values, strict=True):  # in between, values may be 8 times as wide
            told_slice[...] = self._meaning(stored_slice)
        return told

    def _values(self, window: Window) -> NDArray[Any]:
        thick, (planes, rows, columns) = self._thickness, window
        first = planes.start // thick * thick
        if planes.stop > first + thick:
            return self._stored.read(window)
        if first != self._start:
            z, y, x = self._stored.shape
            self._layer = self._stored.read((slice(first, min(first + thick, z)), slice(0, y), slice(0, x)))
            self._start = first
        return self._layer[planes.start - first : planes.stop - first, rows, columns]


def sample(image: Volume) -> Volume:
    """Return pixels of some slices, both evenly spread."""
    places = np.unique(np.linspace(0, len(image.array) - 1, _SAMPLED).astype(int))
    steps = tuple(slice(None, None, max(1, n // _SAMPLED_SIDE)) for n in image.grid.shape[1:])
    return Volume.of(np.concatenate([np.array(image.array[z : z + 1])[(slice(None), *steps)] for z in places]))


def forget_pages(array: Any) -> None:
    """Let go of the pages of a mapped file that have been read: they would count as memory in use."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "_mmap", None) or getattr(array, "base", None)
    advice = getattr(mmap, "MADV_DONTNEED", None)  # Windows has none
    if array is not None and advice is not None:
        array.madvise(advice)


__all__ = ["Layers", "forget_pages", "sample"]
