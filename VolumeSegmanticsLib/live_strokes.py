"""What is painted now, with the features of each voxel: only those that are new are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from .box import Box
from .kept_features import KeptFeatures
from .local_fitting import Painted
from .local_training import MOST, affordable, parts_for, parts_of
from .neighbourhoods import boxes_around, work
from .sparse_labels import SparseLabels

WORK = 4_000_000
"""Voxels whose features are computed before anything is learned from them: a second on one core."""

_SHUFFLE = np.uint64(0x9E3779B97F4A7C15)  # spreads places evenly (D. E. Knuth, The Art of Computer Programming, 6.4)

Waiting = tuple[Box, NDArray[np.intp]]
"""A box, and which of the painted voxels it holds."""

DoAll = Callable[[Callable[[Waiting], object], Iterable[Waiting]], object]
"""Calls something for all of them, maybe at once, and waits for the end."""


class LiveStrokes:
    """The painted voxels of one image.

    Args:
        kept: The features of the image.
        seed: Chooses which are measured first where they are many.
    """

    def __init__(self, kept: KeptFeatures, seed: int) -> None:
        self._kept, self._seed = kept, seed
        nothing = np.empty(0, np.int64)
        self.labels = SparseLabels(kept.shape, nothing, nothing.astype(np.uint8), ())
        self._waiting: list[Waiting] = []
        self._make_room(0)

    @property
    def measured(self) -> SparseLabels:
        """The voxels whose features are there."""
        return self.labels.at(self._is_measured)

    @property
    def are_waiting(self) -> bool:
        """Whether features are still to be computed."""
        return bool(self._waiting)

    def replace(self, labels: SparseLabels) -> bool:
        """Take strokes in place of the earlier ones, and return whether they differ."""
        labels = _at_most(labels)
        before = self.labels
        if _are_equal(labels, before):
            return False
        at = np.searchsorted(before.places, labels.places)
        at[at == len(before.places)] = 0
        stays = before.places[at] == labels.places if len(before.places) else np.zeros(len(labels.places), bool)
        stays &= self._is_measured[at] if len(before.places) else stays
        features, variances = self._features, self._variances
        self.labels = labels
        self._make_room(len(labels.places))
        old, new = torch.from_numpy(at[stays]), torch.from_numpy(np.flatnonzero(stays))
        self._features[:, new], self._variances[new] = features[:, old], variances[old]
        self._is_measured[stays] = True
        self._wait_for(np.flatnonzero(~stays))
        return True

    def measure(self, do_all: DoAll) -> bool:
        """Compute the features of some voxels that lack them, of every class at once; return whether there were any."""
        waiting, values = self._waiting, self.labels.values.astype(np.int64)
        costs = [(values[rows], self._cost(box, rows)) for box, rows in waiting]
        chosen = set(affordable(costs, np.random.default_rng(self._seed), WORK))
        do_all(self._measure, [waiting[n] for n in sorted(chosen)])
        self._waiting = [each for n, each in enumerate(waiting) if n not in chosen]
        return bool(chosen)

    def painted(self, validation_part: float) -> tuple[Painted, int]:
        """Return what is measured as the local model learns it, and how many parts are to be held out in turn.

        Args:
            validation_part: Of the labels, to be held out.
        """
        labels, rows = self.measured, torch.from_numpy(np.flatnonzero(self._is_measured))
        classes = labels.painted
        index = np.zeros(256, np.int64)
        index[[c.value for c in classes]] = range(len(classes))
        truth = index[labels.values]
        parts = parts_for(np.bincount(truth), validation_part)
        device, voxels = self._kept.device, labels.voxels.astype(np.intp)
        painted = Painted(
            self._features[:, rows].to(device),
            torch.from_numpy(truth).to(device),
            torch.from_numpy(parts_of(truth, voxels, max(1, parts))).to(device),
            self._kept.image.channels,
            len(classes),
            self._variances[rows].to(device),
        )
        return painted, parts

    def _make_room(self, count: int) -> None:
        self._features = torch.empty(self._kept.count, count)
        self._variances = torch.empty(count)
        self._is_measured = np.zeros(count, bool)

    def _wait_for(self, rows: NDArray[np.intp]) -> None:
        """Take note of voxels that lack features; those where the image holds no number are never learned from."""
        z, y, x = self.labels.voxels[rows].T
        if self._kept.image.array.dtype.kind == "f":
            values = self._kept.image.array[z, y, x].reshape(len(rows), -1)
            rows = rows[np.isfinite(values).all(axis=1)]
        voxels = self.labels.voxels[rows].astype(np.intp)
        self._waiting = [(box, rows[some]) for box, some in boxes_around(voxels, self._kept.features)]

    def _are_known(self, rows: NDArray[np.intp]) -> bool:
        return bool(self._kept.are_known(self.labels.voxels[rows].astype(np.intp)).all())

    def _cost(self, box: Box, rows: NDArray[np.intp]) -> float:
        return 0.0 if self._are_known(rows) else work(box, self._kept.features)

    def _measure(self, waiting: Waiting) -> None:
        box, rows = waiting
        voxels = self.labels.voxels[rows].astype(np.intp)
        if self._are_known(rows):
            features = self._kept.at(voxels)
        else:
            z, y, x = (voxels - np.array(box.start)).T
            features = self._kept.compute(box)[:, z, y, x]
        where = torch.from_numpy(rows)
        self._features[:, where] = features.to("cpu")
        self._variances[where] = self._kept.variances(voxels, box).to("cpu")
        self._is_measured[rows] = True


def _at_most(labels: SparseLabels) -> SparseLabels:
    """Return as many voxels as are learned from; of more, a choice that hardly changes with every stroke."""
    if len(labels.places) <= MOST:
        return labels
    mixed = labels.places.astype(np.uint64) * _SHUFFLE
    return labels.at(np.sort(np.argpartition(mixed, MOST)[:MOST]))


def _are_equal(one: SparseLabels, other: SparseLabels) -> bool:
    arrays = np.array_equal(one.places, other.places) and np.array_equal(one.values, other.values)
    return arrays and one.classes == other.classes
