"""Fusion: how several views become one answer a voxel.

A fusion keeps (Z, Y, X) arrays; ``seen_through`` gives a target whose arrays are views of them, so that ``add`` writes
in place whatever the view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .views import View

FULL = 65535  # probability 1 as uint16: finer near 1 than float16, and exact to compare


class Fusion(Protocol):
    """What every fusion can do.

    Attributes:
        needs_all: True where ``add`` takes the probabilities of all classes, False where the best class is enough.
    """

    needs_all: bool

    def __init__(self, shape: tuple[int, int, int], classes: int, views: int) -> None: ...

    def seen_through(self, view: View) -> Target:
        """Return the same fusion with its arrays as slices of a view."""
        ...

    def labels(self) -> NDArray[np.uint8]:
        """Return the class index of every voxel, (Z, Y, X)."""
        ...

    def confidence(self) -> NDArray[np.uint8]:
        """Return how sure the answer is in percent, (Z, Y, X)."""
        ...


class Target(Protocol):
    """A fusion seen as slices."""

    def add(self, batch: slice, answer: Answer) -> None:
        """Take the answer for a batch of slices."""
        ...


@dataclass(frozen=True)
class Answer:
    """What a network says about a batch of slices.

    Attributes:
        best: uint8 (N, H, W), index of the most probable class.
        probability: uint16 (N, H, W), its probability, 65535 = 1.
        every: uint16 (N, C, H, W), the probability of every class; None unless the fusion needs it.
    """

    best: NDArray[np.uint8]
    probability: NDArray[np.uint16]
    every: NDArray[np.uint16] | None = None


class MaxFusion:
    """The view that is surest decides: 3 bytes a voxel (uint8 class, uint16 probability)."""

    needs_all = False

    def __init__(self, shape: tuple[int, int, int], classes: int, views: int) -> None:
        self._best = np.zeros(shape, np.uint8)
        self._probability = np.zeros(shape, np.uint16)

    def seen_through(self, view: View) -> MaxTarget:
        """Return the fusion as slices of a view."""
        return MaxTarget(view.of(self._best), view.of(self._probability))

    def labels(self) -> NDArray[np.uint8]:
        """Return the class index of every voxel; the array itself, not a copy."""
        return self._best

    def confidence(self) -> NDArray[np.uint8]:
        """Return the highest probability in percent."""
        return _percent(self._probability[None], FULL)


@dataclass(frozen=True)
class MaxTarget:
    """Class and probability of every voxel, seen as slices.

    Attributes:
        best: uint8 (N, H, W).
        probability: uint16 (N, H, W).
    """

    best: NDArray[np.uint8]
    probability: NDArray[np.uint16]

    def add(self, batch: slice, answer: Answer) -> None:
        """Keep the answer where it is surer than what is there; the first view wins ties."""
        better = answer.probability > self.probability[batch]
        np.copyto(self.best[batch], answer.best, where=better)
        np.copyto(self.probability[batch], answer.probability, where=better)


class MeanFusion:
    """The mean probability decides: 2 bytes a voxel and class."""

    needs_all = True

    def __init__(self, shape: tuple[int, int, int], classes: int, views: int) -> None:
        self._views = views
        self._sums = np.zeros((classes, *shape), np.uint16)

    def seen_through(self, view: View) -> _MeanTarget:
        """Return the fusion as slices of a view."""
        return _MeanTarget([view.of(sums) for sums in self._sums], self._views)

    def labels(self) -> NDArray[np.uint8]:
        """Return the class with the highest mean; the first class wins ties."""
        return _largest(self._sums)

    def confidence(self) -> NDArray[np.uint8]:
        """Return the highest mean probability in percent."""
        return _percent(self._sums, FULL // self._views * self._views)


@dataclass(frozen=True)
class _MeanTarget:
    sums: list[NDArray[np.uint16]]
    views: int

    def add(self, batch: slice, answer: Answer) -> None:
        """Add the probabilities, each divided by the number of views so that the sum fits."""
        assert answer.every is not None
        for index, sums in enumerate(self.sums):
            sums[batch] += answer.every[:, index] // self.views


class VoteFusion:
    """The class that most views name decides; ties go to the first class.

    1 byte a voxel and class; 2 where there are more than 255 views.
    """

    needs_all = False

    def __init__(self, shape: tuple[int, int, int], classes: int, views: int) -> None:
        self._views = views
        self._votes = np.zeros((classes, *shape), np.min_scalar_type(views))

    def seen_through(self, view: View) -> _VoteTarget:
        """Return the fusion as slices of a view."""
        return _VoteTarget([view.of(votes) for votes in self._votes])

    def labels(self) -> NDArray[np.uint8]:
        """Return the class with most votes."""
        return _largest(self._votes)

    def confidence(self) -> NDArray[np.uint8]:
        """Return the part of the views that agree, in percent."""
        return _percent(self._votes, self._views)


@dataclass(frozen=True)
class _VoteTarget:
    votes: list[NDArray[np.uint8]]

    def add(self, batch: slice, answer: Answer) -> None:
        """Count one vote a voxel."""
        for index, votes in enumerate(self.votes):
            votes[batch] += answer.best == index


FUSIONS: dict[str, type[Fusion]] = {"max": MaxFusion, "mean": MeanFusion, "vote": VoteFusion}


def _largest(stacked: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the index of the largest along the first axis, slice by slice: argmax alone would need 8 bytes a voxel."""
    best: NDArray[np.uint8] = np.empty(stacked.shape[1:], np.uint8)
    for z in range(len(best)):
        best[z] = stacked[:, z].argmax(axis=0)
    return best


def _percent(stacked: NDArray[Any], full: int) -> NDArray[np.uint8]:
    """Return the largest along the first axis in percent of ``full``, slice by slice for the memory's sake."""
    percent: NDArray[np.uint8] = np.empty(stacked.shape[1:], np.uint8)
    for z in range(len(percent)):
        percent[z] = np.rint(stacked[:, z].max(axis=0) * np.float32(100 / full))
    return percent
