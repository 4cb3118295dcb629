"""What the scene remembers, through real .mrml and .mrb files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from VolumeSegmanticsLib.settings import EvaluateSettings, PredictSettings, Settings, SimulateSettings, TrainSettings
from VolumeSegmanticsLib.volume import Grid

slicer = pytest.importorskip("slicer", reason="needs slicer-core")

from VolumeSegmanticsSlicer.parameters import PREFIXES, ROLES, Parameters  # noqa: E402

CHANGED = TrainSettings(
    epochs=7, learning_rate=1 / 3, encoder="tu-größer name", augment="flips noise", max_minutes=2.5, axes="zy"
)


@pytest.fixture
def some_parameters(a_scene) -> Parameters:
    return Parameters(a_scene.mrml)


def texts_of(parameters) -> dict:
    return {name: parameters.node.GetParameter(name) for name in parameters.node.GetParameterNames()}


def test_every_settings_class_has_a_prefix():
    ours = {kind for kind in Settings.__subclasses__() if kind.__module__ == Settings.__module__}
    assert set(PREFIXES) == ours - {SimulateSettings}  # a sample is made before there is a scene to remember it


@pytest.mark.parametrize("kind", PREFIXES)
def test_a_new_scene_has_the_defaults(kind, some_parameters):
    assert some_parameters.settings(kind) == kind()
    assert some_parameters.model_path is None
    assert [some_parameters.chosen(role) for role in ROLES] == [None] * len(ROLES)


def test_only_what_was_changed_is_written_down(some_parameters):
    some_parameters.keep(TrainSettings(epochs=7, learning_rate=0.1))
    some_parameters.keep(PredictSettings(quality="high"))
    assert texts_of(some_parameters) == {
        "train.epochs": "7",
        "train.learning_rate": "0.1",
        "predict.quality": "high",
    }


def test_a_value_that_is_its_default_again_is_forgotten(some_parameters):
    some_parameters.keep(TrainSettings(epochs=7, seed=3))
    some_parameters.keep(EvaluateSettings(unpainted="ignore"))
    some_parameters.keep(TrainSettings(seed=3))
    assert texts_of(some_parameters) == {"train.seed": "3", "evaluate.unpainted": "ignore"}


def test_settings_come_back_with_their_types(some_parameters):
    some_parameters.keep(CHANGED)
    again = some_parameters.settings(TrainSettings)
    assert again == CHANGED
    assert {f.name: type(getattr(again, f.name)) for f in dataclasses.fields(again)} == {
        f.name: type(f.default) for f in dataclasses.fields(TrainSettings)
    }


def test_values_that_this_version_cannot_use_are_dropped_with_a_warning(a_scene, heard):
    node = Parameters(a_scene.mrml).node
    stored = {
        "train.epochs": "7",
        "train.batch_size": "0",  # out of range
        "train.from_the_future": "1",
        "train.seed": "many",
        "train.loss": "",
        "predict.quality": "best",
        "other": "kept",
    }
    for name, text in stored.items():
        node.SetParameter(name, text)
    parameters = Parameters(a_scene.mrml, report=heard.append)
    assert parameters.settings(TrainSettings) == TrainSettings(epochs=7)
    assert parameters.settings(PredictSettings) == PredictSettings()
    assert {event.level for event in heard} == {"warning"}
    for name in ("batch_size", "from_the_future", "seed", "loss", "quality"):
        assert sum(f".{name} " in event.text for event in heard) == 1, name
    parameters.keep(TrainSettings(epochs=7))
    assert sorted(texts_of(parameters)) == ["other", "predict.quality", "train.epochs"]


def test_chosen_nodes_are_found_until_they_are_deleted(a_scene, a_volume_node, some_parameters):
    some_parameters.choose("volume", a_volume_node)
    assert some_parameters.chosen("volume") is a_volume_node
    a_scene.mrml.RemoveNode(a_volume_node)
    assert some_parameters.chosen("volume") is None


def test_a_choice_can_be_taken_back(a_volume_node, some_parameters):
    some_parameters.choose("volume", a_volume_node)
    some_parameters.choose("volume", None)
    some_parameters.model_path = Path("/a/b.safetensors")
    some_parameters.model_path = None
    assert some_parameters.chosen("volume") is None
    assert some_parameters.model_path is None


def test_a_scene_has_one_parameter_node_which_slicers_own_logic_finds(a_scene):
    first, second = Parameters(a_scene.mrml).node, Parameters(a_scene.mrml).node
    assert first is second
    assert first is a_scene.mrml.GetSingletonNode("VolumeSegmantics", "vtkMRMLScriptedModuleNode")
    assert first.GetAttribute("ModuleName") == "VolumeSegmantics"


def test_closing_the_scene_forgets_everything(a_scene, a_volume_node, some_parameters):
    some_parameters.keep(CHANGED)
    some_parameters.choose("volume", a_volume_node)
    a_scene.mrml.Clear()
    assert some_parameters.settings(TrainSettings) == TrainSettings()
    assert some_parameters.chosen("volume") is None
    assert some_parameters.node.GetAttribute("ModuleName") == "VolumeSegmantics"


@pytest.fixture
def a_full_scene(a_scene, a_volume_node, some_strokes, some_parameters):
    some_parameters.keep(CHANGED)
    some_parameters.keep(PredictSettings(quality="high"))
    some_parameters.choose("volume", a_volume_node)
    some_parameters.choose("annotation", some_strokes)
    some_parameters.model_path = Path('/Modelle für Ümit/größer & <klein> "neu".safetensors')
    return a_scene


def assert_remembered(scene, volume_node, strokes_node):
    parameters = Parameters(scene.mrml)
    assert parameters.settings(TrainSettings) == CHANGED
    assert parameters.settings(PredictSettings) == PredictSettings(quality="high")
    assert parameters.chosen("volume") is volume_node
    assert parameters.chosen("annotation") is strokes_node
    assert parameters.model_path == Path('/Modelle für Ümit/größer & <klein> "neu".safetensors')


@pytest.mark.parametrize("suffix", [".mrml", ".mrb"])
def test_a_saved_scene_remembers_it_all(suffix, a_full_scene, another_scene, a_folder):
    scene = another_scene.open(a_full_scene.save(a_folder / f"Szene ü{suffix}"))
    assert_remembered(scene, scene.named("Probe größer"), scene.named("strokes"))


def test_nodes_are_found_when_their_ids_change_on_merging(a_full_scene, another_scene, a_folder):
    """Both scenes have a vtkMRMLScalarVolumeNode1: the one that is opened second gets another ID."""
    own = another_scene.new_volume(np.zeros((2, 3, 4), np.uint8), Grid((2, 3, 4)), name="schon da")
    scene = another_scene.merge(a_full_scene.save(a_folder / "Szene ü.mrml"))
    volume = scene.named("Probe größer")
    assert volume.GetID() != own.GetID() == "vtkMRMLScalarVolumeNode1"
    assert_remembered(scene, volume, scene.named("strokes"))
