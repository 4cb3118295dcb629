"""What a local model adds to strokes, and who hears it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from VolumeSegmanticsLib import advice
from VolumeSegmanticsLib.advice import SURE, Advisor
from VolumeSegmanticsLib.api import _card_to_begin_with, train
from VolumeSegmanticsLib.augment import Augmentation
from VolumeSegmanticsLib.box import Box
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.dataset import ADVISED, Advice, CropShape, CropSource
from VolumeSegmanticsLib.errors import Cancelled
from VolumeSegmanticsLib.events import EpochEnded, Log, Progress
from VolumeSegmanticsLib.intensity import Intensity
from VolumeSegmanticsLib.prepare import prepare
from VolumeSegmanticsLib.slicing import labelled_counts
from VolumeSegmanticsLib.training import Trainer
from VolumeSegmanticsLib.volume import UNLABELLED, LabelMap, Volume

CLASSES = (LabelClass(3, "Matrix"), LabelClass(5, "Slab"), LabelClass(9, "Rod"))
VALUES = np.array([c.value for c in CLASSES], np.uint8)


@pytest.fixture
def thin_strokes(a_scene) -> np.ndarray:
    """The strokes of the scene, painted by a finer brush."""
    labels = a_scene.strokes
    labels[:, 3], labels[:, 31], labels[:, :, 17] = UNLABELLED, UNLABELLED, UNLABELLED
    return labels


@pytest.fixture
def prepared(a_scene):
    painted = a_scene.strokes
    values = np.where(painted == UNLABELLED, painted, VALUES[painted % len(VALUES)])
    labels = LabelMap(values, Volume.of(a_scene.image).grid, CLASSES, "ignore")
    return prepare([Volume.of(a_scene.image)], [labels])


@pytest.fixture
def an_advisor(prepared, tiny_settings, heard) -> Advisor:
    card = _card_to_begin_with(prepared, tiny_settings, None)
    return Advisor(prepared, card, tiny_settings, reach=8, report=heard.append)


# What is advised ----------------------------------------------------------------------------------------------------


def test_advice_is_right_and_goes_beyond_the_strokes(an_advisor, prepared, a_scene, heard):
    """Of a second volume, which has no strokes, nothing is said; and only the progress is told."""
    first = prepared.examples[0]
    second = dataclasses.replace(first, labels=np.full_like(first.labels, UNLABELLED))
    advised, of_the_second = an_advisor([first, second])
    known = advised.labels != UNLABELLED
    assert known.sum() > 5 * (first.labels != UNLABELLED).sum()
    assert np.mean(advised.labels[known] == a_scene.truth[advised.box.window][known]) > SURE / 100
    assert of_the_second is None
    assert {event.stage for event in heard if isinstance(event, Progress)} == {"advice"}
    assert not any(isinstance(event, EpochEnded) for event in heard)


def test_advice_knows_only_the_labels_that_are_shown_and_reaches_no_further_than_asked(an_advisor, prepared):
    """Held-out labels must not come back as advice: without strokes on the rod nothing is taken for a rod."""
    labels = prepared.examples[0].labels.copy()
    labels[labels == 2] = UNLABELLED
    slab = Box((10, 0, 0), labels.shape)
    (advised,) = an_advisor([dataclasses.replace(prepared.examples[0], labels=labels, hidden=(slab,))])
    assert set(np.unique(advised.labels)) == {0, 1, UNLABELLED}
    assert (advised.labels[14] != UNLABELLED).any()
    assert advised.box.stop[0] == 15  # the strokes lie in slice 6, and 8 slices around it are of interest


def test_strokes_that_lie_far_apart_teach_alone(an_advisor, prepared, heard, monkeypatch):
    monkeypatch.setattr(advice, "MOST_VOXELS", 1000)
    assert an_advisor(prepared.examples) == [None]
    assert any("too far apart" in event.text for event in heard if isinstance(event, Log))


# Who hears it -------------------------------------------------------------------------------------------------------


@pytest.fixture
def a_source(prepared) -> CropSource:
    example = prepared.examples[0]
    source = CropSource([example], None, Intensity.measure([example.image]), CropShape(32))
    whole = Box((0, 0, 0), example.labels.shape)
    source.advisor = lambda examples: [Advice(whole, np.ones_like(examples[0].labels))]
    return source


def labels_in(source) -> set[int]:
    return {int(value) for _, labels in source.batches(4, 4, Augmentation(()), round=1) for value in labels.unique()}


def test_advice_is_told_from_the_labels_of_the_user(a_source):
    before = labels_in(a_source)
    assert before == {0, 1, 2, UNLABELLED}
    a_source.take_advice()
    assert labels_in(a_source) == before | {1 + ADVISED}


def test_advice_counts_less_than_labels(a_source, a_tiny_model, tiny_settings):
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 0] = 5.0
    both = torch.tensor([[[0, 0], [UNLABELLED, 1 + ADVISED]]], dtype=torch.uint8)
    strokes = both.masked_fill(both == 1 + ADVISED, UNLABELLED)

    def loss(labels, weight) -> float:
        settings = dataclasses.replace(tiny_settings, local_weight=weight, device="cpu")
        return float(Trainer(a_tiny_model, a_source, settings)._loss_of(logits, labels))

    assert loss(strokes, 0.5) == pytest.approx(loss(strokes, 0.1), abs=1e-6)
    assert loss(both, 0.5) - loss(strokes, 0.5) == pytest.approx(5 * (loss(both, 0.1) - loss(strokes, 0.1)), rel=1e-3)
    assert loss(both, 0.5) > loss(strokes, 0.5) + 1


# In a training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "weight", "is_asked"), [("strokes", 0.3, True), ("strokes", 0.0, False), ("slices", 0.3, False)]
)
def test_advice_is_for_strokes_unless_it_is_not_wanted(
    what, weight, is_asked, a_scene, thin_strokes, tiny_settings, heard
):
    labels = {"strokes": thin_strokes, "slices": a_scene.slices}[what]
    settings = dataclasses.replace(tiny_settings, epochs=1, local_weight=weight)
    train(a_scene.image, labels, settings=settings, report=heard.append)
    assert any(event.stage == "advice" for event in heard if isinstance(event, Progress)) == is_asked


def test_held_out_strokes_are_asked_about_only_when_they_have_joined(a_scene, thin_strokes, tiny_settings, monkeypatch):
    asked = []

    def ask(self, examples):
        asked.extend(labelled_counts(example.labels, example.hidden)[0].sum() for example in examples)
        return [None] * len(examples)

    monkeypatch.setattr(Advisor, "__call__", ask)
    train(
        a_scene.image,
        thin_strokes,
        settings=dataclasses.replace(tiny_settings, epochs=4, validation_part=0.3, local_weight=0.3),
    )
    first, second = asked
    assert first < second == (thin_strokes != UNLABELLED).sum()


def test_stop_is_heard_while_advice_is_being_made(a_scene, thin_strokes, tiny_settings, tmp_path):
    def stop(event):
        if isinstance(event, Progress) and event.stage == "advice":
            raise Cancelled

    with pytest.raises(Cancelled):
        train(
            a_scene.image,
            thin_strokes,
            output=tmp_path / "m.safetensors",
            settings=dataclasses.replace(tiny_settings, local_weight=0.3),
            report=stop,
        )
    assert not (tmp_path / "m.safetensors").exists()
