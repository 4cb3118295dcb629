"""What the slice views of the scene show of a volume, moving them, and boxes around a part of a volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
from numpy.typing import NDArray

from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.settings import AXIS_LETTERS

from .nodes import Node, as_array, grid_of, to_world

VIEWS = ("Red", "Green", "Yellow")
"""The names of Slicer's own three slice views."""

_TURNED = np.cos(np.deg2rad(10))
"""A view that is turned further against the volume shows no slice of it."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_PART = 0.5
"""Of the volume's size: the region that a user begins with."""


def slice_in_view(scene: Node, view: str, volume: Node) -> tuple[str, int]:
    """Return axis and index of the slice of a volume that a slice view shows.

    Raises:
        InputError: There is no such view, it is turned against the volume, or shows a plane beside it.
    """
    view_node = scene.GetNodeByID(f"vtkMRMLSliceNode{view}")
    if view_node is None:
        raise InputError(f"There is no {view.lower()} slice view.", "Choose a layout that has one.")
    plane = as_array(view_node.GetSliceToRAS())
    to_world = _world_of(volume)
    steps = to_world[:3, :3]
    along = np.abs(plane[:3, 2] @ (steps / np.linalg.norm(steps, axis=0)))
    axis = int(along.argmax())
    if along[axis] < _TURNED:
        raise InputError(
            f"The {view.lower()} view is turned against the volume.",
            "Press the button that rotates the views to the volume plane, in the view's pin menu.",
        )
    normal = plane[:3, 2]  # the slice whose centre lies closest to the plane
    centre = np.array([(n - 1) / 2 for n in grid_of(volume).shape])
    centre[axis] = 0
    start = (to_world @ [*centre, 1])[:3]
    index = round(float((plane[:3, 3] - start) @ normal / (steps[:, axis] @ normal)))
    if not 0 <= index < grid_of(volume).shape[axis]:
        raise InputError(f"The {view.lower()} view shows a plane beside the volume.", "Move it onto the volume.")
    return AXIS_LETTERS[axis], index


def show_place(scene: Node, ras: Sequence[float]) -> None:
    """Move all slice views to a point of the world."""
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *ras, slicer.vtkMRMLSliceNode.OffsetJumpSlice)


def new_region(volume: Node) -> Node:
    """Make a region of interest, a box on the middle of a volume, that the user can pull to its place."""
    scene = volume.GetScene()
    name = scene.GenerateUniqueName(f"{volume.GetName()} region")
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetFillVisibility(False)  # a filled box would hide what is to be judged in it
    to_world, shape = _world_of(volume), np.array(grid_of(volume).shape)
    node.SetCenterWorld(*(to_world @ [*(shape - 1) / 2, 1])[:3].tolist())
    node.SetSize(*(np.abs(to_world[:3, :3]) @ shape * _PART).tolist())
    return node


def _world_of(volume: Node) -> NDArray[np.float64]:
    """Return the matrix from indices (z, y, x) of a volume to the world (R, A, S)."""
    return to_world(volume) @ _LPS_TO_RAS @ grid_of(volume).affine
