"""Volumes, strokes and results between a real MRML scene and the library, compared with Slicer's own files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.errors import InputError, SettingsError
from VolumeSegmanticsLib.volume import Grid, LabelMap, Volume

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
vtk = pytest.importorskip("vtk")
from VolumeSegmanticsSlicer.nodes import existing, grid_of, image_for_job, volume_of  # noqa: E402
from VolumeSegmanticsSlicer.results import provenance_of, show_confidence, show_labels  # noqa: E402
from VolumeSegmanticsSlicer.segmentations import labels_for_job, labels_of  # noqa: E402
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy  # noqa: E402

SHAPE = (6, 7, 8)
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TERMS = "Context~SCT^1^Tissue~SCT^2^Böne~^^~Anatomic~^^~^^"
NUMBERED = np.arange(336, dtype=np.int16).reshape(SHAPE)


def in_lps(node, index_zyx) -> np.ndarray:
    """Where Slicer has a voxel of a volume node in its own space."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return RAS_TO_LPS[:3, :3] @ matrix.MultiplyPoint((*index_zyx[::-1], 1))[:3]


def seen_at(segmentation_node, segment_id) -> np.ndarray:
    """The sorted places (R, A, S) in the world at which Slicer has the voxels of a segment."""
    image, to_world = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
    segmentation_node.GetBinaryLabelmapRepresentation(segment_id, image)  # a copy of this segment alone
    if image.IsEmpty():
        return np.empty((0, 3))
    image.GetImageToWorldMatrix(to_world)
    transform = segmentation_node.GetParentTransformNode()
    if transform is not None:
        parent = vtk.vtkMatrix4x4()
        transform.GetMatrixTransformToWorld(parent)
        vtk.vtkMatrix4x4.Multiply4x4(parent, to_world, to_world)
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    index = np.argwhere(voxels > 0) + image.GetExtent()[4::-2]
    return _sorted([to_world.MultiplyPoint((*zyx[::-1].tolist(), 1))[:3] for zyx in index])


def voxels_at(volume_node, mask) -> np.ndarray:
    """The sorted places (R, A, S) in the world of the voxels of a volume that a mask names."""
    matrix, to_world = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    if volume_node.GetParentTransformNode() is not None:
        volume_node.GetParentTransformNode().GetMatrixTransformToWorld(to_world)
    vtk.vtkMatrix4x4.Multiply4x4(to_world, matrix, matrix)
    return _sorted([matrix.MultiplyPoint((*zyx[::-1].tolist(), 1))[:3] for zyx in np.argwhere(mask)])


def _sorted(places) -> np.ndarray:
    places = np.array(places).reshape(-1, 3).round(4) + 0.0
    return places[np.lexsort(places.T)]


def add_layer(node, name, array, grid, *, value=1, dtype=np.uint8, start=(0, 0, 0)):
    """Give a segmentation a segment in an image of its own, on any grid."""
    image, matrix = slicer.vtkOrientedImageData(), vtk.vtkMatrix4x4()
    matrix.DeepCopy((RAS_TO_LPS @ grid.affine[:, [2, 1, 0, 3]]).ravel().tolist())
    image.SetExtent(
        *(n for low, size in zip(start[::-1], array.shape[::-1], strict=True) for n in (low, low + size - 1))
    )
    image.GetPointData().SetScalars(numpy_to_vtk((array * value).astype(dtype).ravel(), deep=True))
    image.SetGeometryFromImageToWorldMatrix(matrix)
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetLabelValue(value)
    segment.AddRepresentation("Binary labelmap", image)
    node.GetSegmentation().AddSegment(segment, name)
    return image


def mask(*indices, shape=SHAPE) -> np.ndarray:
    painted = np.zeros(shape, bool)
    for index in indices:
        painted[index] = True
    return painted


def step(scale, offset) -> np.ndarray:
    """4×4: voxels of another size that begin elsewhere, in voxels of a grid (Z, Y, X)."""
    matrix = np.diag([scale, scale, scale, 1.0])
    matrix[:3, 3] = offset
    return matrix


def by_name(labels) -> dict:
    return {c.name: c.value for c in labels.classes}


def through_a_file(scene, node, grid, folder, **options) -> LabelMap:
    """The labels as the command line has them: saved by Slicer, read by the library."""
    return io.read_labels(scene.write(node, folder / "s ü.seg.nrrd"), grid=grid, **options)


def assert_same(labels, expected):
    np.testing.assert_array_equal(labels.array, expected.array)
    assert labels.grid == expected.grid
    assert [(c.value, c.name, c.terminology) for c in labels.classes] == [
        (c.value, c.name, c.terminology) for c in expected.classes
    ]
    for ours, theirs in zip(labels.classes, expected.classes, strict=True):
        np.testing.assert_allclose(ours.color, theirs.color, atol=1e-6)  # Slicer writes six digits


# Volumes


def test_every_voxel_of_a_volume_lies_where_slicer_has_it(a_scene, each_grid):
    node = a_scene.new_volume(NUMBERED, each_grid)
    volume = volume_of(node)
    assert volume.grid == each_grid
    for index in ((0, 0, 0), (5, 6, 7), (1, 2, 3)):
        assert volume.array[index] == NUMBERED[index]
        np.testing.assert_allclose((volume.grid.affine @ (*index, 1))[:3], in_lps(node, index), atol=1e-9)


def test_every_voxel_lies_where_slicers_file_has_it(a_scene, a_folder, each_grid):
    """Slicer turns an axis of left-handed volumes round when it writes them: the same places in another order."""
    node = a_scene.new_volume(NUMBERED, each_grid)
    written = io.read_volume(a_scene.write(node, a_folder / "v ü.nrrd"))
    volume = volume_of(node)
    for value in (0, 7, 335):
        places = [v.grid.affine @ (*np.argwhere(v.array == value)[0], 1) for v in (volume, written)]
        np.testing.assert_allclose(*places, atol=1e-4)


@pytest.mark.parametrize("transformed", [False, True])
def test_a_volume_is_taken_in_its_own_space(transformed, a_volume_node, a_transform, a_grid):
    if transformed:
        a_volume_node.SetAndObserveTransformNodeID(a_transform.GetID())
    assert volume_of(a_volume_node).grid == a_grid


def test_an_image_whose_first_voxel_has_another_index_keeps_its_place(a_volume_node, a_grid):
    a_volume_node.GetImageData().SetExtent(2, 9, 3, 9, -1, 4)
    first = grid_of(a_volume_node).affine @ (0, 0, 0, 1)
    np.testing.assert_allclose(first, a_grid.affine @ (-1, 3, 2, 1))


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_every_scalar_type_stays_what_it_is(dtype, a_scene, a_grid, a_folder):
    array = np.arange(336).astype(dtype).reshape(SHAPE)
    node = a_scene.new_volume(array, a_grid)
    assert volume_of(node).array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(io.read_volume(image_for_job(node, a_folder)).array, array)


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_stay_and_an_alpha_channel_goes_as_in_slicers_file(channels, a_scene, a_folder):
    array = np.random.default_rng(0).integers(0, 255, (*SHAPE, channels), np.uint8)
    node = a_scene.new_volume(array, Grid(SHAPE, (2, 3, 4)), class_name="vtkMRMLVectorVolumeNode")
    volume = volume_of(node)
    np.testing.assert_array_equal(volume.array, array[..., :3])
    np.testing.assert_array_equal(io.read_volume(image_for_job(node, a_folder)).array, volume.array)
    np.testing.assert_array_equal(io.read_volume(a_scene.write(node, a_folder / "rgb.nrrd")).array, volume.array)


def test_voxels_are_neither_copied_nor_open_to_changes(a_volume_node):
    array = volume_of(a_volume_node).array
    scalars = vtk_to_numpy(a_volume_node.GetImageData().GetPointData().GetScalars())
    assert np.shares_memory(array, scalars)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_an_empty_volume_is_refused(a_scene):
    with pytest.raises(InputError, match="no voxels"):
        volume_of(a_scene.new_node("vtkMRMLScalarVolumeNode", "leer"))


def test_a_volume_of_many_values_a_voxel_is_refused(a_scene):
    node = a_scene.new_volume(np.zeros((*SHAPE, 9), np.float32), Grid(SHAPE), class_name="vtkMRMLVectorVolumeNode")
    with pytest.raises(InputError, match="9 values a voxel"):
        volume_of(node)


@pytest.mark.parametrize("nested", [False, True])
def test_a_non_linear_transform_is_refused_with_a_hint(nested, a_volume_node, some_strokes, a_transform, a_warp):
    a_transform.SetAndObserveTransformNodeID(a_warp.GetID())
    transform = a_transform if nested else a_warp
    some_strokes.SetAndObserveTransformNodeID(transform.GetID())
    with pytest.raises(InputError, match=r"strokes.*non-linear.*Harden"):
        labels_of(some_strokes, a_volume_node)
    a_volume_node.SetAndObserveTransformNodeID(transform.GetID())
    for refused in (volume_of, grid_of):
        with pytest.raises(InputError, match=r"Probe größer.*non-linear"):
            refused(a_volume_node)


def test_a_deleted_node_gets_a_sentence(a_scene, a_volume_node):
    node_id = a_volume_node.GetID()
    assert existing(a_scene.mrml, node_id, "input volume") is a_volume_node
    a_scene.mrml.RemoveNode(a_volume_node)
    with pytest.raises(InputError, match="The input volume is no longer in the scene"):
        existing(a_scene.mrml, node_id, "input volume")
    for nothing in ("", None):
        with pytest.raises(InputError, match="No input volume is chosen"):
            existing(a_scene.mrml, nothing, "input volume")


# The image of a job


@pytest.fixture
def a_stored_volume_node(a_scene, a_folder):
    """Read by Slicer from a raw file."""
    volume = Volume(NUMBERED, Grid(SHAPE, (2.5, 0.7, 0.4), (1, 2, 3)))
    return a_scene.read_volume(io.write_volume(a_folder / "gröss.nrrd", volume))


def own_file_of(node):
    return node.GetStorageNode().GetFileName()


def test_an_unmodified_volume_goes_by_its_own_file(a_stored_volume_node, tmp_path):
    path = image_for_job(a_stored_volume_node, tmp_path)
    assert str(path) == own_file_of(a_stored_volume_node)
    np.testing.assert_array_equal(io.read_volume(path).array, NUMBERED)


def test_a_volume_goes_by_the_file_that_it_was_saved_to(a_scene, a_folder, tmp_path):
    node = a_scene.new_volume(NUMBERED, Grid(SHAPE, (2, 3, 4)))
    path = a_scene.write(node, a_folder / "saved.nhdr", compressed=False)
    assert image_for_job(node, tmp_path) == path


def test_a_linear_transform_does_not_make_a_copy_necessary(a_stored_volume_node, a_transform, tmp_path):
    a_stored_volume_node.SetAndObserveTransformNodeID(a_transform.GetID())
    assert str(image_for_job(a_stored_volume_node, tmp_path)) == own_file_of(a_stored_volume_node)


def change_voxels(node):
    vtk_to_numpy(node.GetImageData().GetPointData().GetScalars())[5] = 77
    node.GetImageData().Modified()


def change_spacing(node):
    node.SetSpacing(1, 1, 1)


def change_file(node):
    volume = io.read_volume(own_file_of(node))
    io.write_volume(own_file_of(node), Volume(volume.array[::-1].copy(), volume.grid))


def lose_file(node):
    node.GetStorageNode().SetFileName(own_file_of(node) + ".gone")


@pytest.mark.parametrize("change", [change_voxels, change_spacing, change_file, lose_file])
def test_a_changed_volume_is_copied(change, a_stored_volume_node, tmp_path):
    change(a_stored_volume_node)
    path = image_for_job(a_stored_volume_node, tmp_path)
    assert path == tmp_path / "image.nrrd"
    stored, shown = io.read_volume(path), volume_of(a_stored_volume_node)
    assert isinstance(stored.array, np.memmap)
    assert stored.grid == shown.grid
    np.testing.assert_array_equal(stored.array, shown.array)


def test_a_change_in_a_single_voxel_of_many_slices_is_noticed(a_scene, a_folder, tmp_path):
    node = a_scene.new_volume(np.zeros((99, 7, 8), np.uint8), Grid((99, 7, 8)))
    path = a_scene.write(node, a_folder / "saved.nrrd", compressed=False)
    assert image_for_job(node, tmp_path) == path
    vtk_to_numpy(node.GetImageData().GetPointData().GetScalars()).reshape(99, 7, 8)[40, 3, 3] = 1
    node.GetImageData().Modified()
    assert image_for_job(node, tmp_path) == tmp_path / "image.nrrd"


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_a_compressed_volume_is_copied(suffix, a_scene, a_folder, tmp_path):
    node = a_scene.new_volume(NUMBERED, Grid(SHAPE, (2, 3, 4)))
    a_scene.write(node, a_folder / f"saved{suffix}")
    assert image_for_job(node, tmp_path) == tmp_path / "image.nrrd"


@pytest.mark.parametrize("array", [NUMBERED, np.zeros(SHAPE, np.int16)], ids=["numbered", "all the same"])
def test_a_left_handed_file_that_slicer_turned_round_is_copied(array, a_scene, a_folder, a_grid, tmp_path):
    node = a_scene.read_volume(io.write_volume(a_folder / "left.nrrd", Volume(array, a_grid)))
    assert image_for_job(node, tmp_path) == tmp_path / "image.nrrd"
    np.testing.assert_array_equal(io.read_volume(tmp_path / "image.nrrd").array, array[::-1])


# Strokes


@pytest.mark.parametrize("transformed", [False, True])
def test_strokes_are_what_slicers_file_holds(transformed, a_scene, a_folder, a_transform, each_grid):
    """The bar: left-handed, oblique, anisotropic, under a transform; every voxel where the command line has it."""
    volume_node = a_scene.new_volume(NUMBERED, each_grid)
    if transformed:
        volume_node.SetAndObserveTransformNodeID(a_transform.GetID())
    node = a_scene.new_segmentation(volume_node)
    a_scene.paint(node, volume_node, "Pöre | größer", np.s_[1, 2:5, 3])
    a_scene.paint(node, volume_node, "Faser", np.s_[2:5, 5, 1:3], (0.1, 0.2, 0.3))
    node.GetSegmentation().GetNthSegment(1).SetTag("TerminologyEntry", TERMS)
    labels = labels_of(node, volume_node)
    expected = np.full(SHAPE, 255)
    expected[1, 2:5, 3], expected[2:5, 5, 1:3] = 1, 2
    np.testing.assert_array_equal(labels.array, expected)
    assert labels.unpainted == "ignore"
    assert labels.classes[1].terminology == TERMS
    assert_same(labels, through_a_file(a_scene, node, each_grid, a_folder))


def test_strokes_are_read_back_from_the_job(some_strokes, a_volume_node, tmp_path):
    labels = labels_of(some_strokes, a_volume_node)
    assert [c.name for c in labels.classes] == ["Pöre | größer", "Faser", "Matrix zwei"]
    assert labels.classes[0].color == (0.123456789, 1 / 3, 0.5)
    assert_same(io.read_labels(labels_for_job(some_strokes, a_volume_node, tmp_path), grid=labels.grid), labels)


def test_reading_strokes_changes_nothing(some_strokes, a_volume_node):
    segmentation = some_strokes.GetSegmentation()
    image = segmentation.GetNthSegment(0).GetRepresentation("Binary labelmap")
    before = segmentation.GetMTime(), image.GetMTime(), some_strokes.GetMTime()
    labels_of(some_strokes, a_volume_node)
    assert (segmentation.GetMTime(), image.GetMTime(), some_strokes.GetMTime()) == before


@pytest.mark.parametrize("factor", [2, 3])
def test_an_oversampled_segmentation_is_sampled_at_the_volumes_voxels(factor, a_scene, a_volume_node, a_folder, heard):
    """A fine voxel's centre lies in the middle of a coarse one where the factor is odd; 2 leaves ties."""
    node, grid = a_scene.new_segmentation(a_volume_node), grid_of(a_volume_node)
    fine = Grid.from_affine(
        tuple(n * factor for n in SHAPE),
        grid.affine @ step(1 / factor, [0.5 / factor - 0.5] * 3),
    )
    painted = mask(np.s_[1, 2:5, 3], np.s_[4, 1, 2:6])
    add_layer(node, "Pöre", np.kron(painted, np.ones((factor,) * 3, bool)), fine)
    labels = labels_of(node, a_volume_node, report=heard.append)
    np.testing.assert_array_equal(labels.array, np.where(painted, 1, 255))
    assert any("resampled" in event.text for event in heard)
    assert_same(labels, through_a_file(a_scene, node, grid, a_folder))


def test_strokes_on_voxels_half_way_between_go_to_the_nearest(a_scene, a_volume_node):
    node, grid = a_scene.new_segmentation(a_volume_node), grid_of(a_volume_node)
    moved = Grid.from_affine((2, 2, 2), grid.affine @ step(1, [1.3, 2.2, 3.1]))
    add_layer(node, "Pöre", np.ones((2, 2, 2), bool), moved)
    expected = np.where(mask(np.s_[1:3, 2:4, 3:5]), 1, 255)
    np.testing.assert_array_equal(labels_of(node, a_volume_node).array, expected)


def test_layers_on_turned_axes_are_moved_without_resampling(a_scene, a_volume_node, heard):
    node, grid = a_scene.new_segmentation(a_volume_node), grid_of(a_volume_node)
    turned = Grid.from_affine((8, 6, 7), grid.affine @ [[0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 7], [0, 0, 0, 1]])
    painted = mask(np.s_[1, 2:5, 3], np.s_[4, 1, 2:6])
    add_layer(node, "Pöre", painted.transpose(2, 0, 1)[::-1], turned)
    np.testing.assert_array_equal(labels_of(node, a_volume_node, report=heard.append).array, np.where(painted, 1, 255))
    assert not heard


def test_overlapping_segments_count_for_the_later_one(a_scene, a_volume_node, a_folder, heard):
    node = a_scene.new_segmentation(a_volume_node)
    a_scene.paint(node, a_volume_node, "lying", np.s_[2, 3, 1:7], overwrite=False)
    a_scene.paint(node, a_volume_node, "standing", np.s_[2, 1:6, 4], overwrite=False)
    assert node.GetSegmentation().GetNumberOfLayers() == 2
    labels = labels_of(node, a_volume_node, report=heard.append)
    values, expected = by_name(labels), np.full(SHAPE, 255)
    expected[2, 3, 1:7], expected[2, 1:6, 4] = values["lying"], values["standing"]
    np.testing.assert_array_equal(labels.array, expected)
    assert [e.text for e in heard if e.level == "warning"] == [
        'Segments of "strokes" overlap in 1 voxels, which count for the later segment.'
    ]
    assert_same(labels, through_a_file(a_scene, node, labels.grid, a_folder))


def test_the_order_of_the_segments_decides_not_that_of_the_layers(a_scene, a_volume_node):
    node = a_scene.new_segmentation(a_volume_node)
    lying = a_scene.paint(node, a_volume_node, "lying", np.s_[2, 3, 1:7], overwrite=False)
    a_scene.paint(node, a_volume_node, "standing", np.s_[2, 1:6, 4], overwrite=False)
    node.GetSegmentation().SetSegmentIndex(lying, 1)
    labels = labels_of(node, a_volume_node)
    assert labels.array[2, 3, 4] == by_name(labels)["lying"]


def test_the_later_segment_wins_where_it_shares_a_layer_with_an_earlier_one(a_scene, a_volume_node):
    """First and third lie in one layer, the second in another: 3 > 2 > 1."""
    node, grid = a_scene.new_segmentation(a_volume_node), grid_of(a_volume_node)
    image = add_layer(node, "first", mask(np.s_[2, 3, 1:4]), grid, value=1)
    add_layer(node, "second", mask(np.s_[2, 3, 3:6]), grid, value=2)
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(SHAPE)
    voxels[2, 3, 5:8] = 3
    third = slicer.vtkSegment()
    third.SetName("third")
    third.SetLabelValue(3)
    third.AddRepresentation("Binary labelmap", image)
    node.GetSegmentation().AddSegment(third, "third")
    assert labels_of(node, a_volume_node).array[2, 3].tolist() == [255, 1, 1, 2, 2, 3, 3, 3]


def test_eight_layers_keep_their_segments_apart(a_scene, a_volume_node, a_folder):
    node, expected = a_scene.new_segmentation(a_volume_node), np.full(SHAPE, 255)
    for n in range(8):
        add_layer(node, f"Klasse {n}", mask(np.s_[:, 0, n]), grid_of(a_volume_node))
        expected[:, 0, n] = n + 1
    assert node.GetSegmentation().GetNumberOfLayers() == 8
    labels = labels_of(node, a_volume_node)
    np.testing.assert_array_equal(labels.array, expected)
    assert_same(labels, through_a_file(a_scene, node, labels.grid, a_folder))


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4"])
def test_label_values_of_any_type_are_understood(dtype, a_scene, a_volume_node):
    node, painted = a_scene.new_segmentation(a_volume_node), mask(np.s_[1, 2:5, 3])
    add_layer(node, "Pöre", painted, grid_of(a_volume_node), value=7, dtype=dtype)
    labels = labels_of(node, a_volume_node)
    np.testing.assert_array_equal(labels.array, np.where(painted, 7, 255))


def test_values_beyond_254_and_voxels_of_no_segment_are_told_apart(a_scene, a_volume_node):
    node = a_scene.new_segmentation(a_volume_node)
    image = add_layer(node, "weit", mask(np.s_[1, 2:5, 3]), grid_of(a_volume_node), value=300, dtype=np.int16)
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(SHAPE)
    voxels[5, 5, :4] = (-1, 5, 301, 9999)
    labels = labels_of(node, a_volume_node)
    np.testing.assert_array_equal(labels.array, np.where(mask(np.s_[1, 2:5, 3]), 1, 255))


def test_layers_reach_where_their_extent_says(a_scene, a_volume_node):
    node = a_scene.new_segmentation(a_volume_node)
    add_layer(node, "Pöre", np.ones((2, 1, 3), bool), grid_of(a_volume_node), start=(4, 6, 5))
    expected = np.where(mask(np.s_[4:6, 6, 5:8]), 1, 255)
    np.testing.assert_array_equal(labels_of(node, a_volume_node).array, expected)


def test_strokes_beyond_a_cropped_volume_are_counted(a_scene, a_volume_node, some_strokes, heard):
    """Cropped by one slice and two rows, as by the module Crop Volume."""
    grid = grid_of(a_volume_node)
    part = Grid.from_affine((4, 5, 8), grid.affine @ step(1, [2, 2, 0]))
    cropped = a_scene.new_volume(NUMBERED[2:, 2:], part)
    whole = labels_of(some_strokes, a_volume_node)
    labels = labels_of(some_strokes, cropped, report=heard.append)
    np.testing.assert_array_equal(labels.array, whole.array[2:, 2:])
    lost = np.count_nonzero(whole.array != 255) - np.count_nonzero(labels.array != 255)
    assert [e.text for e in heard] == [f'{lost} labelled voxels of "strokes" lie outside the volume.']


@pytest.mark.parametrize("shift", [100, 100.4])
def test_strokes_of_another_place_are_refused(shift, a_scene, some_strokes, a_grid):
    moved = replace(a_grid, origin=tuple((a_grid.affine @ (shift, shift, shift, 1))[:3]))
    with pytest.raises(InputError, match="lie outside the volume"):
        labels_of(some_strokes, a_scene.new_volume(NUMBERED, moved))


def test_hidden_segments_count_unless_only_visible_ones_are_asked_for(some_strokes, a_volume_node):
    segmentation = some_strokes.GetSegmentation()
    hidden = segmentation.GetSegmentIdBySegmentName("Faser")
    some_strokes.GetDisplayNode().SetSegmentVisibility(hidden, False)
    everything = labels_of(some_strokes, a_volume_node)
    visible = labels_of(some_strokes, a_volume_node, visible_only=True)
    assert [c.name for c in visible.classes] == ["Pöre | größer", "Matrix zwei"]
    gone = by_name(everything)["Faser"]
    np.testing.assert_array_equal(visible.array, np.where(everything.array == gone, 255, everything.array))


def test_a_segment_without_strokes_is_a_class_without_voxels(a_scene, some_strokes, a_volume_node, a_folder):
    some_strokes.GetSegmentation().AddEmptySegment("leer", "noch nichts")
    labels = labels_of(some_strokes, a_volume_node)
    assert labels.counts()[by_name(labels)["noch nichts"]] == 0
    assert [c.name for c in labels.classes] == [
        c.name for c in through_a_file(a_scene, some_strokes, labels.grid, a_folder).classes
    ]


def test_what_is_painted_after_a_job_has_begun_does_not_reach_it(a_scene, a_volume_node, some_strokes, tmp_path):
    before = labels_of(some_strokes, a_volume_node).array
    acts = []
    path = labels_for_job(some_strokes, a_volume_node, tmp_path, write=acts.append)
    a_scene.paint(some_strokes, a_volume_node, "Faser", np.s_[:])
    assert (labels_of(some_strokes, a_volume_node).array != before).any()
    for act in acts:
        act()
    np.testing.assert_array_equal(io.read_labels(path).array, before)


def test_a_new_segmentation_is_unlabelled_everywhere(a_scene, a_volume_node):
    labels = labels_of(a_scene.new_segmentation(a_volume_node), a_volume_node)
    assert (labels.array == 255).all()
    assert labels.classes == ()


@pytest.mark.parametrize("which", ["volume", "strokes", "both apart"])
def test_strokes_under_another_transform_go_where_they_are_seen(which, a_scene, a_volume_node, a_transform):
    """The strokes are painted at two voxels of a volume, which is what its transform moves them to."""
    node, painted = a_scene.new_segmentation(a_volume_node), mask(np.s_[2, 3, 4], np.s_[4, 1, 2:6])
    other = a_scene.new_transform([[1, 0, 0, 40], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    if which != "strokes":
        a_volume_node.SetAndObserveTransformNodeID(a_transform.GetID())
    if which != "volume":
        node.SetAndObserveTransformNodeID((a_transform if which == "strokes" else other).GetID())
    to_strokes = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(
        a_volume_node.GetParentTransformNode(), node.GetParentTransformNode(), to_strokes
    )
    matrix = np.reshape([to_strokes.GetElement(r, c) for r in range(4) for c in range(4)], (4, 4))
    seen = Grid.from_affine(SHAPE, RAS_TO_LPS @ matrix @ RAS_TO_LPS @ grid_of(a_volume_node).affine)
    add_layer(node, "Pöre", painted, seen)
    np.testing.assert_allclose(seen_at(node, "Pöre"), voxels_at(a_volume_node, painted), atol=1e-3)
    np.testing.assert_array_equal(labels_of(node, a_volume_node).array, np.where(painted, 1, 255))


def test_a_surface_is_refused_with_a_hint(some_strokes, a_volume_node):
    segmentation = some_strokes.GetSegmentation()
    assert segmentation.CreateRepresentation("Closed surface")
    segmentation.SetSourceRepresentationName("Closed surface")
    with pytest.raises(InputError, match=r"closed surface.*binary labelmap"):
        labels_of(some_strokes, a_volume_node)


# What is the background


def test_unpainted_voxels_can_mean_background(some_strokes, a_volume_node, tmp_path):
    labels = labels_of(some_strokes, a_volume_node, unpainted="background")
    ignored = labels_of(some_strokes, a_volume_node, unpainted="ignore")
    np.testing.assert_array_equal(labels.array, np.where(ignored.array == 255, 0, ignored.array))
    assert labels.classes[0] == LabelClass.plain(0)
    path = labels_for_job(some_strokes, a_volume_node, tmp_path, unpainted="background")
    assert_same(io.read_labels(path, grid=labels.grid), labels)


def test_a_segment_called_background_is_a_class_like_others(a_scene, some_strokes, a_volume_node, a_folder):
    a_scene.paint(some_strokes, a_volume_node, "Background", np.s_[0, 0, :])
    labels = labels_of(some_strokes, a_volume_node)
    assert by_name(labels)["Background"] == 4
    assert (labels.array[0, 0] == 4).all()
    assert_same(labels, through_a_file(a_scene, some_strokes, labels.grid, a_folder))


def test_a_chosen_segment_is_class_0_beside_unlabelled_voxels(a_scene, some_strokes, a_volume_node, tmp_path):
    chosen = a_scene.paint(some_strokes, a_volume_node, "Luft", np.s_[0, 0, :])
    labels = labels_of(some_strokes, a_volume_node, background_segment_id=chosen)
    assert (labels.array[0, 0] == 0).all()
    assert labels.array[5, 6, 7] == 255
    assert (labels.classes[0].value, labels.classes[0].name) == (0, "Luft")
    path = labels_for_job(some_strokes, a_volume_node, tmp_path, background_segment_id=chosen)
    assert_same(io.read_labels(path, grid=labels.grid), labels)


def test_an_unknown_meaning_is_refused(some_strokes, a_volume_node):
    with pytest.raises(SettingsError, match="maybe"):
        labels_of(some_strokes, a_volume_node, unpainted="maybe")


# Results


@pytest.fixture
def a_prediction(a_grid) -> LabelMap:
    """Every voxel has a class, 0 is the background; one class has no voxel."""
    classes = (
        LabelClass.plain(0),
        LabelClass(2, "Pöre | größer", (0.123456789, 1 / 3, 0.5), TERMS),
        LabelClass(5, "Faser", (1.0, 0.0, 0.25)),
        LabelClass(9, "nirgends", (0.2, 0.2, 0.2)),
    )
    array = np.random.default_rng(0).choice(np.array([0, 2, 5], np.uint8), SHAPE)
    return LabelMap(array, a_grid, classes)


def segments_of(node):
    segmentation = node.GetSegmentation()
    return {
        segmentation.GetNthSegment(n).GetName(): segmentation.GetNthSegmentID(n)
        for n in range(segmentation.GetNumberOfSegments())
    }


@pytest.mark.parametrize("transformed", [False, True])
def test_a_result_lies_exactly_over_its_volume(transformed, a_scene, a_prediction, a_transform, each_grid):
    volume_node = a_scene.new_volume(NUMBERED, each_grid)
    if transformed:
        volume_node.SetAndObserveTransformNodeID(a_transform.GetID())
    labels = replace(a_prediction, grid=each_grid)
    node = show_labels(labels, volume_node)
    assert list(segments_of(node)) == ["Pöre | größer", "Faser", "nirgends"]
    for c in labels.classes[1:]:
        places = seen_at(node, segments_of(node)[c.name])
        np.testing.assert_allclose(places, voxels_at(volume_node, labels.array == c.value), atol=1e-3)


def test_a_result_has_the_names_colours_and_terminology_of_its_classes(a_volume_node, a_prediction):
    node = show_labels(a_prediction, a_volume_node)
    back = labels_of(node, a_volume_node)
    np.testing.assert_array_equal(back.array, a_prediction.array)
    no_terms = labels_of(show_labels(a_prediction, a_volume_node), a_volume_node).classes[2].terminology
    assert back.classes == tuple(
        replace(c, terminology=c.terminology or (no_terms if c.value else "")) for c in a_prediction.classes
    )
    assert back.unpainted == "background"


def test_the_segments_of_a_result_share_one_image(a_volume_node, a_prediction):
    node = show_labels(a_prediction, a_volume_node)
    assert node.GetSegmentation().GetNumberOfLayers() == 1


def test_a_result_is_what_slicers_file_of_it_holds(a_scene, a_volume_node, a_prediction, a_folder):
    node = show_labels(a_prediction, a_volume_node)
    back = through_a_file(a_scene, node, a_prediction.grid, a_folder, unpainted="background")
    np.testing.assert_array_equal(back.array, a_prediction.array)
    assert by_name(back) == by_name(a_prediction)


def test_a_result_can_come_from_its_file(a_volume_node, a_prediction, a_folder):
    node = show_labels(io.write_labels(a_folder / "labels.seg.nrrd", a_prediction), a_volume_node)
    back = labels_of(node, a_volume_node)
    np.testing.assert_array_equal(back.array, a_prediction.array)
    assert [c.color for c in back.classes] == [c.color for c in a_prediction.classes]


def test_the_background_beside_unlabelled_voxels_is_a_segment(a_volume_node, a_prediction):
    array = a_prediction.array.copy()
    array[0] = 255
    labels = replace(a_prediction, array=array, unpainted="background")
    node = show_labels(labels, a_volume_node)
    assert list(segments_of(node))[-1] == "Background"
    back = labels_of(node, a_volume_node)
    np.testing.assert_array_equal(back.array, array)
    assert back.classes[0].name == "Background"


def test_strokes_come_back_as_they_were(some_strokes, a_volume_node):
    labels = labels_of(some_strokes, a_volume_node)
    assert_same(labels_of(show_labels(labels, a_volume_node), a_volume_node), labels)


def test_a_result_is_filed_and_displayed_with_its_volume(a_scene, a_volume_node, a_prediction, a_transform):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(a_scene.mrml)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Ordner")
    hierarchy.CreateItem(folder, a_volume_node)
    a_volume_node.SetAndObserveTransformNodeID(a_transform.GetID())
    for node in (show_labels(a_prediction, a_volume_node), show_confidence(percent(a_prediction), a_volume_node)):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == folder
        assert node.GetParentTransformNode() is a_transform
        assert node.GetDisplayNode() is not None
        assert node.GetName().startswith("Probe größer ")
    segmentation = a_scene.mrml.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole()) is a_volume_node


def test_results_beside_one_another_have_names_of_their_own(a_volume_node, a_prediction):
    names = [show_labels(a_prediction, a_volume_node, name="Modell ä").GetName() for _ in range(2)]
    assert names[0] == "Modell ä"
    assert len(set(names)) == 2


def test_a_result_says_where_it_comes_from(a_volume_node, a_prediction):
    facts = {"Model": Path("/Modelle/größer.safetensors"), "Settings": {"quality": "high", "ü": "a;b:c"}}
    told = provenance_of(show_labels(a_prediction, a_volume_node, provenance=facts))
    assert told.pop("Date").startswith("20")
    assert json.loads(told.pop("Settings")) == facts["Settings"]
    assert told == {"Model": str(facts["Model"])}


def test_a_result_of_another_grid_is_refused(a_scene, a_volume_node, a_prediction):
    a_volume_node.SetSpacing(1, 1, 1)
    for show, result in ((show_labels, a_prediction), (show_confidence, percent(a_prediction))):
        with pytest.raises(InputError, match=r"does not lie on the voxels.*spacing"):
            show(result, a_volume_node)
    assert a_scene.mrml.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None


# An earlier result is filled again


def test_an_earlier_result_keeps_its_identity_and_display(a_volume_node, a_prediction):
    node = show_labels(a_prediction, a_volume_node, provenance={"Model": "a", "Old": "x"})
    before, display = segments_of(node), node.GetDisplayNode()
    display.SetSegmentOpacity2DFill(before["Faser"], 0.25)
    display.SetSegmentVisibility(before["Faser"], False)
    node.SetName("von Hand benannt")
    classes = (LabelClass.plain(0), LabelClass(1, "neu", (0, 0, 1)), LabelClass(2, "Faser", (0, 1, 0)))
    array = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    newer = LabelMap(array, a_prediction.grid, classes)
    assert show_labels(newer, a_volume_node, result=node, provenance={"Model": "b"}) is node
    after = segments_of(node)
    assert list(after) == ["neu", "Faser"]
    assert after["Faser"] == before["Faser"]
    assert node.GetDisplayNode() is display
    assert node.GetName() == "von Hand benannt"
    assert display.GetSegmentOpacity2DFill(after["Faser"]) == 0.25
    assert not display.GetSegmentVisibility(after["Faser"])
    assert node.GetSegmentation().GetNumberOfLayers() == 1
    assert {"Model": "b"}.items() <= provenance_of(node).items()
    assert "Old" not in provenance_of(node)
    back = labels_of(node, a_volume_node)
    np.testing.assert_array_equal(back.array, array)
    assert [c.color for c in back.classes[1:]] == [(0, 0, 1), (0, 1, 0)]


def test_filling_again_announces_new_voxels_and_drops_old_surfaces(a_volume_node, a_prediction):
    node, heard = show_labels(a_prediction, a_volume_node), []
    segmentation = node.GetSegmentation()
    assert segmentation.CreateRepresentation("Closed surface")
    node.AddObserver(segmentation.SourceRepresentationModified, lambda *_: heard.append(1))
    show_labels(replace(a_prediction, array=a_prediction.array[::-1].copy()), a_volume_node, result=node)
    assert not segmentation.ContainsRepresentation("Closed surface")
    assert heard


def test_nobody_sees_a_half_filled_result(a_volume_node, a_prediction):
    node, seen = show_labels(a_prediction, a_volume_node), []
    for event in ("SegmentAdded", "SegmentRemoved", "SegmentModified", "SourceRepresentationModified"):
        code = getattr(node.GetSegmentation(), event)
        node.AddObserver(code, lambda *_: seen.append(labels_of(node, a_volume_node)))
    classes = (LabelClass.plain(0), LabelClass(1, "neu"), LabelClass(2, "Faser"))
    newer = LabelMap((a_prediction.array > 0).astype(np.uint8), a_prediction.grid, classes)
    show_labels(newer, a_volume_node, result=node)
    assert seen
    for labels in seen:
        np.testing.assert_array_equal(labels.array, newer.array)
        assert by_name(labels) == by_name(newer)


def test_a_result_that_became_a_surface_is_a_labelmap_again(a_volume_node, a_prediction):
    node = show_labels(a_prediction, a_volume_node)
    node.GetSegmentation().CreateRepresentation("Closed surface")
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    show_labels(a_prediction, a_volume_node, result=node)
    np.testing.assert_array_equal(labels_of(node, a_volume_node).array, a_prediction.array)


def test_strokes_are_never_filled_with_a_result(a_volume_node, some_strokes, a_prediction):
    before = labels_of(some_strokes, a_volume_node)
    with pytest.raises(InputError, match="no earlier result"):
        show_labels(a_prediction, a_volume_node, result=some_strokes)
    assert_same(labels_of(some_strokes, a_volume_node), before)


def test_an_empty_segmentation_can_take_a_result(a_scene, a_volume_node, a_prediction):
    node = a_scene.new_segmentation(a_volume_node)
    assert show_labels(a_prediction, a_volume_node, result=node) is node
    np.testing.assert_array_equal(labels_of(node, a_volume_node).array, a_prediction.array)


def test_a_segment_that_was_the_background_can_become_a_class_of_its_own(a_volume_node, a_prediction):
    array = a_prediction.array.copy()
    array[0] = 255
    node = show_labels(replace(a_prediction, array=array), a_volume_node)
    other = LabelMap.of(np.full(SHAPE, 3, np.uint8), a_prediction.grid, (LabelClass(3, "Background"),))
    show_labels(other, a_volume_node, result=node)
    assert by_name(labels_of(node, a_volume_node)) == {"Background": 3}


def test_voxels_that_lose_their_segment_are_unlabelled_where_a_result_was_not_complete(a_volume_node, a_prediction):
    array = a_prediction.array.copy()
    array[0] = 255
    node = show_labels(replace(a_prediction, array=array), a_volume_node)
    node.GetSegmentation().RemoveSegment(segments_of(node)["Background"])
    assert not (labels_of(node, a_volume_node).array == 0).any()


def test_a_result_follows_its_volume_to_another_transform(a_volume_node, a_prediction, a_transform):
    node = show_labels(a_prediction, a_volume_node)
    a_volume_node.SetAndObserveTransformNodeID(a_transform.GetID())
    show_labels(a_prediction, a_volume_node, result=node)
    faser = segments_of(node)["Faser"]
    np.testing.assert_allclose(seen_at(node, faser), voxels_at(a_volume_node, a_prediction.array == 5), atol=1e-3)


def test_painting_into_a_result_leaves_the_prediction_alone(a_scene, a_volume_node, a_prediction):
    node, before = show_labels(a_prediction, a_volume_node), a_prediction.array.copy()
    a_scene.paint(node, a_volume_node, "Faser", np.s_[:])
    np.testing.assert_array_equal(a_prediction.array, before)
    assert (labels_of(node, a_volume_node).array == 5).all()


# Confidence


def percent(labels) -> Volume:
    return Volume((np.arange(336) % 101).astype(np.uint8).reshape(SHAPE), labels.grid)


@pytest.mark.parametrize("from_file", [False, True])
def test_confidence_is_a_volume_on_the_same_voxels(from_file, a_volume_node, a_prediction, a_transform, a_folder):
    a_volume_node.SetAndObserveTransformNodeID(a_transform.GetID())
    confidence = percent(a_prediction)
    source = io.write_volume(a_folder / "c.nrrd", confidence) if from_file else confidence
    node = show_confidence(source, a_volume_node, provenance={"Model": "m"})
    assert node.IsA("vtkMRMLScalarVolumeNode")
    shown = volume_of(node)
    assert shown.grid == confidence.grid
    np.testing.assert_array_equal(shown.array, confidence.array)
    display = node.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, 100)
    assert provenance_of(node)["Model"] == "m"


def test_an_earlier_confidence_keeps_how_it_is_displayed(a_volume_node, a_prediction):
    node = show_confidence(percent(a_prediction), a_volume_node)
    node.GetDisplayNode().SetWindowLevelMinMax(50, 90)
    other = replace(percent(a_prediction), array=np.full(SHAPE, 42, np.uint8))
    assert show_confidence(other, a_volume_node, result=node) is node
    assert (volume_of(node).array == 42).all()
    assert node.GetDisplayNode().GetWindowLevelMin() == 50


# Saved and opened again


@pytest.mark.parametrize("suffix", [".mrml", ".mrb"])
@pytest.mark.parametrize("transformed", [False, True])
def test_all_of_it_survives_a_saved_scene(
    suffix, transformed, a_scene, another_scene, a_folder, a_volume_node, some_strokes, a_prediction, a_transform
):
    """Slicer turns an axis of a left-handed volume round as it reads it; strokes and result stay on its voxels."""
    if transformed:
        for node in (a_volume_node, some_strokes):
            node.SetAndObserveTransformNodeID(a_transform.GetID())
    result = show_labels(a_prediction, a_volume_node, name="Ergebnis", provenance={"Settings": {"ä": 'a;b:c|d="e"'}})
    painted, told = labels_of(some_strokes, a_volume_node), provenance_of(result)
    opened = another_scene.open(a_scene.save(a_folder / f"Szene ü{suffix}"))
    volume = opened.named("Probe größer")
    np.testing.assert_array_equal(volume_of(volume).array, NUMBERED[::-1])
    strokes = labels_of(opened.named("strokes"), volume)
    np.testing.assert_array_equal(strokes.array, painted.array[::-1])
    assert by_name(strokes) == by_name(painted)
    np.testing.assert_array_equal(labels_of(opened.named("Ergebnis"), volume).array, a_prediction.array[::-1])
    assert provenance_of(opened.named("Ergebnis")) == told
    assert labels_of(opened.named("Ergebnis"), volume).classes[1].terminology == TERMS
