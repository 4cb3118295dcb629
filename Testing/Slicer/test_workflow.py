"""Strokes to results through real MRML and real worker processes, and all the ways in which that can end."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from VolumeSegmanticsLib import constraints, io, simulate
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.errors import InputError, ResourceError, SettingsError, WorkerError
from VolumeSegmanticsLib.events import EpochEnded, Failed, Finished, Log, Preview, Progress, WasCancelled
from VolumeSegmanticsLib.jobs import Job
from VolumeSegmanticsLib.launch import WorkerProcess
from VolumeSegmanticsLib.settings import PredictSettings, TrainSettings
from VolumeSegmanticsLib.volume import Grid, LabelMap

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
from VolumeSegmanticsSlicer import runner  # noqa: E402
from VolumeSegmanticsSlicer.accepting import Region  # noqa: E402
from VolumeSegmanticsSlicer.nodes import as_array, grid_of  # noqa: E402
from VolumeSegmanticsSlicer.pace import Pace  # noqa: E402
from VolumeSegmanticsSlicer.results import provenance_of, show_labels  # noqa: E402
from VolumeSegmanticsSlicer.segmentations import labels_of  # noqa: E402
from VolumeSegmanticsSlicer.starting import STAGE, THREAD_NAME, Starting  # noqa: E402
from VolumeSegmanticsSlicer.states import LOG_LINES, Phase, State  # noqa: E402
from VolumeSegmanticsSlicer.workflow import Workflow  # noqa: E402

QUICK_WORKER = Path(__file__).parent / "workers" / "quick.py"
LEARNED_IN_SECONDS = TrainSettings(
    encoder="resnet18", weights="none", crop_size=32, batch_size=4, crops_per_epoch=16, epochs=2, learning_rate=1e-3,
    local_weight=0.0, device="cpu",
)  # fmt: skip
COLORS = {"Mätrix": (0.1, 0.2, 0.3), "Faser | groß": (1.0, 0.5, 0.25), "Pore": (0.0, 0.75, 1 / 3)}


@pytest.fixture(scope="module")
def a_scan():
    """A small simulated tomogram and strokes on it, on an oblique, left-handed grid."""
    image, truth = simulate.fibre_composite((16, 48, 48))
    return image.array, simulate.strokes(truth).array


@pytest.fixture
def a_volume_node(a_scene, a_scan, a_grid, a_transform):
    """The tomogram, oblique, left-handed, anisotropic and under a linear transform."""
    grid = dataclasses.replace(a_grid, shape=a_scan[0].shape)
    node = a_scene.new_volume(a_scan[0], grid, "Scan größer")
    node.SetAndObserveTransformNodeID(a_transform.GetID())
    return node


@pytest.fixture
def some_strokes(a_scene, a_volume_node, a_scan):
    """Three materials, painted with the Segment Editor's logic."""
    node = a_scene.new_segmentation(a_volume_node)
    for value, (name, color) in enumerate(COLORS.items(), 1):
        a_scene.paint(node, a_volume_node, name, a_scan[1] == value, color)
    return node


class Starter:
    """Starts workers in real processes whose tasks do quickly what ``behaviour`` says, or else the true ones."""

    def __init__(self) -> None:
        self.script, self.behaviour, self.workers = QUICK_WORKER, "own", []

    def __call__(self, folder):
        command = [sys.executable, str(self.script), self.behaviour] if self.behaviour else None
        self.workers.append(WorkerProcess(folder, command=command, grace_seconds=runner.GRACE_SECONDS))
        return self.workers[-1]

    @property
    def pid(self) -> int:
        """Of the last worker, once it runs."""
        wait_for_threads()
        return self.workers[-1].pid


def wait_for_threads():
    """Wait until the job that was asked for is written, and its worker runs."""
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(10)


@pytest.fixture
def a_starter(monkeypatch) -> Starter:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Starter()


@pytest.fixture
def a_workflow(a_scene, a_volume_node, some_strokes, a_starter, a_folder):
    """Volume and strokes are chosen."""
    with Workflow(a_scene.mrml, jobs_folder=a_folder / "jobs", start=a_starter) as workflow:
        workflow.parameters.choose("volume", a_volume_node)
        workflow.parameters.choose("annotation", some_strokes)
        yield workflow
    assert psutil.Process().children(recursive=True) == []


@pytest.fixture
def a_trained_workflow(a_workflow, tmp_path):
    """A model file is chosen."""
    a_workflow.parameters.model_path = tmp_path / "model.safetensors"
    a_workflow.parameters.model_path.write_bytes(b"a model")
    return a_workflow


@pytest.fixture
def a_corrected_workflow(a_trained_workflow):
    """There is a result."""
    a_trained_workflow.predict()
    assert a_trained_workflow.wait().phase is Phase.DONE
    return a_trained_workflow


def look(scene) -> dict:
    """Return what is in a scene, as what must not change: all nodes, and the voxels of the segmentations."""
    found = {}
    for n in range(scene.mrml.GetNumberOfNodes()):
        node = scene.mrml.GetNthNode(n)
        found[node.GetID()] = node.GetName()
        if node.IsA("vtkMRMLSegmentationNode"):
            found[node.GetID()] = painted(node)
    return found


def painted(node) -> list:
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]
    return [
        (i, segmentation.GetSegment(i).GetName(), segmentation.GetSegment(i).GetLabelValue(), voxels(node, i))
        for i in ids
    ]


def voxels(node, segment_id):
    from vtk.util.numpy_support import vtk_to_numpy

    image = node.GetBinaryLabelmapInternalRepresentation(segment_id)
    if image is None or image.IsEmpty():
        return b""
    return image.GetExtent(), vtk_to_numpy(image.GetPointData().GetScalars()).tobytes()


def pump_until(workflow, condition, seconds=300.0) -> State:
    """Pump as a timer would, until a condition on the state holds."""
    end = time.monotonic() + seconds
    while not condition(workflow.pump()):
        assert time.monotonic() < end, workflow.state
        assert workflow.state.is_running, workflow.state
        time.sleep(0.01)
    return workflow.state


def wait_for_exit(pid) -> None:
    psutil.Process(pid).wait(10)


# What is known --------------------------------------------------------------------------------------------------------


def test_events_fold_into_what_a_panel_draws(tmp_path):
    first = EpochEnded(1, 0.9, 0.8, 0.5, 1e-3, True)
    second = EpochEnded(2, 0.7, 0.9, 0.4, 1e-3, False)
    state = State(Phase.RUNNING, "train", tmp_path)
    for event in (Log("info", "hello"), Progress("train", 3, 8, 12.5), first, second, Preview("/a.png")):
        state = state.after(event)
    assert (state.stage, state.done, state.total) == ("train", 3, 8)
    assert (state.epochs, state.epoch, state.best_dice) == ((first, second), 2, 0.5)
    assert (state.preview, state.log, state.is_running) == ("/a.png", ("hello",), True)
    assert state.log_path == tmp_path / "log.txt"


@pytest.mark.parametrize(
    ("ending", "phase"),
    [
        (Finished({"model": "m"}), Phase.DONE),
        (Failed("input", "No.", "Do."), Phase.FAILED),
        (WasCancelled(), Phase.CANCELLED),
    ],
)
def test_a_terminal_event_ends_the_job(ending, phase):
    state = State(Phase.RUNNING, pace=Pace(seconds_left=3)).after(ending)
    assert (state.phase, state.is_running, state.seconds_left) == (phase, False, None)
    assert state.outputs == (ending.outputs if phase is Phase.DONE else {})
    assert state.error == (ending if phase is Phase.FAILED else None)


def test_the_log_keeps_its_last_lines():
    state = State()
    for n in range(LOG_LINES + 5):
        state = state.after(Log("info", str(n)))
    assert (len(state.log), state.log[-1], state.lines) == (LOG_LINES, str(LOG_LINES + 4), LOG_LINES + 5)


# The whole round ------------------------------------------------------------------------------------------------------


def test_strokes_become_a_model_and_a_result_with_their_names_and_colours(
    a_workflow, a_starter, a_scene, a_volume_node, some_strokes, tmp_path
):
    a_starter.behaviour = ""
    a_workflow.parameters.keep(LEARNED_IN_SECONDS)
    a_workflow.parameters.keep(PredictSettings(device="cpu"))
    before = painted(some_strokes)

    a_workflow.train(model=tmp_path / "fibres.safetensors")
    seen = []
    state = a_workflow.wait(seen.append)
    assert state.error is None
    assert (state.phase, state.epoch, len(state.epochs)) == (Phase.DONE, 2, 2)
    assert {"read", "train"} <= {each.stage for each in seen}
    assert a_workflow.parameters.model_path == tmp_path / "fibres.safetensors"

    a_workflow.predict(confidence=True)
    state = a_workflow.wait()
    assert state.error is None
    result, confidence = (a_scene.mrml.GetNodeByID(state.node_ids[role]) for role in ("result", "confidence"))
    shown, stored = labels_of(result, a_volume_node), io.read_labels(state.outputs["labels"])
    assert {c.name: pytest.approx(c.color) for c in shown.classes} == COLORS
    assert [c.value for c in shown.classes] == [1, 2, 3]
    assert shown.grid == stored.grid == grid_of(a_volume_node) == grid_of(confidence)
    assert np.array_equal(shown.array, stored.array)
    assert result.GetTransformNodeID() == confidence.GetTransformNodeID() == a_volume_node.GetTransformNodeID()
    assert provenance_of(result)["Model"] == str(tmp_path / "fibres.safetensors")
    assert a_workflow.parameters.chosen("result") is result

    a_workflow.evaluate()
    state = a_workflow.wait()
    assert state.error is None
    assert 0 <= state.outputs["scores"]["mean_dice"] <= 1
    assert (Path(state.outputs["folder"]) / "scores.json").is_file()
    assert painted(some_strokes) == before

    big = a_scene.new_volume(np.tile(a_volume_array(a_volume_node), (8, 2, 2)), Grid((128, 96, 96)), "big")
    a_workflow.parameters.choose("volume", big)
    a_workflow.parameters.keep(PredictSettings(device="cpu", quality="high"))
    assert_cancel_leaves_no_trace(a_workflow, a_scene, a_workflow.predict, lambda state: state.stage == "predict")


def a_volume_array(node):
    from VolumeSegmanticsSlicer.nodes import volume_of

    return volume_of(node).array


def test_a_training_can_be_cancelled_between_its_epochs(a_workflow, a_starter, a_scene):
    a_starter.behaviour = ""
    a_workflow.parameters.keep(dataclasses.replace(LEARNED_IN_SECONDS, epochs=1000))
    assert_cancel_leaves_no_trace(a_workflow, a_scene, a_workflow.train, lambda state: state.epoch > 0)


def assert_cancel_leaves_no_trace(workflow, scene, start, moment):
    before = look(scene)
    start()
    pump_until(workflow, moment)
    workflow.cancel()
    assert workflow.state.phase is Phase.STOPPING
    state = workflow.wait()
    assert state.phase is Phase.CANCELLED
    assert psutil.Process().children(recursive=True) == []
    assert look(scene) == before


# Jobs -----------------------------------------------------------------------------------------------------------------


def test_a_timer_never_waits_for_the_worker(a_trained_workflow, a_starter):
    a_starter.behaviour = "wait"
    a_trained_workflow.predict()
    pump_until(a_trained_workflow, lambda state: state.stage == "predict")
    assert a_trained_workflow.pump().is_running  # though the worker says nothing until it may leave
    (a_trained_workflow.state.folder / "leave").touch()
    assert a_trained_workflow.wait().phase is Phase.DONE


class Chatterbox:
    """A worker that has always more to say."""

    def __init__(self, folder):
        self.is_stopped = False

    def poll(self):
        return [WasCancelled()] if self.is_stopped else [Log("info", "…")] * 10_000

    def stop(self):
        self.is_stopped = True

    close = stop


def test_a_chatty_worker_does_not_hold_the_timer_up(a_workflow):
    chatty = runner.Runner(None, Chatterbox)
    chatty.start("train", lambda folder, report, later: None, lambda state: state)
    wait_for_threads()
    assert chatty.pump().lines == runner.EVENTS_A_PUMP
    chatty.close()
    assert chatty.state.phase is Phase.CANCELLED


def test_a_job_says_all_that_the_worker_needs(a_workflow, a_volume_node, some_strokes, tmp_path):
    a_workflow.parameters.keep(TrainSettings(epochs=7, unpainted="background"))
    a_workflow.train(start_from=tmp_path / "parent.safetensors", others=[(a_volume_node, some_strokes)])
    state = a_workflow.wait()
    job = Job.open(state.folder)
    assert (job.task, job.settings["epochs"], job.settings["unpainted"]) == ("train", 7, "background")
    assert job.inputs["start_from"] == str(tmp_path / "parent.safetensors")
    assert job.inputs["images"] == ["image.nrrd", "image.nrrd"]  # the same volume: written once
    assert job.inputs["labels"] == ["labels.seg.nrrd", "2/labels.seg.nrrd"]
    assert job.outputs == {"model": "model.safetensors"}
    assert a_workflow.parameters.model_path == state.folder / "model.safetensors"
    assert (io.read_labels(job.path("labels.seg.nrrd")).array == 0).any()
    assert state.outputs["scores"] == {"mean_dice": 0.75}
    assert [epoch.valid_dice for epoch in state.epochs] == [0, 0.5, pytest.approx(2 / 3)]


def test_a_volume_is_written_again_only_where_it_has_changed(a_workflow, a_volume_node):
    images = []
    for change in (False, False, True):
        if change:
            a_volume_node.GetImageData().GetPointData().GetScalars().Modified()
        a_workflow.train()
        folder = a_workflow.wait().folder
        images.append(folder / Job.open(folder).inputs["images"][0])
    assert images[0] == images[1] != images[2]


def test_only_one_job_runs(a_trained_workflow, a_starter, a_scene):
    a_starter.behaviour = "wait"
    a_trained_workflow.predict()
    state = a_trained_workflow.state
    for start in (a_trained_workflow.train, a_trained_workflow.predict, a_trained_workflow.evaluate):
        with pytest.raises(WorkerError, match="A job is running"):
            start()
    assert a_trained_workflow.state is state
    wait_for_threads()
    assert len(a_starter.workers) == 1
    assert len(list(state.folder.parent.iterdir())) == 1
    (state.folder / "leave").touch()
    assert a_trained_workflow.wait().phase is Phase.DONE


def test_what_cannot_be_done_says_why(a_scene, a_starter, a_folder, a_volume_node, some_strokes):
    with Workflow(a_scene.mrml, start=a_starter) as workflow:
        choose = workflow.parameters.choose
        assert "input volume" in workflow.allowed("train")
        assert "input volume" in workflow.allowed("predict")
        choose("volume", a_volume_node)
        assert "segmentation with strokes" in workflow.allowed("train")
        choose("annotation", a_scene.new_segmentation(a_volume_node, "leer"))
        assert '"leer" has no segments' in workflow.allowed("train")
        choose("annotation", some_strokes)
        assert workflow.allowed("train") == ""
        assert "No model" in workflow.allowed("predict")
        workflow.parameters.model_path = a_folder / "gone.safetensors"
        assert "does not exist" in workflow.allowed("predict")
        workflow.parameters.model_path = a_folder
        workflow.parameters.model_path = Path(__file__)
        assert workflow.allowed("predict") == ""
        choose("result", some_strokes)
        assert "replace the strokes" in workflow.allowed("predict")
        choose("result", None)
        assert "result" in workflow.allowed("evaluate")
        assert "result" in workflow.allowed("accept")
        assert "Nothing was accepted" in workflow.allowed("undo_accept")
        assert "No job" in workflow.allowed("cancel")
        a_starter.behaviour = "report forever"
        workflow.train()
        assert workflow.allowed("cancel") == ""
        assert "running" in workflow.allowed("train")
        workflow.cancel()
        assert "already" in workflow.allowed("cancel")


def test_a_volume_under_a_warp_cannot_be_used(a_workflow, a_volume_node, a_warp):
    a_volume_node.SetAndObserveTransformNodeID(a_warp.GetID())
    assert "non-linear" in a_workflow.allowed("train")
    with pytest.raises(InputError, match="non-linear"):
        a_workflow.train()
    assert a_workflow.state == State()


def test_a_job_that_cannot_start_leaves_no_trace(a_workflow, a_starter, a_folder, monkeypatch):
    monkeypatch.setattr(a_starter, "script", Path("\0"))
    a_workflow.train()
    assert "cannot be started" in a_workflow.wait().error.message
    wait_for_threads()
    assert list((a_folder / "jobs").iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    a_workflow.train()
    assert a_workflow.wait().phase is Phase.DONE


def test_big_volumes_are_written_while_the_job_runs_already(a_workflow, monkeypatch):
    may_write = slow_writing(monkeypatch)
    a_workflow.train()
    assert (a_workflow.state.phase, a_workflow.state.stage) == (Phase.RUNNING, STAGE)
    may_write.set()
    assert a_workflow.wait().phase is Phase.DONE


def slow_writing(monkeypatch):
    """Let no volume be written before the event that is returned."""
    may_write, write_volume = threading.Event(), io.write_volume

    def write_when_told(path, volume, **options):
        assert may_write.wait(20)
        return write_volume(path, volume, **options)

    monkeypatch.setattr(io, "write_volume", write_when_told)
    return may_write


@pytest.mark.parametrize("ends", ["cancel", "scene closed", "workflow closed"])
def test_a_job_that_is_stopped_while_it_is_written_starts_no_worker(ends, a_workflow, a_starter, a_scene, monkeypatch):
    may_write = slow_writing(monkeypatch)
    a_workflow.train()
    folder = a_workflow.state.folder
    {"cancel": a_workflow.cancel, "scene closed": a_scene.mrml.Clear, "workflow closed": a_workflow._runner.close}[
        ends
    ]()
    assert a_workflow.wait().phase is Phase.CANCELLED
    may_write.set()
    wait_for_threads()
    assert not a_starter.workers
    assert not folder.exists()


def test_strokes_of_the_moment_are_learned_whatever_is_painted_meanwhile(
    a_workflow, a_scene, a_volume_node, some_strokes, monkeypatch
):
    before, may_write = labels_of(some_strokes, a_volume_node).array, slow_writing(monkeypatch)
    a_workflow.train()
    a_scene.paint(some_strokes, a_volume_node, "Pore", slice(None))
    may_write.set()
    folder = a_workflow.wait().folder
    assert (labels_of(some_strokes, a_volume_node).array != before).any()
    np.testing.assert_array_equal(io.read_labels(folder / "labels.seg.nrrd").array, before)


def test_a_job_that_cannot_be_written_says_why(a_workflow, monkeypatch):
    def fail(*_, **__):
        raise ResourceError("The disk is full.", "Make room.")

    monkeypatch.setattr(io, "write_volume", fail)
    a_workflow.train()
    error = a_workflow.wait().error
    assert (error.code, error.message, error.hint) == ("resource", "The disk is full.", "Make room.")


def test_a_bug_in_writing_a_job_ends_it(tmp_path):
    (tmp_path / "job").mkdir()
    starting = Starting(tmp_path / "job", [lambda: 1 / 0], [], Chatterbox)
    wait_for_threads()
    (ending,) = starting.poll()
    assert "ZeroDivisionError" in ending.message


def test_a_jobs_folder_that_cannot_be_made_is_told(a_scene, a_workflow, tmp_path):
    (tmp_path / "file").touch()
    with Workflow(a_scene.mrml, jobs_folder=tmp_path / "file") as workflow, pytest.raises(ResourceError, match="file"):
        workflow.train()


def test_jobs_have_folders_in_the_order_of_their_start(a_corrected_workflow):
    a_corrected_workflow.train()
    folder = a_corrected_workflow.wait().folder
    assert sorted(path.name for path in folder.parent.iterdir()) == ["001-predict", "002-train"]


def test_a_result_can_be_compared_with_any_segmentation(a_corrected_workflow, a_starter, some_strokes):
    a_starter.behaviour = "succeed"
    a_corrected_workflow.parameters.choose("annotation", None)
    with pytest.raises(InputError, match="strokes"):
        a_corrected_workflow.evaluate()
    a_corrected_workflow.evaluate(some_strokes)
    folder = a_corrected_workflow.wait().folder
    assert [c.name for c in io.read_labels(folder / "truth.seg.nrrd").classes] == list(COLORS)
    assert [c.name for c in io.read_labels(folder / "prediction.seg.nrrd").classes] == ["dark", "bright"]


# Results --------------------------------------------------------------------------------------------------------------


def test_rules_are_made_to_hold_in_the_result_and_can_be_taken_back(a_corrected_workflow, a_starter, a_volume_node):
    workflow, rules = a_corrected_workflow, "largest bright 1; smooth 0.5"
    result = workflow.parameters.chosen("result")
    before, provenance = labels_of(result, a_volume_node), provenance_of(result)
    assert workflow.allowed("undo_constrain").startswith("No rules were applied")
    with pytest.raises(SettingsError, match="There is no rule"):
        workflow.constrain("mend it")

    a_starter.behaviour = ""
    workflow.constrain(rules)
    state = workflow.wait()
    assert state.phase is Phase.DONE, state.error
    expected = constraints.apply(before, rules)
    assert [step["changed"] for step in state.outputs["steps"]] == [step.changed for step in expected.steps]
    assert workflow.parameters.chosen("result") is result
    np.testing.assert_array_equal(labels_of(result, a_volume_node).array, expected.labels.array)
    assert (expected.labels.array != before.array).any()
    assert provenance_of(result)["Rules"] == rules

    workflow.undo_constrain()
    np.testing.assert_array_equal(labels_of(result, a_volume_node).array, before.array)
    assert "Rules" not in provenance_of(result)
    assert provenance_of(result)["Model"] == provenance["Model"]
    assert workflow.allowed("undo_constrain").startswith("No rules were applied")


def test_rules_of_an_earlier_result_cannot_be_taken_back(a_corrected_workflow, a_starter):
    workflow, a_starter.behaviour = a_corrected_workflow, ""
    workflow.constrain("smooth 0.5")
    workflow.wait()
    assert workflow.allowed("undo_constrain") == ""
    a_starter.behaviour = "own"
    workflow.predict()
    workflow.wait()
    assert workflow.allowed("undo_constrain").startswith("No rules were applied")


def test_the_next_result_refills_the_node_of_the_last(a_corrected_workflow, a_scene):
    earlier = a_corrected_workflow.state.node_ids
    before = look(a_scene)
    a_corrected_workflow.predict(output="", confidence=False)
    assert a_corrected_workflow.wait().node_ids == earlier
    assert look(a_scene) == before


def test_results_go_into_the_files_that_were_named(a_trained_workflow, a_folder):
    labels, confidence = a_folder / "erg.seg.nrrd", a_folder / "sure.nrrd"
    a_trained_workflow.predict(output=labels, confidence=confidence)
    assert a_trained_workflow.wait().outputs == {"labels": str(labels), "confidence": str(confidence)}
    assert labels.is_file()
    assert confidence.is_file()


def test_the_result_of_a_volume_that_was_deleted_is_kept_and_told(
    a_trained_workflow, a_starter, a_scene, a_volume_node
):
    a_starter.behaviour = "wait"
    a_trained_workflow.predict()
    pump_until(a_trained_workflow, lambda state: state.stage)
    a_scene.mrml.RemoveNode(a_volume_node)
    before = look(a_scene)
    (a_trained_workflow.state.folder / "leave").touch()
    state = a_trained_workflow.wait()
    assert state.phase is Phase.DONE
    assert state.outputs["labels"] in state.note
    assert [c.name for c in io.read_labels(state.outputs["labels"]).classes] == ["dark", "bright"]
    assert look(a_scene) == before


def test_a_result_that_was_deleted_meanwhile_comes_as_a_new_node(a_corrected_workflow, a_starter, a_scene):
    a_starter.behaviour = "wait"
    earlier = a_corrected_workflow.state.node_ids["result"]
    a_corrected_workflow.predict()
    pump_until(a_corrected_workflow, lambda state: state.stage)
    a_scene.mrml.RemoveNode(a_scene.mrml.GetNodeByID(earlier))
    (a_corrected_workflow.state.folder / "leave").touch()
    state = a_corrected_workflow.wait()
    assert state.phase is Phase.DONE
    assert a_scene.mrml.GetNodeByID(state.node_ids["result"]) is a_corrected_workflow.parameters.chosen("result")


def test_training_needs_no_node_once_it_runs(a_workflow, a_scene, a_volume_node, some_strokes):
    a_workflow.train()
    a_scene.mrml.RemoveNode(a_volume_node)
    a_scene.mrml.RemoveNode(some_strokes)
    assert a_workflow.wait().phase is Phase.DONE
    assert a_workflow.parameters.model_path.read_bytes() == b"a model"


def test_a_result_that_no_longer_fits_its_volume_is_kept_and_told(
    a_trained_workflow, a_starter, a_scene, a_volume_node
):
    a_starter.behaviour = "wait"
    a_trained_workflow.predict()
    pump_until(a_trained_workflow, lambda state: state.stage)
    a_volume_node.SetSpacing(7, 7, 7)
    (a_trained_workflow.state.folder / "leave").touch()
    state = a_trained_workflow.wait()
    assert (state.phase, state.error.code) == (Phase.FAILED, "input")
    assert "does not lie on the voxels" in state.error.message
    assert str(state.folder / "result.seg.nrrd") in state.note
    a_starter.behaviour = "own"
    a_trained_workflow.predict()
    assert a_trained_workflow.wait().phase is Phase.DONE


def test_a_bug_in_showing_a_result_does_not_lose_it(a_trained_workflow, monkeypatch):
    monkeypatch.setattr("VolumeSegmanticsSlicer.workflow.show_labels", lambda *_, **__: 1 / 0)
    a_trained_workflow.predict()
    state = a_trained_workflow.wait()
    assert (state.phase, state.error.code) == (Phase.FAILED, "bug")
    assert state.outputs["labels"] in state.note


# Ends -----------------------------------------------------------------------------------------------------------------


def test_a_killed_worker_ends_in_one_sentence_and_the_next_job_runs(a_corrected_workflow, a_starter, a_scene):
    before = look(a_scene)
    a_starter.behaviour = "report forever"
    a_corrected_workflow.predict()
    pump_until(a_corrected_workflow, lambda state: state.stage)
    os.kill(a_starter.pid, signal.SIGKILL)
    state = a_corrected_workflow.wait()
    assert (state.phase, state.error.code) == (Phase.FAILED, "worker-died")
    assert state.error.message == "The worker process was ended by SIGKILL without an answer."
    assert look(a_scene) == before
    a_starter.behaviour = "own"
    a_corrected_workflow.predict()
    assert a_corrected_workflow.wait().phase is Phase.DONE
    assert look(a_scene) == before


def test_a_job_that_fails_says_why(a_workflow, a_starter, a_scene):
    before = look(a_scene)
    a_starter.behaviour = "mendable"
    a_workflow.train()
    state = a_workflow.wait()
    assert state.error == Failed("model", "The model is for 2 classes.", "Choose another model.")
    assert state.log_path.is_file()
    assert look(a_scene) == before


def test_a_worker_that_does_not_stop_is_killed(a_workflow, a_starter):
    a_starter.behaviour = "stop reporting"
    a_workflow.train()
    pump_until(a_workflow, lambda state: state.stage)
    a_workflow.cancel()
    assert a_workflow.wait().phase is Phase.CANCELLED


def test_closing_the_scene_stops_the_job(a_trained_workflow, a_starter, a_scene):
    a_starter.behaviour = "report forever"
    a_trained_workflow.predict()
    pump_until(a_trained_workflow, lambda state: state.stage)
    a_scene.mrml.Clear(False)
    assert a_trained_workflow.state.phase is Phase.STOPPING
    state = a_trained_workflow.wait()
    assert (state.phase, state.note) == (Phase.CANCELLED, "The scene was closed.")
    assert "input volume" in a_trained_workflow.allowed("train")


def test_a_result_does_not_come_into_the_next_scene(a_trained_workflow, a_starter, a_scene, a_scan):
    a_trained_workflow.predict()
    wait_for_exit(a_starter.pid)  # finished, but nobody has heard it yet
    a_scene.mrml.Clear(False)
    a_scene.new_volume(a_scan[0], Grid(a_scan[0].shape))  # has the ID that the volume had
    before = look(a_scene)
    state = a_trained_workflow.wait()
    assert state.phase is Phase.DONE
    assert state.outputs["labels"] in state.note
    assert look(a_scene) == before


def test_a_model_is_not_chosen_in_the_next_scene(a_workflow, a_starter, a_scene):
    a_workflow.train()
    wait_for_exit(a_starter.pid)
    a_scene.mrml.Clear(False)
    state = a_workflow.wait()
    assert (state.phase, Path(state.outputs["model"]).is_file()) == (Phase.DONE, True)
    assert a_workflow.parameters.model_path is None


def test_a_workflow_that_is_closed_lets_go_of_everything(a_scene, a_workflow, a_starter):
    a_starter.behaviour = "report forever"
    a_workflow.train()
    a_workflow.close()
    assert a_workflow.state.phase is Phase.CANCELLED
    a_scene.mrml.Clear(False)


# Accepting ------------------------------------------------------------------------------------------------------------

CLASSES = (LabelClass(1, "left", (1.0, 0.0, 0.0)), LabelClass(2, "right", (0.0, 1.0, 0.0), "terms"))


@pytest.fixture
def a_halved_workflow(a_scene, a_grid, a_folder):
    """A result of two halves, left and right along X, and strokes: "left" in one row across both."""
    shape = a_grid.shape
    volume = a_scene.new_volume(np.zeros(shape, np.uint8), a_grid)
    halves = np.ones(shape, np.uint8)
    halves[..., 4:] = 2
    result = show_labels(LabelMap(halves, a_grid, CLASSES), volume)
    strokes = a_scene.new_segmentation(volume)
    a_scene.paint(strokes, volume, "left", np.s_[2, 3, :])
    with Workflow(a_scene.mrml, jobs_folder=a_folder) as workflow:
        for role, node in (("volume", volume), ("result", result), ("annotation", strokes)):
            workflow.parameters.choose(role, node)
        yield workflow


def stroke_values(workflow) -> np.ndarray:
    """Return the strokes by name: 0 nothing, 1 left, 2 right, 9 other."""
    parameters = workflow.parameters
    labels = labels_of(parameters.chosen("annotation"), parameters.chosen("volume"), unpainted="ignore")
    values = np.zeros(labels.grid.shape, np.uint8)
    for c in labels.classes:
        values[labels.array == c.value] = {"left": 1, "right": 2}.get(c.name, 9)
    return values


def halves(shape, where) -> np.ndarray:
    """Return what is accepted where the strokes hold nothing."""
    expected = np.zeros(shape, np.uint8)
    expected[where] = (np.arange(shape[2]) >= 4)[None, None, :].repeat(shape[0], 0).repeat(shape[1], 1)[where] + 1
    return expected


def test_a_slice_becomes_strokes_and_what_was_painted_stays(a_halved_workflow):
    volume = a_halved_workflow.parameters.chosen("volume")
    assert a_halved_workflow.accept(Region.one_slice(volume, "z", 2)) == 6 * 8 + 0 * 8
    expected = halves((6, 7, 8), np.s_[2:3])
    expected[2, 3, :] = 1  # painted across both halves
    assert np.array_equal(stroke_values(a_halved_workflow), expected)
    segmentation = a_halved_workflow.parameters.chosen("annotation").GetSegmentation()
    right = segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName("right"))
    assert right.GetColor() == (0.0, 1.0, 0.0)


@pytest.mark.parametrize(("axis", "where"), [("y", np.s_[:, 6:7]), ("x", np.s_[:, :, 0:1])])
def test_slices_of_each_axis_can_be_accepted(axis, where, a_halved_workflow):
    volume = a_halved_workflow.parameters.chosen("volume")
    a_halved_workflow.accept(Region.one_slice(volume, axis, 6 if axis == "y" else 0))
    expected = halves((6, 7, 8), where)
    expected[2, 3, :] = 1
    assert np.array_equal(stroke_values(a_halved_workflow), expected)


def test_painted_voxels_are_replaced_where_that_was_asked(a_halved_workflow):
    volume = a_halved_workflow.parameters.chosen("volume")
    assert a_halved_workflow.accept(Region.box(volume, (2, 3, 5), (99, 99, 99)), overwrite=True) == 4 * 4 * 3
    expected = halves((6, 7, 8), np.s_[2:, 3:, 5:])
    expected[2, 3, :5] = 1
    assert np.array_equal(stroke_values(a_halved_workflow), expected)


def test_accepting_can_be_taken_back_step_by_step(a_halved_workflow):
    strokes, volume = (a_halved_workflow.parameters.chosen(role) for role in ("annotation", "volume"))
    states = [painted(strokes)]
    for index in (0, 4):
        a_halved_workflow.accept(Region.one_slice(volume, "z", index))
        states.append(painted(strokes))
    for state in reversed(states[:-1]):
        a_halved_workflow.undo_accept()
        assert [each[:3] for each in painted(strokes)] == [each[:3] for each in state]
    assert np.array_equal(stroke_values(a_halved_workflow) > 0, halves((6, 7, 8), np.s_[2:3, 3:4]) > 0)
    with pytest.raises(InputError, match="Nothing was accepted"):
        a_halved_workflow.undo_accept()


def test_undo_does_not_take_strokes_with_it_that_came_later(a_halved_workflow, a_scene):
    strokes, volume = (a_halved_workflow.parameters.chosen(role) for role in ("annotation", "volume"))
    a_halved_workflow.accept(Region.one_slice(volume, "z", 0))
    a_scene.paint(strokes, volume, "other", np.s_[5, 5, 5])
    before = painted(strokes)
    with pytest.raises(InputError, match="Segment Editor"):
        a_halved_workflow.undo_accept()
    assert painted(strokes) == before
    a_halved_workflow.accept(Region.one_slice(volume, "z", 4))
    a_halved_workflow.undo_accept()
    assert stroke_values(a_halved_workflow)[5, 5, 5] == 9
    assert "Nothing was accepted" in a_halved_workflow.allowed("undo_accept")


def test_the_segment_editor_can_keep_the_state_for_undo(a_halved_workflow, a_scene):
    """As the panel does: the editor's own history, and its own undo."""
    editor, settings = slicer.vtkSlicerSegmentEditorLogic(), a_scene.new_node("vtkMRMLSegmentEditorNode")
    strokes, volume = (a_halved_workflow.parameters.chosen(role) for role in ("annotation", "volume"))
    history = slicer.vtkSegmentationHistory()
    history.SetSegmentation(strokes.GetSegmentation())
    editor.SetMRMLScene(a_scene.mrml)
    editor.SetSegmentEditorNode(settings)
    editor.SetSegmentationNode(strokes)
    editor.SetSegmentationHistory(history)
    editor.SetMaximumNumberOfUndoStates(5)
    before = stroke_values(a_halved_workflow)
    with Workflow(a_scene.mrml, save_for_undo=editor.SaveStateForUndo) as workflow:
        workflow.accept(Region.one_slice(volume, "z", 0))
        assert not np.array_equal(stroke_values(workflow), before)
        assert "Nothing was accepted" in workflow.allowed("undo_accept")
        editor.Undo()
    assert np.array_equal(stroke_values(a_halved_workflow), before)


def test_nothing_to_accept_changes_nothing(a_halved_workflow):
    strokes, volume = (a_halved_workflow.parameters.chosen(role) for role in ("annotation", "volume"))
    before = painted(strokes)
    assert a_halved_workflow.accept(Region.box(volume, (2, 3, 0), (3, 4, 8))) == 0
    assert painted(strokes) == before
    assert "Nothing was accepted" in a_halved_workflow.allowed("undo_accept")


def test_a_turned_region_of_interest_takes_the_voxels_whose_centre_it_holds(a_halved_workflow, a_scene, a_transform):
    volume = a_halved_workflow.parameters.chosen("volume")
    roi = a_scene.new_node("vtkMRMLMarkupsROINode", "Kiste")
    roi.SetAndObserveTransformNodeID(a_transform.GetID())
    roi.SetSize(3, 2.5, 9)
    to_ras = np.diag([-1.0, -1, 1, 1]) @ grid_of(volume).affine
    index = np.indices((6, 7, 8)).reshape(3, -1)
    to_roi = np.linalg.solve(as_array(a_transform.GetMatrixTransformToParent()), to_ras)
    points = (to_roi @ np.vstack([index, np.ones(index.shape[1])]))[:3]
    centre = to_roi @ (3, 3, 4, 1)
    roi.SetCenter(centre[:3])
    inside = (np.abs(points.T - centre[:3]) <= (1.5, 1.25, 4.5)).all(axis=1).reshape(6, 7, 8)
    assert 0 < inside.sum() < inside.size
    region = Region.inside_roi(volume, roi)
    found = np.zeros_like(inside)
    found[region.window] = region.mask
    assert np.array_equal(found, inside)
    a_halved_workflow.accept(region, overwrite=True)
    rest = np.zeros((6, 7, 8), bool)
    rest[2, 3] = True
    assert np.array_equal(stroke_values(a_halved_workflow) > 0, inside | rest)


@pytest.mark.parametrize(("start", "stop"), [((6, 0, 0), (9, 7, 8)), ((2, 2, 2), (2, 7, 8)), ((-3, 0, 0), (0, 7, 8))])
def test_a_region_beside_the_volume_is_refused(start, stop, a_halved_workflow):
    with pytest.raises(InputError, match="holds no voxel"):
        Region.box(a_halved_workflow.parameters.chosen("volume"), start, stop)


def test_an_empty_region_of_interest_is_refused(a_halved_workflow, a_scene):
    roi = a_scene.new_node("vtkMRMLMarkupsROINode", "Kiste")
    with pytest.raises(InputError, match='"Kiste" is empty'):
        Region.inside_roi(a_halved_workflow.parameters.chosen("volume"), roi)


def test_predicted_background_stays_unpainted_where_unpainted_means_background(a_halved_workflow, a_grid):
    parameters = a_halved_workflow.parameters
    volume, strokes = parameters.chosen("volume"), parameters.chosen("annotation")
    array = np.zeros(a_grid.shape, np.uint8)
    array[0, 0, :3] = 2
    result = show_labels(LabelMap(array, a_grid, (LabelClass.plain(0), CLASSES[1])), volume)
    parameters.choose("result", result)
    parameters.keep(TrainSettings(unpainted="background"))
    assert a_halved_workflow.accept(Region.one_slice(volume, "z", 0)) == 3
    parameters.keep(TrainSettings())
    assert a_halved_workflow.accept(Region.one_slice(volume, "z", 1)) == 56
    classes = {c.name: c.value for c in labels_of(strokes, volume).classes}
    assert classes["Background"] == 0


def test_an_accepted_part_lies_right_where_the_strokes_lie_under_another_transform(a_halved_workflow, a_transform):
    parameters = a_halved_workflow.parameters
    strokes, volume = parameters.chosen("annotation"), parameters.chosen("volume")
    for node in (volume, parameters.chosen("result")):
        node.SetAndObserveTransformNodeID(a_transform.GetID())
    strokes.GetSegmentation().RemoveAllSegments()
    region = Region.box(volume, (1, 1, 1), (5, 6, 7))
    assert a_halved_workflow.accept(region) == 4 * 5 * 6
    found = stroke_values(a_halved_workflow)[1:5, 1:6, 1:7]
    assert np.array_equal(found, halves((6, 7, 8), np.s_[1:5, 1:6, 1:7])[1:5, 1:6, 1:7])
