from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from VolumeSegmanticsLib.features import PER_OCTAVE, Features, eigenvalues, smoothed


def padded(array: np.ndarray, features: Features) -> torch.Tensor:
    """An image (Z, Y, X) as a block with its margin, mirrored."""
    return torch.from_numpy(np.pad(array, [(m, m) for m in features.margin], mode="symmetric"))[None]


def measured(array: np.ndarray, features: Features) -> np.ndarray:
    return features.of(padded(np.ascontiguousarray(array), features)).numpy()


@pytest.fixture
def an_image(rng) -> np.ndarray:
    """16 × 24 × 32 of noise, smooth in one half."""
    image = rng.random((16, 24, 32), np.float32)
    image[:, :12] = 0.3 + 0.01 * np.arange(32, dtype=np.float32)
    return image


SYMMETRIES = [
    (order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((False, True), repeat=3)
]


def turned(array: np.ndarray, order, flips) -> np.ndarray:
    """The last three axes of an array in another order, some of them mirrored."""
    first = array.ndim - 3
    array = array.transpose(*range(first), *(first + axis for axis in order))
    return np.flip(array, [first + axis for axis in range(3) if flips[axis]])


@pytest.mark.parametrize("octaves", [1, 2, 3])
def test_features_turn_with_the_image_in_all_48_symmetries(octaves, an_image):
    features = Features(octaves)
    straight = measured(an_image, features)
    for order, flips in SYMMETRIES:
        np.testing.assert_allclose(
            measured(turned(an_image, order, flips), features), turned(straight, order, flips), atol=2e-4
        )


@pytest.mark.parametrize("octaves", [1, 2, 3])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (3, 1, 1), (1, 1, 2)])
def test_blocks_give_what_the_whole_gives(octaves, spacing, an_image):
    features = Features(octaves, spacing)
    whole = measured(an_image, features)
    block = padded(an_image, features)
    for start in itertools.product((0, 8), (0, 16), (8, 24)):
        window = tuple(slice(s, s + 8) for s in start)
        wide = tuple(slice(s, s + 8 + 2 * m) for s, m in zip(start, features.margin, strict=True))
        np.testing.assert_array_equal(features.of(block[(0, *wide)][None]).numpy(), whole[(slice(None), *window)])


def test_what_lies_beyond_the_margin_does_not_matter(an_image):
    """And the margin is not generous: a voxel of it does."""
    features = Features(1)
    block = padded(an_image, features)
    before = features.of(block)
    reach = features.plan[0].reach[0]
    outside, inside = block.clone(), block.clone()
    outside[:, : features.margin[0] - reach] += 1
    inside[:, features.margin[0] - reach] += 1
    assert features.of(outside).equal(before)
    assert not features.of(inside).equal(before)


def test_a_constant_image_has_a_grey_value_and_nothing_else():
    found = measured(np.full((8, 8, 8), 0.25, np.float32), Features(2))
    grey = [0, 1, 1 + PER_OCTAVE]  # the voxel itself, and smoothed in each octave
    np.testing.assert_allclose(found[grey], 0.25, atol=1e-6)
    np.testing.assert_allclose(np.delete(found, grey, axis=0), 0, atol=1e-3)


def test_a_ramp_has_a_slope_and_no_curvature():
    ramp = np.tile(np.arange(48, dtype=np.float32) / 100, (24, 24, 1))
    inner = measured(ramp, Features(1))[:, 8:16, 8:16, 16:32]
    np.testing.assert_allclose(inner[2], 0.01, atol=1e-5)  # length of the gradient
    np.testing.assert_allclose(inner[3:6], 0, atol=1e-5)  # eigenvalues of the Hessian
    np.testing.assert_allclose(inner[6], 0.01, atol=1e-4)  # the one large eigenvalue of the structure tensor
    np.testing.assert_allclose(inner[7:9], 0, atol=1e-3)


def test_the_same_matter_on_an_anisotropic_grid_has_the_same_features():
    """A ball sampled with voxels half as wide along Z: in its middle everything but the finest detail agrees."""
    z, y, x = np.mgrid[-24:24, -24:24, -24:24] + 0.5

    def ball(step: float) -> np.ndarray:
        radius = np.sqrt((z * step) ** 2 + y**2 + x**2)
        return (1 / (1 + np.exp((radius - 9) / 3))).astype(np.float32)

    coarse = measured(ball(1.0), Features(2))[:, 16:32, 16:32, 16:32]
    fine = measured(ball(0.5), Features(2, (0.5, 1, 1)))[:, :, 16:32, 16:32]
    pairs = fine[:, 8:40].reshape(len(fine), 16, 2, 16, 16).mean(axis=2)
    smooth, slope = 1 + PER_OCTAVE, 2 + PER_OCTAVE  # of the second octave, whose voxels are of the same length
    assert np.abs(pairs[1] - coarse[1]).max() < 0.03
    assert np.corrcoef(pairs[slope].ravel(), coarse[slope].ravel())[0, 1] > 0.9
    assert np.abs(pairs[smooth] - coarse[smooth]).max() < 0.1


def test_coarse_axes_are_left_alone_until_the_others_are_as_coarse():
    octaves = Features(3, (4.0, 1.0, 1.0)).plan
    assert [octave.halves for octave in octaves] == [(1, 2, 2), (1, 2, 2), (2, 2, 2)]
    assert octaves[0].slopes == (0.25, 1.0, 1.0)
    assert Features(3, (4.0, 1.0, 1.0)).multiple == (2, 8, 8)


def test_a_single_slice_has_the_features_of_a_volume_of_equal_slices(an_image):
    slice_ = measured(an_image[:1], Features(2, flat=(True, False, False)))
    assert np.isfinite(slice_).all()
    many = measured(np.repeat(an_image[:1], 8, axis=0), Features(2))
    np.testing.assert_allclose(slice_[:, 0], many[:, 4], atol=1e-3)


def test_channels_are_measured_one_by_one(an_image):
    features = Features(2)
    one, other = padded(an_image, features), padded(1 - an_image, features)
    both = features.of(torch.cat([one, other]))
    assert len(both) == features.count(2)
    alone = torch.stack([features.of(one), features.of(other)], dim=1).flatten(0, 1)
    assert both.equal(alone)


def test_eigenvalues_are_those_of_numpy_the_largest_first(rng):
    matrices = rng.normal(size=(500, 3, 3)).astype(np.float32)
    matrices += matrices.transpose(0, 2, 1)
    matrices[:3] = np.eye(3), np.zeros((3, 3)), np.diag([1, 1, -2])
    zz, yy, xx, zy, zx, yx = (torch.from_numpy(matrices[:, a, b].copy()) for a, b in
                              ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)))  # fmt: skip
    found = torch.stack(eigenvalues(zz, yy, xx, zy, zx, yx), dim=1).numpy()
    np.testing.assert_allclose(found, np.linalg.eigvalsh(matrices)[:, ::-1], atol=2e-3)


def test_smoothing_spreads_one_voxel_over_five():
    block = torch.zeros(1, 5, 5, 9)
    block[0, 2, 2, 4] = 16
    assert smoothed(block, (False, False, True))[0, 2, 2].tolist() == [1, 4, 6, 4, 1]


def test_some_features_can_be_left_unseen():
    features = Features(2)
    assert features.seen(2, True, channels=1).sum() == features.count(1)
    assert features.seen(1, False, channels=1).tolist() == [1.0] * 9 + [0.0] * 18
    assert features.seen(1, True, channels=2).sum() == Features(1).count(2)
