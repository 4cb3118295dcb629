"""Zarr stores and OME-Zarr pyramids as others write them."""

from __future__ import annotations

import numpy as np
import pytest

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.volume import Grid, LabelMap, Volume

zarr = pytest.importorskip("zarr")
FORMATS = (2,) if zarr.__version__.startswith("2.") else (2, 3)


@pytest.fixture(params=FORMATS)
def a_store(request, a_folder):
    """A function that makes a group of arrays, in each version of the format."""

    def make(arrays, attributes=None):
        path = a_folder / "scan.zarr"
        version = {} if FORMATS == (2,) else {"zarr_format": request.param}
        group = zarr.open_group(str(path), mode="w", **version)
        group.attrs.update(attributes or {})
        for name, array in arrays.items():
            chunks = tuple(min(3, n) for n in array.shape)
            stored = zarr.open_array(
                str(path / name), mode="w", shape=array.shape, dtype=array.dtype, chunks=chunks, **version
            )
            stored[...] = array
        return path

    return make


def pyramid(names, *levels):
    """What OME-Zarr says of levels, each a path, its scales and perhaps its translations."""
    axes = [{"name": name, "type": {"c": "channel", "t": "time"}.get(name, "space")} for name in names]
    datasets = [
        {
            "path": path,
            "coordinateTransformations": [
                {"type": kind, kind: values} for kind, values in zip(("scale", "translation"), transforms, strict=False)
            ],
        }
        for path, *transforms in levels
    ]
    return {"version": "0.4", "axes": axes, "datasets": datasets}


def test_an_array_and_the_only_array_of_a_group_are_read(a_store, an_array):
    path = a_store({"raw": an_array})
    for name in (path, path / "raw"):
        assert np.array_equal(io.read_volume(name).array, an_array)
        assert np.array_equal(io.open_volume(name).array[1:4, 5:, 2:3], an_array[1:4, 5:, 2:3])
        assert io.describe(name)["shape"] == [6, 7, 8]


def test_of_several_arrays_one_must_be_named(a_store, an_array):
    with pytest.raises(InputError, match="holds 2 arrays: a, b"):
        io.read_volume(a_store({"a": an_array, "b": an_array}))


@pytest.mark.parametrize("is_newer", [False, True])
def test_levels_of_a_pyramid_lie_where_their_transforms_say(is_newer, a_store, an_array):
    told = pyramid("zyx", ("0", [2.0, 1, 0.5], [10.0, 20, 30]), ("1", [4.0, 2, 1], [11.0, 20.5, 30.25]))
    attributes = {"ome": {"multiscales": [told]}} if is_newer else {"multiscales": [told]}
    path = a_store({"0": an_array, "1": an_array[::2, ::2, ::2]}, attributes)
    finest = io.read_volume(path)
    assert finest.grid == io.read_volume(path / "0").grid == Grid((6, 7, 8), (2, 1, 0.5), (30, 20, 10))
    coarser = io.read_volume(path / "1")
    assert coarser.grid == Grid((3, 4, 4), (4, 2, 1), (30.25, 20.5, 11))
    assert np.array_equal(coarser.array, an_array[::2, ::2, ::2])


def test_transforms_of_the_whole_pyramid_come_last(a_store, an_array):
    told = pyramid("zyx", ("0", [2.0, 1, 1], [10.0, 0, 0]))
    told["coordinateTransformations"] = [{"type": "scale", "scale": [3.0, 1, 1]}]
    grid = io.read_volume(a_store({"0": an_array}, {"multiscales": [told]})).grid
    assert grid == Grid((6, 7, 8), (6, 1, 1), (0, 0, 30))


@pytest.mark.parametrize(
    ("names", "shape", "expected"),
    [
        ("tczyx", (1, 1, 6, 7, 8), (6, 7, 8)),
        ("czyx", (3, 6, 7, 8), (6, 7, 8, 3)),
        ("xyz", (8, 7, 6), (6, 7, 8)),
        ("yx", (7, 8), (1, 7, 8)),
        ("cyx", (2, 7, 8), (1, 7, 8, 2)),
    ],
)
def test_axes_come_in_any_order(names, shape, expected, a_store):
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    path = a_store({"0": array}, {"multiscales": [pyramid(names, ("0", [1.0] * len(names)))]})
    order = [names.index(name) for name in "tzyxc" if name in names]
    volume = np.transpose(array, order).reshape(expected)
    read, opened = io.read_volume(path), io.open_volume(path)
    assert np.array_equal(read.array, volume)
    assert opened.array.shape == expected
    assert np.array_equal(opened.array[:1, 2:6, 1:4], volume[:1, 2:6, 1:4])


@pytest.mark.parametrize("shape", [(2, 6, 7, 8), (2, 1, 6, 7, 8), (1, 9, 6, 7, 8), (5,)])
def test_what_is_no_volume_is_refused(shape, a_store):
    with pytest.raises(InputError, match="three axes" if len(shape) > 3 else "one axis"):
        io.read_volume(a_store({"0": np.zeros(shape)}) / "0")


def test_what_is_written_is_a_pyramid_of_one_level(a_volume, a_folder):
    io.write_volume(a_folder / "v.zarr", a_volume)
    told = dict(zarr.open_group(str(a_folder / "v.zarr"), mode="r").attrs)["multiscales"][0]
    scale, translation = told["datasets"][0]["coordinateTransformations"]
    assert (told["version"], "".join(axis["name"] for axis in told["axes"])) == ("0.4", "zyx")
    assert scale["scale"] == pytest.approx(a_volume.grid.spacing)
    assert translation["translation"] == pytest.approx(a_volume.grid.origin[::-1])


def test_a_store_is_replaced_and_other_folders_are_not(a_volume, a_folder):
    path = io.write_volume(a_folder / "v.zarr", a_volume)
    io.write_volume(path, Volume.of(a_volume.array + 1))
    assert np.array_equal(io.read_volume(path).array, a_volume.array + 1)
    (a_folder / "mine.zarr").mkdir()
    (a_folder / "mine.zarr" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        io.write_volume(a_folder / "mine.zarr", a_volume)


def test_a_folder_without_an_array_is_told_in_our_words(a_folder):
    (a_folder / "empty.zarr").mkdir()
    with pytest.raises(InputError, match="holds no Zarr array or group") as error:
        io.read_volume(a_folder / "empty.zarr")
    assert "StorePath" not in str(error.value)


@pytest.mark.parametrize(
    ("units", "expected"), [(["micrometer"] * 3, "micrometer"), (["nanometer", "micrometer", "micrometer"], None)]
)
def test_the_unit_of_lengths_is_told(units, expected, a_store, an_array):
    told = pyramid("zyx", ("0", (1, 1, 1)))
    for axis, unit in zip(told["axes"], units, strict=True):
        axis["unit"] = unit
    assert io.describe(a_store({"0": an_array}, {"multiscales": [told]})).get("unit") == expected


def test_a_store_that_is_not_there_is_told(a_folder):
    with pytest.raises(InputError, match="There is no store"):
        io.read_volume(a_folder / "gone.zarr")


def test_large_volumes_are_written_with_coarser_levels(a_folder, rng, monkeypatch):
    """Images hold means, which lie in the middle of what they replace; an axis is halved while 64 voxels are left."""
    monkeypatch.setattr("VolumeSegmanticsLib.io.zarr._PIECE_BYTES", 1)  # every piece is but some rows
    array = rng.integers(0, 60_000, (70, 260, 130), np.uint16)
    turned = Grid(array.shape, (2.0, 1.0, 1.0), (5.0, 6.0, 7.0), ((0, 0, 1), (1, 0, 0), (0, 1, 0)))
    path = io.write_volume(a_folder / "v.zarr", Volume(array, turned))
    second, third = (io.read_volume(path / name) for name in ("1", "2"))
    np.testing.assert_array_equal(
        second.array, np.rint(array.reshape(70, 130, 2, 65, 2).mean(axis=(2, 4))).astype(np.uint16)
    )
    assert third.grid.shape == (70, 65, 65)
    assert not (path / "3").exists()
    assert second.grid.spacing == (2.0, 2.0, 2.0)
    np.testing.assert_allclose(second.grid.affine[:3, 3], turned.affine[:3] @ (0, 0.5, 0.5, 1))
    told = dict(zarr.open_group(str(path), mode="r").attrs)["multiscales"][0]["datasets"]
    assert [level["path"] for level in told] == ["0", "1", "2"]
    assert [level["coordinateTransformations"][0]["scale"] for level in told[1:]] == [[2.0, 2.0, 2.0], [2.0, 4.0, 2.0]]


def test_labels_are_never_averaged(a_folder, rng):
    labels = LabelMap.of(rng.choice(np.array([0, 7, 200], np.uint8), (130, 129, 5)))
    path = io.write_labels(a_folder / "v.zarr", labels)
    np.testing.assert_array_equal(io.read_volume(path / "1").array, labels.array[::2, ::2])
    assert io.read_volume(path / "1").grid == Grid((65, 65, 5), (2.0, 2.0, 1.0))


def test_colours_have_a_pyramid_too(a_folder, rng):
    array = rng.random((3, 129, 128, 3), np.float32)
    path = io.write_volume(a_folder / "v.zarr", Volume.of(array))
    first = io.read_volume(path / "1").array
    np.testing.assert_allclose(first[:, :64], array[:, :128].reshape(3, 64, 2, 64, 2, 3).mean(axis=(2, 4)), rtol=1e-5)
    np.testing.assert_allclose(first[:, 64], array[:, 128].reshape(3, 64, 2, 3).mean(axis=2), rtol=1e-5)
