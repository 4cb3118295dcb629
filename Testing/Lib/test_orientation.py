"""When is a sample taken for one that always lies the same way?"""

from __future__ import annotations

import numpy as np
import pytest

from VolumeSegmanticsLib import simulate
from VolumeSegmanticsLib.orientation import is_oriented
from VolumeSegmanticsLib.volume import UNLABELLED

SHAPE = (40, 48, 56)


@pytest.fixture
def a_patient() -> np.ndarray:
    """A body with one organ at the back, and one on the left: class indices."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 36:44, 24:32] = 1
    labels[:, 10:30, 6:20] = 2
    return labels


def only_slices(labels, step, axis=0) -> np.ndarray:
    kept = np.full_like(labels, UNLABELLED)
    some = (slice(None),) * axis + (slice(None, None, step),)
    kept[some] = labels[some]
    return kept


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_organs_at_their_places_are_noticed(axis, a_patient):
    turned = np.moveaxis(a_patient, 0, axis)
    assert is_oriented([turned])
    assert is_oriented([only_slices(turned, 3, axis)])


def test_fibres_lie_anyhow():
    _, truth = simulate.fibre_composite(SHAPE)
    assert not is_oriented([truth.array])
    assert not is_oriented([only_slices(truth.array, 3)])


def test_few_slices_do_not_tell(a_patient):
    assert not is_oriented([only_slices(a_patient, 8)])


def test_strokes_do_not_tell(a_patient):
    strokes = np.full_like(a_patient, UNLABELLED)
    strokes[:, 38:40, 26:28], strokes[:, 12:14, 8:12], strokes[:, 1:3, 40:50] = 1, 2, 0
    assert not is_oriented([strokes])


def test_all_volumes_have_to_agree(a_patient):
    _, truth = simulate.fibre_composite(SHAPE)
    assert is_oriented([a_patient, a_patient])
    assert not is_oriented([a_patient, truth.array])
    assert not is_oriented([])


def test_a_body_that_is_its_own_mirror_image_is_not_oriented():
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 12:36, 14:42] = 1
    assert not is_oriented([labels])


def test_single_rows_are_no_slices(a_patient):
    assert not is_oriented([a_patient[:, :2]])
