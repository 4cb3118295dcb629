"""Whatever is wrong with a file or a disk ends in a sentence that names the file, and in nothing half-written."""

from __future__ import annotations

import builtins
import os
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import tifffile

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import Cancelled, DependencyError, InputError, ResourceError, SettingsError
from VolumeSegmanticsLib.io.lazy import LazyArray
from VolumeSegmanticsLib.volume import LabelMap, Volume

from .conftest import SHAPE

FILES = ["v.nrrd", "v.mha", "v.nii", "v.nii.gz", "v.tif", "v.mrc", "v.npy", "v.seg.nrrd"]


@pytest.fixture
def noise():
    """Values that no compression makes small."""
    return np.random.default_rng(0).integers(0, 250, (20, 30, 40), np.uint8)


def write(path, array, *, compressed):
    if compressed:
        return io.write_labels(path, LabelMap.of(array))
    return io.write_volume(path, Volume.of(array))


@pytest.mark.parametrize("name", [*FILES, "v", "v.nhdr"])
def test_a_missing_file_is_named(name, a_folder):
    for read in (io.read_labels, io.describe, *([] if ".seg" in name else [io.read_volume])):
        with pytest.raises(InputError) as error:
            read(a_folder / name)
        assert str(error.value).startswith(f'There is no file "{a_folder / name}".')


@pytest.mark.parametrize("part", [0.99, 0.7, 0.3, 0.01])
@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "raw"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_short_is_refused(name, compressed, part, a_folder, noise):
    if name == "v.seg.nrrd" and not compressed:
        pytest.skip("segmentations are always compressed")
    path = write(a_folder / name, noise, compressed=compressed)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(InputError, match=r"v\.") as error:
        io.read_labels(path)
    assert error.value.hint
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 3000, b"NRRD0004\n", b"NRRD0005\ntype: fish\n\n", b"{}\n" * 999])
@pytest.mark.parametrize("name", [*FILES, "v.nhdr", "v.mhd"])
def test_a_file_of_something_else_is_refused(name, content, a_folder):
    (a_folder / name).write_bytes(content)
    for read in (io.read_volume, io.read_labels):
        with pytest.raises(InputError) as error:
            read(a_folder / name)
        assert "v." in error.value.message


@pytest.mark.parametrize("name", ["v.nrrd", "v.seg.nrrd", "v.nii.gz", "v.tif"])
def test_flipped_bits_in_compressed_voxels_are_noticed(name, a_folder, noise):
    path = write(a_folder / name, noise, compressed=True)
    content = bytearray(path.read_bytes())
    content[-3000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=name):
        io.read_labels(path)


def damage_a_part(path):
    """Spoil compressed voxels, of a folder those in its largest file, and leave alone what tells of the volume."""
    if path.is_dir():
        path = max((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    if path.suffix == "":  # a chunk
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return
    content = bytearray(path.read_bytes())
    start = len(content) // 2
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            start = file.pages[0].dataoffsets[0]
    content[start : start + 900] = b"\xff" * 900
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["v.zarr", "v.h5", "v.h5:/entry/data/data", "v.tif", "slices"])
def test_a_damaged_part_is_a_sentence_whenever_it_is_read(name, a_folder, noise):
    path = a_folder / name
    damage_a_part(io.write_labels(io.source_of(path), LabelMap.of(noise)))
    image = io.open_volume(path)
    assert isinstance(image.array, LazyArray)
    for read in (lambda: image.array[:], lambda: np.asarray(image.array), lambda: io.read_volume(path)):
        with pytest.raises(InputError, match=r"cannot be read.*(Copy or export|Export) it again") as error:
            read()
        assert str(path) in error.value.message or path.name in error.value.message
        assert "\n" not in str(error.value)


def test_a_chunk_of_zstd_that_is_cut_is_a_sentence(a_folder, noise):
    zarr = pytest.importorskip("zarr", minversion="3")
    zarr.create_array(str(a_folder / "v.zarr"), data=noise, chunks=(20, 30, 20))
    damage_a_part(a_folder / "v.zarr")
    with pytest.raises(InputError, match=r"v\.zarr.*a part of it is damaged. Copy or export it again."):
        np.asarray(io.open_volume(a_folder / "v.zarr").array)


def test_a_file_that_is_gone_when_it_is_read_is_named(a_folder, noise):
    image = io.open_volume(io.write_labels(a_folder / "v.h5", LabelMap.of(noise)))
    (a_folder / "v.h5").unlink()
    with pytest.raises(InputError, match="There is no file"):
        np.asarray(image.array)


@pytest.mark.parametrize("name", ["v.jpg", "v.nrrd.bak", ".hidden.txt"])
def test_an_unknown_suffix_lists_the_known_ones(name, a_folder, a_volume):
    with pytest.raises(InputError, match=r"\.seg\.nrrd.*\.nii\.gz.*\.mrc.*\.npy"):
        io.read_volume(a_folder / name)
    with pytest.raises(InputError, match="none of the known formats"):
        io.write_volume(a_folder / name, a_volume)


def test_an_image_is_no_segmentation(a_folder, a_volume, some_labels):
    with pytest.raises(InputError, match=r"\.nrrd"):
        io.write_volume(a_folder / "v.seg.nrrd", a_volume)
    io.write_labels(a_folder / "s.seg.nrrd", some_labels)
    with pytest.raises(InputError, match="not an image"):
        io.read_volume(a_folder / "s.seg.nrrd")


def test_pickles_are_never_loaded(a_folder):
    np.save(a_folder / "v.npy", np.array([{"code": 1}]), allow_pickle=True)
    with pytest.raises(InputError, match=r"v\.npy"):
        io.read_volume(a_folder / "v.npy")


@pytest.mark.parametrize(("dtype", "words"), [("complex64", "no intensities"), ("<U3", "no intensities")])
def test_values_that_are_no_numbers_are_refused(dtype, words, a_folder):
    np.save(a_folder / "v.npy", np.zeros(SHAPE, dtype))
    with pytest.raises(InputError, match=words):
        io.read_volume(a_folder / "v.npy")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full(SHAPE, 300, np.uint16), "from 300 to 300"),
        (np.full(SHAPE, -1, np.int8), "from -1"),
        (np.full(SHAPE, 0.5, np.float32), "fractions"),
        (np.zeros((*SHAPE, 3), np.uint8), r"axes \(Z, Y, X\)"),
        (np.where(np.arange(8) > 3, 255, 0) * np.ones(SHAPE, np.uint8), "0 and 255 only.*0 and 1"),
    ],
    ids=["too high", "negative", "fractions", "colours", "a mask of 0 and 255"],
)
def test_arrays_that_are_no_labels_are_refused(array, words, a_folder):
    np.save(a_folder / "v.npy", array)
    with pytest.raises(InputError, match=words):
        io.read_labels(a_folder / "v.npy")


def test_options_are_strict(a_folder, a_volume):
    io.write_volume(a_folder / "v.nrrd", a_volume)
    with pytest.raises(SettingsError, match="gray"):
        io.read_volume(a_folder / "v.nrrd", channels="gray")
    with pytest.raises(SettingsError, match="zero"):
        io.read_labels(a_folder / "v.nrrd", unpainted="zero")


@pytest.mark.parametrize(
    ("package", "name"),
    [("mrcfile", "v.mrc"), ("tifffile", "v.tif")],
)
def test_a_missing_package_is_named(package, name, a_folder, a_volume, monkeypatch):
    io.write_volume(a_folder / name, a_volume)
    hide(package, monkeypatch)
    with pytest.raises(DependencyError, match=f"pip install {package}"):
        io.read_volume(a_folder / name)
    with pytest.raises(DependencyError, match=f"pip install {package}"):
        io.write_volume(a_folder / "new" / name, a_volume)


@pytest.mark.parametrize("name", ["v.nrrd", "v.seg.nrrd"])
def test_what_slicer_ships_is_enough_for_its_own_files(name, a_folder, a_volume, monkeypatch):
    for module in ("nrrd", "slicerio"):
        hide(module, monkeypatch)
    labels = LabelMap.of((a_volume.array > a_volume.array.mean()).astype(np.uint8), a_volume.grid)
    io.write_labels(a_folder / name, labels)
    np.testing.assert_array_equal(io.read_labels(a_folder / name, unpainted="background").array, labels.array)


def hide(module, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize("error", [Cancelled, MemoryError, KeyboardInterrupt])
def test_what_is_no_fault_of_the_file_passes_through(error, a_folder, a_volume, monkeypatch):
    path = io.write_volume(a_folder / "v.npy", a_volume)

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(error):
        io.read_volume(path)


@pytest.mark.parametrize("name", ["s.nrrd", "s.seg.nrrd"])
def test_labels_without_a_class_are_not_written(name, a_folder, some_labels):
    lost = LabelMap(some_labels.array, some_labels.grid, some_labels.classes[1:])
    with pytest.raises(InputError, match="none of their classes"):
        io.write_labels(a_folder / name, lost)
    assert list(a_folder.iterdir()) == []


def test_a_report_may_cancel(a_folder, some_labels):
    path = io.write_labels(a_folder / "s.seg.nrrd", some_labels)

    def cancel(event):
        raise Cancelled

    with pytest.raises(Cancelled):
        io.read_labels(path, report=cancel)


@pytest.fixture
def a_full_disk():
    """A context in which the system allows 10 kB a file, as a full disk would.

    It ends before pytest itself writes again: its own output may well be a larger file.
    """
    resource = pytest.importorskip("resource")

    @contextmanager
    def full():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return full


@pytest.mark.parametrize("compressed", [True, False], ids=["labels", "volume"])
@pytest.mark.parametrize("name", [*FILES, "v.nhdr", "v.mhd"])
def test_a_full_disk_leaves_the_earlier_file_and_nothing_else(name, compressed, a_folder, noise, a_full_disk, capfd):
    if name == "v.seg.nrrd" and not compressed:
        pytest.skip("segmentations are always compressed")
    small = np.zeros((2, 3, 4), np.uint8)
    write(a_folder / name, small, compressed=compressed)
    before = {file: file.read_bytes() for file in a_folder.iterdir()}
    with a_full_disk(), pytest.raises(ResourceError, match=f"{name}.*Free some space"):
        write(a_folder / name, noise, compressed=compressed)
    assert {file: file.read_bytes() for file in a_folder.iterdir()} == before
    np.testing.assert_array_equal(io.read_labels(a_folder / name).array, small)


def test_a_full_disk_leaves_the_earlier_folder(a_folder, a_full_disk):
    io.write_volume(a_folder / "slices", Volume.of(np.zeros(SHAPE, np.uint8)))
    with a_full_disk(), pytest.raises(ResourceError, match="Free some space"):
        io.write_volume(a_folder / "slices", Volume.of(np.ones((2, 200, 100), np.uint8)))
    assert list(a_folder.iterdir()) == [a_folder / "slices"]
    np.testing.assert_array_equal(io.read_volume(a_folder / "slices").array, 0)


@pytest.mark.parametrize("name", FILES)
def test_a_place_that_cannot_be_written_is_a_sentence(name, a_folder, some_labels):
    (a_folder / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match=r"cannot be written.*choose a folder"):
        io.write_labels(a_folder / "file" / name, some_labels)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user who may not write everywhere")
def test_a_folder_without_the_right_to_write_is_a_sentence(a_folder, a_volume):
    a_folder.chmod(0o500)
    with pytest.raises(ResourceError, match="cannot be written"):
        io.write_volume(a_folder / "v.nrrd", a_volume)


def test_the_kind_of_the_file_is_never_confused_by_a_neighbour(a_folder):
    """The NIfTI library itself reads the voxels of v.nii where v.nii.gz is asked for and both lie there."""
    for value, name in ((1, "v.nii"), (2, "v.nii.gz")):
        io.write_volume(a_folder / name, Volume.of(np.full(SHAPE, value, np.uint8)))
    assert io.read_volume(a_folder / "v.nii").array.max() == 1
    assert io.read_volume(a_folder / "v.nii.gz").array.max() == 2
