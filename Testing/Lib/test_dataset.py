from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from VolumeSegmanticsLib import dataset
from VolumeSegmanticsLib.augment import Augmentation
from VolumeSegmanticsLib.dataset import (
    CropPlace,
    CropShape,
    CropSource,
    Example,
    crop_size,
    cut,
    neighbours_of,
    wider_sizes,
)
from VolumeSegmanticsLib.intensity import Intensity
from VolumeSegmanticsLib.settings import AUGMENTATIONS
from VolumeSegmanticsLib.slicing import HoldOut, Slab
from VolumeSegmanticsLib.views import View
from VolumeSegmanticsLib.volume import UNLABELLED, Grid, Volume

SHAPE = (6, 7, 8)
LAST = 6 * 7 * 8 - 1
PLAIN = Augmentation(())
BY_NUMBER = Intensity((0.0,), (float(LAST),), (0.5,), (0.3,))
"""Scales a_volume so that ``numbers`` gives its voxels back."""

EACH_AXIS = pytest.mark.parametrize("axis", [0, 1, 2], ids="zyx")


def numbers(crop) -> np.ndarray:
    return np.rint(crop * LAST).astype(int)


@pytest.fixture
def some_labels(rng) -> np.ndarray:
    return rng.choice([0, 1, UNLABELLED], SHAPE).astype(np.uint8)


@pytest.fixture
def an_example(a_volume, some_labels) -> Example:
    return Example(a_volume, some_labels, "zyx")


def source_of(labels, *, held_out=None, axes="zyx", size=4, seed=0, image=None, neighbours=0) -> CropSource:
    image = image if image is not None else np.arange(labels.size, dtype=np.float32).reshape(labels.shape)
    example = Example(Volume.of(image), labels, axes)
    hold_out = HoldOut((held_out,), for_good=True) if held_out else None
    intensity = Intensity.measure([example.image])
    return CropSource([example], hold_out, intensity, CropShape(size, neighbours), seed)


# Cutting ------------------------------------------------------------------------------------------------------------


@EACH_AXIS
def test_crops_at_native_scale_are_the_voxels_of_the_volume(axis, an_example):
    image, labels = cut(an_example, CropPlace(0, axis, (3, 3, 4)), CropShape(4), BY_NUMBER)
    view = View(axis)
    index, row, column = view.sides((3, 3, 4))
    window = (index, slice(row - 2, row + 2), slice(column - 2, column + 2))
    np.testing.assert_array_equal(numbers(image[:, :, 0]), view.of(an_example.image.array)[window])
    np.testing.assert_array_equal(labels, view.of(an_example.labels)[window])
    assert image.dtype == np.float32


@EACH_AXIS
@pytest.mark.parametrize("corner", [(0, 0, 0), (5, 6, 7), (0, 6, 0), (5, 0, 7)])
@pytest.mark.parametrize("shift", [(-0.5, -0.5), (0.0, 0.0), (0.4, -0.4), (0.5, 0.5)])
def test_crops_at_the_border_stay_inside_and_hold_their_voxel(axis, corner, shift, an_example):
    image, _ = cut(an_example, CropPlace(0, axis, corner), CropShape(4), BY_NUMBER, shift=shift)
    assert image.shape == (4, 4, 1)
    assert an_example.image.array[corner] in numbers(image)


def test_what_a_plane_lacks_is_mirrored_in_the_image_and_unlabelled_in_the_labels():
    """One slice of 2 × 3 voxels in a crop of 5.

    0 1 2        0 1 2 2 1
    3 4 5   →    3 4 5 5 4
                 3 4 5 5 4
                 0 1 2 2 1
                 0 1 2 2 1
    """
    volume = Volume.of(np.arange(6, dtype=np.float32).reshape(1, 2, 3))
    example = Example(volume, np.ones((1, 2, 3), np.uint8), "z")
    image, labels = cut(example, CropPlace(0, 0, (0, 1, 1)), CropShape(5), Intensity((0.0,), (5.0,), (0.5,), (0.3,)))
    rows, columns = [0, 1, 1, 0, 0], [0, 1, 2, 2, 1]
    np.testing.assert_allclose(image[:, :, 0] * 5, volume.array[0][np.ix_(rows, columns)], atol=1e-5)
    np.testing.assert_array_equal(labels[:2, :3], 1)
    assert (labels == UNLABELLED).sum() == 25 - 6


def test_planes_of_an_anisotropic_volume_are_stretched_to_square_pixels(some_labels):
    """Slices are twice as thick as pixels are wide: in a crop of 8 of a Y plane each of 4 rows comes twice."""
    ramp = np.broadcast_to(np.arange(6.0)[:, None, None], SHAPE)
    example = Example(Volume(ramp, Grid(SHAPE, (2.0, 1.0, 1.0))), some_labels, "zyx")
    intensity = Intensity((0.0,), (5.0,), (0.5,), (0.3,))
    image, labels = cut(example, CropPlace(0, 1, (2, 5, 4)), CropShape(8), intensity)
    np.testing.assert_allclose(image[1:-1, 0, 0] * 5, [0.25, 0.75, 1.25, 1.75, 2.25, 2.75], atol=1e-5)
    np.testing.assert_array_equal(labels, some_labels[:4, 5].repeat(2, axis=0))
    unstretched, _ = cut(example, CropPlace(0, 0, (2, 3, 4)), CropShape(4), intensity)
    np.testing.assert_allclose(unstretched * 5, 2, atol=1e-5)


@EACH_AXIS
@pytest.mark.parametrize("spacing", [(2.5, 1.0, 1.0), (1.0, 0.4, 1.1), (0.3, 1.0, 0.7)])
def test_labels_are_never_interpolated(axis, spacing, some_labels):
    labels = np.where(some_labels == 1, np.uint8(9), some_labels)
    example = Example(Volume(np.zeros(SHAPE, np.float32), Grid(SHAPE, spacing)), labels, "zyx")
    _, crop = cut(example, CropPlace(0, axis, (3, 3, 3)), CropShape(16), BY_NUMBER)
    assert crop.shape == (16, 16)
    assert set(np.unique(crop)) <= {0, 9, UNLABELLED}


def test_neighbouring_slices_come_as_channels_and_the_outer_ones_are_repeated(an_example):
    first, _ = cut(an_example, CropPlace(0, 0, (0, 3, 4)), CropShape(4, neighbours=2), BY_NUMBER)
    array = an_example.image.array
    assert numbers(first[2, 2]).tolist() == [array[z, 3, 4] for z in (0, 0, 0, 1, 2)]
    last, _ = cut(an_example, CropPlace(0, 2, (2, 3, 7)), CropShape(4, neighbours=1), BY_NUMBER)
    assert numbers(last[2, 2]).tolist() == [array[2, 3, x] for x in (6, 7, 7)]


def test_the_colours_of_a_slice_stay_together():
    """Channels: red and green of the slice before, of the slice itself, of the one after."""
    colours = np.stack([np.arange(3.0), 10 + np.arange(3.0)], axis=1)[:, None, None, :]
    around = neighbours_of(np.broadcast_to(colours, (3, 4, 4, 2)), 1, 1)
    assert around[0, 0].tolist() == [0, 10, 1, 11, 2, 12]


def test_every_channel_has_its_own_grey_value_statistics(some_labels):
    colours = np.broadcast_to(np.float32([50, 300]), (*SHAPE, 2))
    intensity = Intensity((0.0, 200.0), (100.0, 300.0), (0.5, 0.5), (0.1, 0.1))
    example = Example(Volume.of(colours), some_labels, "zyx")
    image, _ = cut(example, CropPlace(0, 0, (3, 3, 3)), CropShape(4, neighbours=1), intensity)
    np.testing.assert_allclose(image[0, 0], [0.5, 1.0] * 3, atol=1e-6)


CROP_SIZES = {
    "as wanted": ((100, 100, 100), (1, 1, 1), "zyx", 64, 64),
    "a multiple of 32": ((100, 100, 100), (1, 1, 1), "zyx", 65, 96),
    "no larger than the largest plane": ((8, 40, 30), (1, 1, 1), "zyx", 256, 64),
    "one crop at least": ((1, 5, 5), (1, 1, 1), "z", 128, 32),
    "planes that are not learned do not count": ((200, 20, 20), (1, 1, 1), "z", 128, 32),
    "stretched planes are larger": ((30, 40, 40), (3, 1, 1), "zyx", 128, 96),
}


@pytest.mark.parametrize(("shape", "spacing", "axes", "wanted", "expected"), CROP_SIZES.values(), ids=CROP_SIZES)
def test_the_size_of_crops_is(shape, spacing, axes, wanted, expected):
    zeros = np.zeros(shape, np.uint8)
    assert crop_size([Example(Volume(zeros, Grid(shape, spacing)), zeros, axes)], wanted, 32) == expected


# Drawing ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_voxel() -> np.ndarray:
    labels = np.full((20, 40, 44), UNLABELLED, np.uint8)
    labels[7, 20, 31] = 1
    return labels


def test_no_batch_is_empty_even_when_a_single_voxel_is_labelled(one_voxel):
    for images, labels in source_of(one_voxel, size=32).batches(20, 2, PLAIN, round=1):
        assert images.shape == (2, 1, 32, 32)
        assert ((labels != UNLABELLED).sum(dim=(1, 2)) == 1).all()


def test_augmentation_leaves_labels_in_every_batch(one_voxel):
    one_voxel[7, 19:22, 30:33] = 1
    source = source_of(one_voxel, size=32)
    for _, labels in source.batches(40, 4, Augmentation(AUGMENTATIONS), round=1):
        assert (labels == 1).any()


def test_batches_are_what_a_network_takes(a_scene):
    images, labels = next(source_of(a_scene.slices, image=a_scene.image, size=32).batches(1, 4, PLAIN, round=1))
    assert images.shape == (4, 1, 32, 32)
    assert images.dtype.is_floating_point
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert labels.shape == (4, 32, 32)
    assert set(np.unique(labels.numpy())) <= {0, 1, 2, UNLABELLED}


def as_arrays(source, *, round):
    return [(i.numpy(), t.numpy()) for i, t in source.batches(3, 2, Augmentation(AUGMENTATIONS), round=round)]


def are_equal(one, other) -> bool:
    return all(np.array_equal(i, k) and np.array_equal(j, m) for (i, j), (k, m) in zip(one, other, strict=True))


def test_the_same_seed_gives_the_same_batches(a_scene):
    one, other = (source_of(a_scene.slices, image=a_scene.image, size=32, seed=5) for _ in range(2))
    as_arrays(other, round=1)  # what was drawn before does not matter
    assert are_equal(as_arrays(one, round=2), as_arrays(other, round=2))


def test_another_seed_or_round_gives_other_batches(a_scene):
    one, other = (source_of(a_scene.slices, image=a_scene.image, size=32, seed=seed) for seed in (0, 1))
    assert not are_equal(as_arrays(one, round=1), as_arrays(one, round=2))
    assert not are_equal(as_arrays(one, round=1), as_arrays(other, round=1))


@EACH_AXIS
def test_held_out_labels_are_in_no_training_crop_of_any_plane(axis):
    """The slab holds class 2, the rest classes 0 and 1."""
    labels = np.indices(SHAPE).sum(axis=0).astype(np.uint8) % 2
    slab = Slab(axis, 2, 4)
    slab.of(labels)[...] = 2
    source = source_of(labels, held_out=slab, size=8)
    drawn = np.concatenate([t.numpy() for _, t in source.batches(30, 4, PLAIN, round=1)])
    assert {0, 1} <= set(np.unique(drawn)) <= {0, 1, UNLABELLED}
    assert source.voxel_counts(3)[2] == 0
    held = np.concatenate([t.numpy() for _, t in source.validation_batches(4)])
    assert set(np.unique(held)) <= {2, UNLABELLED}
    assert (held == 2).any(axis=(1, 2)).all()
    source.release_held_out()
    drawn = np.concatenate([t.numpy() for _, t in source.batches(30, 4, PLAIN, round=2)])
    assert (drawn == 2).any()


def test_validation_crops_are_the_same_every_time(a_scene):
    source = source_of(a_scene.slices, held_out=Slab(0, 0, 9), image=a_scene.image, size=32)
    first, again = source.validation_batches(5), source.validation_batches(5)
    assert sum(len(labels) for _, labels in first) > 10
    assert all(one[0].equal(other[0]) and one[1].equal(other[1]) for one, other in zip(first, again, strict=True))


def test_without_held_out_labels_there_is_no_validation(an_example):
    assert source_of(an_example.labels).validation_batches(4) == []


def test_rare_classes_are_drawn_far_more_often_than_they_are_painted():
    labels = np.zeros((20, 40, 40), np.uint8)
    labels[10, 20, 20] = 1
    drawn = [t.numpy() for _, t in source_of(labels, size=8).batches(50, 2, PLAIN, round=1)]
    assert np.mean([(crop == 1).any() for batch in drawn for crop in batch]) > 0.2


def test_only_the_planes_that_are_asked_for_are_cut(rng):
    """Grey values tell the axis: in Z planes of this volume every value is the same."""
    image = np.broadcast_to(np.arange(9, dtype=np.float32)[:, None, None], (9, 9, 9))
    labels = rng.integers(0, 2, (9, 9, 9)).astype(np.uint8)
    for images, _ in source_of(labels, image=image, axes="z").batches(5, 4, PLAIN, round=1):
        assert float((images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3))).max()) == 0


def test_some_batches_have_fewer_wider_crops_of_as_many_pixels():
    source = source_of(np.indices((24, 40, 44)).sum(axis=0).astype(np.uint8) % 2, size=8)
    source.wider = (16, 24)  # of the widest, one would do for so many pixels: too few for a batch
    shapes = [tuple(labels.shape) for _, labels in source.batches(200, 8, PLAIN, round=1)]
    assert set(shapes) == {(8, 8, 8), (2, 16, 16)}
    assert 30 < shapes.count((2, 16, 16)) < 70


def test_strokes_have_no_wider_crops(one_voxel):
    source = source_of(one_voxel, size=8)
    source.wider = (16,)
    assert {tuple(labels.shape) for _, labels in source.batches(40, 8, PLAIN, round=1)} == {(8, 8, 8)}


def test_wider_crops_are_no_wider_than_planes():
    def wider(side):
        zeros = np.zeros((4, side, side), np.uint8)
        examples = [Example(Volume.of(zeros), zeros, "z")]
        return wider_sizes(examples, crop_size(examples, 64, 32), 32)

    assert [wider(side) for side in (500, 120, 96, 64, 20)] == [(128, 160), (128,), (96,), (), ()]


@EACH_AXIS
def test_planes_are_looked_at_across_the_axis_that_is_asked_for(axis, one_voxel):
    source = source_of(one_voxel, size=8, image=np.indices(one_voxel.shape)[axis].astype(np.float32))
    source.widest = 64
    looks = list(source.looks("zyx"[axis]))
    assert len(looks) > 1
    for image, labels in looks:
        assert image.shape == (1, 1, 64, 64)
        assert float(image.max()) == float(image.min())  # grey values tell the place along the axis
        assert (labels == 1).any()


def test_several_volumes_of_different_shapes_share_the_batches(rng):
    shapes = ((5, 40, 41), (30, 8, 50), (1, 33, 20))
    examples = [
        Example(
            Volume.of(np.full(s, n, np.float32)), rng.integers(0, 2, s).astype(np.uint8), "z" if s[0] == 1 else "zyx"
        )
        for n, s in enumerate(shapes)
    ]
    intensity = Intensity((0.0,), (2.0,), (0.5,), (0.4,))
    batches = list(CropSource(examples, None, intensity, CropShape(32)).batches(20, 4, PLAIN, round=1))
    seen = {float(image.max()) for images, _ in batches for image in images}
    assert seen == {0.0, 0.5, 1.0}


def test_voxels_of_each_class_are_counted(an_example):
    counts = source_of(an_example.labels).voxel_counts(4)
    assert counts == [int((an_example.labels == 0).sum()), int((an_example.labels == 1).sum()), 0, 0]


# The thread ---------------------------------------------------------------------------------------------------------


def crop_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "crops"]


def wait_until_they_end() -> None:
    for thread in crop_threads():
        thread.join(timeout=5)
    assert not crop_threads()


def test_the_thread_ends_with_its_reader(an_example):
    batches = source_of(an_example.labels).batches(1000, 2, PLAIN, round=1)
    next(batches)
    assert crop_threads()
    batches.close()
    assert not crop_threads()


def test_the_thread_ends_when_the_reader_fails(an_example):
    def read_and_fail() -> None:
        for _ in source_of(an_example.labels).batches(1000, 2, PLAIN, round=1):
            raise RuntimeError("the reader's own")

    with pytest.raises(RuntimeError, match="the reader's own"):
        read_and_fail()
    wait_until_they_end()


def test_an_error_in_the_thread_reaches_the_reader(an_example, monkeypatch):
    monkeypatch.setattr(dataset, "cut", lambda *_, **__: (_ for _ in ()).throw(OSError("the disk is gone")))
    with pytest.raises(OSError, match="the disk is gone"):
        list(source_of(an_example.labels).batches(3, 2, PLAIN, round=1))
    wait_until_they_end()


def test_a_reader_that_leaves_is_not_held_up_by_an_error_in_the_thread():
    made = iter(range(4))

    def make():
        for value in made:
            return value
        raise OSError("the disk is gone")

    batches = dataset._prepared(make, 100)
    assert next(batches) == 0
    time.sleep(0.3)  # the queue is full, or the thread has met its error
    batches.close()
    wait_until_they_end()


def test_the_thread_does_not_run_far_ahead():
    made = []
    batches = dataset._prepared(lambda: made.append(1), 1000)
    next(batches)
    time.sleep(0.3)
    batches.close()
    assert len(made) < 10
