"""NumPy's own files: values only, no geometry; memory-mapped, never unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..volume import Grid, Volume
from .family import MOST_CHANNELS, Family, Header, four_axes


def _voxels(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim == 2:
        array = array[None]
    if array.ndim > 4 or (array.ndim == 4 and array.shape[3] > MOST_CHANNELS):
        raise four_axes(path, array.shape)
    return array


def read(path: Path) -> Volume:
    """Read (Y, X), (Z, Y, X) or (Z, Y, X, C), memory-mapped."""
    return Volume.of(_voxels(path))


def header(path: Path) -> Header:
    """Tell what a file holds."""
    volume = read(path)
    return Header(volume.grid, volume.array.dtype, volume.channels)


def write(path: Path, volume: Volume, compressed: bool) -> None:
    """Write the values alone; the format is never compressed."""
    array = volume.array
    with path.open("wb") as stream:
        facts = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(stream, facts)
        for array_slice in array:  # so that it need not be in memory as a whole
            stream.write(np.ascontiguousarray(array_slice).data)


FAMILY = Family("NPY", (".npy",), header, read, write, kept=lambda grid: Grid(grid.shape))
