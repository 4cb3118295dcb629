"""How much rarer a class is in a volume than among its painted voxels.

A painter spends as much care on a pore as on the matrix around it, so rare classes are painted far more often than they
occur, and a model that believes the strokes sees them everywhere. The shares of the classes among unpainted voxels are
estimated from the model's own probabilities by expectation and maximisation (M. Saerens, P. Latinne and
C. Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities", Neural Computation 2002). Left
alone this can erase a class; here it goes only as far as the painted voxels of every class are still recognised.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDS = 30
RECOGNISED = 0.8
"""Part of the painted voxels of a class that were recognised before and have to be recognised afterwards."""

_EXPONENTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_SMALLEST = 1e-4  # share of a class


def estimated(sample: Floats, told: Floats, truth: NDArray[np.int64]) -> Floats:
    """Return for each class how many times rarer it is than painted, relative to the least rare one.

    Args:
        sample: (N, classes), probabilities of voxels anywhere in the volume.
        told: (M, classes), probabilities of the painted voxels, if possible by models that have not learned them.
        truth: (M,), their classes.
    """
    painted = np.bincount(truth, minlength=told.shape[1]) / len(truth)
    factors = np.where(painted > 0, painted / shares(sample, painted), np.inf)
    factors = np.where(painted > 0, factors / factors.min(), 1.0)
    for exponent in _EXPONENTS:
        if _are_recognised(told, truth, factors**exponent):
            return factors**exponent
    return np.ones_like(factors)


def shares(sample: Floats, painted: Floats) -> Floats:
    """Return the share of each class among some voxels, given probabilities for the shares ``painted``."""
    found = painted = np.maximum(painted, _SMALLEST)
    for _ in range(ROUNDS):
        weighted = sample * (found / painted)
        found = (weighted / weighted.sum(axis=1, keepdims=True)).mean(axis=0)
        found = np.maximum(found, _SMALLEST)
    return found


def _are_recognised(told: Floats, truth: NDArray[np.int64], factors: Floats) -> bool:
    before, after = told.argmax(axis=1) == truth, (told / factors).argmax(axis=1) == truth
    of_class = [truth == index for index in np.unique(truth)]
    return all(after[rows].sum() >= RECOGNISED * before[rows].sum() for rows in of_class)
