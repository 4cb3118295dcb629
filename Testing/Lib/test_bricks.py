from __future__ import annotations

import numpy as np
import pytest

from VolumeSegmanticsLib.bricks import Bricks

SHAPE = (13, 10, 17)


@pytest.fixture
def an_array(rng) -> np.ndarray:
    return rng.integers(0, 60_000, SHAPE, np.uint16)


@pytest.fixture(params=[(4, 3, 5), (13, 10, 17), (1, 1, 1), (5, 10, 2)], ids=str)
def some_bricks(request, tmp_path) -> Bricks:
    bricks = Bricks(tmp_path / "some.bricks", SHAPE, np.dtype(np.uint16), request.param)
    bricks.create()
    return bricks


def whole(shape):
    return tuple(slice(0, n) for n in shape)


def slabs(axis, thickness):
    for start in range(0, SHAPE[axis], thickness):
        window = list(whole(SHAPE))
        window[axis] = slice(start, min(start + thickness, SHAPE[axis]))
        yield tuple(window)


def test_voxels_that_were_never_written_are_0(some_bricks):
    assert not some_bricks.read(whole(SHAPE)).any()
    assert some_bricks.path.stat().st_size == some_bricks.nbytes


@pytest.mark.parametrize("thickness", [1, 3, 4, 20])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_array_written_in_slabs_of_any_axis_comes_back(axis, thickness, some_bricks, an_array):
    for window in slabs(axis, thickness):
        some_bricks.write(window, an_array[window])
    np.testing.assert_array_equal(some_bricks.read(whole(SHAPE)), an_array)


def test_every_box_is_read_as_an_array_would_be_cut(some_bricks, an_array, rng):
    some_bricks.write(whole(SHAPE), an_array)
    for _ in range(40):
        spans = [sorted(rng.choice(n + 1, 2, replace=False).tolist()) for n in SHAPE]
        window = tuple(slice(*span) for span in spans)
        np.testing.assert_array_equal(some_bricks.read(window), an_array[window])


def test_writing_a_box_leaves_its_neighbours_as_they_are(some_bricks, an_array):
    some_bricks.write(whole(SHAPE), an_array)
    window = (slice(2, 9), slice(4, 5), slice(0, 13))
    some_bricks.write(window, an_array[window] // 2)
    an_array[window] //= 2
    np.testing.assert_array_equal(some_bricks.read(whole(SHAPE)), an_array)


def test_colours_stay_together(tmp_path, rng):
    array = rng.random((5, 6, 7, 3), np.float32)
    bricks = Bricks(tmp_path / "colours.bricks", array.shape, array.dtype, (2, 4, 4))
    bricks.create()
    bricks.write(whole(array.shape[:3]), array)
    np.testing.assert_array_equal(bricks.read((slice(1, 4), slice(0, 6), slice(3, 7))), array[1:4, :, 3:7])


def test_a_file_that_is_cut_short_is_told(some_bricks):
    with some_bricks.path.open("r+b") as file:
        file.truncate(some_bricks.nbytes // 2)
    with pytest.raises(OSError, match=r"some.bricks is cut short"):
        some_bricks.read(whole(SHAPE))
