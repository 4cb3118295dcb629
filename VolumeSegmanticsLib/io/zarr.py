"""Zarr and OME-Zarr, versions 2 and 3: ``scan.zarr``, or one array of it as ``scan.zarr/1``; read lazily.

Of an OME-Zarr pyramid the finest level is taken where none is named; its scales and translations place it. What is
written here is OME-Zarr 0.4 (https://ngff.openmicroscopy.org), which also carries the whole geometry. Lengths are kept
as plain numbers, without a unit.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..volume import Grid, Volume
from .family import MOST_CHANNELS, Family, Header, four_axes, only
from .lazy import LazyArray, Window
from .pyramid import Level, halved, levels

SUFFIX = ".zarr"
GRID_KEY = "VolumeSegmanticsGrid"

_MARKS = ("zarr.json", ".zarray", ".zgroup")
_CHUNK = 64
_PIECE_BYTES = 2**26  # of voxels that are read, halved and written together
_SPACE = "zyx"


class ZarrFamily(Family):
    """Stores, and the arrays and groups inside them."""

    def matches(self, path: Path) -> bool:
        """True for names of stores, and for what lies in one."""
        inside = path.is_dir() and any(part.lower().endswith(SUFFIX) for part in path.parts)
        return super().matches(path) or inside


def is_store(path: Path) -> bool:
    """Tell whether a folder is a Zarr store, which may be replaced as a file may."""
    return path.name.lower().endswith(SUFFIX) and any((path / mark).is_file() for mark in _MARKS)


@dataclass(frozen=True)
class _Stored:
    """An array in a store, and what is known about its axes.

    Attributes:
        array: As zarr opens it.
        names: Of its axes, one letter each, such as ``"czyx"``.
        grid: Where its voxels lie.
        unit: Of lengths, as OME-Zarr tells it.
    """

    array: Any
    names: str
    grid: Grid
    unit: str

    @property
    def channels(self) -> int:
        """Values a voxel."""
        return int(self.array.shape[self.names.index("c")]) if "c" in self.names else 1

    @property
    def shape(self) -> tuple[int, ...]:
        """(Z, Y, X), or (Z, Y, X, C)."""
        return (*self.grid.shape, *((self.channels,) if self.channels > 1 else ()))

    def box(self, window: Window) -> NDArray[Any]:
        """Read a box of voxels."""
        parts: dict[str, Any] = {"c": slice(None), **dict(zip(_SPACE, window, strict=True))}
        wanted = "".join(name for name in self.names if name in parts)
        values = np.asarray(self.array[tuple(parts.get(name, 0) for name in self.names)])
        order = [wanted.index(name) for name in (*_SPACE, "c") if name in wanted]
        values = values.transpose(order)
        if "z" not in wanted:  # a flat image
            values = values[None][window[0]]
        return values if self.channels > 1 or "c" not in wanted else values[..., 0]


def _stored(path: Path) -> _Stored:
    import zarr

    if not path.exists():
        raise InputError(f'There is no store "{path}".', "Check its name and folder.")
    try:
        found = zarr.open(str(path), mode="r")
    except FileNotFoundError:  # zarr names its own classes here
        raise InputError(f'"{path}" holds no Zarr array or group.', "Is it half copied? Export it again.") from None
    if hasattr(found, "shape"):
        return _known(path, found, *_level_of(path, found))
    levels = _multiscales(found.attrs).get("datasets")
    if levels:
        return _known(path / levels[0]["path"], found[levels[0]["path"]], _multiscales(found.attrs), levels[0])
    names = [name for name, _ in found.arrays()]
    if len(names) != 1:
        told = ", ".join(sorted(names)) or "none"
        raise InputError(f'"{path}" holds {len(names)} arrays: {told}.', "Name one, as STORE.zarr/ARRAY.")
    return _known(path, found[names[0]], {}, {})


def _level_of(path: Path, array: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the pyramid that an array is a level of, and what that says about the level; empty where it is none."""
    import zarr

    if not any((path.parent / mark).is_file() for mark in _MARKS):
        return {}, {}
    pyramid = _multiscales(zarr.open_group(str(path.parent), mode="r").attrs)
    return pyramid, next((level for level in pyramid.get("datasets", ()) if level["path"] == path.name), {})


def _multiscales(attributes: Any) -> dict[str, Any]:
    known = dict(attributes)
    pyramids = known.get("multiscales") or known.get("ome", {}).get("multiscales")
    return dict(pyramids[0]) if pyramids else {}


def _known(path: Path, array: Any, pyramid: dict[str, Any], level: dict[str, Any]) -> _Stored:
    """Find out which axis is which, and where the voxels lie."""
    names = _axis_names(path, array, pyramid)
    shape = tuple(int(array.shape[names.index(name)]) if name in names else 1 for name in _SPACE)
    own = json.loads(array.attrs[GRID_KEY]) if GRID_KEY in array.attrs else None
    if own and tuple(own["shape"]) == shape:
        return _Stored(array, names, Grid(**own), _unit(pyramid))
    step, first = np.ones(len(names)), np.zeros(len(names))
    for change in (*level.get("coordinateTransformations", ()), *pyramid.get("coordinateTransformations", ())):
        scale, shift = change.get("scale", step * 0 + 1), change.get("translation", first * 0)
        step, first = step * scale, first * scale + shift
    at = [names.find(name) for name in _SPACE]
    z, y, x = (float(step[n]) if n >= 0 else 1.0 for n in at)
    place = [float(first[n]) if n >= 0 else 0.0 for n in at]
    grid = Grid((shape[0], shape[1], shape[2]), (z, y, x), (place[2], place[1], place[0]))
    return _Stored(array, names, grid, _unit(pyramid))


def _unit(pyramid: dict[str, Any]) -> str:
    """Return the unit of all axes in space; empty where they have none, or several."""
    axes = [axis for axis in pyramid.get("axes", ()) if isinstance(axis, dict) and axis.get("type") == "space"]
    return only(axis.get("unit", "") for axis in axes)


def _axis_names(path: Path, array: Any, pyramid: dict[str, Any]) -> str:
    given = [axis if isinstance(axis, str) else axis["name"] for axis in pyramid.get("axes", ())]
    names = "".join(name[:1].lower() for name in given) if len(given) == array.ndim else ""
    if not names:
        has_colours = array.ndim == 4 and array.shape[3] <= MOST_CHANNELS
        names = {2: "yx", 3: "zyx", 4: "zyxc" if has_colours else "tzyx", 5: "tczyx"}.get(array.ndim, "")
    sizes = dict(zip(names, array.shape, strict=False))
    others = [size for name, size in sizes.items() if name not in "zyxc"]
    if not {"y", "x"} <= set(sizes) or any(size > 1 for size in others) or sizes.get("c", 1) > MOST_CHANNELS:
        raise four_axes(path, tuple(array.shape))
    return names


def header(path: Path) -> Header:
    """Tell what an array holds."""
    stored = _stored(path)
    return Header(stored.grid, np.dtype(stored.array.dtype), stored.channels, unit=stored.unit)


def read(path: Path) -> Volume:
    """Read an array as a whole."""
    volume = open_array(path)
    return Volume(np.asarray(volume.array), volume.grid)


def open_array(path: Path) -> Volume:
    """Open an array whose voxels are read when they are needed."""
    stored = _stored(path)
    array = LazyArray(stored.shape, np.dtype(stored.array.dtype), stored.box)
    return Volume(cast(Any, array), stored.grid)


def write(path: Path, volume: Volume, compressed: bool) -> None:
    """Write an OME-Zarr with its pyramid, compressed, piece by piece.

    Args:
        path: The store.
        volume: What is written; it may be lazy.
        compressed: True for labels, which are not averaged: coarser levels hold every second voxel.
    """
    import zarr

    group, averages = zarr.open_group(str(path), mode="w", **_version()), not compressed
    pyramid = levels(volume.grid, averages=averages)
    group.attrs["multiscales"] = [_told(pyramid, has_colours=volume.channels > 1)]
    arrays = [_new_level(path / str(number), volume, level.grid) for number, level in enumerate(pyramid)]
    planes, rows = _piece(volume)
    for z, y in itertools.product(range(0, volume.grid.shape[0], planes), range(0, volume.grid.shape[1], rows)):
        voxels = np.asarray(volume.array[z : z + planes, y : y + rows])
        for array, level in zip(arrays, pyramid, strict=True):
            voxels = halved(voxels, level.halves, averages=averages)
            start = z // level.factors[0], y // level.factors[1]
            part = tuple(slice(first, first + n) for first, n in zip(start, voxels.shape, strict=False))
            array[(..., *part, slice(None))] = np.moveaxis(voxels, 3, 0) if voxels.ndim == 4 else voxels


def _version() -> dict[str, Any]:
    """Return how version 2 of the format is asked for."""
    import zarr

    return {} if zarr.__version__.startswith("2.") else {"zarr_format": 2}


def _piece(volume: Volume) -> tuple[int, int]:
    """Return how many planes and rows are written together: whole chunks, and few of them where planes are large."""
    row_bytes = _CHUNK * volume.grid.shape[2] * volume.channels * volume.array.dtype.itemsize
    return _CHUNK, max(1, _PIECE_BYTES // row_bytes // _CHUNK) * _CHUNK


def _new_level(path: Path, volume: Volume, grid: Grid) -> Any:
    """Make the array of one level; all its voxels are 0."""
    import zarr

    colours = (volume.channels,) if volume.channels > 1 else ()
    array = zarr.open_array(
        str(path),
        mode="w",
        shape=colours + grid.shape,
        chunks=(1,) * len(colours) + tuple(min(n, _CHUNK) for n in grid.shape),
        dtype=volume.array.dtype.newbyteorder("<").str,
        dimension_separator="/",
        **_version(),
    )
    array.attrs[GRID_KEY] = json.dumps(asdict(grid))
    return array


def _told(pyramid: Sequence[Level], *, has_colours: bool) -> dict[str, Any]:
    """Return what OME-Zarr says of a pyramid; it knows no directions."""
    axes = [{"name": name, "type": "space"} for name in _SPACE]
    return {
        "version": "0.4",
        "axes": [*([{"name": "c", "type": "channel"}] if has_colours else []), *axes],
        "datasets": [
            {"path": str(number), "coordinateTransformations": _transforms(level.grid, has_colours=has_colours)}
            for number, level in enumerate(pyramid)
        ],
    }


def _transforms(grid: Grid, *, has_colours: bool) -> list[dict[str, Any]]:
    step, first = ([1.0], [0.0]) if has_colours else ([], [])
    return [
        {"type": "scale", "scale": [*step, *grid.spacing]},
        {"type": "translation", "translation": [*first, *grid.origin[::-1]]},
    ]


FAMILY = ZarrFamily("Zarr", (SUFFIX,), header, read, write, open=open_array)
