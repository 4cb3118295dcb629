"""What a family of file formats offers, and what several of them need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..classes import LabelClass
from ..errors import InputError
from ..volume import Grid, LabelMap, Volume

INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
REALS = ("float32", "float64")

_WIDER = {"bool": "uint8", "uint8": "uint16", "float16": "float32"}
"""The next type that holds every value of another exactly, for formats that lack the other."""

MOST_CHANNELS = 4
"""A list of more values a voxel than this is rather time or a fourth axis than colour."""


@dataclass(frozen=True)
class Header:
    """What a file tells without its voxels.

    Attributes:
        grid: Where the voxels lie.
        dtype: Type of one value.
        channels: Values a voxel.
        classes: The classes that the file names; empty for everything but segmentations.
        unit: Of lengths, as the file calls it; empty where it does not tell, or tells several.
    """

    grid: Grid
    dtype: np.dtype[Any]
    channels: int = 1
    classes: tuple[LabelClass, ...] = ()
    unit: str = ""


@dataclass(frozen=True)
class Painted:
    """Labels as a file holds them, before anybody decides what an unpainted voxel means.

    Attributes:
        array: uint8 (Z, Y, X); 0 where nothing is painted, 255 where the file says "unlabelled".
        grid: Where the voxels lie.
        classes: The classes that the file names.
        unpainted: What 0 means where the caller leaves it open: ``"ignore"`` or ``"background"``.
        outside: The value of voxels that the file does not reach.
        resampled: Whether the labels may be resampled onto another grid.
        notes: What the user should know about the file.
    """

    array: NDArray[np.uint8]
    grid: Grid
    classes: tuple[LabelClass, ...]
    unpainted: str
    outside: int
    resampled: bool = False
    notes: tuple[str, ...] = ()


def whole_grid(grid: Grid) -> Grid:
    """Return the grid as it is: what a format keeps that can hold every geometry."""
    return grid


@dataclass(frozen=True)
class Family:
    """Formats that one file of this package reads and writes: a row of ``FORMATS``.

    Attributes:
        name: As the user is told.
        suffixes: In lower case, with their dots.
        header: Tells what a file holds, without its voxels where the format permits.
        read: Reads a volume; the array may be memory-mapped.
        write: Writes a volume to a path, compressed or not: labels are, images are not.
        kept: Returns what a volume's grid will be when it is read back.
        read_painted: Reads labels; None where labels are volumes of label values.
        write_labels: Writes labels with names and colours; None where the format has none.
        open: Opens a volume whose array is a ``LazyArray``, for formats that ``read`` brings into memory as a whole;
            None where it does not, or where the format can be read in one go only.
        in_parts: Whether volumes are written some slices at a time, so that they need not be in memory.
    """

    name: str
    suffixes: tuple[str, ...]
    header: Callable[[Path], Header]
    read: Callable[[Path], Volume]
    write: Callable[[Path, Volume, bool], None]
    kept: Callable[[Grid], Grid] = whole_grid
    read_painted: Callable[[Path], Painted] | None = None
    write_labels: Callable[[Path, LabelMap], None] | None = None
    open: Callable[[Path], Volume] | None = None
    in_parts: bool = True

    def matches(self, path: Path) -> bool:
        """True where the path's name is one of this family."""
        return path.name.lower().endswith(self.suffixes)


def only(units: Iterable[str]) -> str:
    """Return the one unit that axes have; empty where they have none, or several."""
    told = {unit for unit in units if unit}
    return told.pop() if len(told) == 1 else ""


def storable(dtype: np.dtype[Any], held: tuple[str, ...], format_name: str) -> np.dtype[Any]:
    """Return the narrowest little-endian type among ``held`` that keeps every value of ``dtype``.

    Raises:
        InputError: There is none.
    """
    name = dtype.name
    while name not in held:
        if name not in _WIDER:
            raise InputError(f"{format_name} cannot hold values of type {dtype.name}.", "Save it as .nrrd or .npy.")
        name = _WIDER[name]
    return np.dtype(name).newbyteorder("<")


def cut_short(path: Path, holds: int, needs: int) -> InputError:
    """Return the error of a file that ends before its voxels do; sizes in bytes."""
    return InputError(f'"{path}" is cut short: it holds {holds} of {needs} bytes.', "Copy or export it again.")


def mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> NDArray[Any]:
    """Return the voxels that lie in a file from ``offset`` on, memory-mapped and read-only.

    Raises:
        InputError: The file is too short.
    """
    holds, needs = path.stat().st_size, offset + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if holds < needs or offset < 0:
        raise cut_short(path, holds, needs)
    return np.memmap(path, dtype, "r", offset, shape)


def four_axes(path: Path, shape: tuple[int, ...]) -> InputError:
    """Return the error of a file that holds more than one volume, or less than a slice."""
    if len(shape) < 3:
        told = "one axis" if len(shape) == 1 else f"{len(shape)} axes"
        return InputError(f'"{path}" has {told}, {shape}, and is no volume.', "A volume has the axes Z, Y and X.")
    return InputError(
        f'"{path}" has more than three axes: {shape}.', "Save one point in time, or one channel, as a file of its own."
    )
