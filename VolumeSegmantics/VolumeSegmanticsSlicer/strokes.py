"""The segmentation that the user paints into, made on demand for a volume; and what follows from choosing a volume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from VolumeSegmanticsLib.classes import LabelClass

from .nodes import Node
from .parameters import Parameters
from .results import is_result
from .segmentations import CLASS_TAG

BACKGROUND = replace(LabelClass.plain(0), color=(0.45, 0.65, 0.75))
"""Black strokes could not be seen on a dark image."""

FIRST_CLASS = LabelClass.plain(1)


def new_strokes(volume: Node) -> Node:
    """Make a segmentation node "<volume> strokes" to paint into, with a Background and one more segment."""
    scene = volume.GetScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(f"{volume.GetName()} strokes"))
    lay_on(node, volume)
    segmentation = node.GetSegmentation()
    background = segmentation.AddEmptySegment("", BACKGROUND.name, BACKGROUND.color)
    segmentation.GetSegment(background).SetTag(CLASS_TAG, "0")
    segmentation.AddEmptySegment("", FIRST_CLASS.name, FIRST_CLASS.color)
    return node


def lay_on(node: Node, volume: Node) -> None:
    """Lay a segmentation on the voxels of a volume, under the same transform, so that painting fits them."""
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    transform = volume.GetParentTransformNode()
    node.SetAndObserveTransformNodeID(transform.GetID() if transform else None)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)


def strokes_of(volume: Node) -> Node | None:
    """Return the first segmentation that was made to paint on a volume; None where there is none."""
    nodes = nodes_of(volume.GetScene(), "vtkMRMLSegmentationNode")
    return next((node for node in nodes if painted_volume(node) is volume and not is_result(node)), None)


def painted_volume(node: Node) -> Node | None:
    """Return the volume that a segmentation was made for; None where nobody knows."""
    return node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())


def choose(parameters: Parameters, role: str, node: Node | None) -> None:
    """Keep the node of a role; another volume brings its own strokes, and leaves behind what belongs to the last."""
    if node is parameters.chosen(role):
        return
    parameters.choose(role, node)
    if role == "annotation" and node and not node.GetSegmentation().GetNumberOfSegments():
        volume = parameters.chosen("volume")
        if volume and painted_volume(node) is None:
            lay_on(node, volume)
    if role == "volume":
        _follow(parameters, node)


def choose_what_is_there(scene: Node, parameters: Parameters) -> None:
    """Choose a volume where none is chosen and the scene has one that no job made, and its strokes likewise."""
    if parameters.chosen("volume") is None:
        candidates = (v for kind in VOLUMES for v in nodes_of(scene, kind) if kind == v.GetClassName())
        if volume := next((v for v in candidates if not is_result(v) and not v.GetHideFromEditors()), None):
            choose(parameters, "volume", volume)
    volume = parameters.chosen("volume")
    if volume and parameters.chosen("annotation") is None and (strokes := strokes_of(volume)):
        choose(parameters, "annotation", strokes)


VOLUMES = ("vtkMRMLScalarVolumeNode", "vtkMRMLVectorVolumeNode")
"""What can be segmented; classes that come from these, such as label maps, cannot."""


def nodes_of(scene: Node, class_name: str) -> Iterator[Node]:
    """Return the nodes of a class."""
    found = scene.GetNodesByClass(class_name)
    found.UnRegister(None)  # GetNodesByClass leaves that to its caller
    return (found.GetItemAsObject(n) for n in range(found.GetNumberOfItems()))


def _follow(parameters: Parameters, volume: Node | None) -> None:
    annotation = parameters.chosen("annotation")
    if annotation is None or painted_volume(annotation) not in (None, volume):
        parameters.choose("annotation", strokes_of(volume) if volume else None)
    result = parameters.chosen("result")
    if result is not None and painted_volume(result) is not volume:
        parameters.choose("result", None)
        parameters.choose("confidence", None)
