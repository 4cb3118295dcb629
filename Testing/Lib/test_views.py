import dataclasses
import itertools

import numpy as np
import pytest

from VolumeSegmanticsLib.views import View, views

ALL = views("high", "all")
every_view = pytest.mark.parametrize("view", ALL, ids=str)


def test_slices_have_the_rows_and_columns_of_the_volume(a_volume):
    array = a_volume.array
    np.testing.assert_array_equal(View(0).of(array)[1], array[1])
    np.testing.assert_array_equal(View(1).of(array)[1], array[:, 1])
    np.testing.assert_array_equal(View(2).of(array)[1], array[:, :, 1])


def test_a_slice_is_transposed_first_and_mirrored_then():
    slice_yx = np.array([[[1, 2, 3], [4, 5, 6]]])
    drawn = {
        View(0, True): [[1, 4], [2, 5], [3, 6]],
        View(0, False, True): [[4, 5, 6], [1, 2, 3]],
        View(0, False, False, True): [[3, 2, 1], [6, 5, 4]],
        View(0, True, True): [[3, 6], [2, 5], [1, 4]],
        View(0, True, False, True): [[4, 1], [5, 2], [6, 3]],
        View(0, True, True, True): [[6, 3], [5, 2], [4, 1]],
    }
    for view, expected in drawn.items():
        assert view.of(slice_yx)[0].tolist() == expected


@every_view
def test_a_view_copies_nothing(view, a_volume):
    assert np.shares_memory(view.of(a_volume.array), a_volume.array)


@every_view
@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "three channels"])
def test_what_is_written_through_a_view_lands_where_it_was_seen(view, channels, rng):
    array = rng.random((6, 7, 8, *channels))
    written = np.zeros_like(array)
    view.of(written)[...] = view.of(array)
    np.testing.assert_array_equal(written, array)


@every_view
def test_slices_go_on_along_the_axis_of_the_view(view, a_volume):
    slices = view.of(a_volume.array)
    for index in (0, len(slices) - 1):
        expected = np.take(a_volume.array, index, axis=view.axis)
        assert sorted(slices[index].ravel()) == sorted(expected.ravel())


@every_view
def test_channels_stay_last(view, rng):
    array = rng.random((6, 7, 8, 3))
    for channel in range(3):
        np.testing.assert_array_equal(view.of(array)[..., channel], view.of(array[..., channel]))


@every_view
def test_sides_are_those_of_the_slices(view, a_volume):
    assert view.sides((6, 7, 8)) == view.of(a_volume.array).shape


def test_high_quality_has_24_views_that_all_look_different(rng):
    cube = rng.random((5, 5, 5))
    assert len(ALL) == len(set(ALL)) == 24
    assert len({view.of(cube).tobytes() for view in ALL}) == 24


def test_views_go_by_quality_and_axes():
    assert views("low", "all") == (View(0),)
    assert views("low", "xy") == (View(1),)
    assert views("medium", "all") == (View(0), View(1), View(2))
    assert views("medium", "x") == (View(2),)
    assert len(views("high", "zx")) == 16
    assert {view.axis for view in views("high", "zx")} == {0, 2}


def test_the_better_quality_sees_all_that_the_lower_sees():
    low, medium, high = (set(views(quality, "all")) for quality in ("low", "medium", "high"))
    assert low < medium < high


def test_every_view_has_a_name_of_its_own():
    assert [str(View(0)), str(View(1, True)), str(View(2, True, True, True))] == ["z", "y-T", "x-TRC"]
    assert len({str(view) for view in ALL}) == 24


def test_the_symmetries_are_a_group(rng):
    square = rng.random((1, 5, 5))
    seen = {view.of(square).tobytes() for view in views("high", "z")}
    for one, other in itertools.product(views("high", "z"), repeat=2):
        assert one.of(other.of(square)).tobytes() in seen


@pytest.mark.parametrize("shape", [(1, 7, 8), (6, 1, 1), (1, 1, 1), (0, 7, 8)], ids=str)
def test_thin_and_empty_arrays_have_views_too(shape):
    array = np.zeros(shape)
    assert all(view.of(array).size == array.size for view in ALL)


def test_a_view_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        View(0).axis = 1
