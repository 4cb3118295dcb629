"""MetaImage, NIfTI and PNG through SimpleITK."""

from __future__ import annotations

import errno
import gzip
import math
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..volume import Grid, Volume
from .family import INTEGERS, MOST_CHANNELS, REALS, Family, Header, cut_short, four_axes, storable


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """Yield a path under which SimpleITK finds this very file.

    The NIfTI library reads the voxels of scan.nii where scan.nii.gz was asked for and both lie there, and knows its
    suffixes in lower case only: then the file is linked (or copied, where links are forbidden) to a place of its own.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    if ".nii" not in path.name.lower():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / ("image.nii.gz" if path.name.lower().endswith(".gz") else "image.nii")
        try:
            link.symlink_to(path.absolute())
        except OSError:
            shutil.copyfile(path, link)
        yield link


def _reader(path: Path) -> Any:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size = reader.GetSize()
    if any(n > 1 for n in size[3:]):
        raise four_axes(path, tuple(reversed(size)))
    reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
    return reader


def _grid(reader: Any) -> Grid:
    n = reader.GetDimension()
    size, spacing, origin = ((*part, *filling)[:3] for part, filling in (
        (reader.GetSize(), (1,)), (reader.GetSpacing(), (1.0,)), (reader.GetOrigin(), (0.0,))
    ))  # fmt: skip
    matrix = np.eye(max(n, 3))
    matrix[:n, :n] = np.reshape(reader.GetDirection(), (n, n))
    return Grid(size[::-1], spacing[::-1], origin, tuple(map(tuple, matrix[:3, :3].T[::-1])))


def _header(reader: Any) -> Header:
    import SimpleITK as sitk

    channels = reader.GetNumberOfComponents()
    one_voxel = sitk.Image([1, 1], reader.GetPixelID(), channels)
    return Header(_grid(reader), sitk.GetArrayViewFromImage(one_voxel).dtype, channels - _has_alpha(reader))


def _has_alpha(reader: Any) -> bool:
    return reader.GetFileName().lower().endswith(".png") and reader.GetNumberOfComponents() in (2, 4)


def _check_nifti_end(path: Path) -> None:
    """Raise where a NIfTI file is cut short: its library would fill the voxels that are missing with zeros.

    The header is that of https://nifti.nimh.nih.gov, version 1 or 2.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        head = stream.read(544)
        order = "<" if head[:4] in _NIFTI_FIELDS else ">"
        for_dim, dim_at, bits_at, for_start, start_at = _NIFTI_FIELDS[head[:4] if order == "<" else head[3::-1]]
        n_axes, *sizes = struct.unpack_from(order + for_dim, head, dim_at)
        bits = struct.unpack_from(order + "h", head, bits_at)[0]
        start = int(struct.unpack_from(order + for_start, head, start_at)[0])
        needs, holds = start + math.prod(sizes[:n_axes]) * bits // 8, len(head)
        while chunk := stream.read(1 << 20):
            holds += len(chunk)
    if holds < needs:
        raise cut_short(path, holds, needs)


_NIFTI_FIELDS = {
    (348).to_bytes(4, "little"): ("8h", 40, 72, "f", 108),
    (540).to_bytes(4, "little"): ("8q", 16, 14, "q", 168),
}
"""By the first four bytes, little endian: where the dimensions, the bits a voxel and the voxels' place stand."""


def header(path: Path) -> Header:
    """Tell what a file holds, without its voxels."""
    with _alone(path) as found:
        return _header(_reader(found))


def read(path: Path) -> Volume:
    """Read a volume; an alpha channel is dropped."""
    import SimpleITK as sitk

    with _alone(path) as found:
        reader = _reader(found)
        array: NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())
    told = _header(reader)
    array = array.reshape(*told.grid.shape, -1)[..., : told.channels]
    if told.channels > MOST_CHANNELS:
        raise four_axes(path, array.shape)
    return Volume(array[..., 0] if told.channels == 1 else array, told.grid)


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI volume that is whole."""
    with _alone(path) as found:
        _check_nifti_end(found)
        return read(found)


def write_meta(path: Path, volume: Volume, compressed: bool) -> None:
    """Write a MetaImage; MHD keeps the voxels in a second file."""
    _write(path, volume, "MetaImage", compressed)


def write_nifti(path: Path, volume: Volume, compressed: bool) -> None:
    """Write NIfTI, compressed where the suffix says so, and make sure that it holds all of the volume.

    Raises:
        InputError: The axes are sheared, or too far away for the single precision of a NIfTI header.
    """
    plain = path.with_name("image.nii")
    _write(plain, volume, "NIfTI", False)
    if plain.stat().st_size < volume.array.nbytes:  # the NIfTI library does not tell of a full disk
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if not header(plain).grid == volume.grid:
        raise InputError(
            f"NIfTI cannot hold this geometry: {volume.grid.difference(header(plain).grid)}.", "Save it as .nrrd."
        )
    if path.suffix == ".gz":
        with plain.open("rb") as source, gzip.open(path, "wb", compresslevel=4) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        plain.unlink()
    elif path != plain:
        plain.replace(path)


def _write(path: Path, volume: Volume, format_name: str, compressed: bool) -> None:
    import SimpleITK as sitk

    dtype = storable(volume.array.dtype, (*INTEGERS, *REALS), format_name).newbyteorder("=")
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array, dtype), isVector=volume.channels > 1)
    image.SetSpacing(volume.grid.spacing[::-1])
    image.SetOrigin(volume.grid.origin)
    image.SetDirection(np.array(volume.grid.direction)[::-1].T.ravel().tolist())
    sitk.WriteImage(image, str(path), compressed)


META = Family("MetaImage", (".mha", ".mhd"), header, read, write_meta, in_parts=False)
NIFTI = Family("NIfTI", (".nii", ".nii.gz"), header, read_nifti, write_nifti, in_parts=False)
