"""MRC files of every mode and axis order, and the small faults that real ones have."""

from __future__ import annotations

import struct

import mrcfile
import numpy as np
import pytest

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.volume import Grid

from .conftest import SHAPE

VOXELS = np.arange(336).reshape(SHAPE)


@pytest.fixture
def a_file(a_folder):
    """A function that writes a file by mrcfile and lets the caller change its header."""

    def write(array, change=None):
        with mrcfile.new(a_folder / "v.mrc", overwrite=True) as file:
            file.set_data(array)
            file.set_volume()
            file.voxel_size = (0.25, 0.5, 3.5)
            if change:
                change(file)
        return a_folder / "v.mrc"

    return write


@pytest.mark.parametrize("dtype", ["int8", "int16", "float32", "uint16", "float16"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_mode_is_mapped(dtype, order, a_file):
    array = (VOXELS % 127).astype(np.dtype(dtype).newbyteorder(order))
    volume = io.read_volume(a_file(array))
    np.testing.assert_array_equal(volume.array, array)
    assert volume.array.dtype.name == dtype
    assert isinstance(volume.array, np.memmap)
    assert volume.grid == Grid(SHAPE, (3.5, 0.5, 0.25))


@pytest.mark.parametrize("columns_rows_sections", [(1, 2, 3), (2, 1, 3), (3, 2, 1), (2, 3, 1), (3, 1, 2), (1, 3, 2)])
def test_every_axis_order_is_read_as_zyx(columns_rows_sections, a_file):
    def change(file):
        file.header.mapc, file.header.mapr, file.header.maps = columns_rows_sections
        file.header.mx, file.header.my, file.header.mz = 8, 7, 6
        file.header.cella.x, file.header.cella.y, file.header.cella.z = 2, 3.5, 21

    stored_order = [3 - axis for axis in columns_rows_sections[::-1]]  # sections, rows, columns as axes of (Z, Y, X)
    stored = VOXELS.astype(np.int16).transpose(stored_order)
    volume = io.read_volume(a_file(np.ascontiguousarray(stored), change))
    np.testing.assert_array_equal(volume.array, VOXELS)
    assert volume.grid == Grid(SHAPE, (3.5, 0.5, 0.25))


def test_the_extended_header_is_skipped(a_file):
    path = a_file(VOXELS.astype(np.int16), lambda file: file.set_extended_header(np.full(160, 7, np.uint8)))
    np.testing.assert_array_equal(io.read_volume(path).array, VOXELS)


@pytest.mark.parametrize(("flags", "dtype"), [(0, "uint8"), (1, "int8")])
def test_bytes_of_imod_are_signed_where_its_flag_says_so(flags, dtype, a_file):
    path = a_file(np.full(SHAPE, -1, np.int8))
    with path.open("r+b") as stream:
        stream.seek(152)
        stream.write(struct.pack("<ii", 1146047817, flags))
    assert io.read_volume(path).array.dtype == dtype


def test_a_single_image_is_one_slice(a_folder):
    with mrcfile.new(a_folder / "v.mrc") as file:
        file.set_data(VOXELS[0].astype(np.int16))
    np.testing.assert_array_equal(io.read_volume(a_folder / "v.mrc").array, VOXELS[:1])


FAULTS = {
    "no magic word": lambda file: setattr(file.header, "map", b""),
    "no axis order": lambda file: [setattr(file.header, name, 0) for name in ("mapc", "mapr", "maps")],
    "no sampling": lambda file: [setattr(file.header, name, 0) for name in ("mx", "my", "mz")],
    "no version": lambda file: setattr(file.header, "nversion", 0),
    "origin not a number": lambda file: setattr(file.header.origin, "x", np.nan),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_small_fault_is_borne(fault, a_file):
    volume = io.read_volume(a_file(VOXELS.astype(np.int16), FAULTS[fault]))
    np.testing.assert_array_equal(volume.array, VOXELS)
    assert volume.grid.spacing in ((3.5, 0.5, 0.25), (1, 1, 1))


def test_junk_behind_the_voxels_is_borne(a_file):
    path = a_file(VOXELS.astype(np.int16))
    path.write_bytes(path.read_bytes() + b"junk")
    np.testing.assert_array_equal(io.read_volume(path).array, VOXELS)


def test_complex_values_are_refused(a_file):
    with pytest.raises(InputError, match="complex values"):
        io.read_volume(a_file(VOXELS.astype(np.complex64)))


def test_a_stack_of_volumes_is_refused(a_folder):
    with mrcfile.new(a_folder / "v.mrc") as file:
        file.set_data(np.zeros((2, *SHAPE), np.int8))
    with pytest.raises(InputError, match="more than three axes"):
        io.read_volume(a_folder / "v.mrc")


def test_what_is_written_is_valid(a_folder, a_volume, capsys):
    io.write_volume(a_folder / "v.mrc", a_volume)
    assert mrcfile.validate(a_folder / "v.mrc"), capsys.readouterr().out
    with mrcfile.open(a_folder / "v.mrc") as file:
        np.testing.assert_array_equal(file.data, a_volume.array)
        assert (file.header.dmin, file.header.dmax, file.header.dmean) == (0, 335, 167.5)
