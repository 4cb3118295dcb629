"""An image that is given for labels is told from labels of many classes."""

from __future__ import annotations

import numpy as np
import pytest

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.volume import UNLABELLED, LabelClass, LabelMap, Volume

SHAPE = (12, 24, 24)


def grey_values(rng):
    return rng.integers(0, 256, SHAPE)


def grey_values_in_a_field_of_view(rng):
    """Half of the image is black."""
    values = rng.integers(0, 256, SHAPE)
    values[:, :12] = 0
    return values


def regions(rng):
    """108 blocks of 4 × 4 × 4."""
    z, y, x = np.indices(SHAPE) // 4
    return (z * 36 + y * 6 + x) % 108


def strokes_of_many_classes(rng):
    """Single voxels of 100 classes, none beside another."""
    values = np.full(SHAPE, UNLABELLED)
    values[:, :, ::2] = rng.integers(0, 100, (12, 24, 12))
    return values


def noise_of_few_classes(rng):
    return rng.integers(0, 60, SHAPE)


@pytest.mark.parametrize("values", [grey_values, grey_values_in_a_field_of_view])
def test_an_image_is_refused_as_labels(values, a_folder, rng):
    path = io.write_volume(a_folder / "image.nrrd", Volume.of(values(rng).astype(np.uint8)))
    with pytest.raises(InputError, match=r"image\.nrrd.*this is an image") as told:
        io.read_labels(path)
    assert told.value.hint


@pytest.mark.parametrize("values", [regions, strokes_of_many_classes, noise_of_few_classes])
def test_labels_of_many_classes_are_read(values, a_folder, rng):
    path = io.write_volume(a_folder / "labels.nrrd", Volume.of(values(rng).astype(np.uint8)))
    assert np.array_equal(io.read_labels(path).array, io.read_volume(path).array)


def test_classes_with_names_are_believed(a_folder, rng):
    classes = tuple(LabelClass(value, f"Grain {value}") for value in range(1, 101))
    grains = LabelMap.of(rng.integers(1, 101, SHAPE).astype(np.uint8), classes=classes)
    assert len(io.read_labels(io.write_labels(a_folder / "grains.seg.nrrd", grains)).classes) == 100
