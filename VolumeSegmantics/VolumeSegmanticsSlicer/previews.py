"""What a model makes of the slice in view while it learns: which slice that is, and the node that shows it."""

from __future__ import annotations

from pathlib import Path

from VolumeSegmanticsLib.box import Voxel
from VolumeSegmanticsLib.settings import AXIS_LETTERS
from VolumeSegmanticsLib.watch import Watched, watch

from .nodes import Node
from .results import PREFIX, show_labels
from .states import State

PREVIEW = "Preview"
"""The provenance by which the node is known."""


class Watch:
    """Which slice of a volume is in view: remembered before a job runs, and told to it while it does."""

    def __init__(self) -> None:
        self._watched: Watched | None = None
        self._folder, self._start = Path(), (0, 0, 0)

    def begin(self, folder: Path, start: Voxel) -> None:
        """Tell a job that begins now; its image starts at a voxel (Z, Y, X) of the volume."""
        self._folder, self._start = folder, start
        self.tell()

    def look_at(self, axis: str, index: int) -> None:
        """Remember a slice, counted from 0, perpendicular to the axis ``"z"``, ``"y"`` or ``"x"``."""
        self._watched = Watched(axis, index)

    def tell(self) -> None:
        """Tell the job that began last."""
        if place := self.seen_from(self._start):
            watch(self._folder, place)

    def seen_from(self, start: Voxel) -> Watched | None:
        """Return the slice in an image that starts at a voxel (Z, Y, X) of the volume; None before any was in view."""
        if self._watched is None:
            return None
        axis, index = self._watched.axis, self._watched.index
        return Watched(axis, index - start[AXIS_LETTERS.index(axis)])


def show_preview(state: State, volume: Node, *, node: Node | None = None) -> Node:
    """Show the latest preview of a training over its volume, in a node that is not saved with the scene.

    Args:
        state: Of a training; its ``preview`` is the file to show.
        volume: The volume node that it learns from.
        node: The node that is filled; the default is the scene's preview, which is made where there is none.

    Returns:
        The segmentation node "<volume> preview", with names and colours of the classes.

    Raises:
        InputError: There is no preview, it cannot be read, or it does not lie on the volume's voxels.
    """
    shown = show_labels(
        state.preview,
        volume,
        result=node or _preview_in(volume.GetScene()),
        name=f"{volume.GetName()} preview",
        provenance={PREVIEW: state.epoch},
    )
    for part in (shown, shown.GetDisplayNode()):
        part.SetSaveWithScene(False)
    return shown


def remove_preview(scene: Node) -> None:
    """Take the preview out of the scene; nothing happens where there is none."""
    while node := _preview_in(scene):
        display = node.GetDisplayNode()
        scene.RemoveNode(node)  # the first: views draw a segmentation that has lost its display node, and crash
        if display is not None and scene.IsNodePresent(display):
            scene.RemoveNode(display)


def _preview_in(scene: Node) -> Node | None:
    nodes = scene.GetNodesByClass("vtkMRMLSegmentationNode")
    nodes.UnRegister(None)  # GetNodesByClass leaves that to its caller
    found = (nodes.GetItemAsObject(n) for n in range(nodes.GetNumberOfItems()))
    return next((node for node in found if node.GetAttribute(PREFIX + PREVIEW)), None)
