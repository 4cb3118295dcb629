from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from VolumeSegmanticsLib import api, evaluate, predict
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.errors import Cancelled, SettingsError
from VolumeSegmanticsLib.events import EpochEnded, Log, Progress
from VolumeSegmanticsLib.local_learning import EPOCHS
from VolumeSegmanticsLib.settings import PredictSettings, TrainSettings
from VolumeSegmanticsLib.volume import UNLABELLED, Grid, LabelMap, Volume

QUICK = TrainSettings(model="local", octaves=1, members=2, validation_part=0.5)


@pytest.fixture
def train():
    """Train a small local model; single settings may differ."""

    def run(images, labels, **changes):
        return api.train(images, labels, settings=QUICK, **changes)

    return run


def weights_of(trained) -> dict[str, torch.Tensor]:
    return trained.model.network.state_dict()


def are_equal(one, other) -> bool:
    return one.keys() == other.keys() and all(tensor.equal(other[name]) for name, tensor in one.items())


def test_strokes_give_a_result_that_is_right_nearly_everywhere(a_scene):
    """One of them crosses the edge of matrix and slab, which else looks like the edge of the rod."""
    labels = a_scene.strokes
    labels[12, 10:30, 6:8] = a_scene.truth[12, 10:30, 6:8]
    trained = api.train(a_scene.image, labels, model="local")
    assert evaluate(predict(a_scene.image, trained), a_scene.truth).mean_dice > 0.95
    assert trained.card.scores["mean_dice"] > 0.95
    assert "held out" in trained.card.scores["meaning"]


def test_runs_of_one_seed_repeat_exactly(a_scene, train):
    state = torch.random.get_rng_state()
    one, again = (train(a_scene.image, a_scene.strokes) for _ in range(2))
    other = train(a_scene.image, a_scene.strokes, seed=1)
    assert are_equal(weights_of(one), weights_of(again))
    assert one.card.scores == again.card.scores
    assert not are_equal(weights_of(one), weights_of(other))
    assert torch.random.get_rng_state().equal(state)


def test_unlabelled_voxels_teach_nothing(a_scene, train):
    """Where nobody painted, and far from every stroke, the image may be anything."""
    image, labels = np.tile(a_scene.image, (1, 1, 3)), np.full((24, 40, 108), UNLABELLED)
    labels[:, :, :36] = a_scene.strokes
    other = image.copy()
    other[:, :, 72:] = image[::-1, :, 72:]
    settings = {"rarity": "none"}  # which alone looks at what is unpainted
    assert are_equal(weights_of(train(image, labels, **settings)), weights_of(train(other, labels, **settings)))


INPUTS = {
    "full slices": lambda s: (s.image, s.slices, {}),
    "a whole cube": lambda s: (s.image, s.truth, {}),
    "a single slice": lambda s: (s.image[:1], s.truth[:1], {}),
    "a single slice across": lambda s: (s.image[:, :, 18:19], s.truth[:, :, 18:19], {"octaves": 3}),
    "several volumes": lambda s: ([s.image, s.image[:9, :33]], [s.slices, s.truth[:9, :33]], {}),
    "colours": lambda s: (np.stack([s.image] * 3, axis=3), s.strokes, {}),
    "real numbers with gaps": lambda s: (np.where(s.truth == 1, np.nan, s.image / 7.0), s.truth * s.truth // 2, {}),
    "big-endian": lambda s: (s.image.astype(">i2"), s.slices, {}),
    "no hold-out": lambda s: (s.image, s.slices, {"validation_part": 0.0}),
    "octaves that are tried": lambda s: (s.image, s.slices, {"octaves": 0}),
    "one tiny network": lambda s: (s.image, s.slices, {"members": 1, "width": 2}),
}


@pytest.mark.parametrize("case", INPUTS)
def test_what_can_be_labelled_can_be_learned(case, a_scene, train):
    image, labels, changes = INPUTS[case](a_scene)
    trained = train(image, labels, **changes)
    first = image[0] if isinstance(image, list) else image
    found = predict(first, trained).labels.array
    assert found.shape == first.shape[:3]
    assert set(np.unique(found)) <= {0, 1, 2}
    assert trained.card.settings["octaves"] > 0


def test_one_painted_voxel_a_class_is_enough_to_go_on(a_scene, train):
    labels = np.full_like(a_scene.truth, UNLABELLED)
    labels[5, 2, 3], labels[7, 30, 30] = 0, 1
    trained = train(a_scene.image, labels)
    assert "Not validated" in trained.card.scores["meaning"]


def test_an_anisotropic_volume_is_learned_in_its_own_scale(a_scene, train):
    grid = Grid(a_scene.image[::3].shape, (3.0, 1.0, 1.0))
    volume, truth = Volume(a_scene.image[::3], grid), a_scene.truth[::3]
    labels = np.full_like(truth, UNLABELLED)
    labels[::2] = truth[::2]
    trained = train(volume, LabelMap.of(labels, grid), octaves=2)
    assert evaluate(predict(volume, trained), LabelMap.of(truth, grid)).mean_dice > 0.9


# Rarity -------------------------------------------------------------------------------------------------------------


def named(labels: np.ndarray) -> LabelMap:
    return LabelMap.of(labels, classes=(LabelClass(0, "Matrix"), LabelClass(1, "Slab"), LabelClass(2, "Rod")))


def test_a_rarer_class_is_found_less_often(a_scene, train):
    noisy = a_scene.image + np.random.default_rng(1).normal(0, 60, a_scene.image.shape)
    found = [
        np.count_nonzero(predict(noisy, train(noisy, named(a_scene.strokes), rarity=each)).labels.array == 2)
        for each in ("Rod=0.01", "none", "Rod=100, Matrix=1")
    ]
    assert found[0] > found[1] > found[2]


def test_the_factors_are_told_and_kept(a_scene, train, heard):
    trained = train(a_scene.image, named(a_scene.strokes), rarity="Rod=20, Elf=3", report=heard.append)
    assert trained.card.scores["rarity"] == {"Matrix": 1.0, "Slab": 1.0, "Rod": 20.0}
    assert any(isinstance(event, Log) and '"Elf"' in event.text for event in heard)


# Settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"epochs": 3}, {"axes": "z"}, {"encoder": "resnet18"}, {"loss": "dice"}, {"weights": "somewhere.pth"}]
)
def test_what_only_networks_of_slices_have_is_refused(changes, a_scene):
    with pytest.raises(SettingsError, match="local") as told:
        TrainSettings(model="local", **changes)
    assert told.value.hint


@pytest.mark.parametrize("changes", [{"octaves": 2}, {"members": 8}, {"rarity": "none"}, {"smoothing": 0}])
def test_what_only_the_local_model_has_is_refused_elsewhere(changes):
    with pytest.raises(SettingsError, match="has no setting") as told:
        TrainSettings(**changes)
    assert "use local" in told.value.hint


@pytest.mark.parametrize("rarity", ["", "rare", "Pore", "Pore=", "Pore=0", "Pore=-1", "=3", "Pore=nan", "Pore=inf"])
def test_a_rarity_that_is_none_is_refused(rarity):
    with pytest.raises(SettingsError, match="rarity"):
        TrainSettings(model="local", rarity=rarity)


@pytest.mark.parametrize("changes", [{"quality": "high"}, {"axes": "z"}, {"fusion": "mean"}])
def test_prediction_refuses_what_it_does_not_have(changes, a_scene, train):
    trained = train(a_scene.image, a_scene.strokes)
    with pytest.raises(SettingsError, match="has no setting"):
        predict(a_scene.image, trained, settings=PredictSettings(**changes))


def test_weights_none_is_valid_for_every_model():
    assert TrainSettings(model="local", weights="none").weights == "none"


# Runs ---------------------------------------------------------------------------------------------------------------


def test_a_run_tells_how_far_it_has_come(a_scene, train, heard):
    train(a_scene.image, a_scene.strokes, report=heard.append)
    steps = [event for event in heard if isinstance(event, Progress) and event.stage == "train"]
    assert [step.done for step in steps] == list(range(1, steps[-1].total + 1))
    epochs = [event for event in heard if isinstance(event, EpochEnded)]
    assert [epoch.epoch for epoch in epochs] == list(range(1, EPOCHS + 1))
    assert epochs[-1].train_loss < epochs[0].train_loss


@pytest.mark.parametrize("stage", ["features", "train"])
def test_a_run_can_be_cancelled(stage, a_scene, train, tmp_path):
    threads = torch.get_num_threads()

    def stop(event) -> None:
        if isinstance(event, Progress) and event.stage == stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        train(a_scene.image, a_scene.strokes, output=tmp_path / "m.safetensors", report=stop)
    assert not list(tmp_path.iterdir())
    assert torch.get_num_threads() == threads


def test_going_on_from_a_local_model_is_training_anew_with_its_classes_and_grey_values(a_scene, train):
    first = train(a_scene.image, named(a_scene.strokes), octaves=2)
    plain = TrainSettings(seed=3)  # the model is that of the one to start from
    second = api.train(a_scene.image // 2, named(a_scene.slices), settings=plain, start_from=first)
    assert second.card.model == "local"
    assert second.card.settings["octaves"] == 2
    assert second.card.intensity == first.card.intensity
    assert second.card.classes == first.card.classes
    with pytest.raises(SettingsError, match="octaves = 2, not 1"):
        api.train(a_scene.image, named(a_scene.slices), settings=dataclasses.replace(QUICK), start_from=first)


def test_classes_that_are_painted_no_more_stay_in_the_model(a_scene, train):
    first = train(a_scene.image, named(a_scene.strokes))
    without = np.where(a_scene.slices == 2, np.uint8(UNLABELLED), a_scene.slices)
    second = train(a_scene.image, named(without), start_from=first)
    assert [c.name for c in second.card.classes] == ["Matrix", "Slab", "Rod"]
