"""What a local model says between the strokes: labels of lower weight, for a network that learns slices.

Strokes seldom touch edges, and say little about where between two of them one material ends. A local model learns them
in seconds, and where it is sure it is mostly right: its probabilities are calibrated on strokes that were held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .box import Box
from .card import ModelCard
from .dataset import Example
from .events import Event, Log, Progress, Report, ignore
from .local_prediction import predict_locally
from .local_training import LocalTrainer
from .models import Model
from .models.local import DEFAULT_OCTAVES
from .prepare import Prepared
from .settings import PredictSettings, TrainSettings
from .volume import UNLABELLED, LabelMap

SURE = 60
"""Percent; what the local model is less sure of is left unlabelled."""

_PERCENT = {"features": (0, 20), "train": (20, 70), "predict": (70, 100)}
"""Which part of the advice its stages are, about."""

MOST_VOXELS = 2**27
"""Around the strokes of a volume that are looked at: more would take longer than the training."""


class Advisor:
    """Says what a local model makes of strokes.

    Args:
        prepared: Images and labels, of which the labels may be others when it is asked.
        card: Of the network that is advised: classes and grey values.
        settings: Of its training.
        reach: Voxels around the strokes that are of interest.
        report: Takes ``Progress`` and ``Log``; may raise ``Cancelled``.
    """

    def __init__(
        self, prepared: Prepared, card: ModelCard, settings: TrainSettings, reach: int, report: Report = ignore
    ) -> None:
        self._settings = TrainSettings(
            model="local", device=settings.device, seed=settings.seed, validation_part=settings.validation_part,
            octaves=DEFAULT_OCTAVES,
        )  # fmt: skip
        self._card = replace(card, model="local", settings=self._settings.to_dict())
        self._prepared, self._reach, self._report = prepared, reach, report

    def __call__(self, labels: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """Return for every volume what the local model is sure of around the strokes.

        Args:
            labels: Class indices (Z, Y, X) or ``UNLABELLED``, one array a volume: what it may learn.

        Returns:
            Arrays of the same form.
        """
        learned = LocalTrainer(self._prepared_with(labels), self._card, self._settings, self._tell_progress).run()
        examples = zip(self._prepared.examples, labels, strict=True)
        return [self._sure_of(learned.model, example, each) for example, each in examples]

    def _prepared_with(self, labels: Sequence[NDArray[np.uint8]]) -> Prepared:
        examples = [replace(e, labels=each) for e, each in zip(self._prepared.examples, labels, strict=True)]
        maps = [
            LabelMap(np.where(each == UNLABELLED, each, m.array), m.grid, m.classes, m.unpainted)
            for m, each in zip(self._prepared.label_maps, labels, strict=True)
        ]
        return replace(self._prepared, examples=tuple(examples), label_maps=tuple(maps))

    def _sure_of(self, model: Model, example: Example, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        advised = np.full_like(labels, UNLABELLED)
        box = _around(labels, self._reach)
        if box is None:
            return advised
        if np.prod(box.shape) > MOST_VOXELS:
            self._report(Log("info", "The strokes lie too far apart for advice by a local model: they teach alone."))
            return advised
        settings = PredictSettings(device=self._settings.device)
        told = predict_locally(
            box.of_volume(example.image), model, settings, confidence=True, report=self._tell_progress
        )
        index = np.full(256, UNLABELLED, np.uint8)
        index[[c.value for c in model.card.classes]] = np.arange(len(model.card.classes))
        advised[box.window] = np.where(np.asarray(told.confidence) >= SURE, index[told.labels.array], UNLABELLED)
        return advised

    def _tell_progress(self, event: Event) -> None:
        """Tell how far it is, in percent; its epochs and scores are not those of the network."""
        if isinstance(event, Progress):
            start, stop = _PERCENT.get(event.stage, (0, 0))
            self._report(Progress("advice", start + (stop - start) * event.done // max(1, event.total), 100))


def _around(labels: NDArray[np.uint8], reach: int) -> Box | None:
    """Return the box of all labels with some voxels around it; None where there are none."""
    painted = labels != UNLABELLED
    if not painted.any():
        return None
    others = ((1, 2), (0, 2), (0, 1))
    spans = [np.flatnonzero(painted.any(axis=axes))[[0, -1]] + (0, 1) for axes in others]
    return Box.of(spans, labels.shape).widened(reach, labels.shape)
