import tracemalloc

import numpy as np
import pytest

from VolumeSegmanticsLib import overview as overviews
from VolumeSegmanticsLib.box import Box
from VolumeSegmanticsLib.errors import Cancelled, SettingsError
from VolumeSegmanticsLib.overview import overview
from VolumeSegmanticsLib.volume import Grid, Volume

OBLIQUE = Grid((6, 7, 8), (2.5, 0.7, 0.4), (10, -20, 30), ((0, 0.6, 0.8), (0, 0.8, -0.6), (1, 0, 0)))
ALL = Box((0, 0, 0), (6, 7, 8))


@pytest.fixture
def an_oblique_volume(a_volume):
    return Volume(a_volume.array, OBLIQUE)


def test_each_voxel_is_the_mean_of_a_block(an_oblique_volume):
    seen = overview(an_oblique_volume, Box((0, 1, 0), (6, 7, 8)), 2)
    blocks = an_oblique_volume.array[:, 1:].reshape(3, 2, 3, 2, 4, 2)
    assert seen.array.dtype == np.uint16
    assert np.array_equal(seen.array, np.rint(blocks.mean(axis=(1, 3, 5))))


def test_the_middle_of_a_mean_is_the_middle_of_its_voxels(an_oblique_volume):
    seen = overview(an_oblique_volume, Box((1, 2, 3), (6, 7, 8)), 3)
    z, y, x = (1 + 1, 2 + 1, 3 + 1)  # the middle of the first block
    np.testing.assert_allclose(seen.grid.affine @ (0, 0, 0, 1), OBLIQUE.affine @ (z, y, x, 1))
    np.testing.assert_allclose(seen.grid.affine @ (1, 1, 1, 1), OBLIQUE.affine @ (z + 3, y + 3, x + 3, 1))


def test_the_last_means_are_those_of_the_voxels_that_are_left(an_oblique_volume):
    seen = overview(an_oblique_volume, ALL, 4)
    assert seen.array.shape == (2, 2, 2)
    assert seen.array[1, 1, 1] == np.rint(an_oblique_volume.array[4:, 4:, 4:].mean())


def test_a_step_of_one_takes_the_voxels_as_they_are(an_oblique_volume):
    box = Box((1, 2, 3), (6, 7, 8))
    seen, cut = overview(an_oblique_volume, box, 1), box.of_volume(an_oblique_volume)
    assert np.array_equal(seen.array, cut.array)
    assert seen.grid == cut.grid


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, bool])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_slabs_give_what_the_whole_gives(dtype, channels, rng, monkeypatch):
    array = (rng.random((13, 11, 9, *channels)) * 200).astype(dtype)
    volume = Volume.of(array)
    whole = overview(volume, Box((1, 0, 2), (13, 11, 9)), 3)
    monkeypatch.setattr(overviews, "SLAB_BYTES", 1)
    slabs = overview(volume, Box((1, 0, 2), (13, 11, 9)), 3)
    assert slabs.array.dtype == dtype
    assert np.array_equal(slabs.array, whole.array)


def test_a_caller_may_breathe_and_may_end_it(an_oblique_volume, monkeypatch):
    monkeypatch.setattr(overviews, "SLAB_BYTES", 1)
    parts = []

    def stop_in_the_middle(part):
        parts.append(part)
        if part > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        overview(an_oblique_volume, ALL, 2, breathe=stop_in_the_middle)
    assert parts == pytest.approx([1 / 3, 2 / 3])


def test_a_step_of_nothing_is_refused(an_oblique_volume):
    with pytest.raises(SettingsError, match="step"):
        overview(an_oblique_volume, ALL, 0)


def test_memory_is_that_of_a_slab_and_the_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(overviews, "SLAB_BYTES", 2**18)
    np.save(tmp_path / "big.npy", np.ones((256, 128, 128), np.uint8))
    volume = Volume.of(np.load(tmp_path / "big.npy", mmap_mode="r"))
    tracemalloc.start()
    seen = overview(volume, Box((0, 0, 0), (256, 128, 128)), 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < seen.array.nbytes * 2 + 2**20
