"""Segmentations between this library and 3D Slicer's own storage node, both ways, on a real scene."""

from __future__ import annotations

import numpy as np
import pytest

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.volume import LabelClass, LabelMap, Volume

from .conftest import GRIDS, LPS_TO_RAS, SHAPE, matrix_of

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
vtk = pytest.importorskip("vtk")
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy  # noqa: E402

TERMS = "Context~SCT^1^Tissue~SCT^2^Böne~^^~Anatomic~^^~^^"


@pytest.fixture
def some_labels() -> LabelMap:
    """Values with gaps, in a corner of the volume only; one class has no voxel."""
    array = np.full(SHAPE, 255, np.uint8)
    array[1, 2:5, 3] = 2
    array[2:5, 5, 1:3] = 5
    array[4, 1, 2:6] = 7
    classes = (
        LabelClass(2, "Pöre | größer", (0.123456789, 1 / 3, 0.5)),
        LabelClass(5, "C:\\new", (1.0, 0.0, 0.25), TERMS),
        LabelClass(7, "Matrix zwei", (0.9, 0.1, 0.7)),
        LabelClass(9, "nowhere", (0.2, 0.2, 0.2)),
    )
    return LabelMap(array, GRIDS["oblique"], classes, "ignore")


def in_the_world(array, affine, value) -> np.ndarray:
    """The sorted places (x, y, z) of the voxels that hold a value."""
    index = np.argwhere(np.asarray(array) == value)
    places = (np.c_[index, np.ones(len(index))] @ np.asarray(affine).T)[:, :3].round(4) + 0.0
    return places[np.lexsort(places.T)]


def terms_of(segment) -> str:
    terms = vtk.reference("")
    return str(terms) if segment.GetTag("TerminologyEntry", terms) else ""


def as_slicer_has_it(label_class):
    """Value, name and terminology: Slicer itself calls every segment a tissue that says nothing else."""
    return label_class.value, label_class.name, label_class.terminology or terms_of(slicer.vtkSegment())


def segments_of(node):
    """What Slicer has: for each segment (its label value, name, terminology), colour, and places in LPS."""
    segmentation = node.GetSegmentation()
    for number in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(number)
        image = segment.GetRepresentation("Binary labelmap")
        places = np.empty((0, 3))
        if image is not None and not image.IsEmpty():
            places = in_the_world(*array_and_affine(image), segment.GetLabelValue())
        yield (segment.GetLabelValue(), segment.GetName(), terms_of(segment)), segment.GetColor(), places


def array_and_affine(image):
    """The array (Z, Y, X) of an oriented image, and where its indices lie in LPS."""
    matrix, low = vtk.vtkMatrix4x4(), image.GetExtent()[::2]
    image.GetImageToWorldMatrix(matrix)
    affine = LPS_TO_RAS @ np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])
    affine[:, 3] += affine[:, :3] @ low
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    return array, affine[:, [2, 1, 0, 3]]


def oriented(array, grid):
    """An array as Slicer's oriented image on a grid."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*array.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True))
    image.SetGeometryFromImageToWorldMatrix(matrix_of(LPS_TO_RAS @ grid.affine[:, [2, 1, 0, 3]]))
    return image


def add_segment(node, name, color, value, image, terminology=""):
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetColor(*color)
    segment.SetLabelValue(value)
    if terminology:
        segment.SetTag("TerminologyEntry", terminology)
    segment.AddRepresentation("Binary labelmap", image)
    node.GetSegmentation().AddSegment(segment)


@pytest.mark.parametrize("geometry", GRIDS)
def test_slicer_opens_what_is_written_here(geometry, a_scene, a_folder, some_labels):
    labels = LabelMap(some_labels.array, GRIDS[geometry], some_labels.classes)
    node = a_scene.read(io.write_labels(a_folder / "s ü.seg.nrrd", labels))
    found = list(segments_of(node))
    for label_class, (facts, color, places) in zip(labels.classes, found, strict=True):
        assert facts == as_slicer_has_it(label_class)
        assert color == label_class.color
        np.testing.assert_allclose(places, in_the_world(labels.array, labels.grid.affine, label_class.value), atol=2e-4)


def test_slicer_sees_one_layer(a_scene, a_folder, some_labels):
    node = a_scene.read(io.write_labels(a_folder / "s.seg.nrrd", some_labels))
    assert node.GetSegmentation().GetNumberOfLayers("Binary labelmap") == 1


def test_slicer_sees_background_beside_unlabelled_voxels_as_a_segment(a_scene, a_folder, some_labels):
    array = some_labels.array.copy()
    array[0] = 0
    labels = LabelMap.of(array, some_labels.grid, some_labels.classes)
    node = a_scene.read(io.write_labels(a_folder / "s.seg.nrrd", labels))
    assert [name for (_, name, _), *_ in segments_of(node)][-1] == "Background"
    back = io.read_labels(a_scene.write(node, a_folder / "again.seg.nrrd"), grid=labels.grid)
    np.testing.assert_array_equal(back.array, array)
    assert (back.classes[0].value, back.classes[0].name) == (0, "Background")


@pytest.mark.parametrize("geometry", GRIDS)
def test_what_slicer_writes_is_read_here(geometry, a_scene, a_folder, some_labels):
    grid, node = GRIDS[geometry], a_scene.new_segmentation()
    image = oriented(np.where(some_labels.array == 255, 0, some_labels.array).astype(np.uint8), grid)
    for c in some_labels.classes[:3]:
        add_segment(node, c.name, c.color, c.value, image, c.terminology)
    path = a_scene.write(node, a_folder / "s ü.seg.nrrd")
    assert io.read_labels(path).grid.shape == (4, 5, 5)  # cropped to what is painted
    labels = io.read_labels(path, grid=grid)
    np.testing.assert_array_equal(labels.array, some_labels.array)
    assert labels.grid == grid
    for ours, theirs in zip(labels.classes, some_labels.classes[:3], strict=True):
        assert (ours.value, ours.name, ours.terminology) == as_slicer_has_it(theirs)
        np.testing.assert_allclose(ours.color, theirs.color, atol=1e-6)  # Slicer writes six digits


@pytest.mark.parametrize("geometry", GRIDS)
def test_nothing_changes_on_the_way_through_slicer(geometry, a_scene, a_folder, some_labels):
    """A left-handed file comes back with an axis turned round, which the image's grid undoes."""
    labels = LabelMap(some_labels.array, GRIDS[geometry], some_labels.classes)
    node = a_scene.read(io.write_labels(a_folder / "s.seg.nrrd", labels))
    back = io.read_labels(a_scene.write(node, a_folder / "again.seg.nrrd"), grid=labels.grid)
    np.testing.assert_array_equal(back.array, labels.array)
    assert [as_slicer_has_it(c) for c in back.classes] == [as_slicer_has_it(c) for c in labels.classes]


def test_overlapping_segments_of_slicer_lie_in_layers_and_the_later_wins(a_scene, a_folder):
    lying, standing = np.zeros((2, *SHAPE), np.uint8)
    lying[2, 3, 1:7], standing[2, 1:6, 4] = 1, 1
    grid, node, heard = GRIDS["oblique"], a_scene.new_segmentation(), []
    add_segment(node, "lying", (1, 0, 0), 1, oriented(lying, grid))
    add_segment(node, "standing", (0, 1, 0), 1, oriented(standing, grid))
    path = a_scene.write(node, a_folder / "s.seg.nrrd")
    labels = io.read_labels(path, grid=grid, report=heard.append)
    values = {c.name: c.value for c in labels.classes}
    expected = np.full(SHAPE, 255)
    expected[lying > 0], expected[standing > 0] = values["lying"], values["standing"]
    np.testing.assert_array_equal(labels.array, expected)
    assert any("overlap in 1 voxels" in event.text for event in heard)


def test_an_empty_segmentation_of_slicer_fits_every_image(a_scene, a_folder):
    node = a_scene.new_segmentation()
    node.GetSegmentation().AddEmptySegment("id", "pore")
    labels = io.read_labels(a_scene.write(node, a_folder / "s.seg.nrrd"), grid=GRIDS["oblique"])
    assert (labels.array == 255).all()
    assert [c.name for c in labels.classes] == ["pore"]


@pytest.mark.parametrize("geometry", GRIDS)
def test_slicer_loads_a_volume_where_it_lies(geometry, a_scene, a_folder):
    grid = GRIDS[geometry]
    array = np.arange(336, dtype=np.int16).reshape(SHAPE)
    path = io.write_volume(a_folder / "v ü.nrrd", Volume(array, grid))
    node = a_scene.read_volume(path)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    affine = LPS_TO_RAS @ np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])
    loaded = vtk_to_numpy(node.GetImageData().GetPointData().GetScalars()).reshape(SHAPE)
    for value in (0, 7, 335):
        np.testing.assert_allclose(
            in_the_world(loaded, affine[:, [2, 1, 0, 3]], value), in_the_world(array, grid.affine, value), atol=2e-4
        )
