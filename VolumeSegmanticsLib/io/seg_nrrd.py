"""3D Slicer's segmentations (.seg.nrrd): names, colours and terminology of segments beside their voxels.

slicerio reads and writes them too, but through pynrrd, which loses every letter that is not ASCII, and it stops at
headers that Slicer itself takes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..classes import UNLABELLED, LabelClass
from ..errors import InputError
from ..volume import Grid, LabelMap, Volume
from . import nrrd, nrrd_header
from .family import Family, Header, Painted
from .lazy import LazyArray

_TERMINOLOGY_TAG = "TerminologyEntry"
_CLASS_TAG = "VolumeSegmantics.Class"
"""Marks the segment that stands for class 0, which needs one where a file also has unlabelled voxels."""

_UNPAINTED_KEY = "VolumeSegmantics_Unpainted"
_REPRESENTATION = "Binary labelmap"
_MASTER_KEY = "Segmentation_MasterRepresentation"
_GREY = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class _Segment:
    """One segment as the file has it: the voxels of ``layer`` that hold ``value``."""

    name: str
    color: tuple[float, float, float]
    value: int
    layer: int
    tags: dict[str, str]

    @classmethod
    def of(cls, index: int, keys: dict[str, str], *, has_layers: bool) -> _Segment:
        """Make a segment from its keys; old files have neither layers nor values, but a layer a segment."""
        color = [float(part) for part in keys.get("Color", "").split()]
        return cls(
            name=keys.get("Name") or keys.get("ID") or f"Segment_{index + 1}",
            color=(color[0], color[1], color[2]) if len(color) == 3 else _GREY,
            value=int(keys.get("LabelValue", 1)),
            layer=int(keys.get("Layer", index if has_layers else 0)),
            tags=dict(tag.split(":", 1) for tag in keys.get("Tags", "").split("|") if ":" in tag),
        )

    @classmethod
    def of_class(cls, label_class: LabelClass) -> _Segment:
        """Make the segment that stands for a class."""
        tags = {_TERMINOLOGY_TAG: label_class.terminology} if label_class.terminology else {}
        if label_class.value == 0:
            tags[_CLASS_TAG] = "0"
        return cls(label_class.name, label_class.color, label_class.value, 0, tags)

    @property
    def is_background(self) -> bool:
        """True for the segment that stands for class 0."""
        return self.tags.get(_CLASS_TAG) == "0"

    def as_class(self, value: int) -> LabelClass:
        return LabelClass(value, self.name, self.color, self.tags.get(_TERMINOLOGY_TAG, ""))


def _segments(path: Path, fields: nrrd_header.Fields) -> list[_Segment]:
    if fields.get(_MASTER_KEY, _REPRESENTATION) != _REPRESENTATION:
        raise InputError(
            f'"{path}" holds a {str(fields[_MASTER_KEY]).lower()}.',
            "In Slicer's Segmentations module make the binary labelmap the source representation, and save again.",
        )
    found: dict[int, dict[str, str]] = {}
    for key, value in fields.items():
        if match := re.fullmatch(r"Segment(\d+)_(\w+)", key):
            found.setdefault(int(match[1]), {})[match[2]] = nrrd.unescaped(value)
    has_layers = len(fields["sizes"]) == 4
    return [_Segment.of(index, keys, has_layers=has_layers) for index, keys in sorted(found.items())]


def _class_values(path: Path, segments: Sequence[_Segment]) -> tuple[list[int], tuple[str, ...]]:
    """Return the class value of each segment, and what the user should know about them."""
    wanted = [0 if s.is_background else s.value or -1 for s in segments]
    if len(set(wanted)) == len(wanted) and all(0 <= value < UNLABELLED for value in wanted):
        return wanted, ()
    if len(segments) >= UNLABELLED:
        raise InputError(f'"{path}" holds {len(segments)} segments.', f"Merge some: {UNLABELLED - 1} are possible.")
    values = list(range(1, len(segments) + 1))
    told = ", ".join(f"{s.name} = {value}" for s, value in zip(segments, values, strict=True))
    return values, (f'Segments of "{path.name}" share label values, or have some beyond 254: their values are {told}.',)


def _merged(voxels: NDArray[Any], segments: Sequence[_Segment], values: Sequence[int]) -> tuple[NDArray[np.uint8], int]:
    """Return the class value of each voxel, and how many voxels belong to several segments.

    Args:
        voxels: (Z, Y, X), or (Z, Y, X, layers).
        segments: In the order of the file; the later one wins, as in Slicer.
        values: The class value of voxels without a segment, then those of the segments.
    """
    layers = voxels if voxels.ndim == 4 else voxels[..., None]
    if layers.dtype == np.uint64:  # the one type that ``take`` refuses
        layers = layers.astype(np.int64)
    tables = [_positions(number, segments) for number in range(layers.shape[3])]
    class_values, merged, overlapping = np.array(values, np.uint8), np.zeros(layers.shape[:3], np.uint8), 0
    if len(tables) == 1:
        table = class_values[tables[0]]
        for z, one_slice in enumerate(layers):  # ``take`` widens what it looks up to 8 bytes a voxel
            table.take(one_slice[..., 0], mode="clip", out=merged[z])
        return merged, 0
    for z, one_slice in enumerate(layers):
        found = [table.take(one_slice[..., i], mode="clip") for i, table in enumerate(tables)]
        merged[z] = class_values[np.maximum.reduce(found)]
        overlapping += int((np.count_nonzero(found, axis=0) > 1).sum())
    return merged, overlapping


def _positions(layer: int, segments: Sequence[_Segment]) -> NDArray[np.uint8]:
    """Return a table: value in a layer to the position of its segment, from 1; the last stands for unknown values."""
    here = [(s.value, i) for i, s in enumerate(segments, 1) if s.layer == layer and s.value > 0]
    table = np.zeros(max((value for value, _ in here), default=0) + 2, np.uint8)
    for value, position in here:
        table[value] = position
    return table


def read_painted(path: Path) -> Painted:
    """Read all segments as one array of class values.

    Raises:
        InputError: This is no binary labelmap, or it has more than 254 segments.
    """
    fields, start = nrrd_header.read_fields(path)
    segments = _segments(path, fields)
    voxels, grid = nrrd.read_voxels(path, fields, start), nrrd.grid_of(path, fields)
    unpainted = fields.get(_UNPAINTED_KEY, "ignore")
    background = (LabelClass.plain(0),) if unpainted == "background" else ()
    if not segments:  # a label array under this suffix
        plain = LabelMap.of(voxels, grid)
        named = tuple(c for c in plain.classes if c.value > 0)
        return Painted(plain.array, grid, (*background, *named), unpainted, outside=0, resampled=True)
    values, notes = _class_values(path, segments)
    has_background = 0 in values  # then 0 is a class like others
    outside = UNLABELLED if has_background else 0
    labels, overlapping = _merged(voxels, segments, [outside, *values])
    if overlapping:
        notes += (f'Segments of "{path.name}" overlap in {overlapping} voxels, which count for the later segment.',)
    classes = tuple(s.as_class(value) for s, value in zip(segments, values, strict=True))
    if has_background:
        unpainted = "background"
    return Painted(labels, grid, (*background, *classes), unpainted, outside, resampled=True, notes=notes)


def header(path: Path) -> Header:
    """Tell what a file holds, with its classes, without its voxels."""
    fields, _ = nrrd_header.read_fields(path)
    segments = _segments(path, fields)
    classes = [s.as_class(v) for s, v in zip(segments, _class_values(path, segments)[0], strict=True)]
    background = [LabelClass.plain(0)] if fields.get(_UNPAINTED_KEY) == "background" else []
    return Header(nrrd.grid_of(path, fields), np.dtype(np.uint8), classes=(*background, *classes))


def write_labels(path: Path, labels: LabelMap) -> None:
    """Write one segment a class, in one layer; the background is what no segment covers.

    Where there are unlabelled voxels too, these are what no segment covers, and the background is a segment.
    """
    table = np.arange(256, dtype=np.uint8)
    table[UNLABELLED] = 0
    segments = [_Segment.of_class(c) for c in labels.classes if c.value > 0]
    background = next((c for c in labels.classes if c.value == 0), None)
    keys = {}
    if background is not None and any((one_slice == UNLABELLED).any() for one_slice in labels.array):
        table[0] = min(set(range(1, 256)) - {s.value for s in segments})
        segments.append(replace(_Segment.of_class(background), value=int(table[0])))
    elif background is not None:
        keys[_UNPAINTED_KEY] = "background"
    for index, segment in enumerate(segments):
        keys |= {f"Segment{index}_{key}": value for key, value in _segment_keys(segment, labels.grid).items()}
    stored = LazyArray(labels.grid.shape, table.dtype, lambda window: table[labels.array[window]])
    nrrd.write_voxels(
        path, cast(Any, stored), labels.grid, compressed=True, keys=keys | _segmentation_keys(labels.grid)
    )


def _segment_keys(segment: _Segment, grid: Grid) -> dict[str, str]:
    return {
        "ID": f"Segment_{segment.value}",
        "Name": segment.name,
        "NameAutoGenerated": "0",
        "Color": " ".join(repr(part) for part in segment.color),
        "ColorAutoGenerated": "0",
        "LabelValue": str(segment.value),
        "Layer": str(segment.layer),
        "Extent": _extent(grid),
        "Tags": "".join(f"{key}:{value}|" for key, value in segment.tags.items()),
    }


def _extent(grid: Grid, separator: str = " ") -> str:
    """Return the whole file: Slicer has cropped all segments of a layer to the extent of the first."""
    return separator.join(f"0{separator}{n - 1}" for n in grid.shape[::-1])


def _segmentation_keys(grid: Grid) -> dict[str, str]:
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine[:, [2, 1, 0, 3]]
    geometry = ";".join(repr(float(v)) for v in to_ras.ravel()) + ";" + _extent(grid, ";") + ";"
    return {
        "Segmentation_ContainedRepresentationNames": f"{_REPRESENTATION}|",
        "Segmentation_ConversionParameters": f"Reference image geometry|{geometry}|The image that was segmented.&",
        _MASTER_KEY: _REPRESENTATION,
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }


def read(path: Path) -> Volume:
    """Refuse: a segmentation holds no intensities."""
    raise InputError(f'"{path}" is a segmentation, not an image.', "Give the image that was segmented.")


def write(path: Path, volume: Volume, compressed: bool) -> None:
    """Refuse: a segmentation holds no intensities."""
    raise InputError(f'An image cannot be saved as a segmentation: "{path.name}".', "Save it as .nrrd.")


FAMILY = Family(
    "Segmentation",
    (".seg.nrrd", ".seg.nhdr"),
    header,
    read,
    write,
    read_painted=read_painted,
    write_labels=write_labels,
)
