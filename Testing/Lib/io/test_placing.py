"""Labels on the image's grid: drawn arrays with answers by hand, and the law that no label leaves its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.io.placing import placed, resampled
from VolumeSegmanticsLib.volume import Grid, LabelClass, LabelMap

from .conftest import GRIDS, SHAPE


def part_of(grid: Grid, start, shape) -> Grid:
    """The grid of a box of whole voxels; it may reach beyond."""
    return replace(grid, shape=shape, origin=tuple((grid.affine @ (*start, 1))[:3]))


def turned(grid: Grid, order, flips) -> Grid:
    """The grid of ``array.transpose(order)[::±1, ::±1, ::±1]``."""
    affine = grid.affine[:, [*order, 3]]
    shape = tuple(grid.shape[axis] for axis in order)
    for axis, flip in enumerate(flips):
        if flip:
            affine[:, 3] += affine[:, axis] * (shape[axis] - 1)
            affine[:, axis] *= -1
    return Grid.from_affine(shape, affine)


@pytest.fixture
def an_array():
    return np.random.default_rng(0).integers(0, 5, SHAPE, np.uint8)


@pytest.mark.parametrize("geometry", GRIDS)
def test_the_same_grid_changes_nothing(geometry, an_array):
    answer = placed(an_array, GRIDS[geometry], GRIDS[geometry], 9)
    np.testing.assert_array_equal(answer, an_array)
    assert np.shares_memory(answer, an_array)


@pytest.mark.parametrize("geometry", GRIDS)
@pytest.mark.parametrize("start", [(0, 0, 0), (1, 2, 3), (-2, -1, -3), (3, -2, 5)], ids=str)
def test_a_box_is_cropped_and_padded(start, geometry, an_array):
    grid = GRIDS[geometry]
    target = part_of(grid, start, (4, 9, 5))
    answer = placed(an_array, grid, target, 9)
    for index in np.ndindex(4, 9, 5):
        there = tuple(np.add(index, start))
        inside = all(0 <= i < n for i, n in zip(there, SHAPE, strict=True))
        assert answer[index] == (an_array[there] if inside else 9)


@pytest.mark.parametrize("flips", [(0, 0, 0), (1, 0, 0), (0, 1, 1), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)], ids=str)
def test_axes_are_exchanged_and_turned_round(order, flips, an_array):
    grid = GRIDS["left-handed"]
    expected = an_array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    target = turned(grid, order, flips)
    np.testing.assert_array_equal(placed(an_array, grid, target, 9), expected)
    np.testing.assert_array_equal(resampled(an_array, grid, target, 9), expected)


@pytest.mark.parametrize(
    "other",
    [
        replace(GRIDS["oblique"], spacing=(2.5, 0.7, 0.2)),
        GRIDS["anisotropic"],
        part_of(GRIDS["oblique"], (0.5, 0, 0), SHAPE),
        part_of(GRIDS["oblique"], (0, 0.02, 0), SHAPE),
    ],
    ids=["another spacing", "another direction", "half a voxel", "a fiftieth of a voxel"],
)
def test_other_grids_lie_no_whole_voxels_apart(other, an_array):
    assert placed(an_array, GRIDS["oblique"], other, 0) is None


def test_a_grid_far_away_is_empty(an_array):
    answer = placed(an_array, GRIDS["plain"], part_of(GRIDS["plain"], (100, 0, 0), SHAPE), 9)
    np.testing.assert_array_equal(answer, np.full(SHAPE, 9))


def test_the_nearest_voxel_counts():
    labels = np.array([[[1, 1, 2, 2, 3, 3]]], np.uint8)
    fine = Grid((1, 1, 6), (1, 1, 0.5), (0.25, 0, 0))
    coarse = Grid((1, 1, 4), (1, 1, 1), (0.5, 0, 0))  # centres at 0.5, 1.5, 2.5, 3.5; the fine ones end at 2.75
    assert resampled(labels, fine, coarse, 9).tolist() == [[[1, 2, 3, 9]]]


# The same through files


def save(folder, name, array, grid, **kwargs):
    return io.write_labels(folder / name, LabelMap.of(array, grid, **kwargs))


@pytest.fixture
def strokes():
    """Class 3 in a part of the array, nothing elsewhere."""
    array = np.zeros((3, 3, 3), np.uint8)
    array[1, 1, :] = 3
    return array


@pytest.mark.parametrize("name", ["s.nrrd", "s.mha", "s.nii.gz", "s.tif", "s.seg.nrrd"])
def test_a_cropped_file_comes_back_on_the_grid_of_the_image(name, a_folder, strokes):
    grid = GRIDS["oblique"]
    path = save(a_folder, name, strokes, part_of(grid, (2, 3, 4), (3, 3, 3)), unpainted="ignore")
    labels = io.read_labels(path, grid=grid)
    expected = np.full(SHAPE, 255)
    expected[3, 4, 4:7] = 3
    np.testing.assert_array_equal(labels.array, expected)
    assert labels.grid == grid


def test_what_a_cropped_array_does_not_reach_is_unlabelled(a_folder, strokes):
    path = save(a_folder, "s.nrrd", strokes, part_of(GRIDS["plain"], (2, 3, 4), (3, 3, 3)))
    labels = io.read_labels(path, grid=GRIDS["plain"])
    assert labels.counts() == {0: 24, 3: 3}
    assert (labels.array == 255).sum() == 336 - 27


@pytest.mark.parametrize("name", ["s.npy", "s.nrrd", "s.tif", "slices"])
def test_an_array_without_geometry_takes_that_of_the_image(name, a_folder, an_array):
    labels = io.read_labels(save(a_folder, name, an_array, None), grid=GRIDS["oblique"])
    np.testing.assert_array_equal(labels.array, an_array)
    assert labels.grid == GRIDS["oblique"]


def test_an_array_that_does_not_agree_is_refused_with_both_shapes(a_folder, an_array):
    path = save(a_folder, "s.nrrd", an_array, GRIDS["oblique"])
    with pytest.raises(InputError, match=r"\(6, 7, 8\) against \(3, 7, 8\).*first voxel lies at \[") as error:
        io.read_labels(path, grid=replace(GRIDS["anisotropic"], shape=(3, 7, 8)))
    assert error.value.hint


def test_an_array_without_geometry_of_another_shape_is_refused(a_folder, an_array):
    path = save(a_folder, "s.npy", an_array, None)
    with pytest.raises(InputError, match=r"\(6, 7, 8\) against \(5, 7, 8\)"):
        io.read_labels(path, grid=replace(GRIDS["oblique"], shape=(5, 7, 8)))


def test_an_oversampled_segmentation_is_resampled_and_told(a_folder, heard):
    coarse, fine = Grid(SHAPE), Grid((12, 14, 16), (0.5,) * 3, (-0.25,) * 3)
    array = np.zeros(SHAPE, np.uint8)
    array[2:5, 3, 1:6] = 4
    path = save(a_folder, "s.seg.nrrd", array.repeat(2, 0).repeat(2, 1).repeat(2, 2), fine, unpainted="ignore")
    labels = io.read_labels(path, grid=coarse, report=heard.append)
    np.testing.assert_array_equal(labels.array == 4, array == 4)
    assert [event.level for event in heard] == ["warning", "info"]


@pytest.mark.parametrize("name", ["s.nrrd", "s.seg.nrrd"])
def test_labels_outside_the_image_are_refused(name, a_folder, strokes):
    path = save(a_folder, name, strokes, part_of(GRIDS["plain"], (50, 0, 0), (3, 3, 3)), unpainted="ignore")
    with pytest.raises(InputError, match="outside the image"):
        io.read_labels(path, grid=GRIDS["plain"])


def test_labels_partly_outside_the_image_are_counted(a_folder, strokes, heard):
    path = save(a_folder, "s.seg.nrrd", strokes, part_of(GRIDS["plain"], (0, 0, 6), (3, 3, 3)), unpainted="ignore")
    labels = io.read_labels(path, grid=GRIDS["plain"], report=heard.append)
    assert labels.counts() == {3: 2}
    assert heard[0].text.startswith("1 labelled voxels")


def test_a_segmentation_without_a_stroke_fits_every_image(a_folder, heard):
    empty = np.full((1, 1, 1), 255, np.uint8)
    labels = LabelMap(empty, Grid((1, 1, 1)), (LabelClass(1, "pore"),))
    path = io.write_labels(a_folder / "s.seg.nrrd", labels)
    back = io.read_labels(path, grid=GRIDS["oblique"], report=heard.append)
    assert [event.level for event in heard] == ["info"]
    assert (back.array == 255).all()
    assert [c.name for c in back.classes] == ["pore"]
    assert back.grid == GRIDS["oblique"]
