"""Reading and writing volumes and labels; the one place that knows the axis orders of files.

A family of formats is one file of this package and one row of ``FORMATS``. Arrays are (Z, Y, X), geometry is LPS.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..classes import UNLABELLED, LabelClass
from ..errors import Cancelled, DependencyError, InputError, ResourceError, SettingsError, VolumeSegmanticsError
from ..events import Log, Report, ignore
from ..volume import Grid, LabelMap, Volume
from . import folder, hdf5, itk, mrc, npy, nrrd, seg_nrrd, tiff, zarr
from .atomic import remove_left_behind, replacing
from .family import Family, Painted
from .lazy import LazyArray, ReadBox, Window
from .placing import placed, resampled

__all__ = [
    "FORMATS",
    "check_output",
    "check_writable",
    "describe",
    "existing",
    "files_of",
    "grey",
    "lazily_grey",
    "open_volume",
    "read_labels",
    "read_volume",
    "source_of",
    "write_labels",
    "write_volume",
    "writes_in_parts",
]

FORMATS: tuple[Family, ...] = (
    seg_nrrd.FAMILY,
    hdf5.FAMILY,
    zarr.FAMILY,
    folder.FAMILY,
    nrrd.FAMILY,
    itk.META,
    itk.NIFTI,
    tiff.FAMILY,
    mrc.FAMILY,
    npy.FAMILY,
)
"""The first row that matches a path has it."""

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
"""Weights of red, green and blue: ITU-R BT.709."""

_FEW_VALUES, _GRAINY = 64, 0.25
"""More values than the first, in plain labels whose neighbours differ more often than the second, are grey values."""

_EXPORT_AGAIN = "Is it damaged or half copied? Export it again."

_MEANINGS = {"ignore": "unlabelled", "background": "background"}

AnyPath = str | PathLike[str]


def read_volume(path: AnyPath, *, channels: str = "keep") -> Volume:
    """Read a volume.

    Args:
        path: A file, or a folder of slices; the suffix tells the format.
        channels: ``"keep"`` leaves colours as (Z, Y, X, C); ``"grey"`` turns them into their luminance (other
            channels into their mean), rounded for integers.

    Returns:
        The volume, memory-mapped where the format permits; a flat image has one slice.

    Raises:
        InputError: There is no such file, its format is unknown, or it is damaged.
        DependencyError: The package that reads it is missing.
    """
    if channels not in ("keep", "grey"):
        raise SettingsError(f'channels is "{channels}".', 'It is "keep" or "grey".')
    path = Path(path)
    family = _family(path)
    with _reading(path, family):
        volume = family.read(path)
        return grey(volume) if channels == "grey" and volume.channels > 1 else volume


def open_volume(path: AnyPath) -> Volume:
    """Open a volume without bringing its voxels into memory, where the format permits.

    Its array is memory-mapped, or a ``LazyArray`` that reads the boxes it is cut with: ``array[2:5, :, 10:20]``.
    Arguments and errors are those of ``read_volume``; damage inside the file may be found only later, and is an
    ``InputError`` then.
    """
    path = Path(path)
    family = _family(path)
    with _reading(path, family):
        volume = (family.open or family.read)(path)
    if not isinstance(volume.array, LazyArray):
        return volume
    read = partial(_read_part, path, family, volume.array.read)
    return Volume(cast(Any, replace(volume.array, read=read)), volume.grid)


def read_labels(
    path: AnyPath, *, unpainted: str = "auto", grid: Grid | None = None, report: Report = ignore
) -> LabelMap:
    """Read labels, with names and colours where the format has them.

    Args:
        path: A file, or a folder of slices; the suffix tells the format.
        unpainted: What 0 means: ``"background"`` keeps it as class 0, ``"ignore"`` takes it for unlabelled,
            ``"auto"`` ignores it in segmentations and keeps it in label arrays.
        grid: The image's. Labels are moved onto it by whole voxels; only segmentations are resampled if need be.
            Label arrays without any geometry take it where the shapes agree.
        report: Takes what the user should know.

    Raises:
        InputError: There is no such file, its format is unknown, it is damaged, holds no labels, or does not lie on
            the grid.
        DependencyError: The package that reads it is missing.
    """
    if unpainted not in ("auto", *_MEANINGS):
        raise SettingsError(f'unpainted is "{unpainted}".', f"It is one of auto, {', '.join(_MEANINGS)}.")
    path = Path(path)
    family = _family(path)
    with _reading(path, family):
        painted = family.read_painted(path) if family.read_painted else _painted(path, family.read(path))
    array = painted.array if grid is None else _on_grid(path, painted, grid, report)
    for note in painted.notes:
        report(Log("warning", note))
    meaning = painted.unpainted if unpainted == "auto" else unpainted
    if any((plane == 0).any() for plane in array):
        report(Log("info", f'0 in "{path.name}" was taken for {_MEANINGS[meaning]}.'))
    return LabelMap.of(array, grid or painted.grid, painted.classes, unpainted=meaning)


def write_volume(path: AnyPath, volume: Volume, *, report: Report = ignore) -> Path:
    """Write a volume; the suffix tells the format, and a path without one is a folder of TIFF slices.

    An earlier file is replaced in one step, and stays as it is where writing fails.

    Args:
        path: Where to; missing folders are made.
        volume: What to write.
        report: Takes what the format cannot hold.

    Returns:
        The path.

    Raises:
        InputError: The format is unknown, or cannot hold the values.
        ResourceError: The disk is full, or nothing can be written there.
        DependencyError: The package that writes it is missing.
    """
    path = Path(path)
    family = _family_to_write(path)
    with _writing(path) as draft:
        family.write(draft, volume, False)
    _tell_lost_geometry(path, family, volume.grid, report)
    return path


def write_labels(path: AnyPath, labels: LabelMap, *, report: Report = ignore) -> Path:
    """Write labels, compressed; only segmentations (.seg.nrrd) keep names and colours.

    Arguments, result and errors are those of ``write_volume``. Values without a class are an ``InputError``.
    """
    path = Path(path)
    family = _family_to_write(path)
    labels.check()
    with _writing(path) as draft:
        if family.write_labels:
            family.write_labels(draft, labels)
        else:
            family.write(draft, Volume(labels.array, labels.grid), True)
    _tell_lost_geometry(path, family, labels.grid, report)
    if not family.write_labels and any(c != LabelClass.plain(c.value) for c in labels.classes):
        report(Log("warning", f'"{path.name}" holds label values only: names and colours need .seg.nrrd.'))
    return path


def check_output(path: AnyPath, *, makes_folders: bool = True) -> None:
    """Make sure, before long work, that its result has a known format and can be written; see ``check_writable``.

    Raises:
        InputError: The format is unknown.
        ResourceError: Nothing can be written there.
    """
    _family_to_write(Path(path))
    check_writable(path, makes_folders=makes_folders)


def writes_in_parts(path: AnyPath) -> bool:
    """Tell whether a format is written some slices at a time, so that volumes larger than memory can be written."""
    return _family_to_write(Path(path)).in_parts


def source_of(path: AnyPath) -> Path:
    """Return the file or folder that a path leads to, without the name of a dataset in it."""
    return hdf5.source_of(Path(path))


def files_of(path: Path) -> list[Path]:
    """Return all files that a volume lies in, sorted: those of a store, the slices of a folder, or the one file."""
    if not path.is_dir():
        return [path]
    if zarr.FAMILY.matches(path):
        return sorted(file for file in path.rglob("*") if file.is_file())
    return folder.slices_of(path)


def check_writable(path: AnyPath, *, makes_folders: bool = True) -> None:
    """Make sure that a file can be written. What a killed process left of it is removed.

    Args:
        path: The file.
        makes_folders: Whether folders that are missing are made; if not, that they could be is good enough.

    Raises:
        ResourceError: Nothing can be written there.
    """
    path = Path(path)
    try:
        if makes_folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=existing(path.parent)):
            pass
        remove_left_behind(path)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


def existing(folder: Path) -> Path:
    """Return a folder, or the nearest one around it that is there."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


def describe(path: AnyPath) -> dict[str, Any]:
    """Tell what a file holds, as JSON-able values; voxels are not loaded where the format permits.

    Returns:
        ``format``, ``shape`` (Z, Y, X), ``spacing``, its ``unit`` where the file tells one, ``origin``, ``direction``
        (as in ``Grid``), ``dtype``, ``channels``, ``voxels``, and for segmentations ``classes``.

    Raises:
        InputError: There is no such file, its format is unknown, or it is damaged.
        DependencyError: The package that reads it is missing.
    """
    path = Path(path)
    family = _family(path)
    with _reading(path, family):
        header = family.header(path)
    grid = header.grid
    told = {
        "format": family.name,
        "shape": list(grid.shape),
        "spacing": list(grid.spacing),
        **({"unit": header.unit} if header.unit else {}),
        "origin": list(grid.origin),
        "direction": [list(axis) for axis in grid.direction],
        "dtype": header.dtype.name,
        "channels": header.channels,
        "voxels": int(np.prod(grid.shape, dtype=object)),
    }
    return told | ({"classes": [c.to_dict() for c in header.classes]} if family.read_painted else {})


def _family(path: Path) -> Family:
    for family in FORMATS:
        if family.matches(path):
            return family
    if path.suffix.lower() == ".safetensors":
        raise InputError(f'"{path.name}" is a model, not an image and no labels.', "Images come first: IMAGE MODEL.")
    known = ", ".join(suffix for family in FORMATS for suffix in family.suffixes)
    raise InputError(
        f'"{path.name}" has none of the known formats.', f"Known are {known}, and folders of TIFF or PNG slices."
    )


def _read_part(path: Path, family: Family, read: ReadBox, window: Window) -> NDArray[Any]:
    with _reading(path, family, "cannot be read: a part of it is damaged.", "Copy or export it again."):
        return read(window)


def _family_to_write(path: Path) -> Family:
    if hdf5.names_dataset(path):
        raise InputError(f'"{path}" is a part of a file, which is written as a whole.', "Name the file alone.")
    return _family(path)


@contextmanager
def _reading(path: Path, family: Family, wrong: str = "", remedy: str = "") -> Iterator[None]:
    """Turn whatever a parser raises into a sentence: the one place where everything is caught.

    Args:
        path: What is read.
        family: As what.
        wrong: What it means that the parser fails; by default, that the file is none of its family.
        remedy: What to do about that.
    """
    try:
        yield
    except InputError as error:
        if path.name in error.message:
            raise
        raise InputError(f'"{path}": {error.message}', error.hint or "Export it again.") from error
    except (VolumeSegmanticsError, Cancelled, MemoryError):
        raise
    except ImportError as error:
        raise _missing(error) from error
    except PermissionError as error:
        raise InputError(f'"{path}" may not be read.', "Ask for the right to read it, or copy it.") from error
    except Exception as error:
        if not source_of(path).exists():
            raise InputError(f'There is no file "{path}".', "Check its name and folder.") from error
        if "requires the 'imagecodecs' package" in str(error):
            raise _missing(ImportError(name="imagecodecs")) from error
        reason = " ".join((str(error).strip().splitlines() or [""])[-1].split())
        wrong, remedy = wrong or f"cannot be read as {family.name}.", remedy or _EXPORT_AGAIN
        raise InputError(f'"{path}" {wrong}', f"{remedy} ({reason})") from error


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    if path.is_dir() and not zarr.is_store(path):
        folder.check_replaceable(path)
    try:
        with replacing(path) as draft:
            yield draft
    except ImportError as error:
        raise _missing(error) from error
    except (OSError, RuntimeError) as error:  # SimpleITK knows RuntimeError only
        raise _unwritable(path, getattr(error, "strerror", None) or str(error).strip().splitlines()[-1]) from error


def _unwritable(path: Path, reason: str) -> ResourceError:
    return ResourceError(
        f'"{path}" cannot be written: {reason}.', "Free some space, or choose a folder that you may write to."
    )


def _missing(error: ImportError) -> DependencyError:
    return DependencyError(f"The package {error.name} is missing.", f"Install it: pip install {error.name}")


def grey(volume: Volume) -> Volume:
    """Return the luminance of a colour volume, or the mean of other channels; rounded for integers."""
    weights = _LUMINANCE if volume.channels == 3 else np.full(volume.channels, 1 / volume.channels)
    dtype = volume.array.dtype
    lightness = np.empty(volume.grid.shape, dtype)
    for target, source in zip(lightness, volume.array, strict=True):
        values = source @ weights
        target[:] = np.rint(values) if dtype.kind in "ui" else values
    return Volume(lightness, volume.grid)


def lazily_grey(volume: Volume) -> Volume:
    """Return what ``grey`` returns, computed where it is needed."""

    def read(window: Window) -> Any:
        return grey(Volume.of(volume.array[window])).array

    return Volume(cast(Any, LazyArray(volume.grid.shape, volume.array.dtype, read)), volume.grid)


def _painted(path: Path, volume: Volume) -> Painted:
    """Take a volume of label values for labels; what it does not reach is unlabelled."""
    labels = LabelMap.of(volume.array, volume.grid)
    if [c.value for c in labels.classes] == [0] and (labels.array == UNLABELLED).any():
        raise InputError(
            f'"{path}" holds 0 and {UNLABELLED} only, and {UNLABELLED} always means unlabelled.',
            "Save the mask as 0 and 1.",
        )
    if len(labels.classes) > _FEW_VALUES and _changing(labels.array) > _GRAINY:
        raise InputError(
            f'"{path}" holds {len(labels.classes)} values, and neighbours often differ: this is an image, not labels.',
            "Name the label file instead; a segmentation that does look so is read from .seg.nrrd.",
        )
    return Painted(labels.array, labels.grid, labels.classes, "background", outside=UNLABELLED)


def _changing(labels: NDArray[np.uint8]) -> float:
    """Return which part of labelled neighbours along X differ; some planes stand for all."""
    changes = pairs = 0
    for plane in labels[:: max(1, len(labels) // 16)]:
        one, other = plane[:, 1:], plane[:, :-1]
        seen = (one != UNLABELLED) & (other != UNLABELLED)
        changes += int(np.count_nonzero(seen & (one != other)))
        pairs += int(np.count_nonzero(seen))
    return changes / max(1, pairs)


def _on_grid(path: Path, painted: Painted, grid: Grid, report: Report) -> Any:
    if not painted.resampled and painted.grid.is_plain and painted.grid.shape == grid.shape:
        return painted.array
    if painted.resampled and (painted.array == painted.outside).all():  # Slicer saves one voxel somewhere
        return np.full(grid.shape, painted.outside, np.uint8)
    array = placed(painted.array, painted.grid, grid, painted.outside)
    if array is not None:
        _check_nothing_lost(path, painted, array, report)
        return array
    if not painted.resampled:
        offset = np.linalg.solve(grid.affine, painted.grid.affine)[:3, 3].round(3).tolist()
        raise InputError(
            f'"{path}" does not lie on the voxels of the image: {painted.grid.difference(grid)}; '
            f"its first voxel lies at {offset} (Z, Y, X) of the image.",
            "Export the labels with the image as their reference.",
        )
    report(Log("warning", f'"{path.name}" lies on other voxels than the image: its labels were resampled.'))
    return resampled(painted.array, painted.grid, grid, painted.outside)


def _check_nothing_lost(path: Path, painted: Painted, array: Any, report: Report) -> None:
    before, after = (np.count_nonzero(labels != painted.outside) for labels in (painted.array, array))
    if before and not after:
        raise InputError(f'The labels of "{path}" lie outside the image.', "Were they made for another image?")
    if after < before:
        report(Log("warning", f'{before - after} labelled voxels of "{path.name}" lie outside the image.'))


def _tell_lost_geometry(path: Path, family: Family, grid: Grid, report: Report) -> None:
    if family.kept(grid) != grid:
        report(Log("warning", f'"{path.name}" cannot hold the geometry: {grid.difference(family.kept(grid))}.'))
