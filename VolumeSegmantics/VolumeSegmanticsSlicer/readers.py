"""The packages that read a file in Slicer's own process: found missing when such a file is opened, not before."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .requirements import NEEDED, Requirement, fits

FOR_BIG_FILES = (
    Requirement("h5py", ">=3.8", "HDF5 and NeXus files", 5),
    Requirement("zarr", ">=2.18", "Zarr stores", 15),
)
"""They agree with the extra ``big`` in ``pyproject.toml``."""

_PACKAGES = {
    (".mrc", ".rec", ".st", ".map"): ("mrcfile",),
    (".tif", ".tiff"): ("tifffile", "imagecodecs"),
    (".h5", ".hdf5", ".nxs"): ("h5py",),
    (".zarr",): ("zarr",),
}


def lacking_for(path: Path) -> tuple[Requirement, ...]:
    """Return what this Python lacks to read a file, a folder of slices, or one volume of several in a file."""
    names = list(_names(path))
    wanted = {
        package
        for suffixes, packages in _PACKAGES.items()
        for package in packages
        if any(name.endswith(suffixes) for name in names)
    }
    told = [replace(one, problem=_problem(one)) for one in (*NEEDED, *FOR_BIG_FILES) if one.name in wanted]
    return tuple(one for one in told if one.problem)


def _names(path: Path) -> Iterator[str]:
    """Yield the names that tell the format: those of the file and its folders, and of the first slice of a folder."""
    for part in path.parts:
        yield part.rstrip(":").lower()  # scan.nxs:/entry/data is a dataset in scan.nxs
    if path.is_dir():
        yield from (one.name.lower() for one in itertools.islice(path.iterdir(), 1))


def _problem(one: Requirement) -> str:
    try:
        version = importlib.metadata.version(one.name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
    return "" if fits(version, one.versions) else f"not {one.versions}: {version}"
