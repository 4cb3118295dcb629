"""The panel on real Qt, a real scene and real worker processes: what it shows, allows and does."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("PySide6.QtWidgets", reason="needs Qt and the system's libraries for it", exc_type=ImportError)

from VolumeSegmanticsSlicer.results import is_result  # noqa: E402
from VolumeSegmanticsSlicer.states import Phase  # noqa: E402
from VolumeSegmanticsSlicer.wording import BAR_STEPS  # noqa: E402

from VolumeSegmanticsLib.settings import PredictSettings, TrainSettings  # noqa: E402

BUTTONS_WITHOUT_ANYTHING = {
    "newStrokesButton": "Choose a volume first.",
    "newRegionButton": "Choose a volume first.",
    "trainButton": "No input volume is chosen.",
    "predictButton": "No input volume is chosen.",
    "planButton": "No input volume is chosen.",
    "predictFileButton": "No model is chosen.",
    "predictFolderButton": "No model is chosen.",
    "leastCertainButton": "Predict first",
    "acceptButton": "No input volume is chosen.",
    "trainAgainButton": "No input volume is chosen.",
    "openModelsFolderButton": "The folder is made with the first model.",
    "clearModelsButton": "There are none.",
    "openJobFolderButton": "No job has run yet.",
    "openLogButton": "No job has told anything yet.",
    "constrainButton": "No input volume is chosen.",
    "undoConstrainButton": "No rules were applied",
    "show3DButton": "There is no result yet.",
}


@pytest.mark.parametrize("name", BUTTONS_WITHOUT_ANYTHING)
def test_a_button_that_is_off_says_why(a_hand, name):
    assert BUTTONS_WITHOUT_ANYTHING[name] in a_hand.reason(name)


def test_the_first_volume_of_the_scene_is_chosen_by_itself(a_hand, a_volume):
    assert a_hand.parameters.chosen("volume") is a_volume
    assert a_hand.ui.volumeSelector.currentNode() is a_volume


def test_strokes_are_made_on_demand_with_a_background(a_hand, a_volume):
    a_hand.press("newStrokesButton")
    node = a_hand.parameters.chosen("annotation")
    names = [node.GetSegmentation().GetNthSegment(n).GetName() for n in range(2)]
    assert (node.GetName(), names) == ("Scan strokes", ["Background", "Class 1"])
    assert a_hand.ui.annotationSelector.currentNode() is node
    assert a_hand.ui.segmentEditor.segmentation is node
    assert a_hand.ui.segmentEditor.volume is a_volume


def test_the_editor_takes_its_nodes_in_the_order_that_it_needs(a_hand, a_volume):
    a_hand.ui.segmentEditor.calls.clear()
    a_hand.press("newStrokesButton")
    assert a_hand.ui.segmentEditor.calls[:4] == ["node", "scene", "segmentation", "volume"]


def test_classes_exclude_each_other_in_the_editor(a_hand, strokes_in_panel):
    node = a_hand.ui.segmentEditor.node
    assert node.GetOverwriteMode() == node.OverwriteAllSegments
    assert node.GetSingletonTag() == "VolumeSegmantics"


def test_what_is_painted_is_counted_class_by_class(a_hand, strokes_in_panel):
    text = a_hand.ui.paintedLabel.text()
    assert "Background" in text
    assert "Class 1" in text
    assert "56" in text  # 2 slices × 2 rows × 14 voxels


def test_training_waits_for_paint_in_two_classes(a_hand, a_volume):
    a_hand.press("newStrokesButton")
    assert "at least two classes" in a_hand.reason("trainButton")
    a_hand.paint({"Class 1": np.s_[5, 5:9, 6:11]})
    assert "at least two classes" in a_hand.reason("trainButton")
    a_hand.paint({"Background": np.s_[2, 1:3, 1:15]})
    assert a_hand.reason("trainButton") == ""


def test_training_ends_with_a_model_that_is_chosen_and_curves_that_are_seen(a_trained_hand):
    ui = a_trained_hand.ui
    model = a_trained_hand.parameters.model_path
    assert model.name == "Scan.safetensors"
    assert model.parent.name == "models"
    assert ui.modelComboBox.currentText() == "Scan"
    assert not ui.lossChart.pixmap().isNull()
    assert "The model is trained" in a_trained_hand.status
    assert ui.progressBar.value() == ui.progressBar.maximum() == BAR_STEPS


def test_a_second_model_gets_a_number_and_the_newest_comes_first(a_trained_hand):
    a_trained_hand.train()
    combo = a_trained_hand.ui.modelComboBox
    assert [combo.itemText(n) for n in range(combo.count())] == ["Scan 2", "Scan"]
    assert combo.currentText() == "Scan 2"


def test_where_no_model_is_chosen_the_list_says_so(a_trained_hand):
    combo, path = a_trained_hand.ui.modelComboBox, a_trained_hand.parameters.model_path
    a_trained_hand.scene.mrml.Clear(0)
    a_trained_hand.live()
    assert combo.currentText() == "Choose a model"
    a_trained_hand.choose("modelComboBox", str(path))
    assert a_trained_hand.parameters.model_path == path
    assert [combo.itemText(n) for n in range(combo.count())] == ["Scan"]


def test_a_name_that_is_no_file_name_becomes_one(a_hand, strokes_in_panel):
    a_hand.ui.modelNameLineEdit.setText("a/b: größer?")
    a_hand.train()
    assert a_hand.parameters.model_path.name == "a_b_ größer_.safetensors"


def test_training_again_goes_on_from_the_chosen_model(a_trained_hand):
    first = a_trained_hand.parameters.model_path
    a_trained_hand.press("trainAgainButton")
    a_trained_hand.wait_for_the_end()
    job = (a_trained_hand.state.folder / "job.json").read_text()
    assert str(first) in job
    assert a_trained_hand.parameters.model_path != first


def test_train_becomes_cancel_and_back(a_hand, strokes_in_panel, a_quick_starter):
    a_quick_starter.behaviour = "report forever"
    before = a_hand.scene.mrml.GetNumberOfNodes()
    a_hand.press("trainButton")
    a_hand.wait_until(lambda: a_hand.ui.trainButton.text() == "Cancel")
    assert "A job is running" in a_hand.reason("predictButton")
    a_hand.press("trainButton")
    assert a_hand.ui.trainButton.text() == "Stopping …"
    assert a_hand.wait_for_the_end().phase is Phase.CANCELLED
    assert a_hand.ui.trainButton.text() == "Train"
    assert a_hand.reason("trainButton") == ""
    assert "Stopped" in a_hand.status
    assert a_hand.scene.mrml.GetNumberOfNodes() == before
    assert psutil.Process().children(recursive=True) == []


def test_a_worker_that_is_killed_is_told_in_a_sentence_and_the_log_is_one_click_away(
    a_hand, strokes_in_panel, a_quick_starter
):
    a_quick_starter.behaviour = "report forever"
    a_hand.press("trainButton")
    a_hand.live(0.3)
    os.kill(a_quick_starter.workers[-1].pid, signal.SIGKILL)
    assert a_hand.wait_for_the_end().phase is Phase.FAILED
    assert "Problem:" in a_hand.status
    assert "The worker process" in a_hand.status
    a_hand.press("logButton")
    assert a_hand.ui.logTextEdit.isVisibleTo(a_hand.widget.ui_root)
    assert a_hand.reason("trainButton") == ""


def test_the_scene_can_be_closed_while_it_trains(a_hand, strokes_in_panel, a_quick_starter):
    a_quick_starter.behaviour = "report forever"
    a_hand.press("trainButton")
    a_hand.live(0.3)
    a_hand.scene.mrml.Clear(0)
    assert a_hand.wait_for_the_end().phase is Phase.CANCELLED
    assert "The scene was closed" in a_hand.status
    assert a_hand.ui.segmentEditor.segmentation is None
    assert a_hand.parameters.model_path is None
    assert psutil.Process().children(recursive=True) == []


def test_the_panel_goes_on_in_the_next_scene(a_trained_hand, a_scene, a_grid):
    a_trained_hand.scene.mrml.Clear(0)
    a_trained_hand.live()
    assert "No input volume" in a_trained_hand.reason("trainButton")
    node = a_scene.new_volume(np.ones((6, 7, 8), np.int16), a_grid, "Next")
    a_trained_hand.live()
    assert a_trained_hand.ui.volumeSelector.currentNode() is node
    a_trained_hand.press("newStrokesButton")
    assert a_trained_hand.ui.segmentEditor.segmentation.GetName() == "Next strokes"


def test_another_scene_knows_nothing_of_the_last_ones_jobs(a_trained_hand, a_scene):
    assert "The model is trained" in a_trained_hand.status
    a_trained_hand.scene.mrml.Clear(0)
    a_trained_hand.live()
    assert (a_trained_hand.status, a_trained_hand.ui.progressBar.value()) == ("Ready.", 0)
    assert not a_trained_hand.ui.lossChart.isVisibleTo(a_trained_hand.widget.ui_root)
    assert a_trained_hand.reason("openLogButton") == ""


def test_a_scene_that_is_read_knows_nothing_of_a_job_that_was_stopped_for_it(
    a_hand, strokes_in_panel, a_quick_starter, a_scene, tmp_path
):
    path = a_scene.save(tmp_path / "scene.mrml")
    a_quick_starter.behaviour = "report forever"
    a_hand.press("trainButton")
    a_hand.live(0.3)
    a_scene.mrml.Clear(0)
    a_hand.wait_for_the_end()
    assert "The scene was closed" in a_hand.status
    a_scene.merge(path)
    a_hand.live()
    assert a_hand.status == "Ready."


def test_what_a_prediction_would_take_is_told_until_something_else_is_chosen(a_trained_hand):
    label = a_trained_hand.ui.planLabel
    assert not label.isVisibleTo(a_trained_hand.widget.ui_root)
    a_trained_hand.press("planButton")
    assert a_trained_hand.wait_for_the_end().phase is Phase.DONE, a_trained_hand.status
    assert label.isVisibleTo(a_trained_hand.widget.ui_root)
    assert label.text() == "About 2 min, 1.3 GB of memory; without reading and writing."
    assert a_trained_hand.status == label.text()
    a_trained_hand.choose("qualityComboBox", "high")
    assert not label.isVisibleTo(a_trained_hand.widget.ui_root)
    assert a_trained_hand.parameters.chosen("result") is None


def test_a_prediction_that_cannot_be_is_refused_by_the_estimate_with_a_remedy(a_trained_hand):
    a_trained_hand.parameters.keep(PredictSettings(memory="1 B"))
    a_trained_hand.press("planButton")
    assert a_trained_hand.wait_for_the_end().phase is Phase.FAILED
    assert "The program alone takes 300 MB" in a_trained_hand.status
    assert "Give it more." in a_trained_hand.status


def test_an_estimate_can_be_cancelled(a_trained_hand, a_quick_starter):
    a_quick_starter.behaviour = "report forever"
    a_trained_hand.press("planButton")
    a_trained_hand.live(0.3)
    assert a_trained_hand.ui.planButton.text() == "Cancel"
    a_trained_hand.press("planButton")
    assert a_trained_hand.wait_for_the_end().phase is Phase.CANCELLED
    assert a_trained_hand.ui.planButton.text() == "Estimate"


def test_a_prediction_becomes_the_result_with_its_confidence(a_predicted_hand):
    result, confidence = (a_predicted_hand.parameters.chosen(role) for role in ("result", "confidence"))
    assert result.GetName() == "Scan segmentation"
    assert a_predicted_hand.ui.resultSelector.currentNode() is result
    assert is_result(confidence)
    assert a_predicted_hand.ui.show3DButton.node is result
    assert a_predicted_hand.ui.show3DButton.isEnabled()


def test_the_3d_views_turn_to_a_result_once(a_predicted_hand, monkeypatch):
    turned = []
    views = SimpleNamespace(resetThreeDViews=lambda: turned.append("views"))
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: views)
    for is_shown in (True, False, True):
        a_predicted_hand.ui.show3DButton.toggled.emit(is_shown)
    assert turned == ["views"]


def test_predicting_again_refills_the_result_and_new_makes_another(a_predicted_hand):
    first = a_predicted_hand.parameters.chosen("result")
    a_predicted_hand.predict()
    assert a_predicted_hand.parameters.chosen("result") is first
    a_predicted_hand.ui.resultSelector.setCurrentNode(None)
    a_predicted_hand.predict()
    assert a_predicted_hand.parameters.chosen("result").GetName() == "Scan segmentation_1"


def test_without_confidence_the_least_certain_slice_says_what_it_needs(a_trained_hand):
    a_trained_hand.ui.confidenceCheckBox.setChecked(False)
    a_trained_hand.predict()
    assert a_trained_hand.parameters.chosen("confidence") is None
    assert "Tell how sure it is" in a_trained_hand.reason("leastCertainButton")


def test_the_least_certain_slice_is_shown_and_not_twice(a_predicted_hand, a_red_view):
    places = []
    for _ in range(2):
        a_predicted_hand.press("leastCertainButton")
        places.append(a_red_view.GetSliceToRAS().GetElement(2, 3))
        assert "sure on average" in a_predicted_hand.status
    assert len(set(places)) == 2


def test_the_result_is_accepted_on_the_slice_in_view(a_predicted_hand, a_red_view):
    a_red_view.JumpSlice(-4, -3, 2.0 * 7)  # slice 7 along z, of spacing 2
    strokes = a_predicted_hand.parameters.chosen("annotation")
    a_predicted_hand.live(0.6)
    a_predicted_hand.press("acceptButton")
    assert "voxels were accepted" in a_predicted_hand.status
    assert "save for undo" in a_predicted_hand.ui.segmentEditor.calls
    names = [strokes.GetSegmentation().GetNthSegment(n).GetName() for n in range(4)]
    assert names == ["Background", "Class 1", "dark", "bright"]


def test_accepting_needs_a_view_that_shows_the_volume(a_predicted_hand, a_scene):
    assert "There is no red slice view" in a_predicted_hand.reason("acceptButton")
    view = slicer.vtkMRMLSliceNode()
    view.SetName("Red")
    view.SetLayoutName("Red")
    view.SetSingletonTag("Red")
    view = a_scene.mrml.AddNode(view)
    a_predicted_hand.live(0.6)
    assert a_predicted_hand.reason("acceptButton") == ""
    view.JumpSlice(0, 0, 99)
    a_predicted_hand.live(0.6)
    assert "beside the volume" in a_predicted_hand.reason("acceptButton")


def test_accepting_in_a_region_needs_one(a_predicted_hand):
    a_predicted_hand.choose("acceptWhereComboBox", "region")
    assert "Choose or make a region" in a_predicted_hand.reason("acceptButton")
    a_predicted_hand.press("newRegionButton")
    a_predicted_hand.press("acceptButton")
    assert "voxels were accepted" in a_predicted_hand.status


def test_another_volume_brings_its_own_strokes_and_leaves_the_result_behind(a_predicted_hand, a_scene, a_grid):
    first, strokes = (a_predicted_hand.parameters.chosen(role) for role in ("volume", "annotation"))
    other = a_scene.new_volume(np.arange(336, dtype=np.int16).reshape(6, 7, 8), a_grid, "Other")
    a_predicted_hand.live()
    a_predicted_hand.ui.volumeSelector.setCurrentNode(other)
    chosen = a_predicted_hand.parameters.chosen
    assert [chosen(role) for role in ("annotation", "result", "confidence")] == [None, None, None]
    assert a_predicted_hand.predict().phase is Phase.DONE
    assert chosen("result").GetName() == "Other segmentation"
    a_predicted_hand.ui.volumeSelector.setCurrentNode(first)
    assert chosen("annotation") is strokes


def test_a_volume_that_the_user_chooses_is_seen(a_hand, a_volume, a_scene, a_grid):
    view = a_scene.new_node("vtkMRMLSliceCompositeNode")
    other = a_scene.new_volume(np.arange(336, dtype=np.int16).reshape(6, 7, 8), a_grid, "Other")
    a_hand.live()
    assert view.GetBackgroundVolumeID() is None
    a_hand.ui.volumeSelector.setCurrentNode(other)
    assert view.GetBackgroundVolumeID() == other.GetID()


def test_a_volume_that_gets_another_name_is_not_shown_anew(a_hand, a_volume, a_scene):
    a_hand.ui.volumeSelector.setCurrentNode(None)
    a_hand.ui.volumeSelector.setCurrentNode(a_volume)
    view = a_scene.new_node("vtkMRMLSliceCompositeNode")
    a_hand.ui.volumeSelector.currentNodeIDChanged.emit(a_volume.GetID())  # as the true one does then
    assert view.GetBackgroundVolumeID() is None


def test_volumes_of_the_same_name_are_told_apart(a_hand, a_volume, a_scene, a_grid):
    twin = a_scene.new_volume(np.ones((6, 7, 8), np.int16), a_grid, a_volume.GetName())
    a_hand.live()
    combo = a_hand.ui.volumeSelector._combo
    combo.setCurrentIndex(combo.findData(twin.GetID()))
    combo.activated.emit(combo.currentIndex())
    assert a_hand.parameters.chosen("volume") is twin


def test_voxels_that_come_later_are_noticed(a_hand, a_scene, a_grid):
    volume = a_scene.new_node("vtkMRMLScalarVolumeNode", "Late")
    a_hand.live()
    a_hand.press("newStrokesButton")
    assert "has no voxels" in a_hand.reason("trainButton")
    volume.SetAndObserveImageData(a_scene.new_volume(np.ones((6, 7, 8), np.int16), a_grid).GetImageData())
    a_hand.live()
    assert "has no voxels" not in a_hand.reason("trainButton")


def test_a_region_that_is_moved_off_the_volume_is_noticed(a_hand, strokes_in_panel):
    a_hand.press("newRegionButton")
    assert a_hand.reason("trainButton") == ""
    a_hand.parameters.chosen("region").SetCenterWorld(1e4, 0, 0)
    a_hand.live()
    assert "The region holds no voxel" in a_hand.reason("trainButton")


def test_confidences_are_no_volumes_to_segment_and_strokes_no_results_to_replace(a_predicted_hand):
    confidence, strokes = (a_predicted_hand.parameters.chosen(role) for role in ("confidence", "annotation"))
    a_predicted_hand.live()
    for name, node in (("volumeSelector", confidence), ("resultSelector", strokes)):
        selector = getattr(a_predicted_hand.ui, name)
        before = selector.currentNode()
        selector.setCurrentNode(node)
        assert selector.currentNode() is None
        selector.setCurrentNode(before)


def test_a_segmentation_that_is_no_result_is_refused_before_anything_is_computed(a_trained_hand, a_scene):
    other = a_scene.new_segmentation(a_trained_hand.parameters.chosen("volume"), "From elsewhere")
    other.GetSegmentation().AddEmptySegment("", "bone")
    a_trained_hand.parameters.choose("result", other)
    a_trained_hand.live()
    assert "is no earlier result" in a_trained_hand.reason("predictButton")


def test_strokes_that_the_user_leaves_are_not_chosen_again(a_hand, strokes_in_panel):
    a_hand.ui.annotationSelector.setCurrentNode(None)
    a_hand.live()
    assert a_hand.parameters.chosen("annotation") is None


def test_no_other_node_takes_the_place_of_one_that_is_deleted(a_predicted_hand, a_scene):
    a_scene.mrml.RemoveNode(a_predicted_hand.parameters.chosen("annotation"))
    a_predicted_hand.live()
    assert a_predicted_hand.parameters.chosen("annotation") is None
    assert a_predicted_hand.ui.annotationSelector.currentNode() is None


def test_rules_are_applied_to_the_result_and_taken_back(a_predicted_hand):
    from VolumeSegmanticsSlicer.segmentations import labels_of

    volume, result = (a_predicted_hand.parameters.chosen(role) for role in ("volume", "result"))
    before = labels_of(result, volume).array
    assert a_predicted_hand.reason("constrainButton") == "Write a rule first."
    a_predicted_hand.ui.rulesLineEdit.setText("mend it")
    a_predicted_hand.live()
    assert "mend" in a_predicted_hand.reason("constrainButton")
    a_predicted_hand.ui.rulesLineEdit.setText("min-size bright 100000")
    a_predicted_hand.live()
    a_predicted_hand.press("constrainButton")
    assert a_predicted_hand.wait_for_the_end().phase is Phase.DONE, a_predicted_hand.status
    assert a_predicted_hand.status == f"The rules hold. {(before == 2).sum()} voxels have changed."
    assert not (labels_of(result, volume).array == 2).any()
    a_predicted_hand.press("undoConstrainButton")
    np.testing.assert_array_equal(labels_of(result, volume).array, before)
    assert a_predicted_hand.status == "The result is what it was before the rules."
    assert "No rules were applied" in a_predicted_hand.reason("undoConstrainButton")


def test_rules_come_back_with_the_scene(a_hand, a_scene, tmp_path):
    a_hand.ui.rulesLineEdit.setText("min-size bright 7")
    file = a_scene.save(tmp_path / "scene.mrml")
    a_scene.mrml.Clear(0)
    a_hand.live()
    assert a_hand.ui.rulesLineEdit.text() == ""
    a_scene.open(file)
    a_hand.live(0.5)
    assert a_hand.ui.rulesLineEdit.text() == "min-size bright 7"


def test_a_file_that_was_never_loaded_is_segmented_beside_it(a_trained_hand, a_folder, monkeypatch, an_image_file):
    import qt

    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *_: (str(an_image_file), ""))
    before = a_trained_hand.scene.mrml.GetNumberOfNodes()
    a_trained_hand.press("predictFileButton")
    assert a_trained_hand.wait_for_the_end().phase is Phase.DONE, a_trained_hand.status
    result = an_image_file.with_name("big segmentation.seg.nrrd")
    assert result.is_file()
    assert str(result) in a_trained_hand.status
    assert a_trained_hand.scene.mrml.GetNumberOfNodes() == before


def test_a_folder_that_was_never_loaded_is_segmented_beside_it(a_trained_hand, a_folder, a_grid, monkeypatch):
    import qt

    from VolumeSegmanticsLib import io
    from VolumeSegmanticsLib.volume import Volume

    store = io.write_volume(a_folder / "scan.zarr", Volume(np.arange(336, dtype=np.int16).reshape(6, 7, 8), a_grid))
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *_: str(store))
    a_trained_hand.press("predictFolderButton")
    assert a_trained_hand.wait_for_the_end().phase is Phase.DONE, a_trained_hand.status
    assert (a_folder / "scan segmentation.seg.nrrd").is_file()


@pytest.fixture
def an_image_file(a_folder, a_grid):
    from VolumeSegmanticsLib import io
    from VolumeSegmanticsLib.volume import Volume

    return io.write_volume(a_folder / "big.nrrd", Volume(np.arange(336, dtype=np.int16).reshape(6, 7, 8), a_grid))


def test_the_quick_preset_is_seen_before_there_is_a_volume(a_hand):
    assert a_hand.ui.presetComboBox.currentData() == "quick"


def test_a_scene_begins_with_the_quick_preset_and_remembers_another_one(a_hand, a_scene, a_grid, tmp_path):
    a_scene.new_volume(np.zeros((6, 7, 8), np.uint8), a_grid, "First")
    a_hand.live()
    assert a_hand.ui.presetComboBox.currentText() == "Quick"
    assert a_hand.parameters.settings(TrainSettings).model == "local"
    a_hand.choose("presetComboBox", "balanced")
    file = a_scene.save(tmp_path / "scene.mrml")
    a_scene.mrml.Clear(0)
    a_scene.open(file)
    a_hand.live(0.5)
    assert a_hand.ui.presetComboBox.currentText() == "Balanced"


def test_the_preset_and_the_form_below_advanced_are_the_same_settings(a_hand):
    a_hand.choose("presetComboBox", "thorough")
    assert a_hand.parameters.settings(TrainSettings).model == "unet25d"
    a_hand.setting("train.epochs").setValue(7)
    assert a_hand.parameters.settings(TrainSettings).epochs == 7
    assert a_hand.ui.presetComboBox.currentText() == "As set under Advanced"
    a_hand.press("defaultsButton")
    assert a_hand.ui.presetComboBox.currentText() == "Balanced"
    assert a_hand.parameters.settings(TrainSettings) == TrainSettings()


def test_settings_that_a_model_does_not_have_are_off_and_fall_back(a_hand):
    a_hand.choose("presetComboBox", "balanced")
    a_hand.setting("train.epochs").setValue(7)
    assert "unet2d has no such setting" in a_hand.setting("train.members").toolTip()
    a_hand.setting("train.model").setCurrentIndex(a_hand.setting("train.model").findData("local"))
    assert a_hand.parameters.settings(TrainSettings) == TrainSettings(model="local")
    assert not a_hand.setting("train.epochs").isEnabled()
    assert a_hand.setting("train.members").isEnabled()


def test_a_setting_that_cannot_be_is_told_and_taken_back(a_hand):
    a_hand.setting("train.axes").setText("zz")
    a_hand.setting("train.axes").editingFinished.emit()
    assert 'The setting axes is "zz"' in a_hand.status
    assert a_hand.setting("train.axes").text() == "all"


def test_views_and_unpainted_are_kept_with_the_scene(a_hand):
    a_hand.choose("qualityComboBox", "high")
    a_hand.choose("unpaintedComboBox", "background")
    assert a_hand.parameters.settings(PredictSettings).quality == "high"
    assert a_hand.parameters.settings(TrainSettings).unpainted == "background"


def test_the_device_belongs_to_the_computer_and_not_to_the_scene(a_hand, strokes_in_panel):
    a_hand.choose("deviceComboBox", "cpu")
    assert a_hand.parameters.settings(TrainSettings).device == "auto"
    a_hand.train()
    assert '"device": "cpu"' in (a_hand.state.folder / "job.json").read_text()


def test_what_a_script_chooses_is_shown(a_hand, a_volume):
    a_hand.parameters.keep(PredictSettings(quality="low"))
    a_hand.live()
    assert a_hand.ui.qualityComboBox.currentData() == "low"


def test_models_are_deleted_only_when_the_user_says_so(a_trained_hand):
    answers = [False, True]
    a_trained_hand.widget.panel.confirm = lambda question: answers.pop(0)
    model = a_trained_hand.parameters.model_path
    a_trained_hand.press("clearModelsButton")
    assert model.is_file()
    a_trained_hand.press("clearModelsButton")
    assert not model.exists()
    assert "does not exist" in a_trained_hand.reason("predictButton")


def test_an_external_python_that_is_not_there_is_refused(a_hand):
    a_hand.ui.pythonLineEdit.setText("/nowhere/python")
    a_hand.ui.pythonLineEdit.editingFinished.emit()
    assert "There is no program" in a_hand.status
    assert a_hand.ui.pythonLineEdit.text() == ""


def test_nothing_is_left_once_the_module_is_cleaned_up(a_hand, strokes_in_panel, a_quick_starter):
    a_quick_starter.behaviour = "report forever"
    a_hand.press("trainButton")
    a_hand.live(0.2)
    a_hand.widget.cleanup()
    assert psutil.Process().children(recursive=True) == []
    assert a_hand.ui.segmentEditor.node is None


def test_leaving_the_module_puts_the_tools_away_and_lets_the_job_go_on(a_hand, strokes_in_panel, a_quick_starter):
    a_quick_starter.behaviour = "report forever"
    a_hand.ui.segmentEditor.setActiveEffectByName("Paint")
    a_hand.press("trainButton")
    a_hand.widget.exit()
    a_hand.live(0.2)
    assert a_hand.ui.segmentEditor.activeEffect() is None
    assert a_hand.state.is_running
    a_hand.widget.enter()
    assert a_hand.ui.segmentEditor.segmentation is strokes_in_panel


@pytest.fixture
def a_main_window(a_desktop, monkeypatch):
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: object())


def test_tools_have_their_keys_while_there_are_strokes_and_the_user_is_here(a_main_window, a_hand, strokes_in_panel):
    assert a_hand.ui.segmentEditor.shortcuts
    a_hand.ui.annotationSelector.setCurrentNode(None)
    assert not a_hand.ui.segmentEditor.shortcuts
    a_hand.ui.annotationSelector.setCurrentNode(strokes_in_panel)
    assert a_hand.ui.segmentEditor.shortcuts
    a_hand.widget.exit()
    assert not a_hand.ui.segmentEditor.shortcuts
    a_hand.live()
    assert not a_hand.ui.segmentEditor.shortcuts
    a_hand.widget.enter()
    assert a_hand.ui.segmentEditor.shortcuts


def test_without_a_main_window_tools_have_no_keys(a_hand, strokes_in_panel):
    assert not a_hand.ui.segmentEditor.shortcuts


def test_an_editor_that_has_gone_astray_is_brought_back(a_hand, strokes_in_panel, a_scene):
    other = a_scene.new_segmentation(a_hand.parameters.chosen("volume"), "Other")
    a_hand.ui.segmentEditor.setSegmentationNode(other)  # as the true one does by itself at the end of an import
    a_hand.widget.panel.mark_stale()
    a_hand.live()
    assert a_hand.ui.segmentEditor.segmentation is strokes_in_panel


def test_a_worker_that_talks_without_end_does_not_hold_the_panel_up(a_hand, strokes_in_panel, a_quick_starter):
    a_quick_starter.behaviour = "report forever"
    a_hand.press("trainButton")
    a_hand.live(1.0)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        a_hand.widget.panel.tick()
        times.append(time.perf_counter() - start)
    assert sorted(times)[-3] < 0.1, times
    a_hand.press("trainButton")
    a_hand.wait_for_the_end()


@pytest.fixture
def a_preview_file(a_volume, tmp_path):
    from VolumeSegmanticsSlicer.nodes import grid_of

    from VolumeSegmanticsLib import io
    from VolumeSegmanticsLib.classes import LabelClass
    from VolumeSegmanticsLib.volume import LabelMap

    grid = grid_of(a_volume)
    labels = LabelMap(np.ones(grid.shape, np.uint8), grid, (LabelClass(1, "Class 1"),))
    return io.write_labels(tmp_path / "preview.seg.nrrd", labels)


def test_a_preview_is_seen_while_it_trains_and_gone_afterwards(
    a_hand, strokes_in_panel, a_quick_starter, a_preview_file
):
    a_quick_starter.behaviour = "report forever"
    a_hand.press("trainButton")
    a_hand.live()
    runner = a_hand.workflow._runner
    runner.state = dataclasses.replace(runner.state, preview=str(a_preview_file))
    a_hand.wait_until(lambda: a_hand.scene.named("Scan preview"))
    assert a_hand.scene.named("Scan preview").GetHideFromEditors()
    a_hand.press("trainButton")
    a_hand.wait_for_the_end()
    assert a_hand.scene.named("Scan preview") is None


def test_without_the_wish_for_previews_there_are_none(a_hand, strokes_in_panel, a_quick_starter, a_preview_file):
    a_quick_starter.behaviour = "report forever"
    a_hand.ui.previewCheckBox.setChecked(False)
    a_hand.press("trainButton")
    runner = a_hand.workflow._runner
    runner.state = dataclasses.replace(runner.state, preview=str(a_preview_file))
    a_hand.live(0.3)
    assert a_hand.scene.named("Scan preview") is None
    a_hand.press("trainButton")
    a_hand.wait_for_the_end()


def test_a_part_of_a_big_file_is_loaded_and_chosen(a_hand, an_image_file, monkeypatch):
    import qt

    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *_: (str(an_image_file), ""))
    a_hand.press("openBigFileButton")
    assert a_hand.ui.bigFileFrame.isVisibleTo(a_hand.widget.ui_root)
    assert "6 × 7 × 8 voxels of int16" in a_hand.ui.bigFileLabel.text()
    a_hand.ui.bigFileZFromSpinBox.setValue(2)
    a_hand.ui.bigFileStepSpinBox.setValue(2)
    assert "Loads 2 × 4 × 4 voxels" in a_hand.ui.bigFileSizeLabel.text()
    a_hand.press("loadBigFileButton")
    assert not a_hand.ui.bigFileFrame.isVisibleTo(a_hand.widget.ui_root)
    assert a_hand.parameters.chosen("volume").GetImageData().GetDimensions() == (4, 4, 2)
    assert a_hand.status == "big part 1:2 is loaded."


def test_a_folder_is_a_big_file_too(a_hand, tmp_path, a_grid, monkeypatch):
    import qt

    from VolumeSegmanticsLib import io
    from VolumeSegmanticsLib.volume import Volume

    store = io.write_volume(tmp_path / "scan.zarr", Volume(np.arange(336, dtype=np.int16).reshape(6, 7, 8), a_grid))
    monkeypatch.setattr(qt.QFileDialog, "getExistingDirectory", lambda *_: str(store))
    a_hand.press("openBigFolderButton")
    assert "6 × 7 × 8 voxels of int16" in a_hand.ui.bigFileLabel.text()
    a_hand.press("loadBigFileButton")
    assert a_hand.parameters.chosen("volume").GetName() == "scan"


def test_one_of_several_volumes_in_a_file_is_named_in_its_line(a_hand, tmp_path, monkeypatch):
    import h5py
    import qt

    path = tmp_path / "scan.nxs"
    with h5py.File(path, "w") as file:
        file["raw"], file["clean"] = np.zeros((3, 4, 5), np.uint8), np.zeros((4, 5, 6), np.uint8)
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    a_hand.press("openBigFileButton")
    assert "holds 2 volumes" in a_hand.status
    assert a_hand.reason("loadBigFileButton") == "Name a file that can be read."
    a_hand.ui.bigFileLineEdit.setText(f"{path}:/clean")
    a_hand.ui.bigFileLineEdit.editingFinished.emit()
    assert "4 × 5 × 6 voxels of uint8" in a_hand.ui.bigFileLabel.text()
    a_hand.press("loadBigFileButton")
    assert a_hand.parameters.chosen("volume").GetImageData().GetDimensions() == (6, 5, 4)


def test_the_package_that_reads_a_file_is_offered_when_it_is_opened(a_hand, an_image_file, monkeypatch):
    import qt
    from VolumeSegmanticsSlicer import preparation

    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *_: (str(an_image_file), ""))
    monkeypatch.setattr(preparation, "lacking_for", lambda path: (path,))
    seen = []
    monkeypatch.setattr(preparation, "install_readers", lambda lacking, **_: seen.append(lacking))
    a_hand.press("openBigFileButton")
    assert seen == [(an_image_file,)]
    assert a_hand.reason("loadBigFileButton") == ""


def test_an_empty_box_of_a_big_file_cannot_be_loaded(a_hand, an_image_file, monkeypatch):
    import qt

    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *_: (str(an_image_file), ""))
    a_hand.press("openBigFileButton")
    a_hand.ui.bigFileZFromSpinBox.setValue(5)
    a_hand.ui.bigFileZToSpinBox.setValue(3)
    assert a_hand.reason("loadBigFileButton") == "The box is empty."
    a_hand.widget.panel.mark_stale()
    a_hand.live()
    assert a_hand.reason("loadBigFileButton") == "The box is empty."
    a_hand.press("closeBigFileButton")
    assert not a_hand.ui.bigFileFrame.isVisibleTo(a_hand.widget.ui_root)


def test_a_file_that_is_no_image_is_told_in_a_sentence(a_hand, tmp_path, monkeypatch):
    import qt

    (tmp_path / "notes.txt").write_text("no image")
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *_: (str(tmp_path / "notes.txt"), ""))
    a_hand.press("openBigFileButton")
    assert "Problem:" in a_hand.status
    assert a_hand.reason("loadBigFileButton") == "Name a file that can be read."


def test_packages_are_installed_before_the_first_training_and_train_is_cancel_meanwhile(
    a_hand, strokes_in_panel, monkeypatch
):
    from VolumeSegmanticsSlicer import preparation

    seen = []

    def install(lacking, *, report, breathe, **_):
        report("Installing torch")
        a_hand.widget.panel.tick()
        seen.append((a_hand.ui.trainButton.text(), a_hand.reason("predictFileButton"), a_hand.status))
        a_hand.ui.trainButton.click()
        breathe()

    monkeypatch.setattr(preparation, "missing", lambda *_, **__: ("torch",))
    monkeypatch.setattr(preparation, "install", install)
    a_hand.press("trainButton")
    assert seen == [("Cancel", "Python packages are being installed.", "Installing torch")]
    assert "Cancelled" in a_hand.status
    assert a_hand.reason("trainButton") == ""
    assert a_hand.state.phase is Phase.IDLE


def test_closing_the_scene_ends_the_search_for_packages(a_hand, strokes_in_panel, monkeypatch):
    from VolumeSegmanticsSlicer import preparation

    def missing(python, *, breathe):
        a_hand.scene.mrml.Clear(0)
        breathe()

    monkeypatch.setattr(preparation, "missing", missing)
    a_hand.press("trainButton")
    assert "Cancelled" in a_hand.status
    assert a_hand.state.phase is Phase.IDLE


@pytest.mark.parametrize(
    ("button", "cancel"), [("trainAgainButton", "trainButton"), ("predictFileButton", "predictButton")]
)
def test_every_search_for_packages_can_be_cancelled(a_trained_hand, monkeypatch, button, cancel, an_image_file):
    import qt
    from VolumeSegmanticsSlicer import preparation

    def missing(python, *, breathe):
        a_trained_hand.widget.panel.preparation.report("Looking")
        a_trained_hand.widget.panel.tick()
        assert getattr(a_trained_hand.ui, cancel).text() == "Cancel"
        getattr(a_trained_hand.ui, cancel).click()
        breathe()

    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", lambda *_: (str(an_image_file), ""))
    monkeypatch.setattr(preparation, "missing", missing)
    a_trained_hand.widget.panel.preparation._ready.clear()
    a_trained_hand.press(button)
    assert "Cancelled" in a_trained_hand.status
