import numpy as np
import pytest

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.io.lazy import LazyArray
from VolumeSegmanticsLib.volume import Grid, Volume

GRID = Grid((6, 7, 8), (2.5, 0.7, 0.4), (10, -20, 30))


@pytest.fixture(params=[(), (3,)], ids=["grey", "colours"])
def a_volume(request):
    values = np.arange(336 * (request.param or (1,))[0], dtype=np.uint16)
    return Volume(values.reshape(*GRID.shape, *request.param), GRID)


def compressed_tiff(path, volume):
    from VolumeSegmanticsLib.io import tiff

    tiff.write(path, volume, True)


WRITERS = {
    "slices": io.write_volume,
    "scan.nxs": io.write_volume,
    "scan.zarr": io.write_volume,
    "raw.nrrd": io.write_volume,
    "raw.tif": io.write_volume,
    "small.tif": compressed_tiff,
    "values.npy": io.write_volume,
    "image.mha": io.write_volume,
}
LAZY = ("slices", "small.tif", "scan.nxs", "scan.zarr")


@pytest.mark.parametrize("name", WRITERS)
def test_an_opened_volume_is_what_reading_gives(name, a_volume, tmp_path):
    WRITERS[name](tmp_path / name, a_volume)
    opened, read = io.open_volume(tmp_path / name), io.read_volume(tmp_path / name)
    assert isinstance(opened.array, LazyArray) == (name in LAZY)
    assert opened.grid == read.grid
    assert (opened.array.dtype, opened.array.shape) == (read.array.dtype, read.array.shape)
    for window in (np.s_[1:3, 2:6, 3:4], np.s_[4:], np.s_[:, -2:], np.s_[2:2]):
        np.testing.assert_array_equal(opened.array[window], read.array[window])
    np.testing.assert_array_equal(np.asarray(opened.array), read.array)


def test_a_lazy_array_is_cut_by_boxes_only(tmp_path, a_volume):
    io.write_volume(tmp_path / "slices", a_volume)
    array = io.open_volume(tmp_path / "slices").array
    for window in (3, np.s_[::2], np.s_[0:2, 3]):
        with pytest.raises(IndexError, match="boxes"):
            array[window]
    assert (len(array), array.ndim, array.nbytes) == (6, a_volume.array.ndim, a_volume.array.nbytes)


def test_only_the_slices_that_are_needed_are_read(tmp_path, a_volume):
    io.write_volume(tmp_path / "slices", a_volume)
    (tmp_path / "slices" / "slice_5.tif").write_bytes(b"no image")
    array = io.open_volume(tmp_path / "slices").array
    np.testing.assert_array_equal(array[:5], a_volume.array[:5])


def test_a_slice_unlike_the_first_is_told_when_it_is_read(tmp_path, a_volume):
    io.write_volume(tmp_path / "slices", a_volume)
    io.write_volume(tmp_path / "slices" / "slice_5.tif", Volume.of(np.zeros((1, 3, 3), np.uint16)))
    with pytest.raises(InputError, match="slice_5"):
        io.open_volume(tmp_path / "slices").array[:]
