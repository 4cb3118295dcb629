"""Parts of big files as volume nodes: where they lie, and that what is painted on them lies right on the whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import Cancelled, InputError
from VolumeSegmanticsLib.volume import Volume

slicer = pytest.importorskip("slicer", reason="needs slicer-core")
from VolumeSegmanticsSlicer.big_files import BOX, FILE, STEP, look, open_big  # noqa: E402
from VolumeSegmanticsSlicer.nodes import grid_of, volume_of  # noqa: E402
from VolumeSegmanticsSlicer.segmentations import labels_for_job  # noqa: E402

SHAPE = (12, 14, 16)
NAMES = ("scan.nrrd", "scan.npy", "scan.tif", "scan.mrc", "scan.mha", "slices")


@pytest.fixture
def a_whole(each_grid):
    values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    return Volume(values, dataclasses.replace(each_grid, shape=SHAPE))


@pytest.fixture
def a_file(a_whole, a_folder):
    return io.write_volume(a_folder / "scan.nrrd", a_whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_look_tells_size_and_type_of_any_format(name, a_folder):
    array = np.zeros(SHAPE, np.int16)
    path = io.write_volume(a_folder / name, Volume.of(array))
    big = look(path)
    assert (big.path, big.grid.shape, big.dtype, big.channels) == (path, SHAPE, np.int16, 1)
    assert big.bytes == array.nbytes
    with pytest.raises(InputError, match="gone"):
        look(a_folder / "gone.nrrd")


def test_a_box_is_a_node_at_its_true_place(a_file, a_whole, a_scene):
    node = open_big(a_scene.mrml, a_file, box=((2, 7), (0, 14), (3, 9)))
    assert np.array_equal(volume_of(node).array, a_whole.array[2:7, :, 3:9])
    assert grid_of(node) == a_whole.grid.part((2, 0, 3), (5, 14, 6))
    assert node.GetName() == "scan part"
    assert node.GetDisplayNode()
    assert (node.GetAttribute(FILE), node.GetAttribute(STEP)) == (str(a_file), "1")
    assert node.GetAttribute(BOX) == "[[2, 7], [0, 14], [3, 9]]"


def test_an_overview_holds_means_at_their_true_place(a_file, a_whole, a_scene):
    node = open_big(a_scene.mrml, a_file, step=2)
    blocks = a_whole.array.reshape(6, 2, 7, 2, 8, 2)
    assert np.array_equal(volume_of(node).array, np.rint(blocks.mean(axis=(1, 3, 5))))
    np.testing.assert_allclose(grid_of(node).affine @ (0, 0, 0, 1), a_whole.grid.affine @ (0.5, 0.5, 0.5, 1), atol=1e-9)
    assert node.GetName() == "scan 1:2"


@pytest.mark.parametrize(("box", "step"), [(((2, 8), (2, 12), (4, 16)), 1), (None, 2), (((2, 8), (2, 12), (4, 16)), 2)])
def test_strokes_on_a_part_lie_right_on_the_whole_file(box, step, a_file, a_whole, a_scene, a_folder):
    node = open_big(a_scene.mrml, a_file, box=box, step=step)
    strokes = a_scene.new_segmentation(node)
    a_scene.paint(strokes, node, "Pore", np.s_[1:3, 2, 3:5])
    labels = io.read_labels(labels_for_job(strokes, node, a_folder), grid=a_whole.grid)
    start = np.array([span[0] for span in box] if box else (0, 0, 0))
    expected = np.full(SHAPE, 255, np.uint8)
    (z0, y0, x0), (z1, y1, x1) = start + np.array((1, 2, 3)) * step, start + np.array((3, 3, 5)) * step
    expected[z0:z1, y0:y1, x0:x1] = 1
    assert np.array_equal(labels.array, expected)


def test_colours_stay_colours(a_scene, a_folder):
    array = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3)).astype(np.uint8)
    path = io.write_volume(a_folder / "colours.nrrd", Volume.of(array))
    node = open_big(a_scene.mrml, path, box=((1, 3), (0, 6), (2, 8)))
    assert node.IsA("vtkMRMLVectorVolumeNode")
    assert np.array_equal(volume_of(node).array, array[1:3, :, 2:8])


def test_the_part_of_a_file_is_remembered_in_a_saved_scene(a_file, a_scene, a_folder):
    name = open_big(a_scene.mrml, a_file, step=3).GetName()
    a_scene.save(a_folder / "scene.mrb")
    a_scene.mrml.Clear(0)
    a_scene.open(a_folder / "scene.mrb")
    assert a_scene.named(name).GetAttribute(FILE) == str(a_file)
    assert a_scene.named(name).GetAttribute(STEP) == "3"


def test_a_box_beside_the_file_or_a_stop_leaves_the_scene_as_it_was(a_file, a_scene):
    before = a_scene.mrml.GetNumberOfNodes()
    with pytest.raises(InputError, match="does not lie in"):
        open_big(a_scene.mrml, a_file, box=((2, 99), (0, 14), (3, 9)))

    def stop(part):
        raise Cancelled

    with pytest.raises(Cancelled):
        open_big(a_scene.mrml, a_file, step=2, breathe=stop)
    assert a_scene.mrml.GetNumberOfNodes() == before
