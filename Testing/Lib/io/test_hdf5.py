"""HDF5 and NeXus files as others write them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.volume import Grid, Volume

h5py = pytest.importorskip("h5py")


@pytest.fixture
def a_file(a_folder, an_array):
    """A function that makes a file of some datasets."""

    def make(name="scan.nxs", **datasets):
        with h5py.File(a_folder / name, "w") as file:
            for path, array in datasets.items():
                file[path.replace("__", "/")] = array
        return a_folder / name

    return make


def test_a_dataset_is_named_behind_the_file(a_file, an_array):
    path = a_file(entry__raw=an_array, entry__flat=an_array + 7)
    for name, expected in (("/entry/raw", an_array), ("/entry/flat", an_array + 7)):
        named = Path(f"{path}:{name}")
        assert np.array_equal(io.read_volume(named).array, expected)
        assert np.array_equal(io.open_volume(f"{path}:{name}").array[1:3, 2:5, 3:4], expected[1:3, 2:5, 3:4])
        assert io.describe(named)["shape"] == [6, 7, 8]


def test_the_only_volume_needs_no_name(a_file, an_array):
    path = a_file("scan.h5", entry__tomo__data=an_array, entry__angles=np.arange(5.0), entry__title="text")
    assert np.array_equal(io.read_volume(path).array, an_array)


def test_of_several_volumes_one_must_be_named(a_file, an_array):
    with pytest.raises(InputError, match="holds 2 volumes: /a/one, /b/two"):
        io.read_volume(a_file(a__one=an_array, b__two=an_array))
    with pytest.raises(InputError, match="holds 0 volumes"):
        io.read_volume(a_file(a__one=np.arange(4)))


def test_nexus_names_its_volume_and_places_it(a_file, an_array):
    path = a_file(
        entry__data__counts=an_array, entry__data__dark=an_array, entry__data__z=np.arange(6) * 0.5 + 3,
        entry__data__y=np.arange(7) * 2.0, entry__data__x=np.arange(8) * 4 - 1.0,
    )  # fmt: skip
    with h5py.File(path, "r+") as file:
        file.attrs["default"] = "entry"
        file["entry"].attrs["default"] = np.bytes_("data")
        file["entry/data"].attrs["signal"] = "counts"
        file["entry/data"].attrs["axes"] = ["z", "y", "x"]
    volume = io.read_volume(path)
    assert np.array_equal(volume.array, an_array)
    assert volume.grid == Grid((6, 7, 8), (0.5, 2, 4), (-1, 0, 3))


def test_coordinates_that_are_not_evenly_spaced_place_nothing(a_file, an_array):
    path = a_file(d__counts=an_array, d__z=np.arange(6) ** 2.0, d__y=np.arange(7)[::-1], d__x=np.full(8, np.nan))
    with h5py.File(path, "r+") as file:
        file["d"].attrs["axes"] = ["z", "y", "x"]
    assert io.read_volume(path).grid == Grid((6, 7, 8))


def test_plain_voxels_are_mapped_and_others_are_read(a_file, an_array, a_folder):
    assert isinstance(io.read_volume(a_file(counts=an_array)).array, np.memmap)
    with h5py.File(a_folder / "packed.h5", "w") as file:
        file.create_dataset("counts", data=an_array, compression="gzip", chunks=(2, 7, 8))
    packed = io.read_volume(a_folder / "packed.h5").array
    assert not isinstance(packed, np.memmap)
    assert np.array_equal(packed, an_array)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((7, 8), (1, 7, 8)), ((1, 6, 7, 8), (6, 7, 8)), ((6, 7, 8, 3), (6, 7, 8, 3)), ((1, 1, 6, 7, 8), (6, 7, 8))],
)
def test_axes_of_one_voxel_do_not_count(shape, expected, a_file):
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    path = Path(f"{a_file(counts=array)}:/counts")
    read, opened = io.read_volume(path), io.open_volume(path)
    assert read.array.shape == opened.array.shape == expected
    assert np.array_equal(read.array, array.reshape(expected))
    assert np.array_equal(opened.array[:], array.reshape(expected))
    assert np.array_equal(opened.array[0:1, 2:5, 1:3], array.reshape(expected)[0:1, 2:5, 1:3])


def test_several_points_in_time_are_refused(a_file):
    with pytest.raises(InputError, match="more than three axes"):
        io.read_volume(f"{a_file(counts=np.zeros((2, 6, 7, 8)))}:/counts")


@pytest.mark.parametrize(("array", "told"), [(np.arange(5.0), "has one axis, (5,)"), (3.0, "has 0 axes, ()")])
def test_a_dataset_that_is_no_volume_is_told_with_those_that_are(array, told, a_file, an_array):
    path = a_file(entry__tomo=an_array, entry__angles=array)
    for act in (io.read_volume, io.open_volume, io.describe):
        with pytest.raises(InputError, match=re.escape(told)) as error:
            act(f"{path}:/entry/angles")
        assert error.value.hint == "Its volumes are: /entry/tomo."


def test_what_is_not_there_is_told(a_file, an_array, a_folder):
    path = a_file(counts=an_array)
    with pytest.raises(InputError, match=r'no dataset "/gone".*/counts'):
        io.read_volume(f"{path}:/gone")
    with pytest.raises(InputError, match="There is no file"):
        io.read_volume(a_folder / "gone.nxs:/counts")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="damaged"):
        io.read_volume(path)


def test_a_part_of_a_file_is_not_written(a_folder, an_array):
    for act in (lambda: io.write_volume(a_folder / "v.h5:/a", Volume.of(an_array)), lambda: io.check_output("v.h5:/a")):
        with pytest.raises(InputError, match="Name the file alone"):
            act()
    assert not list(a_folder.iterdir())
