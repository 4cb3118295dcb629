"""What the panel tells the user to paint next: how much each class has, and where the model is least sure."""

from __future__ import annotations

import numpy as np
import pytest

from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.volume import Grid, LabelMap, Volume

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
from VolumeSegmanticsSlicer import guidance  # noqa: E402
from VolumeSegmanticsSlicer.guidance import least_certain, painted, painted_slices  # noqa: E402
from VolumeSegmanticsSlicer.nodes import grid_of  # noqa: E402
from VolumeSegmanticsSlicer.results import show_confidence, show_labels  # noqa: E402


@pytest.fixture
def a_confidence(a_volume_node):
    """60 %, but 20 % in the slice z = 4, and 10 % in the column y = 5, x = 6."""
    percent = np.full((6, 7, 8), 60, np.uint8)
    percent[4] = 20
    percent[:, 5, 6] = 10
    return show_confidence(Volume(percent, grid_of(a_volume_node)), a_volume_node)


def test_each_segment_tells_its_voxels_and_the_fewest_slices_that_hold_them(some_strokes, a_volume_node):
    told = {each.name: each for each in painted(some_strokes, a_volume_node)}
    assert list(told) == ["Pöre | größer", "Faser", "Matrix zwei"]
    assert [each.voxels for each in told.values()] == [2, 6, 16]  # the later ones painted over the earlier
    assert [each.slices for each in told.values()] == [1, 1, 1]  # of z, of y, of y
    assert told["Faser"].color == pytest.approx((1.0, 0.0, 0.25))
    assert some_strokes.GetSegmentation().GetSegment(told["Faser"].segment_id).GetName() == "Faser"


def test_too_little_paint_is_told_in_a_sentence(a_scene, a_volume_node):
    node = a_scene.new_segmentation(a_volume_node)
    node.GetSegmentation().AddEmptySegment("", "leer")
    a_scene.paint(node, a_volume_node, "wenig", np.s_[0, 0, :5])
    a_scene.paint(node, a_volume_node, "eine Schicht", np.s_[1:, 6])
    a_scene.paint(node, a_volume_node, "zwei Schichten", np.s_[:5, 1:3])
    warnings = {each.name: each.warning for each in painted(node, a_volume_node)}
    assert "Nothing" in warnings["leer"]
    assert "Only 5 voxels" in warnings["wenig"]
    assert "Only 40 voxels" in warnings["eine Schicht"]
    assert "Only 80 voxels" in warnings["zwei Schichten"]


@pytest.mark.parametrize(
    ("voxels", "slices", "word"), [(0, 0, "yet"), (99, 9, "99"), (100, 1, "another"), (100, 2, "")]
)
def test_a_warning_says_what_is_missing(voxels, slices, word):
    warning = guidance._warning("Pore", voxels, slices)
    assert (word in warning) if word else (warning == "")


def test_training_warns_below_the_same_number():
    from VolumeSegmanticsLib import prepare

    assert guidance.FEW_VOXELS == prepare.FEW_VOXELS


def test_more_segments_than_a_byte_has_bits_are_told_apart(a_scene, a_volume_node):
    node = a_scene.new_segmentation(a_volume_node)
    for n in range(19):
        a_scene.paint(node, a_volume_node, f"Klasse {n}", np.s_[n % 6, n % 7, : n % 8 + 1], overwrite=False)
    each = painted(node, a_volume_node)
    assert [e.slices for e in each] == [1] * 19
    assert sum(e.voxels for e in each) == sum(n % 8 + 1 for n in range(19))


def test_painted_slices_are_those_that_hold_any_paint(some_strokes, a_volume_node):
    assert painted_slices(some_strokes, a_volume_node) == {1, 2, 3, 4}
    assert painted_slices(some_strokes, a_volume_node, axis="y") == {2, 3, 4, 5}
    assert painted_slices(some_strokes, a_volume_node, axis="x") == {1, 2, 3, 4, 5}


def test_many_voxels_of_eight_classes_are_counted(a_scene):
    shape = (200, 512, 512)
    volume = a_scene.new_volume(np.zeros(shape, np.uint8), Grid(shape))
    labels = np.full(shape, 255, np.uint8)
    for value in range(1, 9):
        labels[20 * value : 20 * value + 3, 50 * value : 50 * value + 40, 5:500] = value
        labels[:, 256, 10 * value] = value  # one class reaches through all slices, so every slice is looked at
    node = show_labels(LabelMap(labels, Grid(shape), tuple(LabelClass(v, f"{v}") for v in range(1, 9))), volume)
    told = painted(node, volume)
    assert [each.voxels for each in told] == [int((labels == v).sum()) for v in range(1, 9)]


def test_the_least_certain_slice_is_found_along_each_axis(a_confidence, a_volume_node):
    assert (least_certain(a_confidence, a_volume_node).index) == 4
    assert (least_certain(a_confidence, a_volume_node, axis="y").index) == 5
    assert (least_certain(a_confidence, a_volume_node, axis="x").index) == 6
    assert least_certain(a_confidence, a_volume_node).confidence == pytest.approx((20 * 55 + 10) / 56)


def test_slices_to_avoid_are_left_out(a_confidence, a_volume_node):
    found = least_certain(a_confidence, a_volume_node, avoid={4, 17, -1})
    assert (found.index, found.confidence) == (0, pytest.approx((60 * 55 + 10) / 56))
    with pytest.raises(InputError, match="Every slice"):
        least_certain(a_confidence, a_volume_node, avoid=range(6))


@pytest.mark.parametrize("axis", "zyx")
def test_the_centre_of_the_slice_lies_in_the_world_where_slicer_shows_it(
    a_confidence, a_volume_node, a_transform, axis
):
    import vtk

    a_volume_node.SetAndObserveTransformNodeID(a_transform.GetID())
    a_confidence.SetAndObserveTransformNodeID(a_transform.GetID())
    found = least_certain(a_confidence, a_volume_node, axis=axis)
    ras_to_ijk, from_world = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    a_volume_node.GetRASToIJKMatrix(ras_to_ijk)
    a_transform.GetMatrixTransformFromWorld(from_world)
    own = from_world.MultiplyPoint((*found.position_ras, 1))
    i, j, k, _ = ras_to_ijk.MultiplyPoint(own)
    expected = {"x": 3.5, "y": 3.0, "z": 2.5, axis: found.index}
    assert (k, j, i) == pytest.approx((expected["z"], expected["y"], expected["x"]))


def test_a_confidence_of_another_volume_is_refused(a_scene, a_confidence):
    other = a_scene.new_volume(np.zeros((6, 7, 8), np.uint8), Grid((6, 7, 8)))
    with pytest.raises(InputError, match="voxels of"):
        least_certain(a_confidence, other)
