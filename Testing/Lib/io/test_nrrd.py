"""NRRD as others write it: headers typed by hand, their answers worked out by hand."""

from __future__ import annotations

import bz2
import gzip

import numpy as np
import pytest

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.volume import Grid

from .conftest import SHAPE

VOXELS = np.arange(336, dtype="<i2").reshape(SHAPE)
HEADER = {"type": "short", "dimension": 3, "sizes": "8 7 6", "endian": "little", "encoding": "raw"}


def write(path, voxels=b"", **fields):
    """Write a header of ``fields`` on top of the usual ones (None removes one), and voxels as bytes."""
    fields = HEADER | {name.replace("_", " "): value for name, value in fields.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    path.write_bytes("\n".join(["NRRD0004", "# by hand", *lines, "", ""]).encode() + voxels)
    return path


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"space units": '"um" "um" "um"'}, "um"),
        ({"units": '"um" "um" "um"'}, "um"),
        ({"space units": '"um" "um" "s"'}, None),
        ({"space units": "um"}, None),
        ({}, None),
    ],
)
def test_the_unit_of_lengths_is_told(fields, expected, a_folder):
    path = write(a_folder / "v.nrrd", VOXELS.tobytes(), **fields)
    assert io.describe(path).get("unit") == expected


GEOMETRIES = {
    "LPS": (
        {"space": "left-posterior-superior", "space directions": "(2,0,0) (0,3,0) (0,0,4)", "space origin": "(1,2,3)"},
        Grid(SHAPE, (4, 3, 2), (1, 2, 3)),
    ),
    "RAS": (
        {"space": "right-anterior-superior", "space directions": "(2,0,0) (0,3,0) (0,0,4)", "space origin": "(1,2,3)"},
        Grid(SHAPE, (4, 3, 2), (-1, -2, 3), ((0, 0, 1), (0, -1, 0), (-1, 0, 0))),
    ),
    "LAS": (
        {"space": "left-anterior-superior", "space directions": "(2,0,0) (0,3,0) (0,0,4)", "space origin": "(1,2,3)"},
        Grid(SHAPE, (4, 3, 2), (1, -2, 3), ((0, 0, 1), (0, -1, 0), (1, 0, 0))),
    ),
    "the scanner's": (
        {"space": "scanner-xyz", "space directions": "(0,2,0) (3,0,0) (0,0,-4)", "space origin": "(1,2,3)"},
        Grid(SHAPE, (4, 3, 2), (1, 2, 3), ((0, 0, -1), (1, 0, 0), (0, 1, 0))),
    ),
    "a space without a name": (
        {"space dimension": "3", "space directions": "(2,0,0) (0,3,0) (0,0,4)"},
        Grid(SHAPE, (4, 3, 2)),
    ),
    "spacings only": ({"spacings": "2 3 4"}, Grid(SHAPE, (4, 3, 2))),
    "spacings partly unknown": ({"spacings": "2 nan 4"}, Grid(SHAPE, (4, 1, 2))),
    "axis mins of nodes": (
        {"spacings": "2 3 4", "axis mins": "10 20 30", "centerings": "node node node"},
        Grid(SHAPE, (4, 3, 2), (10, 20, 30)),
    ),
    "axis mins of cells": (
        {"spacings": "2 3 4", "axis mins": "10 20 30"},
        Grid(SHAPE, (4, 3, 2), (11, 21.5, 32)),
    ),
    "axis mins unknown": ({"spacings": "2 3 4", "axis mins": "nan nan nan"}, Grid(SHAPE, (4, 3, 2))),
    "nothing": ({}, Grid(SHAPE)),
}


@pytest.mark.parametrize("case", GEOMETRIES)
def test_every_space_is_read_as_lps(case, a_folder):
    fields, grid = GEOMETRIES[case]
    volume = io.read_volume(write(a_folder / "v.nrrd", VOXELS.tobytes(), **fields))
    assert volume.grid == grid
    np.testing.assert_array_equal(volume.array, VOXELS)


@pytest.mark.parametrize("case", [case for case in GEOMETRIES if case != "spacings partly unknown"])
def test_simpleitk_sees_the_same_grid(case, a_folder):
    """MetaImage carries what SimpleITK sees to our own reader."""
    import SimpleITK as sitk

    if case == "axis mins unknown":
        pytest.skip("SimpleITK takes the origin for NaN")
    path = write(a_folder / "v.nrrd", VOXELS.tobytes(), **GEOMETRIES[case][0])
    sitk.WriteImage(sitk.ReadImage(str(path)), str(a_folder / "v.mha"))
    assert io.read_volume(a_folder / "v.mha").grid == io.read_volume(path).grid


ENCODED = {
    "raw": VOXELS.tobytes(),
    "gzip": gzip.compress(VOXELS.tobytes()),
    "gz": gzip.compress(VOXELS.tobytes()),
    "bzip2": bz2.compress(VOXELS.tobytes()),
    "ascii": " ".join(map(str, VOXELS.ravel())).encode(),
    "text": "\n".join(map(str, VOXELS.ravel())).encode(),
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_every_encoding_is_read(encoding, a_folder):
    path = write(a_folder / "v.nrrd", ENCODED[encoding], encoding=encoding)
    np.testing.assert_array_equal(io.read_volume(path).array, VOXELS)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_voxels_in_a_file_of_their_own_are_found_beside_the_header(encoding, a_folder):
    (a_folder / "größe x.bin").write_bytes(ENCODED[encoding])
    path = write(a_folder / "v.nhdr", encoding=encoding, data_file="größe x.bin")
    np.testing.assert_array_equal(io.read_volume(path).array, VOXELS)


@pytest.mark.parametrize(
    ("fields", "before"),
    [
        ({"byte skip": 5}, b"junk!"),
        ({"byte skip": -1}, b"anything at all"),
        ({"line skip": 2}, b"one\ntwo\n"),
        ({"line skip": 1, "byteskip": 3}, b"one\nabc"),
    ],
    ids=["bytes", "from the end", "lines", "both"],
)
def test_what_stands_before_the_voxels_is_skipped(fields, before, a_folder):
    (a_folder / "v.raw").write_bytes(before + VOXELS.tobytes())
    path = write(a_folder / "v.nhdr", data_file="v.raw", **fields)
    np.testing.assert_array_equal(io.read_volume(path).array, VOXELS)


def test_bytes_to_skip_count_after_decompression(a_folder):
    path = write(a_folder / "v.nrrd", gzip.compress(b"junk!" + VOXELS.tobytes()), encoding="gzip", byte_skip=5)
    np.testing.assert_array_equal(io.read_volume(path).array, VOXELS)


def test_big_endian_voxels_are_mapped_as_they_are(a_folder):
    volume = io.read_volume(write(a_folder / "v.nrrd", VOXELS.astype(">i2").tobytes(), endian="big"))
    np.testing.assert_array_equal(volume.array, VOXELS)
    assert isinstance(volume.array, np.memmap)


@pytest.mark.parametrize("position", [0, 1, 2, 3])
@pytest.mark.parametrize("has_space", [True, False], ids=["with directions", "with kinds only"])
def test_the_colour_axis_may_be_any_axis(has_space, position, a_folder):
    colours = np.arange(336 * 3, dtype=np.uint8).reshape(*SHAPE, 3)
    sizes, kinds, directions = ["8", "7", "6"], ["domain"] * 3, ["(2,0,0)", "(0,3,0)", "(0,0,4)"]
    for values, new in ((sizes, "3"), (kinds, "RGB-color"), (directions, "none")):
        values.insert(position, new)
    fields = {"type": "uchar", "dimension": 4, "sizes": " ".join(sizes), "kinds": " ".join(kinds)}
    if has_space:
        fields |= {"space": "left-posterior-superior", "space directions": " ".join(directions)}
    stored = np.moveaxis(colours, 3, 3 - position)
    volume = io.read_volume(write(a_folder / "v.nrrd", stored.tobytes(), **fields))
    np.testing.assert_array_equal(volume.array, colours)
    assert volume.grid == Grid(SHAPE, (4, 3, 2) if has_space else (1, 1, 1))


def test_transparency_is_dropped(a_folder):
    colours = np.arange(336 * 4, dtype=np.uint8).reshape(*SHAPE, 4)
    fields = {"type": "uchar", "dimension": 4, "sizes": "4 8 7 6", "kinds": "RGBA-color domain domain domain"}
    path = write(a_folder / "v.nrrd", colours.tobytes(), **fields)
    np.testing.assert_array_equal(io.read_volume(path).array, colours[..., :3])
    assert io.describe(path)["channels"] == 3


def test_a_flat_image_is_one_slice(a_folder):
    fields = {"dimension": 2, "sizes": "8 7", "space dimension": 2, "space directions": "(0,2) (-3,0)"}
    volume = io.read_volume(write(a_folder / "v.nrrd", VOXELS[:1].tobytes(), **fields))
    np.testing.assert_array_equal(volume.array, VOXELS[:1])
    assert volume.grid == Grid((1, 7, 8), (1, 3, 2), direction=((0, 0, 1), (-1, 0, 0), (0, 1, 0)))


REFUSED = {
    "a time axis": ({"dimension": 4, "sizes": "8 7 3 2", "kinds": "domain domain domain time"}, "more than three axes"),
    "four axes": ({"dimension": 4, "sizes": "8 7 3 2"}, "more than three axes"),
    "frames": (
        {"dimension": 4, "sizes": "2 8 7 3", "kinds": "list domain domain domain", "labels": '"frame" "" "" ""'},
        "more than three axes",
    ),
    "a long list": ({"dimension": 4, "sizes": "6 8 7 1", "kinds": "list domain domain domain"}, "more than three"),
    "a block": ({"type": "block"}, 'values of type "block"'),
    "an unknown encoding": ({"encoding": "hex"}, 'encoded as "hex"'),
    "no endian": ({"endian": None}, "little or big endian"),
    "no sizes": ({"sizes": None}, "cannot be read as NRRD"),
    "no voxel file": ({"data file": "elsewhere.raw"}, 'should lie in "elsewhere.raw"'),
    "a list of voxel files": ({"data file": "LIST"}, 'should lie in "LIST"'),
    "axes in one plane": ({"space dimension": 3, "space directions": "(1,0,0) (2,0,0) (0,0,1)"}, "in one plane"),
    "no spacing": ({"spacings": "0 1 1"}, "spacing must be positive"),
    "a side of nothing": ({"sizes": "8 7 0"}, r"v\.nrrd"),
    "sides beyond the file": ({"sizes": "80000 70000 60000"}, "cut short"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_a_sentence(case, a_folder):
    fields, words = REFUSED[case]
    with pytest.raises(InputError, match=words) as error:
        io.read_volume(write(a_folder / "v.nrrd", VOXELS.tobytes(), **fields))
    assert error.value.hint


def test_the_file_is_written_for_others(a_folder, a_volume):
    """SimpleITK sees the same geometry and the same values."""
    import SimpleITK as sitk

    io.write_volume(a_folder / "v.nrrd", a_volume)
    image = sitk.ReadImage(str(a_folder / "v.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), a_volume.array)
    np.testing.assert_allclose(image.GetOrigin(), a_volume.grid.origin)
    np.testing.assert_allclose(image.GetSpacing(), a_volume.grid.spacing[::-1])
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)).T[::-1], a_volume.grid.direction, atol=1e-12)
