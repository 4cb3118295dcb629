"""Room for arrays: memory up to a limit, then a file on the disk that nobody else sees."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_LEFT_FREE = 1_000_000_000  # bytes of the disk, for everybody else


class Room:
    """Arrays that are given out one by one.

    Args:
        memory: Bytes that may be taken of the memory.
        most: Bytes that will be asked for in all.
        largest: Bytes of the largest array.
        folder: Where the file lies. It has no name, and is gone with the process, however that ends.
    """

    def __init__(self, memory: int, most: int, largest: int, folder: Path) -> None:
        self._memory, self._offset = memory, 0
        rest = most - memory + largest if most > memory else 0  # an array lies in one place or the other
        self._file, self._disk = _file_of(rest, folder)
        self.is_enough = rest <= self._disk

    def take(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any] | None:
        """Return a new array with any values; None where no room is left."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size <= self._memory:
            self._memory -= size
            return np.empty(shape, dtype)
        if self._file is None or self._offset + size > self._disk:
            return None
        array = np.memmap(self._file, dtype, "r+", self._offset, tuple(shape))
        self._offset += size
        return array

    def close(self) -> None:
        """Give the file back; its arrays keep it while somebody has them."""
        if self._file is not None:
            self._file.close()
        self._file, self._disk, self._memory = None, 0, 0


def _file_of(size: int, folder: Path) -> tuple[IO[bytes] | None, int]:
    """Return a file of a size, and the size; None and 0 where the disk has no room for it."""
    if not size or shutil.disk_usage(folder).free < size + _LEFT_FREE:
        return None, 0
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # it lives as long as its arrays
    try:
        if hasattr(os, "posix_fallocate"):  # a disk that is full later would end the process without a word
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    except OSError:
        file.close()
        return None, 0
    return file, size
