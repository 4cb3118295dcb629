"""HDF5 and NeXus: ``scan.nxs``, or one dataset of it as ``scan.nxs:/entry/data/data``; read lazily.

A file without a named dataset is read as NeXus says (``default``, ``signal``), or else its only volume is taken.
Files written here are NeXus files that carry the whole geometry. Lengths are kept as plain numbers, without a unit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..volume import Grid, Volume
from .family import MOST_CHANNELS, Family, Header, four_axes, mapped
from .lazy import LazyArray, Window

SUFFIXES = (".h5", ".hdf5", ".nxs")
GRID_KEY = "VolumeSegmanticsGrid"

_ENTRY, _DATA = "entry", "data"
_REGULAR = 1e-3
"""Of a step: coordinates that are further from evenly spaced say nothing about voxels."""


class Hdf5Family(Family):
    """Files, and datasets inside them."""

    def matches(self, path: Path) -> bool:
        """True where the name of the file is one of this family."""
        return _file_and_name(path)[0].name.lower().endswith(self.suffixes)


def names_dataset(path: Path) -> bool:
    """Tell whether a path leads into a file."""
    return bool(_file_and_name(path)[1])


def source_of(path: Path) -> Path:
    """Return the file that a path leads to, without the name of a dataset in it."""
    return _file_and_name(path)[0]


def _file_and_name(path: Path) -> tuple[Path, str]:
    """Return the file, and the name of the dataset in it; empty where the path has none."""
    found = re.fullmatch(r"(?i)(.*(?:\.h5|\.hdf5|\.nxs)):[\\/](.*)", str(path))
    return (Path(found[1]), found[2].replace("\\", "/")) if found else (path, "")


@contextmanager
def _dataset(path: Path) -> Iterator[Any]:
    """Open the dataset that a path means."""
    import h5py

    source, name = _file_and_name(path)
    if not source.is_file():
        raise InputError(f'There is no file "{source}".', "Check its name and folder.")
    try:
        file = h5py.File(source, "r")
    except OSError as error:
        raise InputError(f'"{source}" cannot be read as HDF5.', "Is it damaged, or being written?") from error
    with file:
        yield _found(file, name) if name else _default(file) or _only(file)


def _found(file: Any, name: str) -> Any:
    found = file.get(name)
    if found is None or not hasattr(found, "dtype"):
        raise InputError(f'"{file.filename}" holds no dataset "/{name}".', _told_volumes(file))
    return found


def _told_volumes(file: Any) -> str:
    return f"Its volumes are: {', '.join(_volumes(file)) or 'none'}."


def _default(file: Any) -> Any:
    """Return the dataset that NeXus takes for the file's own; None where it names none."""
    place = file
    while place is not None and "default" in place.attrs:
        place = place.get(_text(place.attrs["default"]))
    if place is None or hasattr(place, "dtype") or "signal" not in place.attrs:
        return place if hasattr(place, "dtype") else None
    found = place.get(_text(place.attrs["signal"]))
    return found if hasattr(found, "dtype") else None


def _only(file: Any) -> Any:
    names = _volumes(file)
    if len(names) != 1:
        told = ", ".join(names[:8]) or "none"
        raise InputError(
            f'"{file.filename}" holds {len(names)} volumes: {told}.', "Name one, as FILE:/entry/data." if names else ""
        )
    return file[names[0]]


def _volumes(file: Any) -> list[str]:
    """Return the names of all datasets that could be a volume."""
    names: list[str] = []

    def visit(name: str, item: Any) -> None:
        if hasattr(item, "dtype") and item.dtype.kind in "uifb" and 3 <= item.ndim <= 4:
            names.append(f"/{name}")

    file.visititems(visit)
    return names


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _shape(path: Path, dataset: Any) -> tuple[int, ...]:
    """Return (Z, Y, X) or (Z, Y, X, C): axes of one voxel in front of three others do not count."""
    shape = tuple(int(n) for n in dataset.shape)
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 2:
        shape = (1, *shape)
    if len(shape) < 2:
        raise InputError(four_axes(path, shape).message, _told_volumes(dataset.file))
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] > MOST_CHANNELS):
        raise four_axes(path, dataset.shape)
    return shape[:3] if shape[3:] == (1,) else shape


def _grid(dataset: Any, shape: tuple[int, ...]) -> Grid:
    z, y, x = shape[:3]
    if GRID_KEY in dataset.attrs:
        own = Grid(**json.loads(_text(dataset.attrs[GRID_KEY])))
        if own.shape == (z, y, x):
            return own
    places = [_coordinates(dataset, axis, n) for axis, n in enumerate((z, y, x))]
    first, step = zip(*places, strict=True)
    return Grid((z, y, x), (step[0], step[1], step[2]), (first[2], first[1], first[0]))


def _coordinates(dataset: Any, axis: int, n: int) -> tuple[float, float]:
    """Return the first place and the step of an axis, as NeXus tells them; 0 and 1 where it does not."""
    group = dataset.parent
    names = [_text(name) for name in np.atleast_1d(group.attrs.get("axes", []))]
    given = group.get(names[axis]) if dataset.ndim == 3 and len(names) == 3 else None
    if given is None or not hasattr(given, "dtype") or given.shape != (n,) or given.dtype.kind not in "uif":
        return 0.0, 1.0
    values = np.asarray(given[()], float)
    steps = np.diff(values)
    if n < 2 or not np.isfinite(values).all() or steps[0] <= 0 or np.abs(steps - steps[0]).max() > _REGULAR * steps[0]:
        return 0.0, 1.0
    return float(values[0]), float((values[-1] - values[0]) / (n - 1))


def header(path: Path) -> Header:
    """Tell what a dataset holds."""
    with _dataset(path) as dataset:
        shape = _shape(path, dataset)
        return Header(_grid(dataset, shape), dataset.dtype, shape[3] if len(shape) == 4 else 1)


def read(path: Path) -> Volume:
    """Read a dataset, memory-mapped where its voxels follow each other uncompressed."""
    with _dataset(path) as dataset:
        shape, offset = _shape(path, dataset), dataset.id.get_offset()
        grid, is_here = _grid(dataset, shape), dataset.file.filename == str(_file_and_name(path)[0])
        if offset is not None and not dataset.external and is_here:
            return Volume(mapped(Path(dataset.file.filename), dataset.dtype, shape, offset), grid)
        return Volume(dataset[()].reshape(shape), grid)


def open_dataset(path: Path) -> Volume:
    """Open a dataset whose voxels are read when they are needed."""
    with _dataset(path) as dataset:
        shape = _shape(path, dataset)
        array = LazyArray(shape, dataset.dtype, partial(_read_box, path))
        return Volume(cast(Any, array), _grid(dataset, shape))


def _read_box(path: Path, window: Window) -> NDArray[Any]:
    with _dataset(path) as dataset:
        shape = _shape(path, dataset)
        if dataset.shape == shape or dataset.shape == (*shape, 1):
            box = dataset[window]
        elif dataset.ndim == 2:
            box = dataset[window[1:]][None][window[0]]
        else:
            box = dataset[(*[0] * (dataset.ndim - len(shape)), *window)]
        array: NDArray[Any] = box.reshape(*box.shape[:3], *shape[3:])
        return array


def write(path: Path, volume: Volume, compressed: bool) -> None:
    """Write a NeXus file with one dataset, ``/entry/data/data``, slice by slice."""
    import h5py

    with h5py.File(path, "w", track_order=False) as file:
        file.attrs["default"] = _ENTRY
        entry = file.create_group(_ENTRY)
        entry.attrs.update({"NX_class": "NXentry", "default": _DATA})
        group = entry.create_group(_DATA)
        group.attrs.update({"NX_class": "NXdata", "signal": _DATA})
        options = {"chunks": (1, *volume.array.shape[1:]), "compression": "gzip", "shuffle": True}
        dtype = volume.array.dtype.newbyteorder("<")
        dataset = group.create_dataset(_DATA, volume.array.shape, dtype, **(options if compressed else {}))
        dataset.attrs[GRID_KEY] = json.dumps(asdict(volume.grid))
        for z, plane in enumerate(volume.array):
            dataset[z] = plane


FAMILY = Hdf5Family("HDF5", SUFFIXES, header, read, write, open=open_dataset)
