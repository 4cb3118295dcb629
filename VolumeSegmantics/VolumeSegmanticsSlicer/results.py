"""What a job made, as nodes: a segmentation whose segments share one image, and a volume of the confidence.

Both lie on the volume's own grid and under its parent transform, so they are seen exactly over it. An earlier result is
filled again in place: the node keeps its ID, its name and how it is displayed.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.classes import UNLABELLED, LabelClass
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.volume import Grid, LabelMap, Volume

from .nodes import Node, fill_volume, grid_of
from .segmentations import BINARY_LABELMAP, CLASS_TAG, TERMINOLOGY_TAG, UNPAINTED_ATTRIBUTE

PREFIX = "VolumeSegmantics."
"""Begins the name of every attribute that this extension gives a node."""

DATE = "Date"
BOX = "Box"
"""Start and stop of Z, Y and X where only a box of the volume was segmented."""

AnyPath = str | PathLike[str]


def show_labels(
    labels: LabelMap | AnyPath,
    volume_node: Node,
    *,
    result: Node | None = None,
    name: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> Node:
    """Show labels as a segmentation node: one segment a class, with its name, colour and terminology.

    The background is what no segment covers. Only where there are unlabelled voxels too is it a segment, which is
    hidden; those outside the box of labels are unlabelled.

    Args:
        labels: On the volume's grid or a box of it, or the file that holds them.
        volume_node: The volume that was segmented.
        result: An earlier result that is filled again: segments of the same name keep their IDs, others go.
        name: Of a new node; the default is that of the volume and "segmentation".
        provenance: Where the labels come from, such as ``{"Model": path, "Settings": {…}}``: becomes attributes of
            the node, together with the date.

    Returns:
        The segmentation node.

    Raises:
        InputError: The labels lie on another grid, the file cannot be read, the volume cannot be used, or the earlier
            result is none: it holds segments that did not come from here.
    """
    if not isinstance(labels, LabelMap):
        labels = io.read_labels(labels)
    start = _start(labels.grid, volume_node)
    if result is not None:
        refuse_strokes(result)
    stored, classes = _stored(labels, is_part=labels.grid != grid_of(volume_node))
    node = result or _new_node("vtkMRMLSegmentationNode", volume_node, name, "segmentation")
    with _as_one_change(node):
        _lay_under_same_transform(node, volume_node)
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
        _fill(node.GetSegmentation(), classes, _oriented_image(stored, volume_node, start))
        _keep_facts(node, provenance or {})
        is_background = len(classes) < len(labels.classes)  # what no segment covers
        node.SetAttribute(UNPAINTED_ATTRIBUTE, "background" if is_background else "ignore")
    node.CreateDefaultDisplayNodes()
    _hide_background(node)
    return node


def show_confidence(
    confidence: Volume | AnyPath,
    volume_node: Node,
    *,
    result: Node | None = None,
    name: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> Node:
    """Show the confidence of a prediction, in percent, as a scalar volume node from black (0) to white (100).

    Arguments and errors are those of ``show_labels``.
    """
    if not isinstance(confidence, Volume):
        confidence = io.read_volume(confidence)
    _start(confidence.grid, volume_node)
    node = result or _new_node("vtkMRMLScalarVolumeNode", volume_node, name, "confidence")
    with _as_one_change(node):
        _lay_under_same_transform(node, volume_node)
        fill_volume(node, confidence)
        _keep_facts(node, provenance or {})
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().AutoWindowLevelOff()
        node.GetDisplayNode().SetWindowLevelMinMax(0, 100)
    return node


def provenance_of(node: Node) -> dict[str, str]:
    """Return where a result comes from, as it was kept with it; values that were no text are JSON."""
    names = [name for name in node.GetAttributeNames() if name.startswith(PREFIX) and name != UNPAINTED_ATTRIBUTE]
    return {name.removeprefix(PREFIX): node.GetAttribute(name) for name in names}


def is_result(node: Node) -> bool:
    """Tell whether a node holds what a job made."""
    return DATE in provenance_of(node)


def _start(grid: Grid, volume_node: Node) -> tuple[int, int, int]:
    """Return the voxel (Z, Y, X) of a volume at which a box of its voxels begins."""
    wanted = grid_of(volume_node)
    start = wanted.start_of(grid)
    if start is None or any(s < 0 or s + n > m for s, n, m in zip(start, grid.shape, wanted.shape, strict=True)):
        raise InputError(
            f'The result does not lie on the voxels of "{volume_node.GetName()}": {grid.difference(wanted)}.',
            "Was the volume changed since? Apply the model to it again.",
        )
    return start


def may_be_refilled(node: Node) -> bool:
    """Tell whether a result can go into a segmentation node: it is an earlier one, or empty."""
    return is_result(node) or not node.GetSegmentation().GetNumberOfSegments()


def refuse_strokes(node: Node) -> None:
    """Make sure that nothing is lost which somebody painted.

    Raises:
        InputError: The node holds segments, and is no earlier result.
    """
    if not may_be_refilled(node):
        raise InputError(
            f'"{node.GetName()}" is no earlier result: its segments would be lost.',
            "Choose another segmentation for the result, or a new one.",
        )


def _stored(labels: LabelMap, *, is_part: bool) -> tuple[NDArray[np.uint8], list[tuple[int, LabelClass]]]:
    """Return label values with 0 where no segment lies, and for each segment its label value and class."""
    classes = [(c.value, c) for c in labels.classes if c.value > 0]
    if not is_part and not any((one_slice == UNLABELLED).any() for one_slice in labels.array):
        return labels.array, classes
    table = np.arange(256, dtype=np.uint8)
    table[UNLABELLED] = 0
    for background in (c for c in labels.classes if c.value == 0):
        table[0] = min(set(range(1, 256)) - {value for value, _ in classes})
        classes.append((int(table[0]), background))
    return np.stack([table.take(one_slice) for one_slice in labels.array]), classes


def _new_node(class_name: str, volume_node: Node, name: str, kind: str) -> Node:
    scene = volume_node.GetScene()
    unique = scene.GenerateUniqueName(name or f"{volume_node.GetName()} {kind}")
    node = scene.AddNewNodeByClass(class_name, unique)
    _file_beside(node, volume_node)
    return node


def _file_beside(node: Node, volume_node: Node) -> None:
    """Put a node into the volume's folder of the subject hierarchy, where it lies in one."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volume_node.GetScene())
    item = hierarchy.GetItemByDataNode(volume_node)
    if not item:
        return
    folder = hierarchy.GetItemParent(item)
    ours = hierarchy.GetItemByDataNode(node)
    if ours:
        hierarchy.SetItemParent(ours, folder)
    else:
        hierarchy.CreateItem(folder, node)


@contextmanager
def _as_one_change(node: Node) -> Iterator[None]:
    """Hold back a node's events, so that nothing draws it half filled."""
    was_modifying = node.StartModify()
    try:
        yield
    finally:
        node.EndModify(was_modifying)


def _lay_under_same_transform(node: Node, volume_node: Node) -> None:
    transform = volume_node.GetParentTransformNode()
    node.SetAndObserveTransformNodeID(transform.GetID() if transform else None)


def _oriented_image(array: NDArray[np.uint8], volume_node: Node, start: Sequence[int]) -> Node:
    """Return a copy of labels (Z, Y, X), a box of the volume that begins at the voxel ``start``."""
    first = np.array(volume_node.GetImageData().GetExtent()[::2]) + start[::-1]
    last = first + array.shape[::-1] - 1
    image, matrix = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
    image.SetExtent(np.stack([first, last], axis=1).ravel().tolist())
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).ravel(), deep=True))
    volume_node.GetIJKToRASMatrix(matrix)
    image.SetGeometryFromImageToWorldMatrix(matrix)
    return image


def _hide_background(node: Node) -> None:
    """Let what is not background be seen where the background is a segment too."""
    segmentation = node.GetSegmentation()
    for n in range(segmentation.GetNumberOfSegments()):
        if segmentation.GetNthSegment(n).HasTag(CLASS_TAG):
            node.GetDisplayNode().SetSegmentVisibility(segmentation.GetNthSegmentID(n), False)


def _fill(segmentation: Node, classes: Sequence[tuple[int, LabelClass]], image: Node) -> None:
    """Make the segments be these classes, all in one image.

    A segment that leaves a shared image is cut out of it voxel by voxel, so each gets its new image before any goes.
    """
    if segmentation.GetSourceRepresentationName() != BINARY_LABELMAP:
        segmentation.RemoveAllSegments()
        segmentation.SetSourceRepresentationName(BINARY_LABELMAP)
    segmentation.InvalidateNonSourceRepresentations()  # surfaces of what was there before
    earlier = {segmentation.GetNthSegmentID(n): n for n in range(segmentation.GetNumberOfSegments())}
    ids = []
    for value, label_class in classes:
        named = (i for i in earlier if segmentation.GetSegment(i).GetName() == label_class.name)
        ids.append(next(named, ""))
        if ids[-1]:
            del earlier[ids[-1]]
            _describe(segmentation.GetSegment(ids[-1]), value, label_class, image)
    for segment_id in earlier:
        segmentation.GetSegment(segment_id).AddRepresentation(BINARY_LABELMAP, slicer.vtkOrientedImageData())
        segmentation.RemoveSegment(segment_id)
    for n, (value, label_class) in enumerate(classes):
        if not ids[n]:
            ids[n] = segmentation.GenerateUniqueSegmentID(f"Segment_{value}")
            segmentation.AddSegment(_describe(slicer.vtkSegment(), value, label_class, image), ids[n])
    segmentation.ReorderSegments(ids)
    image.Modified()  # tells views and editors that voxels have changed


def _describe(segment: Node, value: int, label_class: LabelClass, image: Node) -> Node:
    segment.SetName(label_class.name)
    segment.SetColor(*label_class.color)
    segment.SetLabelValue(value)
    if label_class.terminology:
        segment.SetTag(TERMINOLOGY_TAG, label_class.terminology)
    segment.RemoveTag(CLASS_TAG)
    if label_class.value == 0:
        segment.SetTag(CLASS_TAG, "0")
    segment.AddRepresentation(BINARY_LABELMAP, image)
    return segment


def _keep_facts(node: Node, provenance: Mapping[str, Any]) -> None:
    for name in provenance_of(node):
        node.RemoveAttribute(PREFIX + name)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    for name, value in {**provenance, DATE: now}.items():
        is_text = isinstance(value, str | PathLike)
        text = str(value) if is_text else json.dumps(value, ensure_ascii=False, default=str)
        node.SetAttribute(PREFIX + name, text)
