"""What the panel is made of, each by itself: presets, words, model files, devices, strokes, slices in view, curves."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from VolumeSegmanticsLib.errors import InputError, ResourceError
from VolumeSegmanticsLib.events import EpochEnded, Failed, Finished, WasCancelled
from VolumeSegmanticsLib.settings import TrainSettings
from VolumeSegmanticsLib.volume import Grid

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
from VolumeSegmanticsSlicer import wording  # noqa: E402
from VolumeSegmanticsSlicer.accelerators import ALWAYS, Device, DeviceQuery, cards_in  # noqa: E402
from VolumeSegmanticsSlicer.guidance import least_certain  # noqa: E402
from VolumeSegmanticsSlicer.model_files import free_path, models_in, new_model, remove_models  # noqa: E402
from VolumeSegmanticsSlicer.nodes import grid_of  # noqa: E402
from VolumeSegmanticsSlicer.pace import Pace  # noqa: E402
from VolumeSegmanticsSlicer.parameters import Parameters  # noqa: E402
from VolumeSegmanticsSlicer.preparation import Preparation  # noqa: E402
from VolumeSegmanticsSlicer.presets import CUSTOM, PRESETS, preset_of, with_preset  # noqa: E402
from VolumeSegmanticsSlicer.results import show_labels  # noqa: E402
from VolumeSegmanticsSlicer.segmentations import labels_of  # noqa: E402
from VolumeSegmanticsSlicer.slice_views import new_region, show_place, slice_in_view  # noqa: E402
from VolumeSegmanticsSlicer.states import Phase, State  # noqa: E402
from VolumeSegmanticsSlicer.strokes import choose, choose_what_is_there, new_strokes, strokes_of  # noqa: E402
from VolumeSegmanticsSlicer.user_choices import UserChoices  # noqa: E402

# Presets


@pytest.mark.parametrize("name", PRESETS)
def test_settings_with_a_preset_follow_it(name):
    assert preset_of(with_preset(TrainSettings(), name)) == name


def test_the_defaults_of_the_library_are_the_balanced_preset():
    assert preset_of(TrainSettings()) == "balanced"


def test_a_preset_leaves_the_device_and_what_unpainted_means():
    settings = with_preset(TrainSettings(device="cpu", unpainted="background", loss="focal"), "thorough")
    assert (settings.device, settings.unpainted, settings.loss) == ("cpu", "background", "auto")
    assert preset_of(settings) == "thorough"


def test_going_from_preset_to_preset_leaves_nothing_of_the_first():
    assert with_preset(with_preset(TrainSettings(), "thorough"), "balanced") == TrainSettings()


def test_what_does_not_go_with_a_presets_model_falls_back():
    settings = TrainSettings(model="unet25d", neighbours=3, unpainted="background")
    settings = with_preset(settings, "balanced")
    assert (settings.model, settings.neighbours, settings.unpainted) == ("unet2d", 1, "background")


OTHERS = {"epochs": 13, "encoder": "resnet18", "crop_size": 96, "seed": 7}


@pytest.mark.parametrize("field", OTHERS)
def test_any_other_setting_is_no_presets(field):
    assert preset_of(TrainSettings(**{field: OTHERS[field]})) == CUSTOM


def test_a_setting_that_the_model_of_a_preset_does_not_have_is_no_presets():
    assert preset_of(dataclasses.replace(with_preset(TrainSettings(), "quick"), members=8)) == CUSTOM


# The status line

EPOCH = EpochEnded(3, 0.5, 0.6, 0.75, 1e-3, True)
RUNNING = State(Phase.RUNNING, "train", Path("/job"), "train", 3, 12, Pace(0.25, 90.0), (EPOCH,))
LINES = {
    "Ready.": State(),
    "Training …": State(Phase.RUNNING, "train", Path("/job")),
    "Training: trying learning rates": State(Phase.RUNNING, "train", Path("/job"), "learning rate"),
    "Training: epoch 3, loss 0.500, Dice 0.750, 2 min left": RUNNING,
    "Live mode: writing the result": State(Phase.RUNNING, "live", Path("/job"), "write"),
    "Estimating: trying a few parts": State(Phase.RUNNING, "plan", Path("/job"), "try"),
    "Stopping …": dataclasses.replace(RUNNING, phase=Phase.STOPPING),
    "The model is trained. Best Dice 0.750.": RUNNING.after(Finished()),
    "Too dark. Buy a lamp.": RUNNING.after(Failed("input", "Too dark.", "Buy a lamp.")),
    "The worker died. Is the memory full?": RUNNING.after(
        Failed("worker-died", "The worker died.", "Is the memory full?\nTraceback …\nLog: /a/log.txt")
    ),
    "Stopped; nothing was changed.": RUNNING.after(WasCancelled()),
    "The volume is segmented. It lies there.": State(Phase.DONE, "predict", note="It lies there."),
}


@pytest.mark.parametrize("line", LINES)
def test_a_state_in_words(line):
    assert wording.headline(LINES[line]) == line


@pytest.mark.parametrize(
    ("seconds", "disk", "words"),
    [
        (0.4, 0, "1 s, 1.3 GB of memory"),
        (7260, 64e9, "2 h 01 min, 1.3 GB of memory, 64 GB on the disk until it is done"),
    ],
)
def test_the_cost_of_a_prediction_in_words(seconds, disk, words):
    told = wording.cost({"seconds": seconds, "memory_bytes": 1.3e9, "disk_bytes": disk})
    assert told == f"About {words}; without reading and writing."


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (59, "59 s"), (61, "1 min"), (3599, "1 h 00 min")])
def test_a_time_in_words(seconds, words):
    assert wording.duration(seconds) == words


@pytest.mark.parametrize(
    ("state", "bar"),
    [
        (State(), (0, 1000)),
        (RUNNING, (250, 1000)),
        (State(Phase.RUNNING, "evaluate", Path("/job")), (0, 0)),
        (RUNNING.after(Finished()), (1000, 1000)),
        (RUNNING.after(WasCancelled()), (0, 1000)),
    ],
)
def test_the_bar_of_a_state(state, bar):
    assert wording.bar_of(state) == bar


# Model files


def test_the_newest_model_comes_first_and_unfinished_ones_do_not_count(tmp_path):
    for age, name in enumerate(["b", "a", "c.unfinished"]):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(b"")
        os.utime(path, (1000 - age, 1000 - age))
    assert [path.stem for path in models_in(tmp_path)] == ["b", "a"]
    assert models_in(tmp_path / "none") == []


def test_a_taken_name_gets_a_number(tmp_path):
    for wanted in ("x.safetensors", "x 2.safetensors", "x 3.safetensors"):
        path = free_path(tmp_path, "x")
        assert path.name == wanted
        path.write_bytes(b"")


@pytest.mark.parametrize(("name", "file"), [("", "model"), (" . ", "model"), ("a/b\\c:d", "a_b_c_d"), ("Öl", "Öl")])
def test_a_name_becomes_a_file_name(tmp_path, name, file):
    assert free_path(tmp_path, name).stem == file


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be made"):
        new_model(tmp_path / "file" / "models", "a")


def test_all_models_are_removed_and_nothing_else(tmp_path):
    for name in ("a.safetensors", "b.unfinished.safetensors", "notes.txt"):
        (tmp_path / name).write_text("")
    assert remove_models(tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# Devices


def test_graphics_cards_are_told_by_name_and_memory():
    assert cards_in("NVIDIA H200, 143771\nNVIDIA RTX A2000, 6138\n") == (
        Device("cuda:0", "NVIDIA H200, 140 GB"),
        Device("cuda:1", "NVIDIA RTX A2000, 6 GB"),
    )


def test_without_a_driver_there_are_the_processor_and_a_guess(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    query = DeviceQuery(("no-such-program",))
    assert query.is_over
    assert query.devices() == ALWAYS


def test_the_driver_is_asked_without_waiting_for_it(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    query = DeviceQuery((sys.executable, "-c", "import time; time.sleep(0.2); print('Card, 2048')"))
    assert not query.is_over
    assert query.devices() == ALWAYS
    while not query.is_over:
        pass
    assert query.devices()[2:] == (Device("cuda:0", "Card, 2 GB"),)


def test_a_driver_that_fails_tells_of_nothing():
    query = DeviceQuery((sys.executable, "-c", "print('Error, 1'); raise SystemExit(9)"))
    while not query.is_over:
        pass
    assert len(query.devices()) == len(DeviceQuery(("no-such-program",)).devices())


def test_a_question_can_be_given_up():
    query = DeviceQuery((sys.executable, "-c", "import time; time.sleep(60)"))
    query.close()
    assert query.is_over


# What belongs to the computer


class Memory(dict):
    """In place of QSettings."""

    def value(self, key):
        return self.get(key)

    def setValue(self, key, value):
        self[key] = value


def test_choices_for_the_computer_are_kept():
    memory = Memory()
    user = UserChoices(memory)
    assert (user.device, user.python, user.wants_confidence, user.wants_preview) == ("auto", "", True, True)
    user.device, user.python, user.models_folder = "cuda:1", "/opt/python", Path("/models")
    user.wants_confidence = user.wants_preview = False
    again = UserChoices(memory)
    assert (again.device, again.python, again.models_folder) == ("cuda:1", "/opt/python", Path("/models"))
    assert not again.wants_confidence
    assert not again.wants_preview
    assert all(name.startswith("VolumeSegmantics/") for name in memory)


# Packages


@pytest.fixture
def a_preparation(monkeypatch):
    from VolumeSegmanticsSlicer import preparation

    asked, installed = [], []
    monkeypatch.setattr(preparation, "missing", lambda python, breathe: asked.append(python) or ("torch",))
    monkeypatch.setattr(preparation, "install", lambda lacking, **_: installed.append(lacking))
    made = Preparation(UserChoices(Memory()), confirm=lambda text: True, breathe=lambda: None)
    made.asked, made.installed = asked, installed
    return made


def test_packages_are_looked_for_once_a_session(a_preparation):
    a_preparation.make_ready("train")
    a_preparation.make_ready("train")
    assert (a_preparation.asked, a_preparation.installed) == ([None], [("torch",)])
    assert a_preparation.refusal == ""


def test_a_failed_installation_is_tried_again_and_leaves_nothing_switched_off(a_preparation, monkeypatch):
    from VolumeSegmanticsSlicer import preparation

    def fail(lacking, **_):
        assert "installed" in a_preparation.refusal
        raise ResourceError("The disk is full.")

    monkeypatch.setattr(preparation, "install", fail)
    for _ in range(2):
        with pytest.raises(ResourceError):
            a_preparation.make_ready("train")
        assert a_preparation.refusal == ""
    assert len(a_preparation.asked) == 2


# Strokes


def test_new_strokes_lie_on_the_volumes_voxels_and_have_a_background(a_scene, a_volume_node, a_transform):
    a_volume_node.SetAndObserveTransformNodeID(a_transform.GetID())
    strokes = new_strokes(a_volume_node)
    a_scene.paint(strokes, a_volume_node, "Background", np.s_[2, 3:5, 4])
    labels = labels_of(strokes, a_volume_node)
    assert strokes.GetName() == "Probe größer strokes"
    assert strokes.GetParentTransformNode() is a_transform
    assert (labels.array == 0).sum() == 2
    assert [(c.value, c.name) for c in labels.classes] == [(0, "Background"), (1, "Class 1")] or labels.classes


def test_strokes_are_found_again_but_no_result_is_taken_for_them(a_scene, a_volume_node):
    strokes = new_strokes(a_volume_node)
    show_labels(labels_of(strokes, a_volume_node, unpainted="background"), a_volume_node)
    assert strokes_of(a_volume_node) is strokes
    a_scene.mrml.RemoveNode(strokes)
    assert strokes_of(a_volume_node) is None


def test_a_segmentation_from_elsewhere_stays_chosen_with_another_volume(a_scene, a_volume_node):
    parameters = Parameters(a_scene.mrml)
    choose(parameters, "annotation", a_scene.new_segmentation())
    choose(parameters, "volume", a_volume_node)
    assert parameters.chosen("annotation").GetName() == "strokes"


def test_an_empty_segmentation_is_laid_on_the_volume(a_scene, a_volume_node):
    parameters = Parameters(a_scene.mrml)
    choose(parameters, "volume", a_volume_node)
    empty = a_scene.new_node("vtkMRMLSegmentationNode", "by hand")
    choose(parameters, "annotation", empty)
    assert strokes_of(a_volume_node) is empty


def test_label_maps_and_results_are_no_volumes_to_begin_with(a_scene, a_grid):
    parameters = Parameters(a_scene.mrml)
    array = np.zeros((6, 7, 8), np.int16)
    a_scene.new_volume(array, a_grid, "labels", "vtkMRMLLabelMapVolumeNode")
    confidence = a_scene.new_volume(array, a_grid, "confidence")
    confidence.SetAttribute("VolumeSegmantics.Date", "today")
    choose_what_is_there(a_scene.mrml, parameters)
    assert parameters.chosen("volume") is None
    image = a_scene.new_volume(array, a_grid, "image")
    choose_what_is_there(a_scene.mrml, parameters)
    assert parameters.chosen("volume") is image


def test_strokes_that_come_after_their_volume_are_taken_up(a_scene, a_volume_node):
    parameters = Parameters(a_scene.mrml)
    choose_what_is_there(a_scene.mrml, parameters)
    strokes = a_scene.new_segmentation(a_volume_node)
    choose_what_is_there(a_scene.mrml, parameters)
    assert parameters.chosen("annotation") is strokes


# Slices in view


@pytest.mark.parametrize("axis", "zyx")
def test_the_slice_in_view_is_the_one_that_was_gone_to(a_scene, a_volume_node, a_transform, a_red_view, axis):
    a_volume_node.SetAndObserveTransformNodeID(a_transform.GetID())
    confidence = a_scene.new_volume(np.ones((6, 7, 8), np.uint8), grid_of(a_volume_node), "confidence")
    turn_to(a_red_view, a_volume_node, axis)
    for _ in range(3):
        found = least_certain(confidence, a_volume_node, axis=axis, avoid=())
        show_place(a_scene.mrml, found.position_ras)
        assert slice_in_view(a_scene.mrml, "Red", a_volume_node) == (axis, found.index)


def turn_to(view, volume, axis):
    """Lay a view on the planes of a volume that are perpendicular to an axis."""
    from VolumeSegmanticsSlicer.slice_views import _world_of

    steps = _world_of(volume)[:3, :3]
    order = {"z": (2, 1, 0), "y": (2, 0, 1), "x": (1, 0, 2)}[axis]
    across, along = (steps[:, n] / np.linalg.norm(steps[:, n]) for n in order[:2])
    normal = np.cross(across, along)
    normal /= np.linalg.norm(normal)
    matrix = view.GetSliceToRAS()
    for row in range(3):
        for column, vector in enumerate((across, np.cross(normal, across), normal)):
            matrix.SetElement(row, column, vector[row])
    view.UpdateMatrices()


def test_a_view_that_is_turned_against_the_volume_shows_no_slice_of_it(a_scene, a_volume_node, a_red_view):
    with pytest.raises(InputError, match="turned against the volume"):
        slice_in_view(a_scene.mrml, "Red", a_volume_node)


def test_a_view_beside_the_volume_shows_no_slice_of_it(a_scene, a_red_view):
    volume = a_scene.new_volume(np.zeros((6, 7, 8), np.int16), Grid((6, 7, 8)))
    a_red_view.JumpSlice(0, 0, 7)
    with pytest.raises(InputError, match="beside the volume"):
        slice_in_view(a_scene.mrml, "Red", volume)


def test_without_views_there_is_no_slice_in_view(a_scene, a_volume_node):
    with pytest.raises(InputError, match="no green slice view"):
        slice_in_view(a_scene.mrml, "Green", a_volume_node)


def test_a_new_region_lies_inside_the_volume(a_scene, a_volume_node):
    from VolumeSegmanticsSlicer.accepting import Region

    region = new_region(a_volume_node)
    window = Region.inside_roi(a_volume_node, region).window
    assert region.GetName() == "Probe größer region"
    assert all(part.stop > part.start for part in window)
