"""What a model makes of the slice in view while it learns, seen in the scene."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from VolumeSegmanticsLib import io, simulate
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.launch import WorkerProcess
from VolumeSegmanticsLib.settings import TrainSettings
from VolumeSegmanticsLib.volume import LabelMap
from VolumeSegmanticsLib.watch import Watched, watched_in

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
from VolumeSegmanticsSlicer.nodes import grid_of  # noqa: E402
from VolumeSegmanticsSlicer.previews import Watch, remove_preview, show_preview  # noqa: E402
from VolumeSegmanticsSlicer.segmentations import labels_of  # noqa: E402
from VolumeSegmanticsSlicer.states import Phase, State  # noqa: E402
from VolumeSegmanticsSlicer.workflow import Workflow  # noqa: E402

QUICK_WORKER = Path(__file__).parent / "workers" / "quick.py"
CLASSES = (LabelClass(1, "Mätrix", (0.1, 0.2, 0.3)), LabelClass(4, "Pore", (1.0, 0.5, 0.25)))


@pytest.fixture
def a_state(a_volume_node, tmp_path):
    """The state of a training whose preview shows the slice of an axis."""

    def make(axis, index, value=4):
        start, shape = [0, 0, 0], list(grid_of(a_volume_node).shape)
        start["zyx".index(axis)], shape["zyx".index(axis)] = index, 1
        labels = np.full(shape, 1, np.uint8)
        labels[0, 0, 0] = value
        grid = grid_of(a_volume_node).part(start, tuple(shape))
        path = tmp_path / f"preview-{axis}{index}{value}.seg.nrrd"
        return State(preview=str(io.write_labels(path, LabelMap(labels, grid, CLASSES))))

    return make


@pytest.mark.parametrize(("axis", "where"), [("z", np.s_[3]), ("y", np.s_[:, 3]), ("x", np.s_[:, :, 3])])
def test_a_preview_lies_on_its_slice_and_nowhere_else(axis, where, a_state, a_volume_node, a_transform):
    a_volume_node.SetAndObserveTransformNodeID(a_transform.GetID())
    node = show_preview(a_state(axis, 3), a_volume_node)
    shown = labels_of(node, a_volume_node)
    expected = np.full(grid_of(a_volume_node).shape, 255, np.uint8)
    expected[where] = 1
    expected[where][0, 0] = 4
    assert np.array_equal(shown.array, expected)
    assert [(c.name, pytest.approx(c.color)) for c in shown.classes] == [(c.name, c.color) for c in CLASSES]
    assert node.GetTransformNodeID() == a_transform.GetID()
    assert node.GetName() == "Probe größer preview"


def test_the_next_preview_takes_the_place_of_the_last(a_state, a_volume_node, a_scene):
    first = show_preview(a_state("z", 3), a_volume_node)
    again = show_preview(a_state("x", 5), a_volume_node)
    assert again is first
    labels = labels_of(again, a_volume_node).array
    assert set(np.argwhere(labels != 255)[:, 2]) == {5}
    assert show_preview(a_state("y", 1), a_volume_node, node=first) is first
    assert a_scene.mrml.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1


def test_a_preview_is_not_saved_with_the_scene(a_state, a_volume_node, a_scene, a_folder):
    show_preview(a_state("z", 3), a_volume_node)
    a_scene.save(a_folder / "scene.mrb")
    a_scene.mrml.Clear(0)
    a_scene.open(a_folder / "scene.mrb")
    assert a_scene.named(a_volume_node.GetName())
    assert a_scene.mrml.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    assert a_scene.mrml.GetNumberOfNodesByClass("vtkMRMLSegmentationDisplayNode") == 0


def test_a_preview_can_be_taken_away_without_a_trace(a_state, a_volume_node, some_strokes, a_scene):
    before = a_scene.mrml.GetNumberOfNodes()
    remove_preview(a_scene.mrml)
    assert a_scene.mrml.GetNumberOfNodes() == before
    show_preview(a_state("z", 3), a_volume_node)
    assert a_scene.mrml.GetNumberOfNodes() > before
    remove_preview(a_scene.mrml)
    assert a_scene.mrml.GetNumberOfNodes() == before
    assert a_scene.named("strokes") is some_strokes


def test_strokes_are_never_filled_with_a_preview(a_state, a_volume_node, some_strokes):
    with pytest.raises(InputError, match="no earlier result"):
        show_preview(a_state("z", 3), a_volume_node, node=some_strokes)


def test_a_job_hears_of_the_slice_counted_from_the_start_of_its_image(tmp_path):
    watch = Watch()
    watch.begin(tmp_path, (0, 0, 0))
    assert watched_in(tmp_path) is None  # nobody has looked anywhere yet
    watch.look_at("y", 12)
    watch.begin(tmp_path, (5, 10, 7))
    assert watched_in(tmp_path) == Watched("y", 2)
    watch.look_at("x", 9)
    assert watched_in(tmp_path) == Watched("y", 2)
    watch.tell()
    assert watched_in(tmp_path) == Watched("x", 2)


@pytest.fixture
def a_workflow(a_scene, a_folder):
    """Its worker is the true one, on a small simulated tomogram with strokes."""
    image, truth = simulate.fibre_composite((16, 48, 48))
    volume = a_scene.new_volume(image.array, image.grid, "Scan")
    strokes, painted = a_scene.new_segmentation(volume), simulate.strokes(truth)
    for label_class in truth.classes:
        a_scene.paint(strokes, volume, label_class.name, painted.array == label_class.value, label_class.color)
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    command = [sys.executable, str(Path(io.__file__).parents[1] / "__main__.py")]
    with Workflow(
        a_scene.mrml,
        jobs_folder=a_folder,
        start=lambda folder: WorkerProcess(folder, command=command, environment=environment),
    ) as workflow:
        workflow.parameters.choose("volume", volume)
        workflow.parameters.choose("annotation", strokes)
        settings = TrainSettings(
            encoder="resnet18", weights="none", crop_size=32, batch_size=4, crops_per_epoch=16, epochs=1000,
            local_weight=0.0, learning_rate=1e-3, device="cpu",
        )  # fmt: skip
        workflow.parameters.keep(settings)
        yield workflow


def test_a_training_shows_what_it_makes_of_the_slice_in_view(a_workflow, a_scene):
    volume = a_workflow.parameters.chosen("volume")
    a_workflow.watch("z", 5)
    a_workflow.train()
    shown = []

    def follow(state):
        if state.preview and state.preview not in shown and state.is_running:
            shown.append(state.preview)
            labels = labels_of(show_preview(state, volume), volume).array
            slices = set(np.argwhere(labels != 255)[:, 0])
            assert slices in ({5}, {9})
            a_workflow.watch("z", 9)
            if slices == {9}:
                a_workflow.cancel()

    state = a_workflow.wait(follow)
    assert state.phase is Phase.CANCELLED
    assert len(shown) >= 2
    remove_preview(a_scene.mrml)
    assert a_scene.mrml.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1


def test_the_slice_in_view_is_counted_from_the_region(a_workflow, a_scene, monkeypatch):
    from VolumeSegmanticsSlicer import job_folders

    monkeypatch.setattr(job_folders, "MARGIN", 0)
    volume = a_workflow.parameters.chosen("volume")
    roi = a_scene.new_node("vtkMRMLMarkupsROINode")
    spacing = np.array(grid_of(volume).spacing)
    low, high = np.array([4, 0, 0]), np.array([14, 48, 48])
    z, y, x = (low + high - 1) / 2 * spacing
    roi.SetCenter(-x, -y, z)
    roi.SetSize(*((high - low) * spacing)[::-1])
    a_workflow.parameters.choose("region", roi)
    a_workflow.parameters.keep(dataclasses.replace(a_workflow.parameters.settings(TrainSettings), epochs=2))
    a_workflow.watch("z", 9)
    a_workflow.train()
    state = a_workflow.state
    assert watched_in(state.folder) == Watched("z", 5)
    a_workflow.watch("z", 11)
    assert watched_in(state.folder) == Watched("z", 7)
    a_workflow.cancel()
    a_workflow.wait()
    a_workflow.watch("z", 12)
    assert watched_in(state.folder) == Watched("z", 7)  # the job is over
