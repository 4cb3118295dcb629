"""MRC, the files of electron tomography (.mrc, .rec, .st, .map), memory-mapped; mrcfile parses the header.

A voxel size in Å is kept as the plain number. The format has an origin, but no direction and no class names.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..volume import Grid, Volume
from .family import Family, Header, four_axes, mapped, storable

_HEADER_BYTES = 1024
_HELD = ("int8", "int16", "uint16", "float16", "float32")
_IMOD_STAMP = 1146047817
_IMOD_WORDS_AT = 152  # bytes into the header: the stamp, then flags, of which the lowest says that bytes are signed


def _fields(path: Path) -> Any:
    """Return the header record, taken as it is where it is slightly wrong."""
    import mrcfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mrcfile.open(path, permissive=True, header_only=True) as file:
            return file.header.copy()


def _dtype(fields: Any) -> np.dtype[Any]:
    import mrcfile

    order = fields.mode.dtype.byteorder
    stamp, flags = struct.unpack_from(">ii" if order == ">" else "<ii", fields.tobytes(), _IMOD_WORDS_AT)
    if fields.mode == 0 and stamp == _IMOD_STAMP and not flags & 1:
        return np.dtype(np.uint8)
    dtype: np.dtype[Any] = mrcfile.utils.data_dtype_from_header(fields)
    return dtype


def _voxels(path: Path, fields: Any) -> NDArray[Any]:
    """Return the voxels as (Z, Y, X), memory-mapped, whatever order the file has them in."""
    import mrcfile

    dtype, shape = _dtype(fields), mrcfile.utils.data_shape_from_header(fields)
    if dtype.kind == "c":
        raise InputError(f'"{path}" holds complex values.', "Save the real image, not its transform.")
    if len(shape) > 3 and shape[0] > 1:
        raise four_axes(path, shape)
    voxels = mapped(path, dtype, (1, *shape)[-3:], _HEADER_BYTES + int(fields.nsymbt))
    axis_of = {int(fields.maps): 0, int(fields.mapr): 1, int(fields.mapc): 2}  # 1 is X, 2 is Y, 3 is Z
    return voxels.transpose([axis_of[i] for i in (3, 2, 1)]) if set(axis_of) == {1, 2, 3} else voxels


def _grid(fields: Any, shape: tuple[int, ...]) -> Grid:
    with np.errstate(divide="ignore", invalid="ignore"):
        sizes = [np.float64(fields.cella[axis]) / int(fields[f"m{axis}"]) for axis in "zyx"]
    origin = [float(fields.origin[axis]) for axis in "xyz"]
    spacing = [float(size) if np.isfinite(size) and size > 0 else 1.0 for size in sizes]
    return Grid((shape[0], shape[1], shape[2]), (spacing[0], spacing[1], spacing[2]), _finite(origin))


def _finite(point: list[float]) -> tuple[float, float, float]:
    x, y, z = point if np.isfinite(point).all() else (0.0, 0.0, 0.0)
    return x, y, z


def read(path: Path) -> Volume:
    """Read a volume, or one image, memory-mapped."""
    fields = _fields(path)
    voxels = _voxels(path, fields)
    return Volume(voxels, _grid(fields, voxels.shape))


def header(path: Path) -> Header:
    """Tell what a file holds."""
    volume = read(path)
    return Header(volume.grid, volume.array.dtype)


def write(path: Path, volume: Volume, compressed: bool) -> None:
    """Write voxels, voxel size and origin; the format is never compressed.

    Raises:
        InputError: MRC has no such type, or the volume has several channels.
    """
    import mrcfile

    if volume.channels > 1:
        raise InputError("MRC cannot hold colours.", "Save it as .nrrd or .tif, or as grey values.")
    dtype = storable(volume.array.dtype, _HELD, "MRC")
    with mrcfile.new(path) as file:
        file.set_data(np.zeros((1, 1, 1), dtype))
        file.set_volume()
        _fill(file.header, volume)
    with path.open("r+b") as stream:
        stream.seek(_HEADER_BYTES)
        for array_slice in volume.array:  # mrcfile itself would need all of them in memory
            stream.write(np.ascontiguousarray(array_slice, dtype).data)


def _fill(fields: Any, volume: Volume) -> None:
    """Write geometry and statistics into the header of an empty file, in place."""
    grid = volume.grid
    for axis, n, spacing in zip("zyx", grid.shape, grid.spacing, strict=True):
        fields[f"n{axis}"] = fields[f"m{axis}"] = n
        fields.cella[axis] = n * spacing
    for axis, place in zip("xyz", grid.origin, strict=True):
        fields.origin[axis] = place
    with np.errstate(invalid="ignore"):
        lows, highs, means = zip(*((s.min(), s.max(), s.mean(dtype=float)) for s in volume.array), strict=True)
        fields.dmin, fields.dmax, fields.dmean = min(lows), max(highs), np.mean(means)
    fields.rms = -1  # unknown


def _kept(grid: Grid) -> Grid:
    z, y, x = (float(np.float32(size)) for size in grid.spacing)
    return Grid(grid.shape, (z, y, x), _finite([float(np.float32(place)) for place in grid.origin]))


FAMILY = Family("MRC", (".mrc", ".rec", ".st", ".map"), header, read, write, kept=_kept)
