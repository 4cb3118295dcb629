from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from VolumeSegmanticsLib import api, cli, io, local_prediction
from VolumeSegmanticsLib.box import Box
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.errors import Cancelled, ModelError
from VolumeSegmanticsLib.events import Log, Progress
from VolumeSegmanticsLib.local_prediction import LocalPredictor, predict_locally
from VolumeSegmanticsLib.volume import Grid, LabelMap, Volume


@pytest.fixture(scope="module")
def a_scene_to_learn():
    """A ball, a slab and noise; all sides multiples of 4."""
    z, y, x = np.mgrid[:24, :32, :40]
    truth = ((z - 12) ** 2 + (y - 14) ** 2 + (x - 14) ** 2 < 64).astype(np.uint8)
    truth[:, 26:] = 2
    noise = np.random.default_rng(3).normal(0, 25, truth.shape)
    return (np.array([60, 150, 110])[truth] + noise).clip(0, 255).astype(np.uint8), truth


@pytest.fixture(scope="module")
def a_local_model(a_scene_to_learn):
    image, truth = a_scene_to_learn
    labels = np.full_like(truth, 255)
    labels[4::6] = truth[4::6]
    classes = (LabelClass(0, "Matrix"), LabelClass(1, "Ball"), LabelClass(2, "Slab"))
    return api.train(image, LabelMap.of(labels, classes=classes), model="local", octaves=2, validation_part=0.0).model


def probabilities(image: np.ndarray, model, spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    volume = Volume(image, Grid(image.shape[:3], spacing))
    whole = Box((0, 0, 0), image.shape[:3])
    return LocalPredictor(model, volume, torch.device("cpu")).probabilities(whole).numpy()


SYMMETRIES = [
    (order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((False, True), repeat=3)
]


def turned(array: np.ndarray, order, flips) -> np.ndarray:
    return np.flip(array.transpose(order), [axis for axis in range(3) if flips[axis]])


def test_a_turned_volume_gives_the_same_result_turned(a_local_model, a_scene_to_learn):
    image, _ = a_scene_to_learn
    straight = predict_locally(Volume.of(image), a_local_model, confidence=True)
    for order, flips in SYMMETRIES:
        found = predict_locally(Volume.of(turned(image, order, flips)), a_local_model, confidence=True)
        same = found.labels.array == turned(straight.labels.array, order, flips)
        assert same.mean() > 0.9999
        difference = found.confidence.astype(int) - turned(straight.confidence, order, flips)
        assert np.abs(difference).max() <= 1


def test_a_volume_of_odd_sides_is_turned_nearly_so(a_local_model, a_scene_to_learn):
    image = a_scene_to_learn[0][:23, :31, :37]
    straight = predict_locally(Volume.of(image), a_local_model).labels.array
    for order, flips in SYMMETRIES[::7]:
        found = predict_locally(Volume.of(turned(image, order, flips)), a_local_model).labels.array
        assert np.mean(found == turned(straight, order, flips)) >= 0.995


@pytest.mark.parametrize("side", [8, 12, 20])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0)])
def test_boxes_give_what_the_whole_gives(side, spacing, a_local_model, a_scene_to_learn, monkeypatch):
    image = Volume(a_scene_to_learn[0][:21, :30], Grid((21, 30, 40), spacing))
    whole = predict_locally(image, a_local_model, confidence=True)
    monkeypatch.setattr(local_prediction, "BOX_SIDE", side)
    parts = predict_locally(image, a_local_model, confidence=True)
    assert np.mean(parts.labels.array == whole.labels.array) > 0.9999
    assert np.abs(parts.confidence.astype(int) - whole.confidence).max() <= 1


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_answer_and_are_given_back(threads, a_local_model, a_scene_to_learn, monkeypatch):
    image, truth = a_scene_to_learn
    monkeypatch.setattr(local_prediction, "BOX_SIDE", 16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = predict_locally(Volume.of(image), a_local_model)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.mean(found.labels.array == truth) > 0.97


def test_every_voxel_is_in_one_box(a_local_model):
    volume = Volume.of(np.zeros((7, 300, 129), np.uint8))
    seen = np.zeros(volume.grid.shape, int)
    for box in LocalPredictor(a_local_model, volume, torch.device("cpu")).boxes():
        seen[box.window] += 1
        assert all(start % 4 == 0 for start in box.start[1:])
    assert (seen == 1).all()


def test_probabilities_sum_to_one_and_confidence_is_that_of_the_winner(a_local_model, a_scene_to_learn):
    image, _ = a_scene_to_learn
    found = probabilities(image, a_local_model)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-4)
    prediction = predict_locally(Volume.of(image), a_local_model, confidence=True)
    np.testing.assert_array_equal(prediction.labels.array, found.argmax(axis=0))
    assert np.abs(prediction.confidence - 100 * found.max(axis=0).clip(0, 1)).max() <= 0.51


def test_smoothing_takes_specks_away_and_brings_edges_to_those_of_the_image():
    """The image has its edge at 10; the probabilities have theirs at 11, and a speck where the image is even."""
    guide = torch.zeros(1, 16, 16, 20)
    guide[..., 10:] = 1
    second = torch.zeros(16, 16, 20)
    second[..., 11:] = 1
    second[8, 8, 5] = 1
    smooth, inner = local_prediction._guided(torch.stack([1 - second, second]), guide, (True, True, True), 0.002)
    assert smooth.shape == (2, 8, 8, 12)
    torch.testing.assert_close(smooth.sum(dim=0), torch.ones(8, 8, 12))
    found = smooth[1] > 0.5
    assert found[:, :, :6].sum() == 0
    assert found[:, :, 7:].all()
    assert inner.equal(guide[:, 4:-4, 4:-4, 4:-4])


def test_the_number_of_rounds_is_that_of_the_model(a_local_model, a_scene_to_learn):
    sure = []
    for rounds in (0, 1, 2):
        card = dataclasses.replace(a_local_model.card, settings={**a_local_model.card.settings, "smoothing": rounds})
        sure.append(probabilities(a_scene_to_learn[0], dataclasses.replace(a_local_model, card=card)))
    assert sure[0].shape == sure[1].shape == sure[2].shape
    assert not np.array_equal(sure[0], sure[1])
    assert not np.array_equal(sure[1], sure[2])


def test_two_voxels_are_a_volume_too(a_local_model):
    found = predict_locally(Volume.of(np.array([[[60, 150]]], np.uint8)), a_local_model)
    assert found.labels.array.shape == (1, 1, 2)


def test_only_the_asked_for_box_is_segmented(a_local_model, a_scene_to_learn):
    image, _ = a_scene_to_learn
    part = api.predict(image, a_local_model, box=((4, 20), (8, 24), (0, 40)))
    whole = api.predict(image, a_local_model)
    assert np.mean(part.labels.array == whole.labels.array[4:20, 8:24]) > 0.999


def test_other_grey_values_are_remarked_upon(a_local_model, a_scene_to_learn, heard):
    predict_locally(Volume.of(a_scene_to_learn[0].astype(float) * 9), a_local_model, report=heard.append)
    assert any(isinstance(event, Log) and "grey values" in event.text for event in heard)


def test_other_channels_are_refused(a_local_model):
    with pytest.raises(ModelError, match="3 channels"):
        predict_locally(Volume.of(np.zeros((8, 8, 8, 3), np.uint8)), a_local_model)


def test_a_prediction_counts_its_voxels_and_can_be_cancelled(a_local_model, a_scene_to_learn, heard, monkeypatch):
    monkeypatch.setattr(local_prediction, "BOX_SIDE", 16)
    predict_locally(Volume.of(a_scene_to_learn[0]), a_local_model, report=heard.append)
    counted = [event for event in heard if isinstance(event, Progress)]
    assert counted[-1].done == counted[-1].total == a_scene_to_learn[0].size

    def stop(event) -> None:
        if isinstance(event, Progress) and event.done:
            raise Cancelled

    with pytest.raises(Cancelled):
        predict_locally(Volume.of(a_scene_to_learn[0]), a_local_model, report=stop)


def test_the_whole_round_by_command_line(a_scene, tmp_path, capsys):
    io.write_volume(tmp_path / "image.nrrd", Volume.of(a_scene.image))
    io.write_labels(tmp_path / "strokes.nrrd", LabelMap.of(a_scene.strokes))
    image, strokes, model, result = (
        str(tmp_path / name) for name in ("image.nrrd", "strokes.nrrd", "m.safetensors", "r.seg.nrrd")
    )
    assert cli.main(["train", image, strokes, "-o", model, "--model", "local", "--set", "rarity=none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["mean_dice"] > 0.9
    assert cli.main(["predict", image, model, "-o", result, "--confidence", str(tmp_path / "sure.nrrd")]) == 0
    found = io.read_labels(result, unpainted="background").array
    assert np.mean(found == a_scene.truth) > 0.95
    assert io.read_volume(tmp_path / "sure.nrrd").array.max() <= 100
    capsys.readouterr()
    assert cli.main(["info", model]) == 0
    told = capsys.readouterr().out
    assert "model: local" in told
    assert "octaves" in told
    assert cli.main(["predict", image, model, "-o", result, "--quality", "high"]) == 2
    assert 'The model "local" has no setting quality.' in capsys.readouterr().err
