"""What is written is read back: values, type, geometry, names and colours, wherever the format has them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.volume import Grid, LabelClass, LabelMap, Volume

from .conftest import GRIDS, SHAPE, SHEARED

WHOLE = [
    "v.nrrd",
    "v.nhdr",
    "v.mha",
    "v.mhd",
    "v.nii",
    "v.nii.gz",
    "v.tif",
    "v.TIFF",
    "slices",
    "v.h5",
    "v.nxs",
    "v.zarr",
]
MRC = ["v.mrc", "v.rec", "v.st", "v.map"]
EVERY = [*WHOLE, *MRC, "v.npy", "V.NRRD", "V.NII.GZ", "a.b c.nrrd", "ä.ö.nii.gz"]
COLOURED = ["v.nrrd", "v.mha", "v.nii.gz", "v.tif", "slices", "v.npy", "v.hdf5", "v.zarr"]

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
TYPES = [*INTEGERS, "float16", "float32", "float64", "bool", ">u2", ">f4"]
WIDENED = {
    "NRRD": {"float16": "float32", "bool": "uint8"},
    "MRC": {"uint8": "uint16", "bool": "uint16"},
    "TIFF": {"bool": "uint8"},
    "NPY": {},
    "HDF5": {},
    "ZARR": {},
}
NOT_IN_MRC = ("uint32", "int32", "uint64", "int64", "float64")


def family_of(name: str) -> str:
    kinds = {"mrc": "MRC", "npy": "NPY", "tif": "TIFF", "slices": "TIFF", "h5": "HDF5", "zarr": "ZARR"}
    return kinds.get(name.split(".")[-1], "NRRD")


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["v.nrrd", "v.mha", "v.nii.gz", "v.tif", "slices", "v.mrc", "v.npy", "v.h5", "v.zarr"])
def test_every_type_keeps_its_values(name, dtype, a_folder):
    array = (np.arange(np.prod(SHAPE)) % 120 - 3 * (np.dtype(dtype).kind in "if")).reshape(SHAPE).astype(dtype)
    if name == "v.mrc" and dtype in NOT_IN_MRC:
        with pytest.raises(InputError, match=f"MRC cannot hold values of type {dtype}"):
            io.write_volume(a_folder / name, Volume.of(array))
        return
    io.write_volume(a_folder / name, Volume.of(array))
    back = io.read_volume(a_folder / name).array
    np.testing.assert_array_equal(back, array)
    assert back.dtype.name == WIDENED[family_of(name)].get(np.dtype(dtype).name, np.dtype(dtype).name)


@pytest.mark.parametrize("name", EVERY)
def test_every_name_of_a_format_is_read_back(name, a_folder, an_array):
    assert io.write_volume(a_folder / name, Volume.of(an_array)) == a_folder / name
    np.testing.assert_array_equal(io.read_volume(str(a_folder / name)).array, an_array)


@pytest.mark.parametrize("geometry", GRIDS)
@pytest.mark.parametrize("name", WHOLE)
def test_geometry_survives(name, geometry, a_folder, an_array):
    io.write_volume(a_folder / name, Volume(an_array, GRIDS[geometry]))
    back = io.read_volume(a_folder / name)
    assert back.grid == GRIDS[geometry]
    np.testing.assert_array_equal(back.array, an_array)


@pytest.mark.parametrize("name", ["v.nrrd", "v.mha", "v.tif", "slices", "v.h5", "v.zarr"])
def test_sheared_axes_survive_where_the_format_has_them(name, a_folder, an_array):
    io.write_volume(a_folder / name, Volume(an_array, SHEARED))
    assert io.read_volume(a_folder / name).grid == SHEARED


@pytest.mark.parametrize(
    "grid", [SHEARED, Grid(SHAPE, (1e-4,) * 3, (12345.678, 0, 0))], ids=["sheared", "far away for float32"]
)
def test_nifti_refuses_what_it_would_distort(grid, a_folder, an_array):
    with pytest.raises(InputError, match="NIfTI cannot hold this geometry"):
        io.write_volume(a_folder / "v.nii.gz", Volume(an_array, grid))
    assert not list(a_folder.iterdir())


@pytest.mark.parametrize("name", MRC)
def test_mrc_keeps_spacing_and_origin_and_tells_what_it_loses(name, a_folder, a_volume, heard):
    io.write_volume(a_folder / name, a_volume, report=heard.append)
    back = io.read_volume(a_folder / name).grid
    assert back == Grid(SHAPE, a_volume.grid.spacing, a_volume.grid.origin)
    assert [event.level for event in heard] == ["warning"]
    assert "direction" in heard[0].text


def test_npy_tells_that_it_loses_the_geometry(a_folder, a_volume, heard):
    io.write_volume(a_folder / "v.npy", a_volume, report=heard.append)
    assert io.read_volume(a_folder / "v.npy").grid.is_plain
    assert [event.level for event in heard] == ["warning"]


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_is_told_where_nothing_is_lost(name, a_folder, a_volume, heard):
    io.write_volume(a_folder / name, a_volume, report=heard.append)
    assert heard == []


@pytest.mark.parametrize("shape", [(1, 7, 8), (6, 1, 8), (6, 7, 1), (3, 7, 8), (6, 7, 3), (4, 1, 4), (1, 1, 1)])
@pytest.mark.parametrize("name", ["v.nrrd", "v.mha", "v.nii.gz", "v.tif", "slices", "v.mrc", "v.npy"])
def test_small_sides_are_not_taken_for_anything_else(name, shape, a_folder):
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    io.write_volume(a_folder / name, Volume.of(array))
    np.testing.assert_array_equal(io.read_volume(a_folder / name).array, array)


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("name", COLOURED)
def test_channels_come_back_last(name, dtype, channels, a_folder):
    array = np.arange(np.prod(SHAPE) * channels).reshape(*SHAPE, channels).astype(dtype)
    grid = Grid(SHAPE) if name == "v.npy" else GRIDS["left-handed"]
    io.write_volume(a_folder / name, Volume(array, grid))
    back = io.read_volume(a_folder / name)
    np.testing.assert_array_equal(back.array, array)
    assert back.grid == grid
    assert io.describe(a_folder / name)["channels"] == channels


def test_mrc_refuses_colours(a_folder):
    with pytest.raises(InputError, match="colours"):
        io.write_volume(a_folder / "v.mrc", Volume.of(np.zeros((*SHAPE, 3), np.uint8)))


def test_grey_is_the_luminance_rounded_for_integers(a_folder):
    array = np.zeros((*SHAPE, 3), np.uint8)
    array[0, 0, 0], array[0, 0, 1], array[0, 0, 2] = (255, 0, 0), (0, 255, 0), (10, 10, 10)
    io.write_volume(a_folder / "v.nrrd", Volume(array, GRIDS["oblique"]))
    grey = io.read_volume(a_folder / "v.nrrd", channels="grey")
    assert grey.array.dtype == np.uint8
    assert grey.array.shape == SHAPE
    assert grey.array[0, 0, :4].tolist() == [54, 182, 10, 0]  # 0.2126 · 255 and 0.7152 · 255
    assert grey.grid == GRIDS["oblique"]


@pytest.mark.parametrize("step", [-1, 2])
@pytest.mark.parametrize("name", ["v.nrrd", "v.mha", "v.tif", "v.mrc", "v.npy"])
def test_views_that_are_not_contiguous_are_written_as_they_look(name, step, a_folder, an_array):
    view = an_array.transpose(2, 0, 1)[::step, :, ::step]
    io.write_volume(a_folder / name, Volume.of(view))
    np.testing.assert_array_equal(io.read_volume(a_folder / name).array, view)


@pytest.mark.parametrize("name", ["v.nrrd", "v.nhdr", "v.tif", "v.mrc", "v.npy"])
def test_uncompressed_volumes_are_memory_mapped_read_only_and_aligned(name, a_folder, an_array):
    io.write_volume(a_folder / name, Volume.of(an_array.astype(np.float32)))
    array = io.read_volume(a_folder / name).array
    assert is_memory_mapped(array)
    assert array.flags.aligned
    assert not array.flags.writeable


def is_memory_mapped(array) -> bool:
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


@pytest.mark.parametrize("name", ["v.nrrd", "v.nhdr", "v.mha", "v.nii.gz", "v.tif", "slices", "v.mrc", "v.npy"])
def test_label_values_survive_and_classes_come_back_plain(name, a_folder, some_labels, heard):
    io.write_labels(a_folder / name, some_labels, report=heard.append)
    back = io.read_labels(a_folder / name)
    np.testing.assert_array_equal(back.array, some_labels.array)
    assert back.classes == tuple(LabelClass.plain(value) for value in (2, 5, 7))
    assert any("names and colours" in event.text for event in heard)


def test_a_segmentation_keeps_everything(a_folder, some_labels, heard):
    io.write_labels(a_folder / "s.seg.nrrd", some_labels, report=heard.append)
    back = io.read_labels(a_folder / "s.seg.nrrd")
    np.testing.assert_array_equal(back.array, some_labels.array)
    assert (back.grid, back.classes, back.unpainted) == (some_labels.grid, some_labels.classes, "ignore")
    assert heard == []


@pytest.mark.parametrize("geometry", GRIDS)
@pytest.mark.parametrize("suffix", [".seg.nrrd", ".seg.nhdr", ".SEG.NRRD"])
def test_a_segmentation_keeps_every_geometry(suffix, geometry, a_folder, some_labels):
    labels = LabelMap(some_labels.array, GRIDS[geometry], some_labels.classes)
    io.write_labels(a_folder / f"s{suffix}", labels)
    assert io.read_labels(a_folder / f"s{suffix}").grid == GRIDS[geometry]


def test_a_prediction_saved_as_a_segmentation_keeps_its_background(a_folder, heard):
    array = np.zeros(SHAPE, np.uint8)
    array[2:4] = 3
    io.write_labels(a_folder / "p.seg.nrrd", LabelMap.of(array))
    back = io.read_labels(a_folder / "p.seg.nrrd", report=heard.append)
    np.testing.assert_array_equal(back.array, array)
    assert [c.value for c in back.classes] == [0, 3]
    assert back.unpainted == "background"
    assert [event.text for event in heard] == ['0 in "p.seg.nrrd" was taken for background.']


def test_background_and_unlabelled_voxels_stay_apart_in_a_segmentation(a_folder):
    array = np.zeros(SHAPE, np.uint8)
    array[2:4], array[5] = 3, 255
    labels = LabelMap.of(array, classes=(LabelClass(0, "Luft", (0.1, 0.2, 0.3)),))
    io.write_labels(a_folder / "s.seg.nrrd", labels)
    back = io.read_labels(a_folder / "s.seg.nrrd")
    np.testing.assert_array_equal(back.array, array)
    assert back.classes == labels.classes


@pytest.mark.parametrize(
    "name", ["v.nrrd", "v.nhdr", "v.mha", "v.mhd", "v.nii.gz", "v.tif", "slices", "v.npy", "v.mrc"]
)
def test_an_earlier_file_is_replaced_and_nothing_else_stays_behind(name, a_folder, a_volume):
    io.write_volume(a_folder / name, Volume.of(np.ones((2, 3, 4), np.uint8)))
    names = sorted(a_folder.iterdir())
    io.write_volume(a_folder / name, a_volume)
    np.testing.assert_array_equal(io.read_volume(a_folder / name).array, a_volume.array)
    assert sorted(a_folder.iterdir()) == names


def test_a_volume_can_be_written_over_the_file_that_it_is_mapped_from(a_folder, a_volume):
    io.write_volume(a_folder / "v.nrrd", a_volume)
    mapped = io.read_volume(a_folder / "v.nrrd")
    io.write_volume(a_folder / "v.nrrd", mapped)
    np.testing.assert_array_equal(io.read_volume(a_folder / "v.nrrd").array, a_volume.array)


def test_missing_parents_are_made(a_folder, a_volume):
    io.write_volume(a_folder / "new" / "er" / "v.nrrd", a_volume)
    assert io.read_volume(a_folder / "new" / "er" / "v.nrrd").grid == a_volume.grid


@pytest.mark.parametrize("name", [*EVERY, "slices"])
def test_a_description_agrees_with_what_is_read(name, a_folder, a_volume):
    io.write_volume(a_folder / name, a_volume)
    told, read = io.describe(a_folder / name), io.read_volume(a_folder / name)
    assert told["shape"] == [6, 7, 8]
    assert (told["dtype"], told["channels"], told["voxels"]) == ("uint16", 1, 336)
    assert Grid(*(told[key] for key in ("shape", "spacing", "origin", "direction"))) == read.grid
    assert "classes" not in told


def test_a_description_of_a_segmentation_names_its_classes(a_folder, some_labels):
    io.write_labels(a_folder / "s.seg.nrrd", some_labels)
    told = io.describe(a_folder / "s.seg.nrrd")
    assert told["format"] == "Segmentation"
    assert [LabelClass.from_dict(c) for c in told["classes"]] == list(some_labels.classes)


def test_nothing_third_party_but_numpy_is_imported_before_it_is_needed():
    code = "import sys, VolumeSegmanticsLib.io; print({'SimpleITK', 'nrrd', 'tifffile', 'mrcfile'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
