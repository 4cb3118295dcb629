"""Live mode in the scene: strokes are told to a real worker, and what it makes of the slice in view comes back."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from VolumeSegmanticsLib import io, simulate
from VolumeSegmanticsLib.launch import WorkerProcess
from VolumeSegmanticsLib.settings import LiveSettings, TrainSettings
from VolumeSegmanticsLib.sparse_labels import SparseLabels
from VolumeSegmanticsLib.volume import UNLABELLED

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
from VolumeSegmanticsSlicer.live_mode import sparse  # noqa: E402
from VolumeSegmanticsSlicer.nodes import grid_of  # noqa: E402
from VolumeSegmanticsSlicer.previews import remove_preview, show_preview  # noqa: E402
from VolumeSegmanticsSlicer.segmentations import labels_of, snapshot_of  # noqa: E402
from VolumeSegmanticsSlicer.states import Phase  # noqa: E402
from VolumeSegmanticsSlicer.workflow import Workflow  # noqa: E402

PATIENCE = 120
SHAPE = (16, 48, 48)


QUICK_WORKER = Path(__file__).parent / "workers" / "quick.py"
TRUE_WORKER = Path(io.__file__).parents[1] / "__main__.py"


class Session:
    """A scene with a simulated tomogram and strokes, and the workflow."""

    def __init__(self, scene, folder, *command):
        self.scene, self._command = scene, [sys.executable, *map(str, command)]
        image, self.truth = simulate.fibre_composite(SHAPE)
        self.volume = scene.new_volume(image.array, image.grid, "Scan")
        self.strokes = scene.new_segmentation(self.volume)
        self.painted = simulate.strokes(self.truth).array
        self.workers = []
        self.workflow = Workflow(scene.mrml, jobs_folder=folder, start=self._start)
        self.workflow.parameters.choose("volume", self.volume)
        self.workflow.parameters.choose("annotation", self.strokes)

    def _start(self, folder):
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        self.workers.append(
            WorkerProcess(folder, command=self._command, environment=environment, grace_seconds=PATIENCE)
        )
        return self.workers[-1]

    def paint(self, part=np.s_[:]):
        """Paint the strokes in some of the slices."""
        painted = np.full(SHAPE, UNLABELLED, np.uint8)
        painted[part] = self.painted[part]
        for each in self.truth.classes:
            self.scene.paint(self.strokes, self.volume, each.name, painted == each.value, each.color)

    def pump_until(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition(state := self.workflow.pump()):
            assert time.monotonic() < deadline, f"nothing came of it: {state}"
            assert state.is_running or condition(state), state
            time.sleep(0.02)
        return state

    def await_preview(self, earlier=""):
        return self.pump_until(lambda state: state.preview not in ("", earlier))


@pytest.fixture
def start_session(a_scene, a_folder):
    sessions = []

    def start(*command):
        sessions.append(Session(a_scene, a_folder, *command))
        return sessions[-1]

    yield start
    for session in sessions:
        session.workflow.close()
        assert not any(worker.is_running for worker in session.workers)


@pytest.fixture
def a_session(start_session):
    """Its worker process answers at once, by a threshold."""
    return start_session(QUICK_WORKER, "own")


def right(labels, truth):
    known = (truth != UNLABELLED) & (labels != UNLABELLED)
    return float((labels == truth)[known].mean())


def test_strokes_are_shown_on_the_slice_in_view_and_kept_in_the_end(start_session):
    a_session = start_session(TRUE_WORKER)
    workflow = a_session.workflow
    workflow.watch("z", 5)
    a_session.paint(np.s_[:9])
    before = labels_of(a_session.strokes, a_session.volume).array
    workflow.live_start()
    assert "Live mode is on" in workflow.allowed("train")
    assert workflow.allowed("live_stop") == ""
    state = a_session.await_preview()
    node = show_preview(state, a_session.volume)
    shown = labels_of(node, a_session.volume).array
    assert set(np.argwhere(shown != UNLABELLED)[:, 0]) == {5}
    assert right(shown, a_session.truth.array) > 0.75
    a_session.pump_until(lambda state: state.stage == "ready")
    earlier = workflow.state.preview
    a_session.paint()
    more = labels_of(a_session.strokes, a_session.volume).array
    workflow.live_update()
    workflow.watch("x", 20)
    state = a_session.pump_until(lambda state: state.preview != earlier and state.stage == "ready")
    assert show_preview(state, a_session.volume) is node
    assert set(np.argwhere(labels_of(node, a_session.volume).array != UNLABELLED)[:, 2]) == {20}
    workflow.live_stop()
    assert "finished already" in workflow.allowed("live_stop")
    assert workflow.wait().phase is Phase.DONE
    assert workflow.parameters.model_path == Path(workflow.state.outputs["model"])
    result = workflow.parameters.chosen("result")
    assert right(labels_of(result, a_session.volume).array, a_session.truth.array) > 0.75
    assert (labels_of(a_session.strokes, a_session.volume).array == more).all()
    assert (before == np.where(np.arange(SHAPE[0])[:, None, None] < 9, more, UNLABELLED)).all()
    remove_preview(a_session.scene.mrml)
    assert workflow.allowed("train") == workflow.allowed("live_start") == ""


def test_nothing_is_kept_where_nothing_shall_be(a_session):
    workflow = a_session.workflow
    a_session.paint()
    workflow.live_start()
    a_session.await_preview()
    workflow.live_stop(keep=False)
    assert workflow.wait().phase is Phase.CANCELLED
    assert workflow.parameters.model_path is None
    assert workflow.parameters.chosen("result") is None
    assert not list(workflow.state.folder.glob("*.safetensors"))
    assert "not on" in workflow.allowed("live_stop")


def test_live_mode_may_begin_before_anything_is_painted(a_session):
    a_session.strokes.GetSegmentation().AddEmptySegment("", "Matrix")
    a_session.workflow.live_start(labels=False)
    a_session.pump_until(lambda state: state.stage == "wait")
    a_session.paint()
    a_session.workflow.live_update()
    a_session.await_preview()
    a_session.workflow.live_stop()
    assert a_session.workflow.wait().phase is Phase.DONE
    assert a_session.workflow.parameters.chosen("result") is None


@pytest.mark.parametrize("role", ["volume", "annotation"])
def test_it_ends_with_its_nodes(role, a_session):
    a_session.paint()
    a_session.workflow.live_start()
    a_session.scene.mrml.RemoveNode({"volume": a_session.volume, "annotation": a_session.strokes}[role])
    a_session.workflow.live_update()
    state = a_session.workflow.wait()
    assert state.phase is Phase.CANCELLED
    assert "live mode was turned off" in state.note


def test_it_ends_where_other_strokes_are_chosen(a_session):
    a_session.paint()
    a_session.workflow.live_start()
    a_session.workflow.parameters.choose("annotation", a_session.scene.new_segmentation(a_session.volume))
    assert a_session.workflow.wait().phase is Phase.CANCELLED


def test_closing_the_scene_ends_it(a_session):
    a_session.paint()
    a_session.workflow.live_start()
    a_session.scene.mrml.Clear(0)
    state = a_session.workflow.wait()
    assert (state.phase, state.note) == (Phase.CANCELLED, "The scene was closed.")
    a_session.workflow.live_update()


@pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")
def test_a_worker_that_is_killed_is_told_and_the_next_can_start(a_session):
    workflow = a_session.workflow
    a_session.paint()
    workflow.live_start()
    a_session.pump_until(lambda state: state.stage == "ready")
    os.kill(a_session.workers[0].pid, signal.SIGKILL)
    state = workflow.wait()
    assert (state.phase, state.error.code) == (Phase.FAILED, "worker-died")
    workflow.live_update()
    assert workflow.allowed("live_start") == ""


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda session: session.workflow.parameters.choose("volume", None), "No input volume is chosen"),
        (lambda session: None, "has no segments"),
        (lambda session: session.workflow.parameters.choose("result", session.strokes), "has no segments"),
    ],
    ids=["no volume", "no segments", "strokes as the result"],
)
def test_what_is_missing_is_said(prepare, sentence, a_session):
    prepare(a_session)
    assert sentence in a_session.workflow.allowed("live_start")


def test_the_result_never_replaces_the_strokes(a_session):
    a_session.paint()
    a_session.workflow.parameters.choose("result", a_session.strokes)
    assert "would replace the strokes" in a_session.workflow.allowed("live_start")


def test_what_is_painted_is_told_as_places(a_session):
    a_session.paint()
    snapshot = snapshot_of(a_session.strokes, a_session.volume)
    expected = SparseLabels.of(snapshot.labels())
    told = sparse(snapshot)
    assert (told.places == expected.places).all()
    assert (told.values == expected.values).all()
    assert told.classes == expected.classes
    assert grid_of(a_session.volume).shape == told.shape
    background = snapshot_of(a_session.strokes, a_session.volume, unpainted="background")
    assert set(sparse(background).values) == {0, 1, 2, 3}


def test_the_settings_of_a_network_do_not_hinder_it(a_session):
    a_session.paint()
    a_session.workflow.parameters.keep(TrainSettings(encoder="resnet18", epochs=7, weights="none", seed=3))
    a_session.workflow.live_start()
    assert LiveSettings.like(a_session.workflow.parameters.settings(TrainSettings)).seed == 3
    a_session.await_preview()
