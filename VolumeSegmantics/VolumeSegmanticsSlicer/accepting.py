"""Accepting a part of a prediction: the user's act that turns it into strokes, and its undo.

Nothing else in this extension changes strokes. What the user has painted stays as it is, unless she asks for it to be
painted over.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk

from VolumeSegmanticsLib.classes import UNLABELLED, LabelClass
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.settings import AXIS_LETTERS

from .nodes import Node, as_array, between, grid_of
from .segmentations import CLASS_TAG, TERMINOLOGY_TAG, UNPAINTED_ATTRIBUTE, snapshot_of

UNDO_STATES = 10

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NEARLY = 1e-6
"""Of a voxel; a voxel whose centre lies on the border of a region belongs to it."""

_NEGLIGIBLE = 1e-12
"""Part of a voxel's step that comes from rounding."""


@dataclass(frozen=True)
class Region:
    """Some voxels of a volume: a box of them, and which of the box where it is not all.

    Attributes:
        window: The box (Z, Y, X); every slice has a start and a stop inside the volume.
        mask: Which of its voxels, bool of the box's shape; None for all.
    """

    window: tuple[slice, slice, slice]
    mask: NDArray[np.bool_] | None = None

    @classmethod
    def box(cls, volume_node: Node, start: Sequence[int], stop: Sequence[int]) -> Region:
        """Return the voxels from ``start`` up to, without it, ``stop``, both (Z, Y, X); it ends where the volume does.

        Raises:
            InputError: No voxel of the volume lies there.
        """
        spans = zip(start, stop, grid_of(volume_node).shape, strict=True)
        z, y, x = (slice(max(0, int(low)), min(int(high), size)) for low, high, size in spans)
        if any(part.start >= part.stop for part in (z, y, x)):
            raise InputError(f'The region holds no voxel of "{volume_node.GetName()}".', "Move it onto the volume.")
        return cls((z, y, x))

    @classmethod
    def one_slice(cls, volume_node: Node, axis: str, index: int) -> Region:
        """Return a whole slice of the volume, perpendicular to the axis ``"z"``, ``"y"`` or ``"x"``, counted from 0.

        Raises:
            InputError: The volume has no such slice.
        """
        start, stop = [0, 0, 0], list(grid_of(volume_node).shape)
        which = AXIS_LETTERS.index(axis)
        start[which], stop[which] = index, index + 1
        return cls.box(volume_node, start, stop)

    @classmethod
    def around_roi(cls, volume_node: Node, roi_node: Node) -> Region:
        """Return the smallest box of voxels that holds all those of ``inside_roi``; errors are the same."""
        half_size, from_index = _sides(roi_node), _index_to_roi(volume_node, roi_node)
        corners = np.array([(*half_size * signs, 1) for signs in itertools.product((-1, 1), repeat=3)])
        places = np.linalg.solve(from_index, corners.T)[:3]
        low, high = places.min(axis=1), places.max(axis=1)
        return cls.box(volume_node, np.ceil(low - _NEARLY), np.floor(high + _NEARLY) + 1)

    @classmethod
    def inside_roi(cls, volume_node: Node, roi_node: Node) -> Region:
        """Return the voxels whose centre lies in a vtkMRMLMarkupsROINode, which may be turned against the volume.

        Raises:
            InputError: It holds no voxel of the volume, or lies under a non-linear transform.
        """
        window = cls.around_roi(volume_node, roi_node).window
        half_size, from_index = _sides(roi_node), _index_to_roi(volume_node, roi_node)
        axes = np.ogrid[window]
        inside = [
            np.abs(_along(row, axes)) <= half + _NEARLY * np.abs(row[:3]).max()
            for row, half in zip(from_index, half_size, strict=False)
        ]
        if all(part.all() for part in inside):
            return cls(window)
        shape = [part.stop - part.start for part in window]
        return cls(window, np.broadcast_to(inside[0] & inside[1] & inside[2], shape))


def _along(row: NDArray[np.float64], axes: Sequence[NDArray[np.int_]]) -> NDArray[np.float64]:
    """Return a row of a matrix applied to voxels, no bigger than it has to be: a region often lies along the axes."""
    least = np.abs(row[:3]).max() * _NEGLIGIBLE
    terms = (factor * axis for factor, axis in zip(row[:3], axes, strict=True) if abs(factor) > least)
    return sum(terms, start=np.full((1, 1, 1), row[3]))


def _sides(roi_node: Node) -> NDArray[np.float64]:
    """Return half the sides of a region."""
    half_size = np.array(roi_node.GetSize()) / 2
    if not half_size.all():
        raise InputError(f'The region "{roi_node.GetName()}" is empty.', "Draw a box onto the volume.")
    return half_size


def _index_to_roi(volume_node: Node, roi_node: Node) -> NDArray[np.float64]:
    """Return the matrix from voxels (Z, Y, X) of a volume to the axes of a region, whose middle is 0."""
    to_volume = between(roi_node, volume_node) @ as_array(roi_node.GetObjectToNodeMatrix())
    return np.linalg.solve(to_volume, _RAS_TO_LPS @ grid_of(volume_node).affine)


def accept(
    result: Node,
    strokes: Node,
    volume_node: Node,
    region: Region,
    *,
    overwrite: bool = False,
    unpainted: str = "auto",
    before_change: Callable[[], object] | None = None,
) -> int:
    """Copy a prediction inside a region into the strokes.

    Segments are the same where their names are; those that the strokes lack are added. Where the strokes take
    unpainted voxels for background, predicted background stays unpainted.

    Args:
        result: The segmentation node with the prediction.
        strokes: The segmentation node that is changed.
        volume_node: The volume that both belong to.
        region: Where.
        overwrite: Whether the prediction also replaces what is painted there.
        unpainted: What an unpainted voxel of the strokes means, see ``labels_of``.
        before_change: Called once before the first change, such as to save a state for undo.

    Returns:
        How many voxels were copied.

    Raises:
        InputError: One of the nodes cannot be used, see ``labels_of``.
    """
    predicted = snapshot_of(result, volume_node, copy=False).inside(region.window).labels()
    answer = predicted.array
    accepted = answer != UNLABELLED
    if region.mask is not None:
        accepted &= region.mask
    if not overwrite:
        painted = snapshot_of(strokes, volume_node, unpainted="ignore", copy=False).inside(region.window)
        accepted &= painted.labels().array == UNLABELLED
    if _is_background_unpainted(strokes, unpainted):
        accepted &= answer != 0
    parts = [(c, part) for c in predicted.classes if (part := accepted & (answer == c.value)).any()]
    if parts and before_change is not None:
        before_change()
    brush = _Brush(strokes, volume_node, region, overwrite=overwrite)
    for label_class, part in parts:
        brush.paint(_segment_id(strokes.GetSegmentation(), label_class), part)
    return sum(int(part.sum()) for _, part in parts)


def _is_background_unpainted(strokes: Node, unpainted: str) -> bool:
    meaning = strokes.GetAttribute(UNPAINTED_ATTRIBUTE) if unpainted == "auto" else unpainted
    return meaning == "background"


def _segment_id(segmentation: Node, label_class: LabelClass) -> str:
    """Return the segment of a class, which is added where there is none."""
    if label_class.value == 0:
        marked = (i for i in _segment_ids(segmentation) if segmentation.GetSegment(i).HasTag(CLASS_TAG))
        if segment_id := next(marked, ""):
            return segment_id
    known = segmentation.GetSegmentIdBySegmentName(label_class.name)
    if known:
        return str(known)
    segment_id = segmentation.AddEmptySegment("", label_class.name, label_class.color)
    segment = segmentation.GetSegment(segment_id)
    if label_class.terminology:
        segment.SetTag(TERMINOLOGY_TAG, label_class.terminology)
    if label_class.value == 0:
        segment.SetTag(CLASS_TAG, "0")
    return str(segment_id)


def _segment_ids(segmentation: Node) -> list[str]:
    return [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]


class _Brush:
    """Slicer's own segment editor, without the masks that the user may have set in hers."""

    def __init__(self, strokes: Node, volume_node: Node, region: Region, *, overwrite: bool) -> None:
        self._strokes = strokes
        self._settings = slicer.vtkMRMLSegmentEditorNode()
        mode = self._settings.OverwriteAllSegments if overwrite else self._settings.OverwriteNone
        self._settings.SetOverwriteMode(mode)
        self._editor = slicer.vtkSlicerSegmentEditorLogic()
        self._editor.SetSegmentEditorNode(self._settings)
        self._extent = _extent(volume_node, region)
        self._matrix = _index_to_strokes(volume_node, strokes)

    def paint(self, segment_id: str, where: NDArray[np.bool_]) -> None:
        """Add voxels of the region's window to a segment."""
        stroke = slicer.vtkOrientedImageData()
        stroke.SetExtent(self._extent)
        stroke.GetPointData().SetScalars(numpy_to_vtk(where.astype(np.uint8).ravel(), deep=True))
        stroke.SetGeometryFromImageToWorldMatrix(self._matrix)
        add = self._editor.ModificationModeAdd
        self._editor.ModifySegmentByLabelmap(self._strokes, segment_id, stroke, add, False, False)


def _extent(volume_node: Node, region: Region) -> list[int]:
    first = volume_node.GetImageData().GetExtent()[::2]
    spans = zip(first, region.window[::-1], strict=True)  # along I, J, K
    return [bound for start, part in spans for bound in (start + part.start, start + part.stop - 1)]


def _index_to_strokes(volume_node: Node, strokes: Node) -> Node:
    """Return the vtkMatrix4x4 from the volume's indices to the strokes' own space."""
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    matrix.DeepCopy((between(volume_node, strokes) @ as_array(matrix)).ravel().tolist())
    return matrix


class Undo:
    """Takes back what was accepted, as long as nobody has changed the strokes since."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget all; nothing can be taken back then."""
        self._node_id, self._saved = "", 0
        self._marks: list[tuple[str, str, int]] = []
        self._history = slicer.vtkSegmentationHistory()
        self._history.SetMaximumNumberOfStates(UNDO_STATES)

    def save(self, strokes: Node) -> None:
        """Keep strokes as they are, before they change."""
        if self._node_id != strokes.GetID() or self._marks != _marks(strokes):
            self.forget()
            self._node_id = strokes.GetID()
            self._history.SetSegmentation(strokes.GetSegmentation())
        self._history.SaveState()
        self._saved = min(self._saved + 1, UNDO_STATES - 1)

    def settle(self, strokes: Node) -> None:
        """Take note of what the strokes have become."""
        self._marks = _marks(strokes)

    def refusal(self, strokes: Node) -> str:
        """Return the sentence why nothing can be taken back; empty where it can."""
        if not self._saved or self._node_id != strokes.GetID():
            return "Nothing was accepted that could be taken back."
        if self._marks != _marks(strokes):
            return "The strokes were changed since: use the undo of the Segment Editor."
        return ""

    def take_back(self, strokes: Node) -> None:
        """Make the strokes what they were before the last part was accepted."""
        self._history.RestorePreviousState()
        self._saved -= 1
        self.settle(strokes)


def _marks(strokes: Node) -> list[tuple[str, str, int]]:
    """Return what is another after any change of the segments or their voxels."""
    segmentation, marks = strokes.GetSegmentation(), []
    for segment_id in _segment_ids(segmentation):
        image = strokes.GetBinaryLabelmapInternalRepresentation(segment_id)
        marks.append((segment_id, segmentation.GetSegment(segment_id).GetName(), image.GetMTime() if image else 0))
    return marks
