"""Segmentation nodes as label maps on a volume's grid.

The rules are those of ``.seg.nrrd`` files: values stay where they are unique, later segments win where several overlap,
and an unpainted voxel is unlabelled unless ``unpainted`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import vtk
from numpy.typing import NDArray

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.box import Box
from VolumeSegmanticsLib.classes import UNLABELLED, LabelClass
from VolumeSegmanticsLib.errors import InputError, SettingsError
from VolumeSegmanticsLib.events import Log, Report, ignore
from VolumeSegmanticsLib.settings import UNPAINTED
from VolumeSegmanticsLib.volume import Grid, LabelMap

from .layers import Kept, Layer, merged
from .nodes import Node, as_array, between, grid_of, grid_of_image, voxels_of
from .starting import Write, now

LABELS_FILE = "labels.seg.nrrd"
BINARY_LABELMAP = "Binary labelmap"
TERMINOLOGY_TAG = "TerminologyEntry"
CLASS_TAG = "VolumeSegmantics.Class"
"""Marks the segment that stands for class 0, in nodes as in files."""

UNPAINTED_ATTRIBUTE = "VolumeSegmantics.Unpainted"
"""Says on a segmentation node what a voxel without a segment means."""


@dataclass(frozen=True)
class Segment:
    """A segment, and its place in the order of the segmentation, counted from 1."""

    position: int
    node_segment: Node
    image: Node
    segment_id: str

    @property
    def label_value(self) -> int:
        """Its value in the image; 0 where it is empty."""
        return int(self.node_segment.GetLabelValue())

    @property
    def name(self) -> str:
        """As the user typed it, or else the ID."""
        return self.node_segment.GetName() or self.segment_id

    def tag(self, name: str) -> str:
        """Return one of its tags; empty where it has none."""
        value = vtk.reference("")
        return str(value) if self.node_segment.GetTag(name, value) else ""

    def as_class(self, value: int) -> LabelClass:
        """Return the class that it stands for."""
        return LabelClass(value, self.name, self.node_segment.GetColor(), self.tag(TERMINOLOGY_TAG))


@dataclass(frozen=True)
class Snapshot:
    """What was painted at a moment, in arrays of its own: a thread may make labels of it.

    Attributes:
        name: Of the segmentation node.
        grid: The volume's.
        layers: What is painted, on this grid.
        values: The class value of voxels without a segment, then those of the segments.
        classes: All of them.
        unpainted: What a voxel without a segment means: ``"ignore"`` or ``"background"``.
    """

    name: str
    grid: Grid
    layers: tuple[Layer | Kept, ...]
    values: tuple[int, ...]
    classes: tuple[LabelClass, ...]
    unpainted: str

    def inside(self, window: tuple[slice, slice, slice]) -> Snapshot:
        """Return what is painted in a box of the volume: of a snapshot that is no copy, and so is used at once."""
        start, (z, y, x) = tuple(part.start for part in window), (part.stop - part.start for part in window)
        layers = tuple(layer.inside(start, (z, y, x)) for layer in self.layers)
        return replace(self, grid=self.grid.part(start, (z, y, x)), layers=layers)

    def labels(self, report: Report = ignore) -> LabelMap:
        """Return it as labels; ``report`` hears where segments overlap."""
        array, overlapping = merged(self.layers, self.values, self.grid.shape)
        if overlapping:
            told = f'Segments of "{self.name}" overlap in {overlapping} voxels, which count for the later segment.'
            report(Log("warning", told))
        return LabelMap(array, self.grid, self.classes, self.unpainted)


def snapshot_of(
    segmentation_node: Node,
    volume_node: Node,
    *,
    unpainted: str = "auto",
    visible_only: bool = False,
    background_segment_id: str | None = None,
    report: Report = ignore,
    copy: bool = True,
) -> Snapshot:
    """Return what is painted now; arguments and errors are those of ``labels_of``.

    Args:
        copy: Whether it stays as it is while the user goes on painting.
    """
    if unpainted not in UNPAINTED:
        raise SettingsError(f'unpainted is "{unpainted}".', f"It is one of {', '.join(UNPAINTED)}.")
    segments = segments_of(segmentation_node, visible_only=visible_only)
    values = _class_values(segmentation_node, segments, background_segment_id, report)
    layers = layers_of(segmentation_node, volume_node, segments, report)
    meaning = (segmentation_node.GetAttribute(UNPAINTED_ATTRIBUTE) or "ignore") if unpainted == "auto" else unpainted
    classes = tuple(s.as_class(value) for s, value in zip(segments, values, strict=True))
    has_background = 0 in values
    if meaning == "background" and not has_background:
        classes = (LabelClass.plain(0), *classes)
    outside = UNLABELLED if has_background or meaning == "ignore" else 0
    return Snapshot(
        segmentation_node.GetName(),
        grid_of(volume_node),
        tuple(layer.kept() if copy else layer for layer in layers),
        (outside, *values),
        classes,
        "background" if has_background else meaning,
    )


def labels_of(segmentation_node: Node, volume_node: Node, *, report: Report = ignore, **options: Any) -> LabelMap:
    """Return what is painted, on the grid of a volume.

    Args:
        segmentation_node: Every segment becomes a class, one without any voxel too. A segment called Background is
            a class like others, with its own value.
        volume_node: Both may lie under different linear transforms; labels are moved to where they are seen.
        report: Takes what the user should know.
        unpainted: What a voxel without a segment means: ``"ignore"``, ``"background"`` (class 0), or ``"auto"``,
            which is background in results whose model knows one, and ignore everywhere else.
        visible_only: Leave out the segments that are hidden; otherwise these count as well.
        background_segment_id: The segment that is class 0; the others keep their values, and unpainted voxels are
            unlabelled.

    Raises:
        InputError: Something is no binary labelmap, lies outside the volume, or under a non-linear transform; or
            there are more than 254 segments.
    """
    return snapshot_of(segmentation_node, volume_node, report=report, copy=False, **options).labels(report)


def labels_for_job(
    segmentation_node: Node,
    volume_node: Node,
    folder: Path,
    *,
    box: Box | None = None,
    part: Box | None = None,
    write: Write = now,
    report: Report = ignore,
    **options: Any,
) -> Path:
    """Write what is painted to ``labels.seg.nrrd`` in a job's folder.

    Args:
        segmentation_node, volume_node: As in ``labels_of``.
        folder: The job's.
        box: Only what lies in this box of the volume counts.
        part: The part of the volume that the job has; None for all.
        write: Writes the file, now or later.
        report: Takes what the user should know.
        **options: Of ``labels_of``.

    Raises:
        InputError: As in ``labels_of``, or, when the file is written, nothing is painted in the box.
    """
    painted, path = snapshot_of(segmentation_node, volume_node, report=report, **options), folder / LABELS_FILE

    def write_labels() -> None:
        labels = inside(painted.labels(report), box)
        if box is not None and (labels.array[box.window] == UNLABELLED).all():
            raise InputError(
                f'Nothing of "{painted.name}" is painted inside the region.',
                "Paint there, move the region, or choose none.",
            )
        io.write_labels(path, part.of_labels(labels) if part else labels)

    write(write_labels)
    return path


def inside(labels: LabelMap, box: Box | None) -> LabelMap:
    """Return labels that are unlabelled outside a box; all of them without one."""
    if box is None:
        return labels
    array = np.full_like(labels.array, UNLABELLED)
    array[box.window] = labels.array[box.window]
    return replace(labels, array=array)


def segments_of(node: Node, *, visible_only: bool = False) -> list[Segment]:
    """Return the segments of a node in their order.

    Raises:
        InputError: They are no binary labelmaps.
    """
    segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    if ids and not segmentation.ContainsRepresentation(BINARY_LABELMAP):
        raise InputError(
            f'"{node.GetName()}" holds a {segmentation.GetSourceRepresentationName().lower()}.',
            "In the Segmentations module make the binary labelmap the source representation.",
        )
    if visible_only and display is not None:
        ids = [segment_id for segment_id in ids if display.GetSegmentVisibility(segment_id)]
    return [
        Segment(n, segmentation.GetSegment(i), node.GetBinaryLabelmapInternalRepresentation(i), i)
        for n, i in enumerate(ids, 1)
    ]


def _class_values(
    node: Node, segments: Sequence[Segment], background_segment_id: str | None, report: Report
) -> list[int]:
    """Return the class value of each segment: its label value, unless these are not unique."""
    if len(segments) >= UNLABELLED:
        raise InputError(
            f'"{node.GetName()}" holds {len(segments)} segments.', f"Merge some: {UNLABELLED - 1} are possible."
        )
    chosen = background_segment_id or next((s.segment_id for s in segments if s.tag(CLASS_TAG) == "0"), None)
    wanted = [0 if s.segment_id == chosen else s.label_value or -1 for s in segments]
    if len(set(wanted)) == len(wanted) and all(0 <= value < UNLABELLED for value in wanted):
        return wanted
    values = [0 if s.segment_id == chosen else s.position for s in segments]
    told = ", ".join(f"{s.name} = {value}" for s, value in zip(segments, values, strict=True))
    report(Log("info", f'Segments of "{node.GetName()}" share label values: they get {told}.'))
    return values


def layers_of(node: Node, volume_node: Node, segments: Sequence[Segment], report: Report = ignore) -> list[Layer]:
    """Return what is painted, brought onto the grid of a volume; errors are those of ``labels_of``."""
    grid, to_volume, layers = grid_of(volume_node), between(node, volume_node), list[Layer]()
    for image in dict.fromkeys(s.image for s in segments):
        if image is None or image.IsEmpty():
            continue
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)  # what it calls the world is the segmentation's own space
        source = grid_of_image(image, to_volume @ as_array(matrix))
        positions = _positions([s for s in segments if s.image is image])
        layers.append(Layer.of(voxels_of(image), positions, source, grid))
    if any(layer.resampled for layer in layers):
        report(Log("warning", f'"{node.GetName()}" lies on other voxels than the volume: its labels were resampled.'))
    _check_nothing_lost(node, volume_node, layers, report)
    return layers


def _positions(segments: Sequence[Segment]) -> NDArray[np.uint8]:
    """Return a table: label value in a layer to the position of its segment."""
    table = np.zeros(max(0, *(s.label_value for s in segments)) + 2, np.uint8)
    for segment in segments:
        if segment.label_value > 0:
            table[segment.label_value] = segment.position
    return table


def _check_nothing_lost(node: Node, volume_node: Node, layers: Sequence[Layer], report: Report) -> None:
    lost = sum(layer.lost for layer in layers)
    if lost and not any(layer.painted() for layer in layers):
        raise InputError(
            f'The labels of "{node.GetName()}" lie outside the volume "{volume_node.GetName()}".',
            "Were they made for another volume? Check the transforms of both.",
        )
    if lost:
        report(Log("warning", f'{lost} labelled voxels of "{node.GetName()}" lie outside the volume.'))
