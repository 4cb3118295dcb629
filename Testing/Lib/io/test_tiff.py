"""TIFF files and folders as others write them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.volume import Grid, LabelMap, Volume

from .conftest import GRIDS, SHAPE

VOXELS = np.arange(336, dtype=np.uint16).reshape(SHAPE)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "packbits", "lzma"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float16", "float32"])
def test_every_compression_is_read(compression, dtype, a_folder):
    array = VOXELS.astype(dtype)
    tifffile.imwrite(a_folder / "v.tif", array, compression=compression)
    np.testing.assert_array_equal(io.read_volume(a_folder / "v.tif").array, array)


@pytest.mark.parametrize(
    "options",
    [
        {"bigtiff": True},
        {"byteorder": ">"},
        {"byteorder": ">", "compression": "zlib"},
        {"imagej": True},
        {"ome": True},
        {"tile": (16, 16)},
        {"rowsperstrip": 2},
        {"predictor": True, "compression": "lzw"},
        {"metadata": None},
    ],
    ids=str,
)
def test_every_arrangement_is_read(options, a_folder):
    tifffile.imwrite(a_folder / "v.tif", VOXELS, photometric="minisblack", **options)
    np.testing.assert_array_equal(io.read_volume(a_folder / "v.tif").array, VOXELS)


def test_bits_are_read_as_truth_values(a_folder):
    tifffile.imwrite(a_folder / "v.tif", VOXELS % 3 == 0, photometric="minisblack")
    np.testing.assert_array_equal(io.read_labels(a_folder / "v.tif").array, VOXELS % 3 == 0)


def test_pages_that_were_appended_one_by_one_are_one_volume(a_folder):
    with tifffile.TiffWriter(a_folder / "v.tif") as file:
        for image in VOXELS:
            file.write(image, contiguous=False, metadata=None)
    np.testing.assert_array_equal(io.read_volume(a_folder / "v.tif").array, VOXELS)


def test_imagej_tells_its_spacing(a_folder):
    tifffile.imwrite(
        a_folder / "v.tif", VOXELS, imagej=True, resolution=(4.0, 2.0), metadata={"spacing": 3.5, "unit": "um"}
    )
    assert io.read_volume(a_folder / "v.tif").grid == Grid(SHAPE, (3.5, 0.5, 0.25))


def test_imagej_reads_the_spacing_of_what_is_written_here(a_folder):
    io.write_volume(a_folder / "v.tif", Volume(VOXELS, Grid(SHAPE, (3.5, 0.5, 0.25))))
    with tifffile.TiffFile(a_folder / "v.tif") as file:
        assert file.imagej_metadata["spacing"] == 3.5
        assert file.imagej_metadata["slices"] == 6
        assert file.pages.first.resolution == (4.0, 2.0)


def test_ome_tells_its_spacing(a_folder):
    sizes = {"axes": "ZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 3.5}
    tifffile.imwrite(a_folder / "v.ome.tif", VOXELS, ome=True, metadata=sizes)
    assert io.read_volume(a_folder / "v.ome.tif").grid == Grid(SHAPE, (3.5, 0.5, 0.25))


def test_the_dots_per_inch_of_a_printer_are_no_spacing(a_folder):
    tifffile.imwrite(a_folder / "v.tif", VOXELS, metadata=None, resolution=(300, 300), resolutionunit="INCH")
    assert io.read_volume(a_folder / "v.tif").grid.is_plain


def test_a_stack_that_imagej_calls_frames_is_a_stack(a_folder):
    tifffile.imwrite(a_folder / "v.tif", VOXELS, imagej=True, metadata={"axes": "TYX"})
    np.testing.assert_array_equal(io.read_volume(a_folder / "v.tif").array, VOXELS)


def test_a_stack_that_imagej_calls_channels_is_a_stack(a_folder):
    tifffile.imwrite(a_folder / "v.tif", VOXELS, imagej=True, metadata={"axes": "CYX"})
    np.testing.assert_array_equal(io.read_volume(a_folder / "v.tif").array, VOXELS)


def test_imagej_channels_come_last(a_folder):
    array = np.arange(6 * 2 * 7 * 8, dtype=np.uint16).reshape(6, 2, 7, 8)
    tifffile.imwrite(a_folder / "v.tif", array, imagej=True, metadata={"axes": "ZCYX"})
    np.testing.assert_array_equal(io.read_volume(a_folder / "v.tif").array, np.moveaxis(array, 1, -1))


def test_time_is_refused(a_folder):
    tifffile.imwrite(a_folder / "v.tif", np.zeros((3, *SHAPE), np.uint8), imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(InputError, match="more than three axes"):
        io.read_volume(a_folder / "v.tif")


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("samples", [3, 4])
def test_colours_lose_their_transparency(samples, planar, a_folder):
    array = np.arange(336 * samples, dtype=np.uint16).reshape(*SHAPE, samples)
    stored = array if planar == "contig" else np.moveaxis(array, 3, 1)
    extra = ["unassalpha"] if samples == 4 else None
    tifffile.imwrite(a_folder / "v.tif", stored, photometric="rgb", planarconfig=planar, extrasamples=extra)
    np.testing.assert_array_equal(io.read_volume(a_folder / "v.tif").array, array[..., :3])
    assert io.describe(a_folder / "v.tif")["channels"] == 3


def test_a_palette_image_holds_its_indices(a_folder):
    colours = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(a_folder / "v.tif", VOXELS.astype(np.uint8) % 5, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(io.read_labels(a_folder / "v.tif").array, VOXELS.astype(np.uint8) % 5)


def test_stderr_is_left_to_our_sentences(a_folder):
    path = io.write_volume(a_folder / "v.tif", Volume.of(np.zeros((40, 30, 20), np.uint8)))
    path.write_bytes(path.read_bytes()[:12000])
    code = "import sys; from VolumeSegmanticsLib import io; io.describe(sys.argv[1])"
    ended = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert "invalid page offset" not in ended.stderr
    assert "ImageJ series" not in ended.stderr


def test_labels_are_compressed_and_volumes_are_not(a_folder):
    array = np.zeros((20, 100, 100), np.uint8)
    io.write_volume(a_folder / "volume.tif", Volume.of(array))
    io.write_labels(a_folder / "labels.tif", LabelMap.of(array))
    assert (a_folder / "volume.tif").stat().st_size > array.nbytes
    assert (a_folder / "labels.tif").stat().st_size < array.nbytes / 10


def test_the_geometry_of_a_file_that_was_cropped_elsewhere_is_not_believed(a_folder):
    io.write_volume(a_folder / "v.tif", Volume(VOXELS, GRIDS["oblique"]))
    with tifffile.TiffFile(a_folder / "v.tif") as file:
        description = file.pages.first.description.replace("images=6\nslices=6", "images=2\nslices=2")
    tifffile.imwrite(a_folder / "v.tif", VOXELS[:2], metadata=None, description=description)
    assert io.read_volume(a_folder / "v.tif").grid == Grid((2, 7, 8), (2.5, 1, 1))


# Folders


def write_png(path, image):
    sitk.WriteImage(sitk.GetImageFromArray(image, isVector=image.ndim == 3), str(path))


def write_tiff(path, image):
    tifffile.imwrite(path, image)


@pytest.fixture(params=[(".png", write_png), (".tif", write_tiff), (".TIFF", write_tiff)], ids=lambda p: p[0])
def a_kind(request):
    """A suffix, and the function that writes a file of it."""
    return request.param


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_slices_come_in_natural_order(a_kind, dtype, a_folder):
    suffix, write = a_kind
    for number in (1, 2, 10, 11, 100):
        write(a_folder / f"scan 2 slice{number}{suffix}", np.full((7, 8), number, dtype))
    volume = io.read_volume(a_folder)
    assert volume.array[:, 0, 0].tolist() == [1, 2, 10, 11, 100]
    assert (volume.array.dtype, volume.array.shape, volume.grid.is_plain) == (dtype, (5, 7, 8), True)
    assert io.describe(a_folder)["shape"] == [5, 7, 8]


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_slices_lose_their_transparency(channels, a_folder):
    image = np.arange(56 * channels, dtype=np.uint8).reshape(7, 8, channels)
    for number in range(2):
        write_png(a_folder / f"{number}.png", image)
    np.testing.assert_array_equal(io.read_volume(a_folder).array, np.stack([image[..., :3]] * 2))
    assert io.describe(a_folder)["channels"] == 3


def test_other_files_and_hidden_ones_are_left_out(a_kind, a_folder):
    suffix, write = a_kind
    write(a_folder / f"1{suffix}", VOXELS[0])
    for name in (f"._1{suffix}", "readme.txt", "Thumbs.db"):
        (a_folder / name).write_bytes(b"?")
    np.testing.assert_array_equal(io.read_volume(a_folder).array, VOXELS[:1])


@pytest.mark.parametrize(
    "odd", [np.zeros((7, 9), np.uint16), np.zeros((7, 8), np.uint8)], ids=["another shape", "another type"]
)
def test_the_odd_file_is_named(a_kind, odd, a_folder):
    suffix, write = a_kind
    write(a_folder / f"1{suffix}", VOXELS[0])
    write(a_folder / f"2{suffix}", odd)
    with pytest.raises(InputError, match=rf"2\{suffix}.*values of type"):
        io.read_volume(a_folder)


def test_a_damaged_slice_is_refused(a_kind, a_folder):
    suffix, write = a_kind
    write(a_folder / f"1{suffix}", VOXELS[0])
    (a_folder / f"2{suffix}").write_bytes(b"nothing")
    with pytest.raises(InputError, match="Proben"):
        io.read_volume(a_folder)


def test_slices_of_two_kinds_are_refused(a_folder):
    write_png(a_folder / "1.png", VOXELS[0])
    write_tiff(a_folder / "1.tif", VOXELS[0])
    with pytest.raises(InputError, match="TIFF and PNG"):
        io.read_volume(a_folder)


def test_a_folder_without_slices_is_refused(a_folder):
    with pytest.raises(InputError, match="holds no slices"):
        io.read_volume(a_folder)


def test_a_folder_of_anything_else_is_never_replaced(a_folder, a_volume):
    (a_folder / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        io.write_volume(a_folder, a_volume)
    assert (a_folder / "thesis.tex").read_text() == "years of work"
