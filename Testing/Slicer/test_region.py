"""A region of interest limits what is learned and what is segmented, and everything stays where it lies."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.jobs import Job
from VolumeSegmanticsLib.launch import WorkerProcess
from VolumeSegmanticsLib.volume import Grid, LabelMap, Volume

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
import vtk  # noqa: E402
from VolumeSegmanticsSlicer import job_folders  # noqa: E402
from VolumeSegmanticsSlicer.accepting import Region  # noqa: E402
from VolumeSegmanticsSlicer.guidance import least_certain  # noqa: E402
from VolumeSegmanticsSlicer.nodes import grid_of, to_world, volume_of  # noqa: E402
from VolumeSegmanticsSlicer.results import provenance_of, show_labels  # noqa: E402
from VolumeSegmanticsSlicer.segmentations import labels_of  # noqa: E402
from VolumeSegmanticsSlicer.states import Phase  # noqa: E402
from VolumeSegmanticsSlicer.workflow import Workflow  # noqa: E402

QUICK_WORKER = Path(__file__).parent / "workers" / "quick.py"
SHAPE = (20, 22, 24)
WINDOW = np.s_[4:9, 6:16, 3:20]


@pytest.fixture
def a_volume_node(a_scene, a_grid, a_transform):
    """Every voxel has its own value; oblique, left-handed, anisotropic and under a linear transform."""
    values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    node = a_scene.new_volume(values, dataclasses.replace(a_grid, shape=SHAPE))
    node.SetAndObserveTransformNodeID(a_transform.GetID())
    return node


@pytest.fixture
def some_strokes(a_scene, a_volume_node):
    """Two materials inside the region, and one beyond it."""
    node = a_scene.new_segmentation(a_volume_node)
    a_scene.paint(node, a_volume_node, "dark", np.s_[5, 2:12, 5])
    a_scene.paint(node, a_volume_node, "bright", np.s_[2:7, 10, 12])
    a_scene.paint(node, a_volume_node, "far", np.s_[15, 18, 20:23])
    return node


def roi_around(scene, volume_node, window):
    """A region drawn along the volume's own axes, whose faces lie half a voxel outside the window's voxels."""
    grid = grid_of(volume_node)
    low, high = (np.array([getattr(part, end) for part in window], float) for end in ("start", "stop"))
    to_ras = np.diag([-1.0, -1, 1, 1]) @ grid.affine
    middle = to_world(volume_node) @ to_ras @ (*(low + high - 1) / 2, 1)
    axes = (to_world(volume_node) @ to_ras)[:3, :3][:, ::-1]  # of x, y, z
    lengths = np.linalg.norm(axes, axis=0)
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes / lengths, middle[:3]
    roi = scene.new_node("vtkMRMLMarkupsROINode", "Ausschnitt")
    object_to_node = vtk.vtkMatrix4x4()
    object_to_node.DeepCopy(matrix.ravel().tolist())
    roi.SetAndObserveObjectToNodeMatrix(object_to_node)
    roi.SetSize(*((high - low)[::-1] * lengths))
    return roi


@pytest.fixture
def a_region(a_scene, a_volume_node):
    return roi_around(a_scene, a_volume_node, WINDOW)


@pytest.fixture
def a_workflow(a_scene, a_volume_node, some_strokes, a_region, a_folder, monkeypatch):
    """Volume, strokes, region and a model are chosen; the margin is small, as the volume is."""
    monkeypatch.setattr(job_folders, "MARGIN", 2)

    def start(folder):
        return WorkerProcess(folder, command=[sys.executable, str(QUICK_WORKER), "own"])

    with Workflow(a_scene.mrml, jobs_folder=a_folder, start=start) as workflow:
        for role, node in (("volume", a_volume_node), ("annotation", some_strokes), ("region", a_region)):
            workflow.parameters.choose(role, node)
        (a_folder / "model.safetensors").write_bytes(b"a model")
        workflow.parameters.model_path = a_folder / "model.safetensors"
        yield workflow


def test_a_region_along_the_axes_is_exactly_its_voxels(a_volume_node, a_region):
    assert Region.around_roi(a_volume_node, a_region).window == WINDOW
    assert Region.inside_roi(a_volume_node, a_region) == Region(WINDOW)


def test_a_turned_region_is_taken_with_its_corners(a_scene, a_volume_node):
    roi = a_scene.new_node("vtkMRMLMarkupsROINode")
    affine = to_world(a_volume_node) @ np.diag([-1.0, -1, 1, 1]) @ grid_of(a_volume_node).affine
    roi.SetCenter((affine @ (10, 11, 12, 1))[:3].tolist())
    roi.SetSize(4, 4, 4)
    around, inside = Region.around_roi(a_volume_node, roi), Region.inside_roi(a_volume_node, roi)
    assert around.window == inside.window
    assert 0 < inside.mask.sum() < inside.mask.size


def test_training_takes_strokes_inside_the_region_only(a_workflow, a_volume_node):
    a_workflow.train()
    folder = a_workflow.wait().folder
    job = Job.open(folder)
    image, labels = (job.path(job.inputs[name][0]) for name in ("images", "labels"))
    sent, learned = io.read_volume(image), io.read_labels(labels)
    assert sent.grid == learned.grid == grid_of(a_volume_node).part((2, 4, 1), (9, 14, 21))
    assert np.array_equal(sent.array, volume_of(a_volume_node).array[2:11, 4:18, 1:22])
    names = {c.value: c.name for c in learned.classes}
    expected = np.full(SHAPE, "", object)
    expected[5, 2:12, 5], expected[2:7, 10, 12] = "dark", "bright"
    inside = np.zeros(SHAPE, bool)
    inside[WINDOW] = True
    expected[~inside] = ""
    found = np.vectorize(lambda value: names.get(value, ""))(learned.array)
    assert np.array_equal(found, expected[2:11, 4:18, 1:22])


def test_a_volume_that_lies_in_a_file_is_not_cut(a_workflow, a_scene, a_folder):
    stored = io.write_volume(a_folder / "scan.nrrd", Volume(np.zeros(SHAPE, np.int16), Grid(SHAPE, (3, 2, 1))))
    volume_node = a_scene.read_volume(stored)
    a_workflow.parameters.choose("volume", volume_node)
    a_workflow.parameters.choose("region", roi_around(a_scene, volume_node, WINDOW))
    a_workflow.predict()
    job = Job.open(a_workflow.wait().folder)
    assert job.inputs["image"] == str(stored)
    assert job.inputs["box"] == [[4, 9], [6, 16], [3, 20]]


def test_prediction_computes_the_box_and_the_result_holds_it_alone(a_workflow, a_scene, a_volume_node):
    a_workflow.predict(confidence=True)
    state = a_workflow.wait()
    assert state.error is None
    assert Job.open(state.folder).inputs["box"] == [[2, 7], [2, 12], [2, 19]]  # of the part that was sent
    result = a_scene.mrml.GetNodeByID(state.node_ids["result"])
    shown = labels_of(result, a_volume_node).array
    outside = np.ones(SHAPE, bool)
    outside[WINDOW] = False
    assert (shown[outside] == 255).all()
    values = volume_of(a_volume_node).array[WINDOW]
    assert np.array_equal(shown[WINDOW], (values > values.mean()) + 1)
    assert io.read_labels(state.outputs["labels"]).grid == grid_of(a_volume_node).part((4, 6, 3), (5, 10, 17))
    confidence = a_scene.mrml.GetNodeByID(state.node_ids["confidence"])
    assert grid_of(confidence) == grid_of(a_volume_node).part((4, 6, 3), (5, 10, 17))
    assert least_certain(confidence, a_volume_node).index == 4
    assert provenance_of(result)["Box"] == "[[4, 9], [6, 16], [3, 20]]"


def test_a_result_of_a_box_is_replaced_by_one_of_the_whole(a_workflow, a_scene, a_volume_node):
    a_workflow.predict()
    first = a_workflow.wait().node_ids["result"]
    a_workflow.parameters.choose("region", None)
    a_workflow.predict()
    state = a_workflow.wait()
    assert state.node_ids["result"] == first
    result = a_scene.mrml.GetNodeByID(first)
    assert (labels_of(result, a_volume_node).array != 255).all()
    assert "Box" not in provenance_of(result)


def test_a_region_that_holds_everything_is_as_none(a_workflow, a_scene, a_volume_node):
    everything = tuple(slice(-5, n + 5) for n in SHAPE)
    a_workflow.parameters.choose("region", roi_around(a_scene, a_volume_node, everything))
    a_workflow.predict()
    assert "box" not in Job.open(a_workflow.wait().folder).inputs


def test_a_region_beside_the_volume_gets_a_sentence(a_workflow, a_scene, a_volume_node):
    beside = (slice(40, 50), WINDOW[1], WINDOW[2])
    a_workflow.parameters.choose("region", roi_around(a_scene, a_volume_node, beside))
    for action in ("train", "predict"):
        assert "holds no voxel" in a_workflow.allowed(action)
    with pytest.raises(InputError, match="Move it onto the volume"):
        a_workflow.predict()


def test_a_region_without_strokes_gets_a_sentence(a_workflow, a_scene, a_volume_node):
    empty = np.s_[10:14, 2:6, 2:6]
    a_workflow.parameters.choose("region", roi_around(a_scene, a_volume_node, empty))
    a_workflow.train()
    state = a_workflow.wait()
    assert state.phase is Phase.FAILED
    assert "inside the region" in state.error.message


def test_a_region_that_was_deleted_limits_nothing(a_workflow, a_scene, a_region):
    a_scene.mrml.RemoveNode(a_region)
    a_workflow.predict()
    state = a_workflow.wait()
    assert (state.phase, "box" in Job.open(state.folder).inputs) == (Phase.DONE, False)


def test_a_result_is_judged_where_it_was_asked_for(a_workflow, a_volume_node):
    a_workflow.predict()
    a_workflow.wait()
    a_workflow.evaluate()
    truth = io.read_labels(a_workflow.wait().folder / "truth.seg.nrrd")
    outside = np.ones(SHAPE, bool)
    outside[WINDOW] = False
    assert (truth.array[outside] == 255).all()
    assert (truth.array[WINDOW] != 255).any()


def test_the_background_of_a_box_is_a_hidden_segment_and_nothing_beyond(a_volume_node):
    grid = grid_of(a_volume_node).part((4, 6, 3), (2, 3, 4))
    array = np.zeros((2, 3, 4), np.uint8)
    array[0] = 7
    classes = (LabelClass(0, "Background"), LabelClass(7, "Pore"))
    node = show_labels(LabelMap(array, grid, classes), a_volume_node)
    shown = labels_of(node, a_volume_node)
    expected = np.full(SHAPE, 255, np.uint8)
    expected[4:6, 6:9, 3:7] = array
    assert np.array_equal(shown.array, expected)
    segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
    visible = {
        segmentation.GetNthSegment(n).GetName(): display.GetSegmentVisibility(segmentation.GetNthSegmentID(n))
        for n in range(2)
    }
    assert visible == {"Background": False, "Pore": True}


def test_labels_that_reach_beyond_the_volume_are_no_result_of_it(a_volume_node):
    grid = grid_of(a_volume_node).part((18, 0, 0), (5, 2, 2))
    with pytest.raises(InputError, match="does not lie on the voxels"):
        show_labels(LabelMap(np.ones((5, 2, 2), np.uint8), grid, (LabelClass.plain(1),)), a_volume_node)
    with pytest.raises(InputError, match="does not lie on the voxels"):
        show_labels(LabelMap(np.ones((5, 2, 2), np.uint8), Grid((5, 2, 2)), (LabelClass.plain(1),)), a_volume_node)
