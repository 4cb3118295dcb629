"""Folders of slices: TIFF or PNG files in natural order, one slice each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..volume import Grid, Volume
from . import itk, tiff
from .family import Family, Header
from .lazy import LazyArray, Window

_READERS: dict[str, tuple[Callable[[Path], Header], Callable[[Path], Volume]]] = {
    ".tif": (tiff.header, tiff.read),
    ".tiff": (tiff.header, tiff.read),
    ".png": (itk.header, itk.read),
}


@dataclass(frozen=True)
class FolderFamily(Family):
    """Folders, which have no suffix."""

    def matches(self, path: Path) -> bool:
        """True for folders, and for names that could become one."""
        return path.is_dir() or not path.suffix


def slices_of(folder: Path) -> list[Path]:
    """Return the files of the slices in natural order: 2 before 10.

    Raises:
        InputError: There are none, or both TIFF and PNG files.
    """
    shown = (file for file in folder.iterdir() if not file.name.startswith("."))
    files = [file for file in shown if file.suffix.lower() in _READERS]
    if not files:
        raise InputError(f'The folder "{folder}" holds no slices.', "Slices are files ending in .tif, .tiff or .png.")
    if len({_READERS[file.suffix.lower()] for file in files}) > 1:
        raise InputError(f'The folder "{folder}" holds TIFF and PNG files.', "Move one kind to a folder of its own.")
    return sorted(files, key=_natural)


def _natural(file: Path) -> list[Any]:
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", file.name)]


def _stack_header(files: list[Path], first: Header) -> Header:
    shape = (len(files), *first.grid.shape[1:])
    grid = tiff.described_grid(files[0]) if files[0].suffix.lower() != ".png" else None
    return Header(grid if grid is not None and grid.shape == shape else Grid(shape), first.dtype, first.channels)


def header(folder: Path) -> Header:
    """Tell what a folder holds, judged by its first slice."""
    files = slices_of(folder)
    tell, _ = _READERS[files[0].suffix.lower()]
    return _stack_header(files, tell(files[0]))


def read(folder: Path) -> Volume:
    """Read all slices into one array.

    Raises:
        InputError: A file holds several slices, or another shape or type than the first.
    """
    files = slices_of(folder)
    _, read_slice = _READERS[files[0].suffix.lower()]
    first = read_slice(files[0])
    stack = np.empty((len(files), *first.array.shape[1:]), first.array.dtype)
    for file, room in zip(files, stack, strict=True):
        image = read_slice(file).array
        _check_alike(file, image, files[0], room.shape, room.dtype)
        room[:] = image[0]
    return Volume(stack, _stack_header(files, Header(first.grid, stack.dtype)).grid)


def open_slices(folder: Path) -> Volume:
    """Open a folder whose slices are read when they are needed; one that is unlike the first is told then."""
    files = slices_of(folder)
    _, read_slice = _READERS[files[0].suffix.lower()]
    told = header(folder)
    shape = (*told.grid.shape, *((told.channels,) if told.channels > 1 else ()))

    def read_box(window: Window) -> NDArray[Any]:
        z, y, x = window
        images = [read_slice(file).array for file in files[z]]
        for file, image in zip(files[z], images, strict=True):
            _check_alike(file, image, files[0], shape[1:], told.dtype)
        return np.concatenate([image[:, y, x] for image in images])

    return Volume(cast(Any, LazyArray(shape, told.dtype, read_box)), told.grid)


def _check_alike(file: Path, image: NDArray[Any], first: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if image.shape != (1, *shape) or image.dtype != dtype:
        own, others = _told(image.shape, image.dtype), _told((1, *shape), dtype)
        raise InputError(
            f'"{file}" holds {own}, where "{first.name}" holds {others}.',
            "All slices of a folder must have one shape and type: move this one away, or convert it.",
        )


def _told(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{shape[0]} × {shape[1:]} values of type {dtype.name}"


def write(folder: Path, volume: Volume, compressed: bool) -> None:
    """Write a TIFF file a slice; each carries the geometry of the whole."""
    folder.mkdir()
    digits = len(str(len(volume.array)))
    for z in range(len(volume.array)):
        one_slice = Volume.of(volume.array[z : z + 1])
        tiff.write_images(folder / f"slice_{z:0{digits}}.tif", one_slice, volume.grid, compressed=compressed)


def check_replaceable(folder: Path) -> None:
    """Make sure that a folder may be written anew: it holds nothing but slices that were written here.

    Raises:
        InputError: It holds something else, which would be lost.
    """
    others = [file.name for file in folder.iterdir() if not re.fullmatch(r"slice_\d+\.tif", file.name)]
    if others:
        raise InputError(f'The folder "{folder}" holds other files, such as "{others[0]}".', "Choose a new folder.")


FAMILY = FolderFamily("Folder of slices", (), header, read, write, open=open_slices)
