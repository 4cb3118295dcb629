"""TIFF files through tifffile: plain, BigTIFF, ImageJ's and OME's; memory-mapped where they are uncompressed.

Files written here carry the whole geometry in their description, and ImageJ reads its spacing from there too.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..volume import Grid, Volume
from .family import INTEGERS, MOST_CHANNELS, REALS, Family, Header, cut_short, four_axes, mapped, storable
from .lazy import LazyArray, Window

_GRID_KEY = "VolumeSegmanticsGrid="
_MOST_BYTES = 2**32 - 2**25  # of voxels in a classic TIFF, whose offsets have 32 bits
_ALPHA = (1, 2)
"""Values of the ExtraSamples tag that mean transparency."""


logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it would tell stderr is told in sentences


@dataclass(frozen=True)
class _Pages:
    """The images of an open file that make up one volume.

    Attributes:
        path: The file.
        file: The same, opened by tifffile.
        series: Its biggest group of like images.
        order: The series' axes as slices, Y, X, channels.
        shape: (Z, Y, X, C), alpha included.
    """

    path: Path
    file: Any
    series: Any
    order: tuple[int, ...]
    shape: tuple[int, int, int, int]

    @classmethod
    def of(cls, path: Path, file: Any) -> _Pages:
        series = max(file.series, key=lambda one: one.size)
        axes, sizes = series.get_axes(squeeze=False), tuple(int(n) for n in series.get_shape(squeeze=False))
        if "Y" not in axes or "X" not in axes:
            raise InputError(f'"{path}" has the axes {axes}, none of them Y and X.', "Save it as a stack of images.")
        channels = [i for i, axis in enumerate(axes) if axis in "SC"]
        slices = [i for i, axis in enumerate(axes) if axis not in "YXSC"]
        is_stack = all(sizes[i] == 1 for i in slices) and any(sizes[i] > MOST_CHANNELS for i in channels)
        if is_stack and "C" in axes:  # ImageJ calls the slices of a stack channels where nobody told it better
            slices, channels = [*slices, axes.index("C")], [i for i in channels if axes[i] != "C"]
        if any(sum(sizes[i] > 1 for i in group) > 1 for group in (slices, channels)):
            raise four_axes(path, sizes)
        y, x = axes.index("Y"), axes.index("X")
        n_slices, n_channels = (int(np.prod([sizes[i] for i in group], dtype=int)) for group in (slices, channels))
        return cls(path, file, series, (*slices, y, x, *channels), (n_slices, sizes[y], sizes[x], n_channels))

    @property
    def colours(self) -> int:
        """Channels without transparency."""
        page, channels = self.series.keyframe, self.shape[3]
        if page.photometric.name == "RGB" and page.samplesperpixel == channels:
            return min(channels, 3)
        return channels - (page.samplesperpixel == channels and any(int(s) in _ALPHA for s in page.extrasamples))

    @property
    def grid(self) -> Grid:
        """Where the voxels lie: what was written here, or the spacing that OME or ImageJ tell."""
        shape = self.shape[:3]
        own = _described_grid(self.series.keyframe.description)
        if own is not None and own.shape == shape:
            return own
        return Grid(shape, _ome_spacing(self.file) or _imagej_spacing(self.file) or (1.0, 1.0, 1.0))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one value."""
        dtype: np.dtype[Any] = self.series.dtype
        return dtype

    @property
    def are_slices(self) -> bool:
        """Whether each image is a slice, in their order."""
        sizes = self.series.get_shape(squeeze=False)
        order = [axis for axis in self.order if sizes[axis] > 1]
        return len(self.series.pages) == self.shape[0] and order == sorted(order)

    def voxels(self) -> NDArray[Any]:
        """Return (Z, Y, X), or (Z, Y, X, C) without transparency."""
        stored = self.series.get_shape(squeeze=False)
        if self.series.keyframe.is_memmappable and self.series.dataoffset is not None:
            dtype = self.dtype.newbyteorder(self.file.byteorder)
            values = mapped(self.path, dtype, stored, self.series.dataoffset)
        else:
            self._check_end()
            values = self.series.asarray().reshape(stored)
        values = values.transpose(self.order).reshape(self.shape)[..., : self.colours]
        return values[..., 0] if values.shape[3] == 1 else values

    def _check_end(self) -> None:
        """Raise where parts of the images lie beyond the end: tifffile would fill them with zeros."""
        ends = [
            offset + count
            for page in self.series.pages
            if page is not None
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
        holds = self.path.stat().st_size
        if max(ends, default=0) > holds:
            raise cut_short(self.path, holds, max(ends))


def described_grid(path: Path) -> Grid | None:
    """Return the grid that a file written here describes: its own, or that of the folder that it is a slice of."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        return _described_grid(file.pages.first.description)


def _described_grid(description: str) -> Grid | None:
    found = re.search(f"^{_GRID_KEY}(.*)$", description, re.MULTILINE)
    return Grid(**json.loads(found[1])) if found else None


def _ome_spacing(file: Any) -> tuple[float, float, float] | None:
    if not file.is_ome:
        return None
    sizes = (re.search(rf'\bPhysicalSize{axis}="([^"]+)"', file.ome_metadata) for axis in "ZYX")
    z, y, x = (_positive(float(size[1])) if size else 1.0 for size in sizes)
    return z, y, x


def _imagej_spacing(file: Any) -> tuple[float, float, float] | None:
    if not file.is_imagej:
        return None
    tags = file.pages.first.tags
    fractions = (tags[name].value if name in tags else (1, 1) for name in ("YResolution", "XResolution"))
    y, x = (_positive(below / above if above else 1.0) for above, below in fractions)
    return _positive(float(file.imagej_metadata.get("spacing", 1.0))), y, x


def _positive(size: float) -> float:
    return abs(size) if np.isfinite(size) and size else 1.0


def _check_chain(path: Path, file: Any) -> None:
    """Raise where the list of images leads beyond the end of the file: tifffile would leave out the rest."""
    last = file.pages[-1]
    form = file.tiff
    stream = file.filehandle
    stream.seek(last.offset)
    n_tags = int.from_bytes(stream.read(form.tagnosize), _BYTE_ORDERS[file.byteorder])
    stream.seek(last.offset + form.tagnosize + n_tags * form.tagsize)
    following = int.from_bytes(stream.read(form.offsetsize), _BYTE_ORDERS[file.byteorder])
    if following >= stream.size:
        raise cut_short(path, stream.size, following)


_BYTE_ORDERS: dict[str, Any] = {"<": "little", ">": "big"}


def header(path: Path) -> Header:
    """Tell what a file holds, without its voxels."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        pages = _Pages.of(path, file)
        return Header(pages.grid, pages.dtype, pages.colours)


def read(path: Path) -> Volume:
    """Read a volume, memory-mapped where its images follow each other uncompressed."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        _check_chain(path, file)
        pages = _Pages.of(path, file)
        return Volume(pages.voxels(), pages.grid)


def open_pages(path: Path) -> Volume:
    """Open a volume whose images are read when they are needed, where each image is a slice of its own."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        _check_chain(path, file)
        pages = _Pages.of(path, file)
        told = Header(pages.grid, pages.dtype, pages.colours)
        if pages.series.keyframe.is_memmappable or not pages.are_slices:
            return Volume(pages.voxels(), told.grid)
        pages._check_end()
    shape = (*told.grid.shape, *((told.channels,) if told.channels > 1 else ()))
    return Volume(cast(Any, LazyArray(shape, told.dtype, partial(_read_pages, path, told))), told.grid)


def _read_pages(path: Path, told: Header, window: Window) -> NDArray[Any]:
    import tifffile

    z, y, x = window
    with tifffile.TiffFile(path) as file:
        pages = _Pages.of(path, file).series.pages
        images = [pages[n].asarray().reshape(*told.grid.shape[1:], -1) for n in range(z.start, z.stop)]
        values = np.stack([image[y, x, : told.channels] for image in images])
    return values if told.channels > 1 else values[..., 0]


def write(path: Path, volume: Volume, compressed: bool) -> None:
    """Write a stack of images, as BigTIFF from 4 GB on.

    Raises:
        InputError: TIFF has no such type.
    """
    write_images(path, volume, volume.grid, compressed=compressed)


def write_images(path: Path, volume: Volume, grid: Grid, *, compressed: bool) -> None:
    """Write the images of a volume under the description of a grid, which may be that of a whole folder of images."""
    import tifffile

    dtype = storable(volume.array.dtype, (*INTEGERS, "float16", *REALS), "TIFF")
    channels = volume.channels
    samples = {"planarconfig": "contig", "extrasamples": ["unspecified"] * (channels - 1)} if channels > 1 else {}
    n_bytes = int(np.prod(volume.array.shape, dtype=object)) * dtype.itemsize
    tifffile.imwrite(
        path,
        (np.ascontiguousarray(array_slice, dtype) for array_slice in volume.array),  # never in memory as a whole
        shape=volume.array.shape,
        dtype=dtype,
        bigtiff=n_bytes > _MOST_BYTES,
        byteorder="<",
        metadata=None,
        description=_description(grid, volume.array.shape),
        resolution=(1 / grid.spacing[2], 1 / grid.spacing[1]),
        resolutionunit="NONE",
        compression="zlib" if compressed else None,
        **({"photometric": "rgb"} if channels == 3 else {"photometric": "minisblack", **samples}),
    )


def _description(grid: Grid, shape: tuple[int, ...]) -> str:
    for_imagej = f"ImageJ=1.54f\nimages={shape[0]}\nslices={shape[0]}\nspacing={grid.spacing[0]!r}\nloop=false\n"
    ours = {"shape": grid.shape, "spacing": grid.spacing, "origin": grid.origin, "direction": grid.direction}
    return (for_imagej if shape[3:] in ((), (3,)) else "") + _GRID_KEY + json.dumps(ours)


FAMILY = Family("TIFF", (".tif", ".tiff"), header, read, write, open=open_pages)
