"""What a local model says between the strokes: labels of lower weight, for a network that learns slices.

Strokes seldom touch edges, and say little about where between two of them one material ends. A local model learns them
in seconds, and where it is sure it is mostly right: its probabilities are calibrated on strokes that were held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .box import Box
from .card import ModelCard
from .dataset import Advice, Example
from .events import Event, Log, Progress, Report, ignore
from .local_prediction import predict_locally
from .local_training import LocalTrainer
from .models import Model
from .models.local import DEFAULT_OCTAVES
from .prepare import Prepared
from .settings import PredictSettings, TrainSettings
from .slicing import labelled_counts
from .volume import UNLABELLED

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

    def __call__(self, examples: Sequence[Example]) -> list[Advice | None]:
        """Return for every volume what the local model is sure of around the strokes; None where nothing is said.

        Args:
            examples: What it may learn.
        """
        prepared = replace(self._prepared, examples=tuple(examples))
        learned = LocalTrainer(prepared, self._card, self._settings, self._tell_progress).run()
        return [self._sure_of(learned.model, example) for example in examples]

    def _sure_of(self, model: Model, example: Example) -> Advice | None:
        box = _around(example, self._reach)
        if box is None:
            return None
        if np.prod(box.shape) > MOST_VOXELS:
            self._report(Log("info", "The strokes lie too far apart for advice by a local model: they teach alone."))
            return None
        settings = PredictSettings(device=self._settings.device)
        told = predict_locally(
            box.of_volume(example.image), model, settings, confidence=True, report=self._tell_progress
        )
        index = np.full(256, UNLABELLED, np.uint8)
        index[[c.value for c in model.card.classes]] = np.arange(len(model.card.classes))
        labels = told.labels.array
        for plane, sure in zip(labels, np.asarray(told.confidence), strict=True):  # in place: they are no one else's
            plane[...] = np.where(sure >= SURE, index[plane], UNLABELLED)
        return Advice(box, labels)

    def _tell_progress(self, event: Event) -> None:
        """Tell how far it is, in percent; its epochs and scores are not those of the network."""
        if isinstance(event, Progress):
            start, stop = _PERCENT.get(event.stage, (0, 0))
            self._report(Progress("advice", start + (stop - start) * event.done // max(1, event.total), 100))


def _around(example: Example, reach: int) -> Box | None:
    """Return the box of all labels with some voxels around it; None where there are none."""
    spans = [np.flatnonzero(of_axis) for of_axis in labelled_counts(example.labels, example.hidden)]
    if not len(spans[0]):
        return None
    shape = example.labels.shape
    return Box.of([(span[0], span[-1] + 1) for span in spans], shape).widened(reach, shape)
