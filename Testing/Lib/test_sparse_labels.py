"""Labels of few voxels, as places and values."""

from __future__ import annotations

import numpy as np
import pytest

from VolumeSegmanticsLib.box import Box
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.sparse_labels import SparseLabels
from VolumeSegmanticsLib.volume import UNLABELLED, Grid, LabelMap

CLASSES = (LabelClass(0, "Background"), LabelClass(3, "Pöre", (0.1, 0.2, 0.3)), LabelClass(7, "Faser"))


@pytest.fixture
def a_label_map():
    array = np.full((4, 5, 6), UNLABELLED, np.uint8)
    array[1, 2, 3:5], array[3, 4, 5] = 3, 0
    return LabelMap(array, Grid(array.shape), CLASSES)


def test_the_labelled_voxels_come_in_order_with_their_values(a_label_map):
    labels = SparseLabels.of(a_label_map)
    assert labels.voxels.tolist() == [[1, 2, 3], [1, 2, 4], [3, 4, 5]]
    assert labels.values.tolist() == [3, 3, 0]
    assert [c.name for c in labels.painted] == ["Background", "Pöre"]


def test_a_box_of_a_volume_lies_where_it_begins(a_label_map):
    labels = SparseLabels.of(a_label_map, start=(10, 0, 2), shape=(20, 30, 40))
    assert labels.voxels.tolist() == [[11, 2, 5], [11, 2, 6], [13, 4, 7]]
    assert labels.inside(Box((0, 0, 0), (12, 30, 6))).voxels.tolist() == [[11, 2, 5]]


def test_a_file_gives_back_what_was_written(a_label_map, tmp_path):
    written = SparseLabels.of(a_label_map)
    read = SparseLabels.read(written.write(tmp_path / "Süß.npz"))
    assert (read.shape, read.classes, read.unpainted) == (written.shape, written.classes, written.unpainted)
    assert (read.places == written.places).all()
    assert (read.values == written.values).all()


def test_nothing_painted_is_no_error(a_label_map, tmp_path):
    nothing = LabelMap(np.full((4, 5, 6), UNLABELLED, np.uint8), a_label_map.grid, CLASSES)
    read = SparseLabels.read(SparseLabels.of(nothing).write(tmp_path / "nothing.npz"))
    assert len(read.places) == 0
    assert read.painted == ()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no labels at all"], ids=["empty", "cut short", "foreign"])
def test_a_damaged_file_is_told_in_a_sentence(content, tmp_path):
    path = tmp_path / "strokes.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"strokes\.npz"):
        SparseLabels.read(path)
    with pytest.raises(InputError, match=r"gone\.npz"):
        SparseLabels.read(tmp_path / "gone.npz")


def test_a_place_beyond_the_volume_is_refused(tmp_path):
    labels = SparseLabels((2, 2, 2), np.array([8]), np.array([1], np.uint8), CLASSES)
    with pytest.raises(InputError):
        SparseLabels.read(labels.write(tmp_path / "strokes.npz"))
