"""NRRD and NHDR, the files of 3D Slicer: raw voxels are memory-mapped, compressed ones read in one pass."""

from __future__ import annotations

import bz2
import gzip
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..volume import Grid, Volume
from .family import INTEGERS, MOST_CHANNELS, REALS, Family, Header, cut_short, four_axes, mapped, only, storable
from .nrrd_header import Fields, read_fields

_TYPE_NAMES = {
    "i1": ("int8", "int8_t", "signed char"),
    "u1": ("uint8", "uint8_t", "uchar", "unsigned char"),
    "i2": ("int16", "int16_t", "short", "short int", "signed short", "signed short int"),
    "u2": ("uint16", "uint16_t", "ushort", "unsigned short", "unsigned short int"),
    "i4": ("int32", "int32_t", "int", "signed int"),
    "u4": ("uint32", "uint32_t", "uint", "unsigned int"),
    "i8": ("int64", "int64_t", "longlong", "long long", "long long int", "signed long long", "signed long long int"),
    "u8": ("uint64", "uint64_t", "ulonglong", "unsigned long long", "unsigned long long int"),
    "f4": ("float",),
    "f8": ("double",),
}
_TYPES = {name: code for code, names in _TYPE_NAMES.items() for name in names}
_ENDIAN = {"little": "<", "big": ">"}

_TO_LPS = {
    "right-anterior-superior": (-1, -1, 1),
    "RAS": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "LAS": (1, -1, 1),
}
"""Sign of each world axis. Every other space (LPS, the scanner's, none) is taken as it is, as ITK does."""

_SPATIAL_KINDS = ("domain", "space", "none", "unknown", "???")
_TIME_NAMES = ("time", "frame", "t")
_ALPHA_KINDS = ("RGBA-color", "4-color")

_RAW = ("raw",)
_TEXT = ("ascii", "text", "txt")
_DECODERS: dict[str, Callable[[IO[bytes]], Any]] = {
    "gzip": gzip.open,
    "gz": gzip.open,
    "bzip2": bz2.open,
    "bz2": bz2.open,
}

_ALIGNMENT_BYTES = 64
"""Raw voxels begin at a multiple of this, so that a memory map is aligned for every type."""


def _either(fields: Fields, name: str, other_name: str, default: Any) -> Any:
    """Return a field that may be written in two ways."""
    return fields.get(name, fields.get(other_name, default))


@dataclass(frozen=True)
class _Axes:
    """Which axis of a file is what; they count from the fastest, as in the header."""

    spatial: tuple[int, ...]
    channel: int | None
    kinds: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, fields: Fields) -> _Axes:
        sizes = tuple(int(n) for n in fields["sizes"])
        kinds = tuple(fields.get("kinds") or ("domain",) * len(sizes))
        names = (*kinds, *fields.get("labels", ()))
        spatial = tuple(i for i, direction in enumerate(_directions(fields, kinds)) if direction is not None)
        others = tuple(i for i in range(len(sizes)) if i not in spatial)
        if len(spatial) not in (2, 3) or len(others) > 1 or any(name.lower() in _TIME_NAMES for name in names):
            raise four_axes(path, sizes)
        return cls(spatial, others[0] if others else None, kinds)

    def arranged(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return voxels with the file's axes, slowest first, as (Z, Y, X) or (Z, Y, X, C)."""
        if self.channel is not None:
            array = np.moveaxis(array, array.ndim - 1 - self.channel, -1)
        return array[None] if len(self.spatial) == 2 else array

    def colours(self, channels: int) -> int:
        """Return how many channels are left without the alpha channel."""
        has_alpha = self.channel is not None and self.kinds[self.channel] in _ALPHA_KINDS
        return channels - has_alpha


def _directions(fields: Fields, kinds: tuple[str, ...]) -> list[NDArray[np.float64] | None]:
    """Return the step of every axis in the file's own space, with three components; None for axes without one."""
    given = fields.get("space directions")
    if given is not None:
        return [None if row is None or np.isnan(row).any() else _padded(row) for row in given]
    spacings = iter(np.eye(3) * _spacings(fields, kinds))
    return [next(spacings, np.zeros(3)) if kind in _SPATIAL_KINDS else None for kind in kinds]


def _spacings(fields: Fields, kinds: tuple[str, ...]) -> NDArray[np.float64]:
    given = np.asarray(fields.get("spacings", np.ones(len(kinds))), float)
    return _padded([s if np.isfinite(s) else 1.0 for s, k in zip(given, kinds, strict=True) if k in _SPATIAL_KINDS], 1)


def _padded(values: Any, filling: float = 0.0) -> NDArray[np.float64]:
    return np.array([*np.asarray(values, float)[:3], *[filling] * 3])[:3]


def grid_of(path: Path, fields: Fields) -> Grid:
    """Return where the voxels of a file lie; a flat image is one slice.

    Raises:
        InputError: The file has more than three axes, or impossible ones.
    """
    axes = _Axes.of(path, fields)
    to_lps = np.array(_TO_LPS.get(fields.get("space", ""), (1, 1, 1)))
    steps = [step * to_lps for step in _directions(fields, axes.kinds) if step is not None]
    sizes = [int(fields["sizes"][i]) for i in axes.spatial]
    if len(steps) == 2:
        normal = np.cross(steps[0], steps[1])
        steps, sizes = [*steps, normal / np.linalg.norm(normal)], [*sizes, 1]
    affine = np.eye(4)
    affine[:3, :3] = np.array(steps[::-1]).T
    affine[:3, 3] = _origin(fields, axes) * to_lps
    return Grid.from_affine((sizes[2], sizes[1], sizes[0]), affine)


def _origin(fields: Fields, axes: _Axes) -> NDArray[np.float64]:
    given = fields.get("space origin")
    if given is not None:
        return _padded(given)
    lowest = np.asarray(_either(fields, "axis mins", "axismins", [np.nan] * len(axes.kinds)), float)
    centerings = fields.get("centerings") or ["cell"] * len(axes.kinds)
    in_cells = [0.0 if centerings[i] == "node" else 0.5 for i in axes.spatial]  # the minimum is the voxel's edge
    return np.nan_to_num(_padded(lowest[list(axes.spatial)]) + _padded(in_cells) * _spacings(fields, axes.kinds))


def _dtype(path: Path, fields: Fields) -> np.dtype[Any]:
    code = _TYPES.get(fields["type"])
    if code is None:
        raise InputError(f'"{path}" holds values of type "{fields["type"]}".', "Save it as integers or real numbers.")
    endian = fields.get("endian", "little" if code.endswith("1") else "")
    if endian not in _ENDIAN and fields["encoding"].lower() not in _TEXT:
        raise InputError(f'"{path}" does not say whether it is little or big endian.', 'Add "endian: little" to it.')
    return np.dtype(_ENDIAN.get(endian, "<") + code)


def read_voxels(path: Path, fields: Fields, start: int) -> NDArray[Any]:
    """Return the voxels as (Z, Y, X) or (Z, Y, X, C), memory-mapped where they are raw.

    Raises:
        InputError: They are cut short, or in an encoding that is not read.
    """
    dtype, shape = _dtype(path, fields), tuple(int(n) for n in fields["sizes"][::-1])
    encoding = fields["encoding"].lower()
    source, start = _voxel_file(path, fields, start)
    skip = int(_either(fields, "byte skip", "byteskip", 0))
    if encoding in _RAW:
        n_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        voxels = mapped(source, dtype, shape, start + skip if skip >= 0 else source.stat().st_size - n_bytes)
    elif encoding in _TEXT:
        voxels = np.array(source.read_bytes()[start:].split(), dtype).reshape(shape)
    else:
        voxels = _decoded(source, encoding, start, skip, np.empty(shape, dtype))
    return _Axes.of(path, fields).arranged(voxels)


def _voxel_file(path: Path, fields: Fields, start: int) -> tuple[Path, int]:
    """Return the file that the voxels lie in, and where in it they begin, before any bytes to skip."""
    detached = _either(fields, "data file", "datafile", None)
    source = path if detached is None else path.parent / detached
    if not source.is_file():
        raise InputError(f'The voxels of "{path}" should lie in "{detached}".', "Put that one file beside it.")
    with source.open("rb") as stream:
        stream.seek(0 if detached else start)
        for _ in range(int(_either(fields, "line skip", "lineskip", 0))):
            stream.readline()
        return source, stream.tell()


def _decoded(source: Path, encoding: str, start: int, skip: int, voxels: NDArray[Any]) -> NDArray[Any]:
    if encoding not in _DECODERS or skip < 0:
        raise InputError(f'The voxels of "{source}" are encoded as "{encoding}".', "Save it as raw or gzip.")
    with ExitStack() as opened:
        stream = opened.enter_context(source.open("rb"))
        stream.seek(start)
        decoder = opened.enter_context(_DECODERS[encoding](stream))
        decoder.read(skip)
        if (missing := _fill(voxels, decoder)) > 0:
            raise cut_short(source, voxels.nbytes - missing, voxels.nbytes)
        decoder.read(1)  # reaches the checksum, which tells of damage
    return voxels


def _fill(voxels: NDArray[Any], stream: IO[bytes]) -> int:
    """Read into the array in place; return how many bytes the stream lacked."""
    room = memoryview(voxels.reshape(-1).view(np.uint8))
    while room:
        count = stream.readinto(room)  # type: ignore[attr-defined]
        if not count:
            break
        room = room[count:]
    return len(room)


def header(path: Path) -> Header:
    """Tell what a file holds, without its voxels."""
    fields, _ = read_fields(path)
    axes = _Axes.of(path, fields)
    channels = 1 if axes.channel is None else int(fields["sizes"][axes.channel])
    unit = only(re.findall('"([^"]*)"', _either(fields, "space units", "units", "")))
    return Header(grid_of(path, fields), _dtype(path, fields), axes.colours(channels), unit=unit)


def read(path: Path) -> Volume:
    """Read a volume, memory-mapped where it is raw; an alpha channel is dropped."""
    fields, start = read_fields(path)
    voxels, axes = read_voxels(path, fields, start), _Axes.of(path, fields)
    if voxels.ndim == 4:
        if voxels.shape[3] > MOST_CHANNELS:
            raise four_axes(path, voxels.shape)
        voxels = voxels[..., : axes.colours(voxels.shape[3])]
        voxels = voxels[..., 0] if voxels.shape[3] == 1 else voxels
    return Volume(voxels, grid_of(path, fields))


def write(path: Path, volume: Volume, compressed: bool) -> None:
    """Write a volume, raw or with gzip; NHDR keeps the voxels in a second file."""
    write_voxels(path, volume.array, volume.grid, compressed=compressed)


def write_voxels(
    path: Path, array: NDArray[Any], grid: Grid, *, compressed: bool, keys: Mapping[str, str] | None = None
) -> None:
    """Write voxels (Z, Y, X) or (Z, Y, X, C), with keys and values of the writer's own.

    Raises:
        InputError: NRRD has no such type.
    """
    dtype = storable(array.dtype, (*INTEGERS, *REALS), "NRRD")
    detached = path.with_suffix(".raw.gz" if compressed else ".raw") if path.suffix == ".nhdr" else None
    head = _header_text(array, dtype, grid, compressed, detached, keys or {})
    path.write_bytes(head)
    with (detached or path).open("ab") as stream:
        if compressed:
            with gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=4, mtime=0) as encoder:
                _write_slices(encoder, array, dtype)
        else:
            _write_slices(stream, array, dtype)


def _write_slices(stream: Any, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    for array_slice in array:  # so that a memory-mapped volume is never in memory as a whole
        stream.write(np.ascontiguousarray(array_slice, dtype).data)


def _header_text(
    array: NDArray[Any],
    dtype: np.dtype[Any],
    grid: Grid,
    compressed: bool,
    detached: Path | None,
    keys: Mapping[str, str],
) -> bytes:
    steps = [_vector(np.array(axis) * spacing) for axis, spacing in zip(grid.direction, grid.spacing, strict=True)]
    kinds = ["domain"] * 3
    if array.ndim == 4:
        steps, kinds = [*steps, "none"], ["RGB-color" if array.shape[3] == 3 else "list", *kinds]
    fields = {
        "type": _TYPE_NAMES[dtype.str[1:]][0],
        "dimension": str(array.ndim),
        "space": "left-posterior-superior",
        "sizes": " ".join(str(n) for n in array.shape[::-1]),
        "space directions": " ".join(steps[::-1]),
        "kinds": " ".join(kinds),
        "endian": "little",
        "encoding": "gzip" if compressed else "raw",
        "space origin": _vector(grid.origin),
        **({"data file": detached.name} if detached else {}),
    }
    lines = [f"{name}: {value}" for name, value in fields.items()]
    lines += [f"{key}:={escaped(value)}" for key, value in keys.items()]
    text = "\n".join(["NRRD0005", *lines, "# "]).encode()
    return text + b"-" * (-(len(text) + 2) % _ALIGNMENT_BYTES) + b"\n\n"


def _vector(values: Any) -> str:
    return "(" + ",".join(repr(float(v) + 0.0) for v in values) + ")"  # which makes -0.0 a 0.0


def escaped(text: str) -> str:
    """Return a key's value as NRRD writes it: on one line."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def unescaped(text: str) -> str:
    """Return what ``escaped`` was given."""
    return text.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\")


FAMILY = Family("NRRD", (".nrrd", ".nhdr"), header, read, write)
