"""How much memory labels take while a network learns from them, beside what was read."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from VolumeSegmanticsLib import advice, slicing
from VolumeSegmanticsLib.advice import Advisor
from VolumeSegmanticsLib.augment import Augmentation
from VolumeSegmanticsLib.dataset import CropShape, CropSource
from VolumeSegmanticsLib.intensity import Intensity
from VolumeSegmanticsLib.orientation import is_oriented
from VolumeSegmanticsLib.prediction import Prediction
from VolumeSegmanticsLib.prepare import prepare
from VolumeSegmanticsLib.slicing import hold_out
from VolumeSegmanticsLib.volume import LabelMap, Volume

SIDE = 160
PLAIN = Augmentation(())


def slices() -> np.ndarray:
    """Four slices of classes 1 and 2; 0 is unpainted."""
    labels = np.zeros((SIDE, SIDE, SIDE), np.uint8)
    labels[20::40, : SIDE // 2], labels[20::40, SIDE // 2 :] = 1, 2
    return labels


def strokes() -> np.ndarray:
    """Lines of classes 1 and 2 in a small part of the volume; 0 is unpainted."""
    labels = np.zeros((SIDE, SIDE, SIDE), np.uint8)
    labels[70:90:3, 70, 70:100], labels[70:90:3, 80, 70:100] = 1, 2
    return labels


@pytest.fixture
def an_image() -> Volume:
    """Its voxels take no memory."""
    return Volume.of(np.broadcast_to(np.arange(SIDE, dtype=np.uint8), (SIDE, SIDE, SIDE)))


@pytest.fixture(autouse=True)
def a_local_model_that_takes_no_time(monkeypatch):
    """It says class 2 everywhere; and few of the labelled voxels are listed, as in volumes that are far larger."""

    def told(image, model, settings, **_):
        grid = image.grid
        labels = LabelMap(np.full(grid.shape, 2, np.uint8), grid, model.card.classes)
        return Prediction(labels, np.full(grid.shape, 100, np.uint8))

    class Trainer:
        def __init__(self, prepared, card, settings, report):
            self.card = card

        def run(self):
            return SimpleNamespace(model=SimpleNamespace(card=self.card))

    monkeypatch.setattr(advice, "LocalTrainer", Trainer)
    monkeypatch.setattr(advice, "predict_locally", told)
    monkeypatch.setattr(slicing, "_INDEXED_VOXELS", 1000)


def learn_from(source) -> None:
    source.take_advice()
    source.validation_batches(4)
    assert len(list(source.batches(4, 4, PLAIN, round=1))) == 4


@pytest.mark.parametrize("paint", [slices, strokes])
def test_the_labels_of_a_volume_are_copied_twice_at_most(paint, an_image, a_card, tiny_settings):
    """Once to leave out what is unpainted, and once more while the classes get their numbers in the model."""
    given = paint()
    tracemalloc.start()
    prepared = prepare([an_image], [LabelMap.of(given, unpainted="ignore")])
    labels = [example.labels for example in prepared.examples]
    is_oriented(labels)
    held_out = hold_out(labels, range(len(prepared.classes)), 0.2)
    source = CropSource(prepared.examples, held_out, Intensity((0.0,), (255.0,), (0.5,), (0.3,)), CropShape(32))
    if source.has_strokes_only:
        source.advisor = Advisor(prepared, a_card, tiny_settings, reach=16)
    learn_from(source)
    source.release_held_out()
    learn_from(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held_out is not None
    assert peak < 2.5 * given.size
