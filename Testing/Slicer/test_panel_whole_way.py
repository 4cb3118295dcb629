"""The whole way with the true worker: strokes, Train, result, accept, again; then saved, reopened, going on."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("PySide6.QtWidgets", reason="needs Qt and the system's libraries for it", exc_type=ImportError)

from VolumeSegmanticsSlicer.states import Phase  # noqa: E402

from VolumeSegmanticsLib import simulate  # noqa: E402
from VolumeSegmanticsLib.settings import PredictSettings, TrainSettings  # noqa: E402
from VolumeSegmanticsLib.volume import Grid  # noqa: E402

SHAPE = (16, 48, 48)
GRID = Grid(SHAPE, (1.5, 0.5, 0.5), (3.0, -4.0, 5.0))
NAMES = {1: "Matrix", 2: "Fibre", 3: "Pore"}
LEARNED_IN_SECONDS = TrainSettings(
    encoder="resnet18", weights="none", crop_size=32, batch_size=4, crops_per_epoch=16, epochs=3, learning_rate=1e-3,
    local_weight=0.0,
)  # fmt: skip
PATIENCE_SECONDS = 300.0


@pytest.fixture
def a_true_hand(a_hand, a_quick_starter, monkeypatch):
    """The workers are the true ones, on one thread and small settings."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    a_quick_starter.behaviour = None
    a_hand.choose("deviceComboBox", "cpu")
    a_hand.parameters.keep(LEARNED_IN_SECONDS)
    a_hand.parameters.keep(PredictSettings(quality="low"))
    a_hand.live()
    return a_hand


def finish(hand, button):
    hand.press(button)
    state = hand.wait_for_the_end(PATIENCE_SECONDS)
    assert state.phase is Phase.DONE, hand.status
    return state


def names_in(node):
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]


@pytest.mark.slow
def test_from_the_first_stroke_to_the_reopened_scene(a_true_hand, a_scene, a_red_view, tmp_path):
    hand = a_true_hand
    image, truth = simulate.fibre_composite(SHAPE)
    painted = simulate.strokes(truth).array
    first = a_scene.new_volume(image.array, GRID, "First")
    second = a_scene.new_volume(image.array[::-1].copy(), GRID, "Second")
    hand.live()

    hand.press("newStrokesButton")
    strokes = hand.parameters.chosen("annotation")
    strokes.GetSegmentation().RemoveAllSegments()
    hand.paint({name: painted == value for value, name in NAMES.items()})
    widths = []
    hand.press("trainButton")
    hand.wait_until(lambda: widths.append(hand.state.epoch) or not hand.state.is_running, PATIENCE_SECONDS)
    assert hand.state.phase is Phase.DONE, hand.status
    assert sorted(set(widths))[-1] == 3
    assert not hand.ui.lossChart.pixmap().isNull()
    assert "3 classes" in hand.ui.modelCardLabel.text() or "Matrix" in hand.ui.modelCardLabel.text()

    finish(hand, "predictButton")
    result = hand.parameters.chosen("result")
    assert set(names_in(result)) <= set(NAMES.values())
    before = np.count_nonzero(painted_voxels(strokes, first))
    hand.press("leastCertainButton")
    hand.press("acceptButton")
    assert np.count_nonzero(painted_voxels(strokes, first)) > before, hand.status

    model = hand.parameters.model_path
    finish(hand, "trainAgainButton")
    assert hand.parameters.model_path != model
    hand.ui.volumeSelector.setCurrentNode(second)
    finish(hand, "predictButton")
    assert hand.parameters.chosen("result").GetName() == "Second segmentation"

    model = hand.parameters.model_path
    file = a_scene.save(tmp_path / "scene.mrb")
    hand.scene.mrml.Clear(0)
    hand.live()
    a_scene.open(file)
    hand.live(0.5)
    assert hand.parameters.model_path == model
    assert hand.ui.volumeSelector.currentNode().GetName() == "Second"
    assert hand.parameters.settings(TrainSettings).epochs == 3
    finish(hand, "predictButton")
    assert hand.parameters.chosen("result").GetName() == "Second segmentation"
    hand.ui.volumeSelector.setCurrentNode(hand.scene.named("First"))
    assert hand.ui.annotationSelector.currentNode().GetName() == "First strokes"
    hand.live(0.3)
    finish(hand, "trainAgainButton")


def painted_voxels(strokes, volume):
    from VolumeSegmanticsSlicer.segmentations import labels_of

    from VolumeSegmanticsLib.classes import UNLABELLED

    return labels_of(strokes, volume).array != UNLABELLED
