import dataclasses

import numpy as np
import pytest

from VolumeSegmanticsLib.box import Box
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.volume import Grid, LabelMap, Volume

OBLIQUE = Grid((6, 7, 8), (2.5, 0.7, 0.4), (10, -20, 30), ((0, 0.6, 0.8), (0, 0.8, -0.6), (1, 0, 0)))


@pytest.fixture
def a_box():
    return Box((1, 2, 3), (4, 7, 5))


def test_a_box_of_a_volume_lies_where_its_voxels_lie(a_box, a_volume):
    volume = dataclasses.replace(a_volume, grid=OBLIQUE)
    part = a_box.of_volume(volume)
    assert part.grid.shape == part.array.shape == (3, 5, 2)
    assert np.array_equal(part.array, a_volume.array[1:4, 2:7, 3:5])
    assert np.shares_memory(part.array, volume.array)
    np.testing.assert_allclose(part.grid.affine @ (0, 0, 0, 1), OBLIQUE.affine @ (1, 2, 3, 1))
    np.testing.assert_allclose(part.grid.affine @ (2, 4, 1, 1), OBLIQUE.affine @ (3, 6, 4, 1))


def test_colours_and_labels_are_cut_alike(a_box):
    colours = Volume.of(np.zeros((6, 7, 8, 3), np.uint8))
    assert a_box.of_volume(colours).array.shape == (3, 5, 2, 3)
    labels = LabelMap.of(np.ones((6, 7, 8), np.uint8), OBLIQUE, unpainted="ignore")
    part = a_box.of_labels(labels)
    assert (part.classes, part.unpainted) == (labels.classes, "ignore")
    assert part.grid == OBLIQUE.part((1, 2, 3), (3, 5, 2))


def test_a_margin_ends_where_the_volume_does(a_box):
    assert a_box.widened(2, (6, 7, 8)) == Box((0, 0, 1), (6, 7, 7))
    assert a_box.widened(2, (6, 7, 8)).shape == (6, 7, 6)


def test_a_box_seen_from_its_margin_is_the_same_box(a_box, a_volume):
    around = a_box.widened(2, a_volume.grid.shape)
    inner = a_box.seen_from(around.start)
    assert np.array_equal(around.of_volume(a_volume).array[inner.window], a_volume.array[a_box.window])


def test_a_box_survives_json(a_box):
    assert Box.of(a_box.spans, (6, 7, 8)) == a_box


@pytest.mark.parametrize(
    "spans",
    [None, [[0, 1]], [[0, 1], [0, 1], "x"], [[0, 7], [0, 1], [0, 1]], [[-1, 1], [0, 1], [0, 1]], [[2, 2]] * 3],
)
def test_what_is_no_box_in_the_volume_is_refused(spans):
    with pytest.raises(InputError, match="box"):
        Box.of(spans, (6, 7, 8))


@pytest.mark.parametrize("start", [(0, 0, 0), (2, 3, 4), (-2, 0, 9)])
def test_a_grid_finds_where_a_part_of_it_begins(start):
    assert OBLIQUE.start_of(OBLIQUE.part(start, (3, 2, 2))) == start


def test_a_grid_between_the_voxels_of_another_begins_nowhere():
    moved = dataclasses.replace(OBLIQUE, origin=(10.2, -20, 30))
    assert OBLIQUE.start_of(moved) is None
    assert OBLIQUE.start_of(Grid((3, 2, 2))) is None
