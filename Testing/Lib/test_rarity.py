from __future__ import annotations

import numpy as np
import pytest

from VolumeSegmanticsLib import rarity


def told(rng, counts, painted, noise=1.0):
    """Probabilities of voxels of each class, as a model says that was trained on classes in the shares ``painted``."""
    truth = np.repeat(np.arange(len(counts)), counts)
    distance = (rng.normal(truth, noise / 2)[:, None] - np.arange(len(counts))) ** 2
    likelihood = np.exp(-distance / (2 * (noise / 2) ** 2)) * painted
    return likelihood / likelihood.sum(axis=1, keepdims=True), truth


def test_the_shares_of_unpainted_voxels_are_found(rng):
    painted = np.array([0.4, 0.3, 0.3])
    sample, _ = told(rng, (9000, 900, 100), painted)
    np.testing.assert_allclose(rarity.shares(sample, painted), [0.9, 0.09, 0.01], atol=0.01)


def test_a_class_that_was_painted_more_than_it_occurs_is_rarer(rng):
    painted = np.array([0.5, 0.5])
    sample, _ = told(rng, (9500, 500), painted, noise=0.5)
    own, truth = told(rng, (300, 300), painted, noise=0.5)
    assert rarity.estimated(sample, own, truth) == pytest.approx([1, 19], rel=0.2)


def test_a_class_is_not_erased_where_nothing_of_it_was_sampled(rng):
    """The sample holds none of the second class; what is painted of it has to be recognised all the same."""
    painted = np.array([0.5, 0.5])
    sample, _ = told(rng, (10_000, 0), painted)
    own, truth = told(rng, (300, 300), painted)
    factors = rarity.estimated(sample, own, truth)
    recognised = (own / factors).argmax(axis=1)[truth == 1] == 1
    before = own.argmax(axis=1)[truth == 1] == 1
    assert recognised.sum() >= rarity.RECOGNISED * before.sum()
    assert factors[1] > 1


def test_a_class_that_nobody_painted_stays_as_it_is(rng):
    sample, _ = told(rng, (500, 500, 0), np.array([0.5, 0.5, 1e-9]))
    own, truth = told(rng, (100, 100, 0), np.array([0.5, 0.5, 1e-9]))
    assert np.isfinite(rarity.estimated(sample, own, truth)).all()
