"""The self-test's way through a running Slicer, by the panel's own buttons."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import SkipTest

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from VolumeSegmanticsLib.settings import PredictSettings, TrainSettings

from .desktop import user_choices
from .nodes import Node, grid_of
from .parameters import Parameters
from .requirements import missing
from .segmentations import labels_of
from .states import Phase

SHAPE = (24, 64, 64)
SPACING = (0.5, 0.5, 2.0)
NAMES = ("Matrix", "Rod")
SMALL = TrainSettings(
    encoder="resnet18", weights="none", epochs=6, crops_per_epoch=64, crop_size=32, learning_rate=2e-3, seed=1
)
LEAST_OVERLAP = 0.7
"""Part of the voxels that such a small model must get right; chance gives a half."""

PATIENCE_SECONDS = 600.0
BUTTON_SECONDS = 30.0


def strokes_become_a_segmentation(widget: Any) -> None:
    """Paint with the embedded Segment Editor, train, predict, and compare with what is known.

    Args:
        widget: The module's widget.

    Raises:
        SkipTest: Packages that workers need are not installed.
    """
    _skip_without_packages()
    truth = _rods()
    volume = _volume(truth)
    ui, parameters = slicer.util.childWidgetVariables(widget.ui_root), widget.workflow.parameters
    ui.volumeSelector.setCurrentNode(volume)
    ui.newStrokesButton.click()
    strokes = parameters.chosen("annotation")
    _name_classes(strokes)
    for value, name in enumerate(NAMES):
        _paint(ui.segmentEditor, strokes, name, _stroke(truth, value))
    with _settings(parameters):
        widget.panel.refresh()
        _press(widget, ui, "trainButton")
        model = parameters.model_path
        try:
            _press(widget, ui, "predictButton")
            _check(parameters.chosen("result"), volume, truth)
        finally:
            model.unlink(missing_ok=True)  # it lies in the user's own folder


@contextmanager
def _settings(parameters: Parameters) -> Iterator[None]:
    """Keep small settings for a time."""
    before = [parameters.settings(kind) for kind in (TrainSettings, PredictSettings)]
    try:
        for settings in (SMALL, PredictSettings(quality="low")):
            parameters.keep(settings)
        yield
    finally:
        for settings in before:
            parameters.keep(settings)


def _check(result: Node, volume: Node, truth: NDArray[np.uint8]) -> None:
    """Compare names, geometry and voxels of a result with what is known."""
    segmentation = result.GetSegmentation()
    names = {segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())}
    assert NAMES[1] in names, names
    predicted = labels_of(result, volume)
    assert predicted.grid == grid_of(volume)
    rod = next(c.value for c in predicted.classes if c.name == NAMES[1])
    right = float(np.mean((predicted.array == rod) == (truth == 1)))
    assert right > LEAST_OVERLAP, right


def _skip_without_packages() -> None:
    """Leave the test where packages would have to be installed first: a test downloads nothing."""
    if lacking := missing(user_choices().python or None, breathe=slicer.app.processEvents):
        raise SkipTest(f"The worker's Python lacks {', '.join(one.name for one in lacking)}.")


def _rods() -> NDArray[np.uint8]:
    """Return 0 where there is matrix and 1 in three bright rods along z."""
    _, y, x = np.ogrid[[slice(n) for n in SHAPE]]
    centres = ((16, 18), (40, 44), (48, 14))
    inside = np.any([(y - cy) ** 2 + (x - cx) ** 2 < 90 for cy, cx in centres], axis=0)
    return np.broadcast_to(inside, SHAPE).astype(np.uint8)


def _volume(truth: NDArray[np.uint8]) -> Node:
    rng = np.random.default_rng(0)
    grey = (80 + 90 * truth + rng.normal(0, 12, truth.shape)).astype(np.float32)
    image = vtk.vtkImageData()
    image.SetDimensions(*truth.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(grey.ravel(), deep=True))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Self-test")
    node.SetSpacing(*SPACING)
    node.SetAndObserveImageData(image)
    node.CreateDefaultDisplayNodes()
    return node


def _name_classes(strokes: Node) -> None:
    """Give the segments names: none of them stays Background, so that both come back as segments."""
    segmentation = strokes.GetSegmentation()
    segmentation.RemoveAllSegments()
    for name, color in zip(NAMES, ((0.2, 0.4, 0.8), (0.9, 0.6, 0.1)), strict=True):
        segmentation.AddEmptySegment("", name, color)


def _stroke(truth: NDArray[np.uint8], value: int) -> NDArray[np.bool_]:
    """Return some rows of two slices, as a user would brush them."""
    where = np.zeros(truth.shape, bool)
    for z in (6, 16):
        where[z, 10:52:3] = truth[z, 10:52:3] == value
    return where


def _paint(editor: Any, strokes: Node, name: str, where: NDArray[np.bool_]) -> None:
    """Add voxels to a segment with the Segment Editor's own tool."""
    editor.setCurrentSegmentID(strokes.GetSegmentation().GetSegmentIdBySegmentName(name))
    effect = editor.effectByName("Paint")  # activating it needs views, which are not there without a main window
    stroke = effect.defaultModifierLabelmap()
    voxels = vtk_to_numpy(stroke.GetPointData().GetScalars()).reshape(stroke.GetDimensions()[::-1])
    voxels[:] = where
    stroke.Modified()
    editor.saveStateForUndo()
    effect.modifySelectedSegmentByLabelmap(stroke, slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeAdd)


def _press(widget: Any, ui: Any, name: str) -> None:
    """Press a button of the panel and wait for the end of its job, with Slicer alive."""
    button = getattr(ui, name)
    _wait_for(lambda: button.property("enabled"), BUTTON_SECONDS)
    assert button.property("enabled"), button.property("toolTip")
    button.click()
    _wait_for(lambda: not widget.workflow.state.is_running, PATIENCE_SECONDS)
    phase = widget.workflow.state.phase
    widget.workflow.cancel()  # where it has taken too long
    assert phase is Phase.DONE, f"{phase}: {ui.statusLabel.property('text')}"


def _wait_for(condition: Any, seconds: float) -> None:
    """Let Slicer live until a condition holds, for a time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        slicer.app.processEvents()
        time.sleep(0.02)
