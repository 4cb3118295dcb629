from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from VolumeSegmanticsLib import api, training
from VolumeSegmanticsLib.checkpoint import Checkpoint
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.dataset import CropShape, CropSource, Example
from VolumeSegmanticsLib.errors import Cancelled, ModelError
from VolumeSegmanticsLib.events import EpochEnded, Log, Progress
from VolumeSegmanticsLib.intensity import Intensity
from VolumeSegmanticsLib.losses import LOSSES
from VolumeSegmanticsLib.metrics import Scores
from VolumeSegmanticsLib.models import Model
from VolumeSegmanticsLib.slicing import HoldOut, Slab
from VolumeSegmanticsLib.training import JOINING_PART, Clock, Trainer, clock_total
from VolumeSegmanticsLib.volume import UNLABELLED, LabelMap, Volume


@pytest.fixture
def train(tiny_settings):
    """Train with tiny settings; single ones may differ."""

    def run(images, labels, **changes):
        return api.train(images, labels, settings=tiny_settings, **changes)

    return run


@pytest.fixture
def a_trainer(a_scene, a_tiny_model, tiny_settings):
    """Make a trainer on the labelled slices of the scene; the slab that validates is held out for good, or borrowed."""

    def make(*, for_good=True, is_pretrained=False, checkpoint=None, report=print, **changes):
        settings = replace(tiny_settings, **changes)
        labels = a_scene.slices
        example = Example(Volume.of(a_scene.image), labels, "zyx")
        hold_out = HoldOut((Slab(0, 0, 9),), for_good)
        source = CropSource([example], hold_out, Intensity.measure([example.image]), CropShape(32))
        return Trainer(
            a_tiny_model, source, settings, is_pretrained=is_pretrained, checkpoint=checkpoint, report=report
        )

    return make


def weights_of(trained) -> dict[str, torch.Tensor]:
    return copy.deepcopy(trained.model.network.state_dict())


def are_equal(one, other) -> bool:
    return one.keys() == other.keys() and all(tensor.equal(other[name]) for name, tensor in one.items())


# Learning -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_loss_falls_and_the_result_is_right_nearly_everywhere(a_scene, train):
    trained = train(a_scene.image, a_scene.slices, epochs=12, crops_per_epoch=48)
    losses = [epoch["train_loss"] for epoch in trained.card.history]
    assert losses[-1] < 0.5 * losses[0]
    labels = api.predict(a_scene.image, trained).labels.array
    assert np.mean(labels == a_scene.truth) > 0.95
    assert trained.card.scores["mean_dice"] > 0.8


def test_runs_of_one_seed_repeat_exactly(a_scene, train):
    data = (a_scene.image, a_scene.slices)
    one, again = (train(*data, learning_rate=0.0) for _ in range(2))
    other = train(*data, seed=1)
    assert are_equal(weights_of(one), weights_of(again))
    assert one.card.history == again.card.history
    assert not are_equal(weights_of(one), weights_of(other))


def test_another_seed_begins_with_other_weights(a_scene, train):
    one, other = (train(a_scene.image, a_scene.slices, epochs=1, learning_rate=1e-9, seed=seed) for seed in (0, 1))
    assert not are_equal(weights_of(one), weights_of(other))


INPUTS = {
    "full slices": lambda s: (s.image, s.slices, {}),
    "strokes": lambda s: (s.image, s.strokes, {}),
    "a whole cube": lambda s: (s.image, s.truth, {}),
    "a single slice": lambda s: (s.image[:1], s.truth[:1], {}),
    "a single slice across": lambda s: (s.image[:, :, 18:19], s.truth[:, :, 18:19], {}),
    "unrelated slices": lambda s: (s.image[[3, 17, 9]], s.truth[[3, 17, 9]], {"axes": "z"}),
    "one plane in a volume": lambda s: (s.image, np.where(np.arange(36) == 18, s.truth, np.uint8(255)), {}),
    "several volumes": lambda s: ([s.image, s.image[:9, :33]], [s.slices, s.truth[:9, :33]], {}),
    "neighbours": lambda s: (s.image, s.slices, {"model": "unet25d", "neighbours": 2}),
    "neighbours of a single slice": lambda s: (s.image[:1], s.truth[:1], {"model": "unet25d"}),
    "colours": lambda s: (np.stack([s.image] * 3, axis=3), s.slices, {}),
    "colours and neighbours": lambda s: (np.stack([s.image] * 3, axis=3), s.slices, {"model": "unet25d"}),
    "real numbers with gaps": lambda s: (np.where(s.truth == 1, np.nan, s.image / 7.0), s.truth * s.truth // 2, {}),
    "big-endian": lambda s: (s.image.astype(">i2"), s.slices, {}),
    "no hold-out": lambda s: (s.image, s.slices, {"validation_part": 0.0}),
    "weighted classes": lambda s: (s.image, s.strokes, {"class_weights": "balanced", "loss": "tversky"}),
    "half precision": lambda s: (s.image, s.slices, {"precision": "bfloat16"}),
    "no augmentation": lambda s: (s.image, s.slices, {"augment": "none"}),
    "another decoder": lambda s: (s.image, s.slices, {"architecture": "PSPNet", "batch_size": 2}),
}


@pytest.mark.parametrize("case", INPUTS)
def test_what_can_be_labelled_can_be_learned(case, a_scene, train):
    image, labels, changes = INPUTS[case](a_scene)
    trained = train(image, labels, epochs=1, **changes)
    assert np.isfinite(trained.card.history[0]["train_loss"])
    first = image[0] if isinstance(image, list) else image
    labels = api.predict(first, trained, quality="low").labels
    assert labels.array.shape == first.shape[:3]
    assert set(np.unique(labels.array)) <= {0, 1, 2}


def test_class_values_and_names_reach_the_prediction(a_scene, train):
    names = (LabelClass(3, "Matrix"), LabelClass(10, "Slab"), LabelClass(200, "Rød", (1.0, 0.0, 0.0)))
    values = np.array([3, 10, 200] + [0] * 252 + [UNLABELLED], np.uint8)
    labels = LabelMap.of(values[a_scene.slices], classes=names)
    prediction = api.predict(a_scene.image, train(a_scene.image, labels, epochs=1))
    assert prediction.labels.classes == names
    assert set(np.unique(prediction.labels.array)) <= {3, 10, 200}


# Stopping -----------------------------------------------------------------------------------------------------------


def falling_scores(trainer) -> tuple[float, Scores]:
    """Each epoch scores less than the one before."""
    wrong = 5 * len(trainer.fitted.history)
    confusion = np.array([[100 - wrong, wrong, 0], [0, 100, 0], [0, 0, 100]])
    return 0.5, Scores(trainer.model.card.classes, confusion, np.zeros(3, np.int64))


def test_it_stops_early_and_keeps_the_best_weights(a_trainer, monkeypatch):
    monkeypatch.setattr(Trainer, "_validate", falling_scores)
    kept = []

    def keep_the_first(event) -> None:
        if isinstance(event, EpochEnded) and event.epoch == 1:
            kept.append(copy.deepcopy(trainer.network.state_dict()))

    trainer = a_trainer(report=keep_the_first, epochs=50, patience=2)
    fitted = trainer.run()
    assert [epoch.is_best for epoch in fitted.history] == [True, False, False]
    assert fitted.scores["epoch"] == 1
    learned = dict(trainer.network.named_parameters())  # batch statistics are measured anew
    assert are_equal(learned, {name: kept[0][name] for name in learned})


def test_of_two_equal_scores_the_one_of_the_lower_loss_is_better(a_trainer, monkeypatch):
    losses = iter([0.5, 0.5, 0.3, 0.4])
    confusion, union = np.diag([100, 90, 80]), np.zeros(3, np.int64)
    monkeypatch.setattr(
        Trainer, "_validate", lambda trainer: (next(losses), Scores(trainer.model.card.classes, confusion, union))
    )
    assert [epoch.is_best for epoch in a_trainer(epochs=4).run().history] == [True, False, True, False]


def test_a_diverged_run_is_told_and_not_saved(a_scene, train, tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, "focal", lambda logits, *_: logits.sum() * float("nan"))
    with pytest.raises(ModelError, match=r"diverged in epoch \d") as error:
        train(a_scene.image, a_scene.slices, loss="focal", output=tmp_path / "m.safetensors")
    assert "learning rate" in error.value.hint
    assert not (tmp_path / "m.safetensors").exists()


def test_borrowed_labels_join_when_nothing_gets_better_and_the_run_goes_to_its_end(a_trainer, monkeypatch, heard):
    monkeypatch.setattr(Trainer, "_validate", falling_scores)
    fitted = a_trainer(for_good=False, report=heard.append, epochs=20, patience=1).run()
    assert [epoch.valid_dice is None for epoch in fitted.history[:3]] == [False, False, True]
    assert len(fitted.history) == 2 + round(20 * (1 - JOINING_PART))  # the learning rate still has to fall
    assert fitted.history[-1].learning_rate < 1e-5
    assert any(isinstance(event, Log) and "join" in event.text for event in heard)


@pytest.mark.parametrize("is_spoilt", [True, False])
def test_an_end_that_makes_the_model_worse_is_taken_back(is_spoilt, a_trainer, monkeypatch, heard):
    """Held-out labels that have been learned should be told better than before; if not, something went wrong."""
    trainer = a_trainer(for_good=False, report=heard.append, epochs=12, crops_per_epoch=32)
    step, seen = Trainer._step, []

    def spoil(self, images, labels):
        loss = step(self, images, labels)
        if is_spoilt and self.has_joined:
            for parameter in self.network.parameters():
                parameter.data.zero_()
        return loss

    monkeypatch.setattr(Trainer, "_step", spoil)
    monkeypatch.setattr(Trainer, "_refuse_divergence", lambda self, epoch: seen.append(self.has_joined))
    trainer.run()
    assert seen[-1]
    said = any("made the model worse" in event.text for event in heard if isinstance(event, Log))
    assert said == is_spoilt
    assert trainer._validate()[1].mean_dice > trainer.fitted.scores["mean_dice"] - 0.1


def test_planes_that_are_told_badly_are_left_out_of_predictions(a_trainer, monkeypatch, heard):
    monkeypatch.setattr(training, "dice_of_planes", lambda *_: {"z": 0.95, "y": 0.42, "x": 0.9})
    trainer = a_trainer(report=heard.append, epochs=1)
    trainer.run()
    assert trainer.model.card.axes == "zx"
    said = [event.text for event in heard if isinstance(event, Log) and event.level == "warning"]
    assert any("across y are told badly" in text and "y 0.42" in text for text in said)


def test_planes_that_are_told_well_are_kept(a_trainer):
    trainer = a_trainer(epochs=12, crops_per_epoch=48)
    trainer.run()
    looks = {letter: trainer.source.looks(letter) for letter in "zyx"}
    dice = training.dice_of_planes(looks, trainer._counted, trainer.model.card.classes)
    assert dice.keys() == set("zyx")
    assert min(dice.values()) > 0.7
    assert trainer.model.card.axes == "zyx"


def test_a_time_limit_ends_the_run(a_scene, train):
    trained = train(a_scene.image, a_scene.slices, epochs=10_000, max_minutes=0.02)
    assert 1 <= len(trained.card.history) < 100


def test_however_short_the_time_something_is_learned(a_scene, train):
    """The range test alone takes longer than this."""
    assert len(train(a_scene.image, a_scene.slices, learning_rate=0.0, max_minutes=0.0001).card.history) == 1


def test_progress_counts_up_to_its_total(a_scene, train, heard):
    train(a_scene.image, a_scene.slices, report=heard.append)
    steps = [event for event in heard if isinstance(event, Progress) and event.stage == "train"]
    assert [step.done for step in steps] == list(range(1, 9))
    assert steps[-1].total == 8


def test_a_clock_runs_by_steps_or_by_minutes_whichever_is_sooner():
    now = [100.0]
    clock = Clock(200, minutes=1.0, now=lambda: now[0])
    assert clock.part(50) == 0.25
    now[0] += 45
    assert clock.part(50) == 0.75
    assert clock.eta_seconds(50) == pytest.approx(15)
    assert Clock(200, minutes=1.0, used_seconds=30, now=lambda: now[0]).part(0) == 0.5
    assert Clock(200, minutes=0.0).part(500) == 1.0
    assert clock_total(50, Clock(200, minutes=0.0)) == 200


def test_a_clock_leaves_out_what_lies_between():
    """Step 20 of 100 becomes 70 %; the last 30 % take 30 steps."""
    clock = Clock(100, minutes=0.0)
    clock.go_on_at(0.7, 20)
    assert clock.part(20) == 0.7
    assert clock.part(49) < 1
    assert clock.part(50) == 1.0


# The encoder --------------------------------------------------------------------------------------------------------


@pytest.fixture
def encoder_weights(the_tiny_model, tmp_path):
    path = tmp_path / "encoder.safetensors"
    save_file({n: t.contiguous() for n, t in the_tiny_model.network.encoder.state_dict().items()}, path)
    return path


def encoder_in(state) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if "encoder." in name}


def others_in(state) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if "encoder." not in name}


def first_layer_of(network) -> torch.Tensor:
    return network.encoder.conv1.weight.detach().clone()


@pytest.mark.parametrize(("frozen_part", "rests"), [(1.0, True), (0.0, False)])
def test_a_frozen_encoder_rests_with_its_statistics_while_the_rest_learns(frozen_part, rests, a_trainer):
    trainer = a_trainer(is_pretrained=True, frozen_part=frozen_part, epochs=1)
    before = copy.deepcopy(trainer.network.state_dict())
    trainer.run()
    after = trainer.network.state_dict()
    assert are_equal(encoder_in(before), encoder_in(after)) == rests
    assert not are_equal(others_in(before), others_in(after))


def test_an_encoder_with_weights_of_its_own_is_frozen_first_and_then_learns(a_scene, train, encoder_weights):
    frozen = train(a_scene.image, a_scene.slices, weights=str(encoder_weights), frozen_part=1.0)
    learned = train(a_scene.image, a_scene.slices, weights=str(encoder_weights), frozen_part=0.5)
    random = train(a_scene.image, a_scene.slices, frozen_part=1.0)
    given = first_layer_of(Model.new(frozen.card, size=0, weights=str(encoder_weights)).network)
    assert first_layer_of(frozen.model.network).equal(given)
    assert not first_layer_of(learned.model.network).equal(given)
    assert not first_layer_of(random.model.network).equal(first_layer_of(Model.new(random.card, size=0).network))


def test_the_range_test_leaves_no_trace_in_the_weights(a_trainer, monkeypatch):
    rates = []
    monkeypatch.setattr(training, "range_test", lambda step, **_: rates.extend(step(r) for r in (1e-3, 0.3)) or 1e-3)
    trainer = a_trainer(learning_rate=0.0)
    before = copy.deepcopy(trainer.network.state_dict())
    trainer.optimiser = trainer._new_optimiser()
    assert trainer._found_rate(Clock(100, minutes=0.0)) == 1e-3
    assert are_equal(before, trainer.network.state_dict())
    assert not trainer.optimiser.state
    assert len(rates) == 2


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_that_is_asked_for_is_the_one_that_is_minimised(name, a_trainer):
    assert a_trainer(loss=name).loss is LOSSES[name]


def test_class_weights_are_those_of_the_labels_that_teach(a_trainer):
    trainer = a_trainer(class_weights="balanced")
    voxels = torch.tensor(trainer.source.voxel_counts(3), dtype=torch.float32)
    torch.testing.assert_close(trainer.weights * voxels, (trainer.weights * voxels)[:1].expand(3))


# Interruption -------------------------------------------------------------------------------------------------------


class StopAt:
    """Cancels in the midst of an epoch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, event) -> None:
        if isinstance(event, Progress) and event.stage == "train" and event.done == self.step:
            raise Cancelled


INTERRUPTED = {
    "plain": {},
    "the learning rate found by a test": {"learning_rate": 0.0},
    "a decoder with dropout": {"architecture": "PSPNet"},
    "labels held out for good": {"validation_part": 0.3},
}


@pytest.mark.parametrize("changes", INTERRUPTED.values(), ids=INTERRUPTED)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(changes, a_scene, train, tmp_path, heard):
    labels = a_scene.truth if "validation_part" in changes else a_scene.slices
    data = (a_scene.image, labels)
    whole = train(*data, epochs=3, **changes)
    output = tmp_path / "Mödell.safetensors"
    with pytest.raises(Cancelled):
        train(*data, epochs=3, output=output, report=StopAt(10), **changes)
    assert [path.name for path in tmp_path.iterdir()] == ["Mödell.unfinished.safetensors"]
    resumed = train(*data, epochs=3, output=output, report=heard.append, **changes)
    assert any(isinstance(event, Log) and "where it was interrupted" in event.text for event in heard)
    assert [path.name for path in tmp_path.iterdir()] == ["Mödell.safetensors"]
    assert resumed.card.history == whole.card.history
    assert resumed.card.scores == whole.card.scores
    assert are_equal(weights_of(resumed), weights_of(whole))


def test_an_interrupted_run_remembers_that_it_had_stalled(a_trainer, monkeypatch, tmp_path, a_card):
    monkeypatch.setattr(Trainer, "_validate", falling_scores)

    def run(checkpoint, report=lambda event: None):
        trainer = a_trainer(for_good=False, report=report, checkpoint=checkpoint, epochs=10, patience=1)
        trainer.model.network.load_state_dict(start)
        trainer.model.network.train()
        return trainer.run().history, copy.deepcopy(trainer.network.state_dict())

    start = copy.deepcopy(Model.new(a_card, size=0).network.state_dict())
    monkeypatch.setattr("VolumeSegmanticsLib.checkpoint._WRITING_SHARE", 1e9)
    history, weights = run(None)
    with pytest.raises(Cancelled):
        run(Checkpoint(tmp_path / "c.safetensors", ""), StopAt(14))
    resumed_history, resumed_weights = run(Checkpoint(tmp_path / "c.safetensors", ""))
    assert resumed_history == history
    assert are_equal(resumed_weights, weights)


def test_an_encoder_that_rested_learns_on_after_an_interruption(a_scene, train, encoder_weights, tmp_path):
    changes = {"weights": str(encoder_weights), "frozen_part": 0.5, "epochs": 4}
    whole = train(a_scene.image, a_scene.slices, **changes)
    with pytest.raises(Cancelled):
        train(a_scene.image, a_scene.slices, output=tmp_path / "m.safetensors", report=StopAt(6), **changes)
    resumed = train(a_scene.image, a_scene.slices, output=tmp_path / "m.safetensors", **changes)
    assert are_equal(weights_of(resumed), weights_of(whole))


def test_a_run_with_other_labels_starts_anew(a_scene, train, tmp_path, heard):
    output = tmp_path / "m.safetensors"
    with pytest.raises(Cancelled):
        train(a_scene.image, a_scene.slices, output=output, report=StopAt(6))
    others = a_scene.slices.copy()
    others[2, 0, 0] = 2
    trained = train(a_scene.image, others, output=output, report=heard.append)
    assert len(trained.card.history) == 2
    assert any("starting anew" in event.text for event in heard if isinstance(event, Log))


# Going on from a model ----------------------------------------------------------------------------------------------


def test_a_model_learns_on_from_corrected_labels(a_scene, train):
    first = train(a_scene.image, a_scene.slices)
    second = train(a_scene.image, a_scene.truth, start_from=first, epochs=1, learning_rate=1e-9)
    assert second.card.intensity == first.card.intensity
    for before, after in zip(first.model.network.parameters(), second.model.network.parameters(), strict=True):
        torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-6)


def test_a_class_can_be_added_in_the_second_round(a_scene, train):
    """First slab and rod are one material; the rod is painted apart in the second round."""
    names = (LabelClass(0, "Background"), LabelClass(1, "Solid"))
    together = LabelMap.of(np.where(a_scene.slices == 2, np.uint8(1), a_scene.slices), classes=names)
    apart = LabelMap.of(a_scene.slices, classes=(*names, LabelClass(2, "Rod")))
    first = train(a_scene.image, together)
    second = train(a_scene.image, apart, start_from=first, epochs=1)
    assert [c.name for c in second.card.classes] == ["Background", "Solid", "Rod"]
    third = train(a_scene.image, together, start_from=second, epochs=1)
    assert third.card.classes == second.card.classes  # what was learned stays in the model


@pytest.mark.parametrize(
    ("painted", "loss"), [(np.s_[9], "cross_entropy_dice"), (np.s_[9, 4:7, 2:20], "cross_entropy")]
)
def test_strokes_are_learned_by_cross_entropy_alone(painted, loss, a_scene, a_tiny_model, tiny_settings):
    labels = np.full_like(a_scene.slices, UNLABELLED)
    labels[painted] = np.indices(labels[painted].shape)[0] % 2
    example = Example(Volume.of(a_scene.image), labels, "zyx")
    source = CropSource([example], None, Intensity.measure([example.image]), CropShape(32))
    assert Trainer(a_tiny_model, source, replace(tiny_settings, loss="auto")).loss is LOSSES[loss]


def test_batch_statistics_are_measured_anew_at_the_end(a_trainer):
    trainer = a_trainer(epochs=1)
    trainer.run()
    norms = [module for module in trainer.network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {int(norm.num_batches_tracked) for norm in norms} == {training._SETTLING_BATCHES}
    assert {norm.momentum for norm in norms} == {0.1}
