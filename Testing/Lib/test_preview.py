import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from VolumeSegmanticsLib import api, io, preview, tasks
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.events import EpochEnded, Log, Preview
from VolumeSegmanticsLib.jobs import Job
from VolumeSegmanticsLib.models import Model
from VolumeSegmanticsLib.prediction import predict_volume
from VolumeSegmanticsLib.preview import Previews, segmented_slice
from VolumeSegmanticsLib.settings import PredictSettings
from VolumeSegmanticsLib.volume import Grid, LabelMap, Volume
from VolumeSegmanticsLib.watch import Watched, watch

OBLIQUE = Grid((24, 40, 36), (1, 1, 1), (10, -20, 30), ((0, 0.6, 0.8), (0, 0.8, -0.6), (1, 0, 0)))
FLOAT32 = {"quality": "low", "precision": "float32", "device": "cpu"}


@pytest.fixture
def an_image(a_scene) -> Volume:
    return Volume((a_scene.image / np.float32(255)), OBLIQUE)


@pytest.fixture
def a_clock():
    """A clock that stands still unless it is told how long a look at it takes."""

    class Clock:
        now = 100.0
        step = 0.0

        def __call__(self):
            self.now += self.step
            return self.now

    return Clock()


@pytest.fixture
def some_previews(tmp_path, heard, a_clock):
    watch(tmp_path, Watched("z", 3))
    return Previews(tmp_path, heard.append, clock=a_clock)


@pytest.mark.parametrize(("axis", "shape"), [("z", (1, 40, 36)), ("y", (24, 1, 36)), ("x", (24, 40, 1))])
def test_a_preview_is_what_prediction_says_of_that_slice_alone(axis, shape, an_image, a_tiny_model):
    labels = segmented_slice(an_image, Watched(axis, 5), a_tiny_model)
    whole = predict_volume(an_image, a_tiny_model, PredictSettings(axes=axis, **FLOAT32)).labels
    where = tuple(slice(5, 6) if letter == axis else slice(None) for letter in "zyx")
    assert labels.array.shape == shape
    assert (labels.array == whole.array[where]).mean() > 0.999  # folding changes the last digits
    assert labels.grid == whole.grid.part([part.start or 0 for part in where], shape)
    assert labels.classes == a_tiny_model.card.classes


def test_neighbouring_slices_are_seen_where_the_model_sees_them(an_image, a_card, tiny_settings):
    settings = dataclasses.replace(tiny_settings, model="unet25d", neighbours=2)
    model = Model.new(dataclasses.replace(a_card, model="unet25d", settings=settings.to_dict()), size=32)
    whole = predict_volume(an_image, model, PredictSettings(axes="z", **FLOAT32)).labels
    for index in (0, 12, 23):
        labels = segmented_slice(an_image, Watched("z", index), model)
        assert (labels.array[0] == whole.array[index]).mean() > 0.999


def test_a_slice_beyond_the_image_means_the_last_one(an_image, a_tiny_model):
    labels = segmented_slice(an_image, Watched("z", 99), a_tiny_model)
    assert labels.grid == an_image.grid.part((23, 0, 0), (1, 40, 36))


def test_of_a_large_slice_the_middle_is_shown_where_it_lies(an_image, a_tiny_model, monkeypatch):
    monkeypatch.setattr(preview, "LONGEST_SIDE", 32)
    labels = segmented_slice(an_image, Watched("x", 7), a_tiny_model)
    assert labels.grid == an_image.grid.part((0, 4, 7), (24, 32, 1))


def test_the_weights_stay_as_they_are(an_image, a_tiny_model):
    before = copy.deepcopy(a_tiny_model.network.state_dict())
    a_tiny_model.network.train()
    segmented_slice(an_image, Watched("z", 5), a_tiny_model)
    after = a_tiny_model.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_preview_is_a_file_with_names_and_colours(some_previews, an_image, a_tiny_model, heard, tmp_path):
    some_previews(a_tiny_model, an_image)
    assert heard == [Preview(str(tmp_path / "preview-1.seg.nrrd"))]
    shown = io.read_labels(heard[0].path)
    assert shown.grid == an_image.grid.part((3, 0, 0), (1, 40, 36))
    assert [(c.value, c.name) for c in shown.classes] == [(0, "Background"), (2, "Pöre"), (5, "Fibre")]


def test_without_anybody_who_watches_there_is_no_preview(tmp_path, an_image, a_tiny_model, heard):
    Previews(tmp_path, heard.append)(a_tiny_model, an_image)
    assert heard == []


def test_previews_take_five_percent_of_the_time(some_previews, an_image, a_tiny_model, heard, a_clock):
    a_clock.step = 1.0  # second between two looks: a preview takes one
    some_previews(a_tiny_model, an_image)
    a_clock.step = 0.0
    a_clock.now += 19.9
    some_previews(a_tiny_model, an_image)
    assert len(heard) == 1
    a_clock.now += 0.2
    some_previews(a_tiny_model, an_image)
    assert len(heard) == 2


def test_quick_previews_come_every_few_seconds_and_old_ones_go(
    some_previews, an_image, a_tiny_model, heard, a_clock, tmp_path
):
    for _ in range(9):
        some_previews(a_tiny_model, an_image)
        a_clock.now += preview.SHORTEST_SECONDS / 2
    assert [event.path[-10:] for event in heard] == [f"{n}.seg.nrrd" for n in range(1, 6)]
    assert sorted(path.name for path in tmp_path.glob("preview-*")) == ["preview-4.seg.nrrd", "preview-5.seg.nrrd"]


def test_too_little_memory_ends_the_previews_and_not_the_training(
    some_previews, an_image, a_tiny_model, heard, a_clock, monkeypatch
):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(preview, "segmented_slice", fail)
    some_previews(a_tiny_model, an_image)
    a_clock.now += 1e6
    some_previews(a_tiny_model, an_image)
    assert [type(event) for event in heard] == [Log]


def test_a_job_shows_previews_and_learns_the_same(a_scene, tiny_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(preview, "SHORTEST_SECONDS", 0.0)
    monkeypatch.setattr(preview, "SHARE", 1e9)
    settings = dataclasses.replace(tiny_settings, device="cpu")
    io.write_volume(tmp_path / "image.nrrd", Volume.of(a_scene.image))
    classes = tuple(LabelClass(v, name, (v / 2, 0, 1)) for v, name in enumerate(("Background", "grey", "Stäbchen")))
    io.write_labels(tmp_path / "labels.seg.nrrd", LabelMap(a_scene.slices, Grid(a_scene.image.shape), classes))
    weights, heard = [], []
    for folder in (tmp_path / "watched", tmp_path / "alone"):
        job = Job.create(
            folder, task="train", settings=settings.to_dict(),
            inputs={"images": ["../image.nrrd"], "labels": ["../labels.seg.nrrd"]}, outputs={"model": "m.safetensors"},
        )  # fmt: skip
        if folder.name == "watched":
            watch(folder, Watched("y", 9))
        tasks.train(job, heard.append)
        weights.append(Model.load(folder / "m.safetensors").network.state_dict())
    shown = [event for event in heard if isinstance(event, Preview)]
    assert len(shown) == 2
    assert {c.name for c in io.read_labels(shown[-1].path).classes} == {"Background", "grey", "Stäbchen"}
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert sum(isinstance(event, EpochEnded) for event in heard) == 4


def test_a_box_is_segmented_as_if_the_rest_were_not_wanted(a_scene, a_tiny_model, tmp_path):
    image = Volume(
        np.tile(a_scene.image, (3, 2, 2)) / np.float32(255), dataclasses.replace(OBLIQUE, shape=(72, 80, 72))
    )
    box = [[38, 40], [40, 60], [30, 40]]
    part = api.predict(image, a_tiny_model, output=tmp_path / "part.nrrd", confidence=True, box=box, device="cpu")
    whole = api.predict(image, a_tiny_model, confidence=True, device="cpu")
    window = np.s_[38:40, 40:60, 30:40]
    assert part.labels.grid == image.grid.part((38, 40, 30), (2, 20, 10))
    assert part.confidence.shape == (2, 20, 10)
    assert (part.labels.array == whole.labels.array[window]).mean() > 0.95
    assert np.array_equal(io.read_labels(tmp_path / "part.nrrd").array, part.labels.array)
    assert io.read_labels(tmp_path / "part.nrrd").grid == part.labels.grid


def test_a_job_names_its_box(a_scene, a_tiny_model, tmp_path):
    io.write_volume(tmp_path / "image.nrrd", Volume.of(a_scene.image))
    a_tiny_model.save(tmp_path / "m.safetensors")
    inputs = {"image": "image.nrrd", "model": "m.safetensors", "box": [[2, 5], [0, 40], [3, 9]]}
    job = Job.create(
        tmp_path, task="predict", settings={"device": "cpu"}, inputs=inputs, outputs={"labels": "out.seg.nrrd"}
    )
    tasks.predict(job, lambda event: None)
    assert io.read_labels(tmp_path / "out.seg.nrrd").grid == Grid(a_scene.image.shape).part((2, 0, 3), (3, 40, 6))
    assert json.loads((tmp_path / "job.json").read_text())["inputs"]["box"] == inputs["box"]
