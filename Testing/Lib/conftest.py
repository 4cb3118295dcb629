"""Nouns for many tests: a small scene and ways to paint it, a small model, what was reported."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from VolumeSegmanticsLib.card import ModelCard
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.settings import TrainSettings
from VolumeSegmanticsLib.volume import UNLABELLED, LabelMap, Volume

AS_IS = {"low": [0.0], "high": [1.0], "mean": [0.0], "deviation": [1.0]}
"""Grey values 0 … 1 reach the network as they are."""


class Scene:
    """A noisy volume of a dark matrix (0), a grey slab (1) and a bright rod (2), its truth, and ways to paint it."""

    def __init__(self, shape=(24, 40, 36), seed=0) -> None:
        self.truth = np.zeros(shape, np.uint8)
        self.truth[:, shape[1] // 2 :] = 1
        y, x = np.mgrid[: shape[1], : shape[2]]
        self.truth[:, np.hypot(y - shape[1] / 3, x - shape[2] / 2) < shape[1] / 6] = 2
        noise = np.random.default_rng(seed).normal(0, 8, shape)
        self.image = (np.array([60, 120, 200])[self.truth] + noise).clip(0, 255).astype(np.uint8)

    @property
    def slices(self) -> np.ndarray:
        """Labels of every sixth slice, the others unlabelled."""
        labels = np.full_like(self.truth, UNLABELLED)
        labels[2::6] = self.truth[2::6]
        return labels

    @property
    def strokes(self) -> np.ndarray:
        """A few lines in two slices."""
        labels = np.full_like(self.truth, UNLABELLED)
        for z in (6, 15):
            labels[z, :, 17:19] = self.truth[z, :, 17:19]
            labels[z, 3:5, :] = self.truth[z, 3:5, :]
            labels[z, 30:32, 5:30] = self.truth[z, 30:32, 5:30]
        return labels


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def a_scene() -> Scene:
    return Scene()


@pytest.fixture
def a_volume() -> Volume:
    """Every voxel of 6 × 7 × 8 has its own value, 0 … 335."""
    return Volume.of(np.arange(6 * 7 * 8, dtype=np.uint16).reshape(6, 7, 8))


@pytest.fixture(scope="session")
def tiny_settings() -> TrainSettings:
    """Training that takes a second or two."""
    return TrainSettings(
        encoder="resnet18",
        encoder_depth=3,
        weights="none",
        crop_size=32,
        batch_size=4,
        crops_per_epoch=16,
        local_weight=0.0,
        epochs=2,
        learning_rate=1e-3,
    )


@pytest.fixture(scope="session")
def a_card(tiny_settings) -> ModelCard:
    classes = (LabelClass(0, "Background"), LabelClass(2, "Pöre", (1.0, 0.0, 0.0)), LabelClass(5, "Fibre"))
    return ModelCard("unet2d", classes, intensity=AS_IS, settings=tiny_settings.to_dict(), name="a tiny model")


@pytest.fixture(scope="session")
def the_tiny_model(a_card):
    from VolumeSegmanticsLib.models import Model  # only now: torch comes with it

    return Model.new(a_card, size=32)


@pytest.fixture
def a_tiny_model(the_tiny_model):
    """A model of its own for every test."""
    return copy.deepcopy(the_tiny_model)


@pytest.fixture(scope="session")
def write_ball_and_slab():
    """Write a noisy ball and a slab on a grid into a folder, and a local model that has learned them."""

    def write(folder, grid):
        from VolumeSegmanticsLib import io, train

        z, y, x = np.indices(grid.shape)
        truth = ((z - 12) ** 2 + (y - 14) ** 2 + (x - 14) ** 2 < 64).astype(np.uint8)
        truth[:, int(0.7 * grid.shape[1]) :] = 2
        image = (np.array([60, 150, 110])[truth] + np.random.default_rng(3).normal(0, 25, truth.shape)).clip(0, 255)
        labels = np.full_like(truth, UNLABELLED)
        labels[4::6] = truth[4::6]
        volume = io.read_volume(io.write_volume(folder / "image.nrrd", Volume(image.astype(np.uint8), grid)))
        classes = (LabelClass(0, "Matrix"), LabelClass(1, "Ball"), LabelClass(2, "Slab"))
        painted = LabelMap.of(labels, grid, classes)
        train(volume, painted, output=folder / "local.safetensors", model="local", validation_part=0.0)
        return folder

    return write


@pytest.fixture(scope="session")
def limit_and_peak():
    """Return how many bytes a prediction in a process of its own was allowed in all, and how many it took."""

    def measure(image, model, output, *, extra, warm_up, **options):
        script = Path(__file__).parent / "workers" / "predict_and_measure.py"
        words = [str(extra), json.dumps(warm_up), json.dumps(options)]
        done = subprocess.run(
            [sys.executable, script, image, model, output, *words], check=True, stdout=subprocess.PIPE
        )
        return json.loads(done.stdout)

    return measure


@pytest.fixture
def heard() -> list:
    """A list of the events that ``heard.append`` was given as a report."""
    return []
