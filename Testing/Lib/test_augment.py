from __future__ import annotations

import socket

import numpy as np
import pytest

from VolumeSegmanticsLib.augment import Augmentation
from VolumeSegmanticsLib.settings import AUGMENTATIONS
from VolumeSegmanticsLib.volume import UNLABELLED

GEOMETRY = ("flips", "quarter_turns", "elastic", "scale")
GREY_VALUES = tuple(name for name in AUGMENTATIONS if name not in GEOMETRY)
TRIES = 40

EACH = pytest.mark.parametrize("name", AUGMENTATIONS)


@pytest.fixture
def a_mask() -> np.ndarray:
    """A disc of 1 on 0, beside a corner that is unlabelled."""
    y, x = np.mgrid[:48, :48]
    mask = (np.hypot(y - 20, x - 27) < 13).astype(np.uint8)
    mask[30:, :16] = UNLABELLED
    return mask


def an_image(channels: int) -> np.ndarray:
    """Noise that touches 0 and 1."""
    noise = np.random.default_rng(channels).random((48, 48, channels), np.float32)
    return np.clip(noise * 1.4 - 0.2, 0, 1)


def results(augmentation: Augmentation, image, labels, *, seed=0, tries=TRIES):
    augmentation.seed(seed)
    return [augmentation(image, labels) for _ in range(tries)]


@EACH
@pytest.mark.parametrize("channels", [1, 3, 5, 31])
def test_labels_stay_labels_and_grey_values_stay_in_range(name, channels, a_mask):
    image = an_image(channels)
    for changed, labels in results(Augmentation((name,)), image, a_mask):
        assert changed.shape == image.shape
        assert changed.dtype == np.float32
        assert np.isfinite(changed).all()
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert labels.dtype == np.uint8
        assert labels.shape == a_mask.shape
        assert set(np.unique(labels)) <= {0, 1, UNLABELLED}


@EACH
def test_each_does_something_now_and_then_and_not_always(name, a_mask):
    image = an_image(1)
    changed = [not np.array_equal(crop, image) for crop, _ in results(Augmentation((name,)), image, a_mask)]
    assert any(changed)
    assert not all(changed)


@EACH
def test_the_crop_that_was_given_is_left_alone(name, a_mask):
    image = an_image(3)
    image_before, mask_before = image.copy(), a_mask.copy()
    results(Augmentation((name,), slices=3), image, a_mask)
    np.testing.assert_array_equal(image, image_before)
    np.testing.assert_array_equal(a_mask, mask_before)


@pytest.mark.parametrize("name", GREY_VALUES)
def test_grey_value_changes_leave_the_labels_alone(name, a_mask):
    for _, labels in results(Augmentation((name,)), an_image(1), a_mask):
        np.testing.assert_array_equal(labels, a_mask)


@pytest.mark.parametrize("name", ["flips", "quarter_turns"])
def test_flips_and_turns_move_image_and_labels_alike_to_the_pixel(name, a_mask):
    image = a_mask[:, :, None] / np.float32(UNLABELLED)
    for changed, labels in results(Augmentation((name,)), image, a_mask):
        np.testing.assert_array_equal(changed[:, :, 0], labels / np.float32(UNLABELLED))


@pytest.mark.parametrize("name", ["elastic", "scale"])
def test_warps_move_image_and_labels_alike(name, a_mask):
    """The image is the mask itself; interpolated and nearest values agree but for the pixels at an edge."""
    image = (a_mask == 1).astype(np.float32)[:, :, None]
    agreements = [
        np.mean((changed[:, :, 0] > 0.5) == (labels == 1))
        for changed, labels in results(Augmentation((name,)), image, a_mask)
    ]
    assert min(agreements) > 0.98


def test_all_together_keep_one_geometry(a_mask):
    image = (a_mask == 1).astype(np.float32)[:, :, None]
    for changed, labels in results(Augmentation(AUGMENTATIONS), image, a_mask):
        inside, outside = changed[labels == 1, 0], changed[labels == 0, 0]
        assert inside.mean() > outside.mean() + 0.4


def test_the_same_seed_gives_the_same_crops_and_another_seed_others(a_mask):
    augmentation, image = Augmentation(AUGMENTATIONS, slices=3), an_image(3)
    first, again, other = (results(augmentation, image, a_mask, seed=seed, tries=8) for seed in (7, 7, 8))
    for (image_1, labels_1), (image_2, labels_2) in zip(first, again, strict=True):
        np.testing.assert_array_equal(image_1, image_2)
        np.testing.assert_array_equal(labels_1, labels_2)
    assert not all(np.array_equal(a, b) for (a, _), (b, _) in zip(first, other, strict=True))


def test_two_of_the_same_seed_agree_even_when_they_take_turns(a_mask):
    one, other = Augmentation(AUGMENTATIONS), Augmentation(AUGMENTATIONS)
    one.seed(3)
    other.seed(3)
    for _ in range(6):
        np.testing.assert_array_equal(one(an_image(1), a_mask)[0], other(an_image(1), a_mask)[0])


def test_the_global_random_numbers_are_neither_used_nor_changed(a_mask):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    results(Augmentation(AUGMENTATIONS), an_image(1), a_mask, tries=5)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_no_augmentation_changes_nothing(a_mask):
    image = an_image(3)
    for changed, labels in results(Augmentation(()), image, a_mask, tries=3):
        np.testing.assert_array_equal(changed, image)
        np.testing.assert_array_equal(labels, a_mask)


def test_neighbouring_slices_come_in_one_order_or_the_other_and_colours_keep_theirs(a_mask):
    """Three slices of two channels: a flip turns slices (0 1)(2 3)(4 5) into (4 5)(2 3)(0 1)."""
    image = np.broadcast_to(np.arange(6, dtype=np.float32) / 6, (48, 48, 6)).copy()
    orders = {
        tuple(np.rint(crop[0, 0] * 6).astype(int))
        for crop, _ in results(Augmentation(("flips",), slices=3), image, a_mask)
    }
    assert orders == {(0, 1, 2, 3, 4, 5), (4, 5, 2, 3, 0, 1)}


def test_nothing_is_asked_of_the_network(a_mask, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("no call to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    results(Augmentation(AUGMENTATIONS), an_image(1), a_mask, tries=2)


@pytest.mark.parametrize("size", [32, 33, 64])
def test_crops_of_any_size_come_back_in_that_size(size):
    image, labels = np.zeros((size, size, 1), np.float32), np.zeros((size, size), np.uint8)
    for changed, mask in results(Augmentation(AUGMENTATIONS), image, labels, tries=10):
        assert changed.shape == (size, size, 1)
        assert mask.shape == (size, size)
