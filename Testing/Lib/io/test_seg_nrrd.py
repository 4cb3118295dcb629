"""Segmentations as other programs and older versions of 3D Slicer leave them: headers typed by hand."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.volume import Grid, LabelClass

GREY = (0.5, 0.5, 0.5)


def write(path, layers, keys=(), **fields):
    """Write layers, each (Z, Y, X), as Slicer does: a list as the fastest axis where there are several."""
    stack = np.stack(layers, axis=-1)
    stored = stack[..., 0] if len(layers) == 1 else stack
    fields = {
        "type": {"u1": "unsigned char", "i2": "short", "u2": "unsigned short"}[stored.dtype.str[1:]],
        "dimension": stored.ndim,
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, stored.shape[::-1])),
        "space directions": "none " * (stored.ndim - 3) + "(1,0,0) (0,1,0) (0,0,2)",
        "kinds": "list " * (stored.ndim - 3) + "domain domain domain",
        "endian": "little",
        "encoding": "gzip",
        "space origin": "(1,2,3)",
    } | fields
    lines = [f"{name}: {value}" for name, value in fields.items()] + [f"{k}:={v}" for k, v in dict(keys).items()]
    path.write_bytes("\n".join(["NRRD0004", *lines, "", ""]).encode() + gzip.compress(stored.tobytes()))
    return path


def segment(index, **keys):
    return {f"Segment{index}_{key}": value for key, value in keys.items()}


@pytest.fixture
def two_layers():
    """Two bars of one slice, crossing in one voxel:

    first layer    second layer
    0 0 0 0        0 0 3 0
    2 2 2 2        0 0 3 0
    0 0 0 0        0 0 3 0
    """
    first, second = np.zeros((2, 1, 3, 4), np.uint8)
    first[0, 1, :] = 2
    second[0, :, 2] = 3
    return [first, second]


def test_layers_become_one_and_the_later_segment_wins(a_folder, two_layers, heard):
    keys = segment(0, Name="lying", LabelValue=2, Layer=0) | segment(1, Name="standing", LabelValue=3, Layer=1)
    labels = io.read_labels(write(a_folder / "s.seg.nrrd", two_layers, keys), report=heard.append)
    assert labels.array.tolist() == [[[255, 255, 3, 255], [2, 2, 3, 2], [255, 255, 3, 255]]]
    assert labels.classes == (LabelClass(2, "lying", GREY), LabelClass(3, "standing", GREY))
    assert labels.grid == Grid((1, 3, 4), (2, 1, 1), (1, 2, 3))
    assert [(event.level, "overlap in 1 voxels" in event.text) for event in heard] == [
        ("warning", True),
        ("info", False),
    ]


def test_later_means_the_order_of_segments_and_not_of_layers(a_folder, two_layers):
    keys = segment(0, Name="standing", LabelValue=3, Layer=1) | segment(1, Name="lying", LabelValue=2, Layer=0)
    labels = io.read_labels(write(a_folder / "s.seg.nrrd", two_layers, keys))
    assert labels.array.tolist() == [[[255, 255, 3, 255], [2, 2, 2, 2], [255, 255, 3, 255]]]


def test_values_that_two_layers_share_are_numbered_anew_and_told(a_folder, two_layers, heard):
    two_layers[1][two_layers[1] == 3] = 2
    keys = segment(0, Name="lying", LabelValue=2, Layer=0) | segment(1, Name="stehend ü", LabelValue=2, Layer=1)
    labels = io.read_labels(write(a_folder / "s.seg.nrrd", two_layers, keys), report=heard.append)
    assert labels.array.tolist() == [[[255, 255, 2, 255], [1, 1, 2, 1], [255, 255, 2, 255]]]
    assert [(c.value, c.name) for c in labels.classes] == [(1, "lying"), (2, "stehend ü")]
    assert "lying = 1, stehend ü = 2" in heard[0].text


def test_values_beyond_the_classes_are_numbered_anew(a_folder, heard):
    layer = np.array([[[0, 255, 1000, 7]]], np.uint16)
    keys = segment(0, Name="a", LabelValue=255) | segment(1, Name="b", LabelValue=1000)
    labels = io.read_labels(write(a_folder / "s.seg.nrrd", [layer], keys), report=heard.append)
    assert labels.array.tolist() == [[[255, 1, 2, 255]]]  # no segment has the 7
    assert [c.name for c in labels.classes] == ["a", "b"]


@pytest.mark.parametrize("value", [0, -3, 300])
def test_a_segment_whose_value_no_voxel_can_have_is_empty(value, a_folder):
    keys = segment(0, Name="a", LabelValue=2) | segment(1, Name="b", LabelValue=value)
    labels = io.read_labels(write(a_folder / "s.seg.nrrd", [np.array([[[0, 2]]], np.uint8)], keys))
    assert labels.array.tolist() == [[[255, 1]]]
    assert labels.counts() == {1: 1, 2: 0}


def test_a_segment_that_is_named_background_is_a_class_like_others(a_folder):
    layer = np.array([[[0, 4, 6]]], np.uint8)
    keys = segment(0, Name="Background", LabelValue=4) | segment(1, Name="pore", LabelValue=6)
    labels = io.read_labels(write(a_folder / "s.seg.nrrd", [layer], keys))
    assert labels.array.tolist() == [[[255, 4, 6]]]
    assert [(c.value, c.name) for c in labels.classes] == [(4, "Background"), (6, "pore")]


def test_old_files_have_a_layer_a_segment_and_no_values(a_folder, two_layers):
    layers = [np.minimum(layer, 1) for layer in two_layers]
    keys = segment(0, ID="first") | segment(1, ID="second", Name="zweite")
    labels = io.read_labels(write(a_folder / "s.seg.nrrd", layers, keys))
    assert labels.array.tolist() == [[[255, 255, 2, 255], [1, 1, 2, 1], [255, 255, 2, 255]]]
    assert [c.name for c in labels.classes] == ["first", "zweite"]


def test_a_segment_without_any_name_gets_one(a_folder):
    layer = np.array([[[0, 1]]], np.uint8)
    labels = io.read_labels(write(a_folder / "s.seg.nrrd", [layer], segment(0, LabelValue=1)))
    assert [c.name for c in labels.classes] == ["Segment_1"]


def test_labels_without_segments_are_plain_classes(a_folder):
    labels = io.read_labels(write(a_folder / "s.seg.nrrd", [np.array([[[0, 1, 3]]], np.int16)]))
    assert labels.array.tolist() == [[[255, 1, 3]]]
    assert labels.classes == (LabelClass.plain(1), LabelClass.plain(3))


def test_tags_carry_the_terminology(a_folder):
    terms = "Context~SCT^1^A:B~SCT^2^Ö~^^~Anatomic~^^~^^"
    keys = segment(0, Name="a", LabelValue=1, Tags=f"Segmentation.Status:inprogress|TerminologyEntry:{terms}|odd")
    labels = io.read_labels(write(a_folder / "s.seg.nrrd", [np.ones((1, 1, 2), np.uint8)], keys))
    assert labels.classes[0].terminology == terms


def test_fractional_segmentations_are_refused(a_folder):
    keys = segment(0, Name="a") | {"Segmentation_MasterRepresentation": "Fractional labelmap"}
    with pytest.raises(InputError, match="holds a fractional labelmap"):
        io.read_labels(write(a_folder / "s.seg.nrrd", [np.ones((1, 1, 2), np.uint8)], keys))


def test_more_segments_than_classes_are_refused(a_folder):
    keys = {key: value for i in range(300) for key, value in segment(i, Name=str(i), LabelValue=i + 1).items()}
    with pytest.raises(InputError, match="300 segments"):
        io.read_labels(write(a_folder / "s.seg.nrrd", [np.ones((1, 1, 2), np.uint16)], keys))


@pytest.mark.parametrize(
    ("name", "unpainted", "expected", "told"),
    [
        ("s.seg.nrrd", "auto", 255, "unlabelled"),
        ("s.seg.nrrd", "background", 0, "background"),
        ("s.nrrd", "auto", 0, "background"),
        ("s.nrrd", "ignore", 255, "unlabelled"),
    ],
)
def test_the_meaning_of_0_is_the_formats_or_the_callers_and_told(name, unpainted, expected, told, a_folder, heard):
    path = write(a_folder / name, [np.array([[[0, 1]]], np.uint8)], segment(0, Name="a", LabelValue=1))
    labels = io.read_labels(path, unpainted=unpainted, report=heard.append)
    assert labels.array.tolist() == [[[expected, 1]]]
    assert [event.text for event in heard] == [f'0 in "{name}" was taken for {told}.']


def test_nothing_is_told_where_no_voxel_is_0(a_folder, heard):
    path = write(a_folder / "s.seg.nrrd", [np.ones((1, 1, 2), np.uint8)], segment(0, Name="a", LabelValue=1))
    io.read_labels(path, report=heard.append)
    assert heard == []
