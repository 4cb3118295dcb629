"""Live mode: a real worker process is told of strokes and slices, and shows what it has learned."""

from __future__ import annotations

import os
import time

import numpy as np
import psutil
import pytest

from VolumeSegmanticsLib import evaluate, io, predict
from VolumeSegmanticsLib.card import read_card
from VolumeSegmanticsLib.errors import SettingsError
from VolumeSegmanticsLib.events import TERMINAL, Failed, Finished, Log, Preview, Progress, WasCancelled, ignore
from VolumeSegmanticsLib.jobs import Job
from VolumeSegmanticsLib.launch import WorkerProcess, clean_environment
from VolumeSegmanticsLib.live import Live
from VolumeSegmanticsLib.messages import End, Inbox, Look, Strokes
from VolumeSegmanticsLib.models import Model
from VolumeSegmanticsLib.settings import LiveSettings, TrainSettings
from VolumeSegmanticsLib.simulate import fibre_composite, strokes
from VolumeSegmanticsLib.sparse_labels import SparseLabels
from VolumeSegmanticsLib.volume import UNLABELLED, Grid, LabelMap, Volume

PATIENCE = 120
SHAPE = (24, 70, 66)
LATER = 11  # slices from here on are painted later


class Painter:
    """Paints on a simulated tomogram, and listens to the worker that learns it."""

    def __init__(self, folder, **settings):
        self.image, self.truth = fibre_composite(SHAPE)
        self.grid = Grid(SHAPE, (2.0, 1.0, 1.0), (5.0, 6.0, 7.0))
        self.painted = strokes(self.truth).array
        self.folder, self.settings, self.worker, self.told = folder, settings, None, []
        self.count = 0

    def start(self, *, labels=True, **inputs):
        io.write_volume(self.folder / "image.nrrd", Volume(self.image.array, self.grid))
        outputs = {"model": "model.safetensors"} | ({"labels": "labels.seg.nrrd"} if labels else {})
        inputs = {"image": "image.nrrd", **inputs}
        Job.create(self.folder, task="live", settings=self.settings, inputs=inputs, outputs=outputs)
        environment = clean_environment({**os.environ, "OMP_NUM_THREADS": "1"}, external=False)
        self.worker = WorkerProcess(self.folder, environment=environment, grace_seconds=PATIENCE)
        return self

    def paint(self, array):
        """Say what is painted now: class values, and 255 elsewhere."""
        self.count += 1
        labels = LabelMap(np.asarray(array, np.uint8), self.grid, self.truth.classes)
        path = SparseLabels.of(labels).write(self.folder / f"strokes-{self.count}.npz")
        self.worker.send(Strokes(path.name))

    def await_event(self, kind, is_it=lambda event: True):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            while self.told:
                event = self.told.pop(0)
                if isinstance(event, kind) and is_it(event):
                    return event
                assert not isinstance(event, TERMINAL), event
            self.told += self.worker.poll()
            time.sleep(0.01)
        raise AssertionError(f"no {kind.__name__} came")

    def await_labels(self):
        """Return the labels of the next preview."""
        return io.read_labels(self.await_event(Preview, lambda event: event.path).path)

    def await_ready(self):
        return self.await_event(Progress, lambda event: event.stage == "ready")

    def await_slice(self, axis, index):
        """Return the labels of the next preview that shows a slice."""
        start = [0, 0, 0]
        start["zyx".index(axis)] = index
        while True:
            labels = self.await_labels()
            if self.grid.start_of(labels.grid) == tuple(start):
                return labels

    def end(self):
        self.worker.send(End())
        return self.await_event(TERMINAL)

    def right(self, labels, axis, index):
        """Return which part of the labels of a slice is right."""
        return right(labels.array, np.take(self.truth.array, [index], "zyx".index(axis)))


def right(labels, truth):
    """Return which part of some labels is right, where the truth is known."""
    return float((labels == truth)[truth != UNLABELLED].mean())


@pytest.fixture
def a_painter(tmp_path):
    folder = tmp_path / "Gewebe ü 3"
    folder.mkdir()
    painter = Painter(folder)
    yield painter
    if painter.worker:
        painter.worker.close()
        assert not psutil.pid_exists(painter.worker.pid) or not psutil.Process(painter.worker.pid).is_running()


def first_part(painted):
    return np.where(np.arange(SHAPE[0])[:, None, None] < LATER, painted, np.uint8(UNLABELLED))


def test_strokes_are_shown_looked_at_elsewhere_painted_more_and_kept(a_painter):
    a_painter.start()
    a_painter.worker.send(Look("z", 7))
    a_painter.paint(first_part(a_painter.painted))
    first = a_painter.await_slice("z", 7)
    assert first.array.shape == (1, *SHAPE[1:])
    assert [c.name for c in first.classes] == [c.name for c in a_painter.truth.classes]
    a_painter.worker.send(Look("x", 40))
    across = a_painter.await_slice("x", 40)
    a_painter.await_ready()
    a_painter.paint(a_painter.painted)
    more = a_painter.await_slice("x", 40)
    assert min(a_painter.right(first, "z", 7), a_painter.right(across, "x", 40), a_painter.right(more, "x", 40)) > 0.8
    a_painter.await_ready()
    ending = a_painter.end()
    assert isinstance(ending, Finished)
    assert "mean_dice" in ending.outputs["scores"]
    labels = io.read_labels(ending.outputs["labels"], unpainted="background")
    assert labels.grid == a_painter.grid
    truth = LabelMap(a_painter.truth.array, a_painter.grid, a_painter.truth.classes)
    assert evaluate(labels, truth).mean_jaccard > 0.6
    again = predict(a_painter.folder / "image.nrrd", ending.outputs["model"])
    assert (again.labels.array == labels.array).mean() > 0.995
    card = read_card(ending.outputs["model"])
    assert (card.model, card.name, card.settings["octaves"]) == ("local", "model", 2)
    assert card.versions["torch"]


def test_the_end_may_come_at_any_moment(a_painter):
    a_painter.start()
    a_painter.paint(a_painter.painted)
    ending = a_painter.end()
    assert isinstance(ending, Finished)
    labels = io.read_labels(ending.outputs["labels"], unpainted="background").array
    assert right(labels, a_painter.truth.array) > 0.8


def test_without_labels_only_the_model_is_written(a_painter):
    a_painter.start(labels=False)
    a_painter.paint(a_painter.painted)
    ending = a_painter.end()
    assert set(ending.outputs) == {"model", "scores"}
    assert Model.load(ending.outputs["model"]).card.scores["meaning"]


def test_one_class_is_too_little_and_is_said_once_while_it_lives_on(a_painter):
    a_painter.start()
    only_one = np.where(a_painter.painted == 1, a_painter.painted, np.uint8(UNLABELLED))
    a_painter.paint(only_one)
    assert "Only one class is painted (Matrix)" in a_painter.await_event(Log).text
    a_painter.paint(only_one)
    a_painter.paint(a_painter.painted)
    a_painter.await_labels()
    assert not [event for event in a_painter.told if isinstance(event, Log)]


def test_strokes_that_are_erased_take_the_preview_with_them(a_painter):
    a_painter.start()
    a_painter.paint(a_painter.painted)
    a_painter.await_labels()
    a_painter.paint(np.full(SHAPE, UNLABELLED, np.uint8))
    assert a_painter.await_event(Log).text.startswith("Nothing is painted.")
    assert a_painter.await_event(Preview) == Preview("")
    ending = a_painter.end()
    assert isinstance(ending, Failed)
    assert (ending.code, ending.message) == ("input", "Nothing is painted.")
    assert not (a_painter.folder / "model.safetensors").exists()


def test_garbage_and_files_that_are_gone_end_nothing(a_painter):
    a_painter.start()
    stdin = a_painter.worker._process.stdin
    stdin.write(b'{"message": "Boom"}\n\xff\xff{[\n{"message": "Look", "axis": "w", "index": 99}\n')
    a_painter.worker.send(Strokes("gone.npz"))
    assert "gone.npz" in a_painter.await_event(Log).text
    a_painter.worker.send(Look("z", 10**6))
    a_painter.paint(a_painter.painted)
    assert a_painter.right(a_painter.await_slice("z", SHAPE[0] - 1), "z", SHAPE[0] - 1) > 0.8


@pytest.mark.parametrize("moment", ["before the strokes", "while it works"])
def test_a_stop_leaves_nothing_behind(moment, a_painter):
    a_painter.start()
    before = {path.name for path in a_painter.folder.iterdir()} | {"log.txt", "result.json"}
    if moment == "while it works":
        a_painter.paint(a_painter.painted)
        a_painter.await_labels()
    a_painter.worker.stop()
    assert isinstance(a_painter.worker.wait(PATIENCE), WasCancelled)
    assert {path.name for path in a_painter.folder.iterdir()} - {"strokes-1.npz"} <= before


def test_a_worker_that_is_killed_is_told(a_painter):
    a_painter.start()
    a_painter.await_event(Progress)
    psutil.Process(a_painter.worker.pid).kill()
    ending = a_painter.worker.wait(PATIENCE)
    assert isinstance(ending, Failed)
    assert ending.code == "worker-died"


def test_only_the_box_is_labelled_and_only_strokes_in_it_count(a_painter):
    box = [[2, 20], [10, 60], [0, 50]]
    a_painter.start(box=box)
    a_painter.worker.send(Look("y", 30))
    a_painter.paint(a_painter.painted)
    shown = a_painter.await_labels()
    assert a_painter.grid.start_of(shown.grid) == (2, 30, 0)
    assert shown.array.shape == (18, 1, 50)
    ending = a_painter.end()
    labels = io.read_labels(ending.outputs["labels"], unpainted="background")
    assert a_painter.grid.start_of(labels.grid) == (2, 10, 0)
    assert labels.array.shape == (18, 50, 50)
    assert right(labels.array, a_painter.truth.array[2:20, 10:60, :50]) > 0.8


@pytest.fixture
def learn(a_painter, tmp_path):
    """Learn what is painted here and now, and return what came of it."""

    def run(image=None, **settings):
        inbox = Inbox()
        labels = LabelMap(a_painter.painted, a_painter.image.grid, a_painter.truth.classes)
        inbox.put(Strokes(SparseLabels.of(labels).write(tmp_path / "strokes.npz").name))
        inbox.put(End())
        return Live(image or a_painter.image, LiveSettings(**settings), tmp_path, inbox, ignore).run(wants_labels=True)

    return run


def test_features_beyond_the_memory_lie_on_the_disk_and_say_the_same(learn):
    assert (learn(memory="4GB").labels.array == learn(memory="1MB").labels.array).all()


def test_voxels_without_a_number_are_not_learned_from(learn, a_painter):
    holed = a_painter.image.array.astype(np.float32)
    holed[:, :, 30:34] = np.nan
    made = learn(Volume(holed, a_painter.image.grid))
    painted = a_painter.painted != UNLABELLED
    assert made.model.card.scores["voxels"] == painted.sum() - painted[:, :, 30:34].sum()
    assert right(made.labels.array[:, :, :26], a_painter.truth.array[:, :, :26]) > 0.8


def test_live_settings_are_those_of_a_training_that_concern_local_models():
    training = TrainSettings(encoder="resnet18", epochs=3, unpainted="ignore", seed=5)
    settings = LiveSettings.like(training, memory="2GB")
    assert settings.changed() == {"unpainted": "ignore", "seed": 5, "memory": "2GB"}
    assert settings.training == TrainSettings(model="local", unpainted="ignore", seed=5)


@pytest.mark.parametrize("wrong", [{"model": "unet2d"}, {"memory": "much"}, {"epochs": 3}], ids=str)
def test_what_live_mode_does_not_have_is_refused(wrong):
    with pytest.raises(SettingsError):
        LiveSettings(**wrong)
