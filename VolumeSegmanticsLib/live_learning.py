"""What live mode learns, again and again, from what is painted now."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from .box import Box
from .card import ModelCard
from .classes import LabelClass
from .events import Report
from .kept_features import KeptFeatures
from .live_strokes import LiveStrokes
from .local_fitting import Painted
from .local_learning import Learned, Learner
from .neighbourhoods import aligned
from .settings import LiveSettings
from .slicing import planes

_SAMPLES, _SAMPLE_SIDE, _SAMPLED = 96, 8, 40_000  # boxes of voxels anywhere, which show how rare classes are
_WARM_UP_STEPS = 10

DoAll = Callable[[Callable[[Box], Tensor], Iterable[Box]], Iterable[Tensor]]
"""Returns in their order what something returns for all boxes; it may be called for several at once."""


class LiveLearner:
    """Learns what is measured of the strokes.

    Args:
        kept: The features of the image.
        strokes: What is painted.
        settings: The user's choice.
    """

    def __init__(self, kept: KeptFeatures, strokes: LiveStrokes, settings: LiveSettings) -> None:
        self._kept, self._strokes = kept, strokes
        self._settings, self._training = settings, settings.training
        self._sample = torch.empty(kept.count, 0)

    def prepare(self, do_all: DoAll) -> None:
        """Measure how the image looks everywhere, and let torch load what it needs for learning."""
        rng, shape = np.random.default_rng(self._settings.seed), np.array(self._kept.shape)
        sides = np.minimum(_SAMPLE_SIDE, shape)
        starts = rng.integers(0, shape - sides + 1, (_SAMPLES, 3))
        boxes = [aligned(start, start + sides, self._kept.features.multiple) for start in starts]
        every = torch.cat(list(do_all(lambda box: self._kept.measured(box).flatten(1), boxes)), dim=1)
        self._sample = every[:, :: max(1, every.shape[1] // _SAMPLED)].contiguous()
        self._warm_up()

    def learn(self, steps: int, validation_part: float, report: Report) -> Learned:
        """Learn the voxels that are measured.

        Args:
            steps: Batches to learn from.
            validation_part: Of the labels, which is held out in turn.
            report: Takes ``Progress``; may raise something to end it.
        """
        painted, parts = self._strokes.painted(validation_part)
        learner = self._learner(self._strokes.measured.painted, steps, report)
        return learner.learn(painted, (self._kept.features.octaves,), parts, lambda _: [self._sample])

    def _warm_up(self) -> None:
        """Learn something: the first time takes torch a second or two more."""
        two = (LabelClass.plain(0), LabelClass.plain(1))
        few = self._sample[:, : 2 * len(two)]
        truth = torch.arange(few.shape[1], device=few.device) % len(two)
        painted = Painted(few, truth, truth, self._kept.image.channels, len(two), truth.float())
        learner = self._learner(two, _WARM_UP_STEPS, lambda event: None)
        learner.learn(painted, (self._kept.features.octaves,), 0, lambda _: [few])

    def _learner(self, classes: tuple[LabelClass, ...], steps: int, report: Report) -> Learner:
        grid, image = self._kept.image.grid, self._kept.image
        card = ModelCard(
            model=self._settings.model,
            classes=classes,
            channels=image.channels,
            intensity=self._kept.intensity.to_dict(),
            axes=planes(grid, "all"),
            spacing=grid.spacing,
            unpainted=self._strokes.labels.unpainted,
            settings=self._training.to_dict(),
        )
        return Learner(card, self._training, self._kept.device, steps=steps, report=report)
