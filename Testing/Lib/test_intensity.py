import dataclasses
import json

import numpy as np
import pytest

from VolumeSegmanticsLib import intensity
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.intensity import Intensity
from VolumeSegmanticsLib.volume import Volume

KINDS = ["u1", "i2", ">i2", "<u2", ">u2", "i4", "u4", "i8", "f2", "<f4", ">f4", "f8", ">f8"]


def measured(*arrays: np.ndarray) -> Intensity:
    return Intensity.measure([Volume.of(array) for array in arrays])


@pytest.fixture
def some_grey_values(rng) -> np.ndarray:
    return rng.integers(20, 120, (6, 7, 8))


def test_the_figures_are_those_computed_by_hand():
    array = np.arange(1001.0).reshape(7, 11, 13)
    found = measured(array)
    assert found.low == (5.0,)
    assert found.high == (995.0,)
    scaled = np.clip((np.arange(1001) - 5) / 990, 0, 1)
    assert found.mean == pytest.approx((scaled.mean(),))
    assert found.deviation == pytest.approx((scaled.std(),))


def test_low_and_high_become_0_and_1_and_what_lies_outside_is_cut():
    found = Intensity((10.0,), (20.0,), (0.5,), (0.2,))
    scaled = found.scale(np.array([-1e30, 0, 10, 12.5, 20, 30, 1e30]))
    assert scaled.tolist() == [0, 0, 0, 0.25, 1, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_gives_the_same_whatever_its_type(kind, some_grey_values):
    array = some_grey_values.astype(kind)
    found = measured(array)
    assert found == measured(some_grey_values)
    scaled = found.scale(array)
    assert scaled.dtype == np.float32
    assert scaled.dtype.isnative
    np.testing.assert_allclose(scaled, found.scale(some_grey_values), atol=1e-6)
    assert all(type(figure) is float for figures in found.to_dict().values() for figure in figures)


def test_negative_grey_values_of_ct_are_grey_values(some_grey_values):
    array = (some_grey_values - 1024).astype(np.int16)
    found = measured(array)
    assert found.low[0] == pytest.approx(measured(some_grey_values).low[0] - 1024)
    np.testing.assert_allclose(found.scale(array), measured(some_grey_values).scale(some_grey_values), atol=1e-6)


@pytest.mark.parametrize("kind", ["f8", "i8", "i4", "u4"])
def test_small_differences_of_large_values_are_not_lost(kind, some_grey_values):
    array = (some_grey_values + 2_000_000_000).astype(kind)
    found = measured(array)
    np.testing.assert_allclose(found.scale(array), measured(some_grey_values).scale(some_grey_values), atol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e30])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_the_unit_does_not_matter(size, kind, some_grey_values):
    array = (some_grey_values * size).astype(kind)
    np.testing.assert_allclose(
        measured(array).scale(array), measured(some_grey_values).scale(some_grey_values), atol=1e-4
    )


def test_a_mask_is_an_image_too():
    array = np.zeros((6, 7, 8), bool)
    array[:3] = True
    assert sorted(set(measured(array).scale(array).ravel())) == [0, 1]


def test_what_is_not_finite_is_left_out_and_scaled_to_the_ends(some_grey_values):
    array = some_grey_values.astype(np.float32)
    array[0, 0, :3] = (np.nan, np.inf, -np.inf)
    found = measured(array)
    assert found == Intensity.measure([Volume.of(array[np.isfinite(array)].reshape(1, 1, -1))])
    assert found.scale(array)[0, 0, :3].tolist() == [0, 1, 0]
    assert np.isfinite(found.scale(array)).all()


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_a_fill_value_at_the_end_of_the_range_does_no_harm(kind, some_grey_values):
    array = some_grey_values.astype(kind) / 1e6
    array[0, 0, 0], array[0, 0, 1] = np.finfo(np.float32).max, np.finfo(np.float32).min
    found = measured(array)
    assert found.high[0] < 1e-3
    assert found.scale(array)[0, 0, :2].tolist() == [1, 0]


def test_values_beyond_single_precision_are_cut(some_grey_values):
    assert measured(some_grey_values).scale(np.array([1e300, -1e300])).tolist() == [1, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_without_a_number_is_refused(value):
    with pytest.raises(InputError, match="no number"):
        measured(np.full((6, 7, 8), value))


@pytest.mark.parametrize("value", [0, -5, 255])
def test_a_constant_image_is_refused(value):
    with pytest.raises(InputError, match=f"every voxel is {value}"):
        measured(np.full((6, 7, 8), value))
    with pytest.raises(InputError, match="constant"):
        measured(np.full((6, 7, 8, 3), value))


def test_one_voxel_is_constant():
    with pytest.raises(InputError, match="constant"):
        measured(np.zeros((1, 1, 1)))


def test_rare_voxels_make_an_image_that_is_not_constant():
    array = np.zeros((6, 7, 8))
    array[0, 0, 0] = 5
    found = measured(array)
    assert (found.low, found.high) == ((0.0,), (5.0,))
    assert found.deviation[0] > 0


def test_a_constant_channel_beside_others_is_0_everywhere(some_grey_values):
    array = np.stack([some_grey_values, np.full_like(some_grey_values, 255)], axis=3)
    found = measured(array)
    assert found.deviation[1] > 0
    scaled = found.scale(array)
    assert not scaled[..., 1].any()
    np.testing.assert_array_equal(scaled[..., 0], measured(some_grey_values).scale(some_grey_values))
    array = array.astype(float)
    array[0, 0, 0] = np.inf
    assert found.scale(array)[0, 0, 0].tolist() == [1, 0]


def test_every_channel_has_its_own_statistics(some_grey_values):
    array = np.stack([some_grey_values, 1000 * some_grey_values, -some_grey_values], axis=3)
    found = measured(array)
    for channel in range(3):
        alone = measured(array[..., channel])
        assert [figures[channel] for figures in dataclasses.astuple(found)] == [
            f for (f,) in dataclasses.astuple(alone)
        ]
    scaled = found.scale(array)
    np.testing.assert_allclose(scaled[..., 0], scaled[..., 1], atol=1e-6)
    np.testing.assert_allclose(scaled[..., 0], 1 - scaled[..., 2], atol=1e-6)


def test_a_volume_of_one_channel_is_a_grey_one(some_grey_values):
    found = measured(some_grey_values)
    assert measured(some_grey_values[..., None]) == found
    assert found.scale(some_grey_values[..., None]).shape == (6, 7, 8, 1)


def test_several_volumes_are_measured_as_one(some_grey_values):
    whole = measured(some_grey_values)
    halves = measured(some_grey_values[:3], some_grey_values[3:].astype(np.float32))
    assert halves.low == whole.low
    assert halves.mean == pytest.approx(whole.mean)


def test_scaling_changes_nothing_that_was_given(some_grey_values):
    array = some_grey_values.astype(np.float32)
    before = array.copy()
    array.setflags(write=False)
    measured(array).scale(array)
    np.testing.assert_array_equal(array, before)


def test_slices_scale_as_the_volume_does(some_grey_values):
    found = measured(some_grey_values)
    np.testing.assert_array_equal(found.scale(some_grey_values)[2], found.scale(some_grey_values[2]))
    assert found.scale(some_grey_values[:0]).shape == (0, 7, 8)


@pytest.mark.parametrize("shape", [(60, 70, 80), (1, 600, 700), (3, 200, 500), (2, 3, 60_000)], ids=str)
def test_of_a_large_volume_only_a_part_is_looked_at(shape, monkeypatch, rng):
    monkeypatch.setattr(intensity, "_SAMPLES", 10_000)
    array = rng.normal(100, 10, shape).astype(np.float32)
    sample = intensity._sample(Volume.of(array))
    assert 4_000 < len(sample) <= 10_000
    found = measured(array)
    assert found.low[0] == pytest.approx(np.percentile(array, 0.5), abs=2)
    assert found.high[0] == pytest.approx(np.percentile(array, 99.5), abs=2)


def test_a_memory_mapped_volume_is_measured_where_it_lies(tmp_path, some_grey_values):
    array = np.memmap(tmp_path / "a.raw", ">u2", "w+", shape=(6, 7, 8))
    array[...] = some_grey_values
    assert measured(array) == measured(some_grey_values)
    scaled = measured(array).scale(array[2])
    assert scaled.flags.writeable
    assert not np.shares_memory(scaled, array)


def test_statistics_survive_json(some_grey_values):
    found = measured(np.stack([some_grey_values, 3 * some_grey_values], axis=3))
    assert Intensity.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_statistics_are_frozen_and_can_be_a_key(some_grey_values):
    found = measured(some_grey_values)
    assert {found: 1}[measured(some_grey_values)] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.low = (0.0,)


def test_only_grey_values_far_from_those_of_training_are_remarked_on(some_grey_values):
    found = measured(some_grey_values)
    assert found.remark_on(Volume.of(some_grey_values)) == ""
    assert found.remark_on(Volume.of(some_grey_values + 10)) == ""
    assert "trained on" in found.remark_on(Volume.of(some_grey_values + 1000))
    assert "trained on" in found.remark_on(Volume.of(some_grey_values / 255))
    assert "trained on" in found.remark_on(Volume.of(-some_grey_values))
