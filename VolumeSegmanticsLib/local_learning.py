"""From the features of painted voxels to a local model: tiny networks, as sure as they are right.

The strokes of every class are cut into parts, and each part is told by networks that have not learned it. That gives
the score, the number of octaves, the sharpness of the probabilities, and how far the rarity of a class may go.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import rarity
from .card import NOT_VALIDATED, ModelCard, history_of
from .events import EpochEnded, Log, Progress, Report, ignore
from .local_fitting import TRIAL_STEPS, Painted, fit, held_out, sharpened, soften, temperature
from .metrics import Scores
from .models import Model
from .models.local import LocalNetwork, sight
from .settings import TrainSettings, rarities

STEPS, EPOCHS = 300, 10
_MEANING = "Measured on strokes that were held out in turn, each by networks that had not learned it."
_BETTER = 0.01  # of Dice
_EDGE = 4.0  # an edge varies by so much more than the places where strokes lie

Samples = Callable[[int], Iterable[Tensor]]
"""Returns the features (features, N) of voxels anywhere in the images, painted or not, for a number of octaves."""


class Learned(NamedTuple):
    """What training came to.

    Attributes:
        model: Ready to be applied; its card lacks name, scores and history.
        scores: Of held-out strokes; empty without any.
        history: One entry an epoch.
    """

    model: Model
    scores: dict[str, Any]
    history: list[EpochEnded]

    def finished(self) -> Model:
        """Return the model with scores and history on its card."""
        meaning = _MEANING if "mean_dice" in self.scores else NOT_VALIDATED
        scores = {**self.scores, "meaning": meaning}
        self.model.card = replace(self.model.card, scores=scores, history=history_of(self.history))
        return self.model


class Learner:
    """Learns what is painted, once.

    Args:
        card: What is known before; its settings need not say how many octaves.
        settings: The user's choice.
        device: Where it is computed.
        steps: Batches that the model learns from.
        report: Takes ``Progress``, ``EpochEnded`` and ``Log``; may raise ``Cancelled``.
    """

    def __init__(
        self,
        card: ModelCard,
        settings: TrainSettings,
        device: torch.device,
        *,
        steps: int = STEPS,
        report: Report = ignore,
    ) -> None:
        self.card, self.settings, self.device, self.report = card, settings, device, report
        self.history: list[EpochEnded] = []
        self._losses: list[float] = []
        self._steps = self._all_steps = steps
        self._done, self._start = 0, 0.0

    def learn(self, painted: Painted, tried: Sequence[int], parts: int, samples: Samples) -> Learned:
        """Learn all voxels.

        Args:
            painted: The voxels; their features are those of the most octaves that are tried.
            tried: Numbers of octaves; the first is left only for one that is clearly better.
            parts: How many parts are held out in turn, as the voxels have them; 0 holds nothing out.
            samples: Shows how rare the classes are.
        """
        self._all_steps = self._steps + (TRIAL_STEPS if parts else 0)
        with _one_thread(self.device), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.settings.seed)
            self._start = time.monotonic()
            told = held_out(painted, tried, self.settings.width, parts, self._count) if parts else {}
            octaves = self._chosen(told, painted.truth) if told else tried[0]
            model = self._fitted(painted, octaves)
            known, factors = self._adjusted(model, painted, told.get(octaves), samples)
        scores = self._scores(known / factors, painted.truth) if told else {}
        names = [c.name for c in self.card.classes]
        scores["rarity"] = {name: round(float(f), 1) for name, f in zip(names, factors, strict=True)}
        return Learned(model, scores, self.history)

    def _adjusted(
        self, model: Model, painted: Painted, told: Tensor | None, samples: Samples
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Make the network as sure as it is right, and believe in rare classes less.

        Returns:
            The probabilities (N, classes) of the painted voxels, of held-out ones where there are any, and the factors
            by which the classes are rarer than painted.
        """
        network: LocalNetwork = model.network  # type: ignore[assignment]
        with torch.no_grad():
            own = network(painted.features[: network.mean.shape[0]]).T if told is None else told
            degrees = temperature(own, painted.truth)
            soften(network, degrees)
            network.edge.copy_(_EDGE * painted.variances.median())
            known = sharpened(own, degrees).cpu().double().numpy()
            factors = self._factors(model, known, painted.truth, samples)
            network.bias.copy_(-torch.from_numpy(factors).float().log())
        return known, factors

    def _chosen(self, told: dict[int, Tensor], truth: Tensor) -> int:
        """Return the number of octaves: the first that is about as good as the best."""
        dice = {octaves: self._dice(each, truth) for octaves, each in told.items()}
        octaves = next(octaves for octaves, each in dice.items() if each >= max(dice.values()) - _BETTER)
        if len(dice) > 1:
            told_dice = ", ".join(f"{octaves}: {each:.3f}" for octaves, each in dice.items())
            self.report(Log("info", f"Octaves and mean Dice of held-out strokes: {told_dice}. Taken: {octaves}."))
        return octaves

    def _dice(self, told: Tensor, truth: Tensor) -> float:
        return float(self._counted(told.cpu().numpy(), truth).mean_dice)

    def _fitted(self, painted: Painted, octaves: int) -> Model:
        """Fit the model to all voxels."""
        card = replace(self.card, settings=replace(self.settings, octaves=octaves).to_dict())
        model = Model.new(card, size=0)
        network: LocalNetwork = model.network.to(self.device)  # type: ignore[assignment]
        own = replace(painted, features=painted.features[: network.mean.shape[0]])
        every = torch.arange(len(own.truth), device=self.device)
        sees = sight(octaves, self.settings.members, card.channels)
        fit(network, own, sees, [every] * len(sees), self._steps, self._learned)
        return model

    def _factors(
        self, model: Model, known: NDArray[np.float64], truth: Tensor, samples: Samples
    ) -> NDArray[np.float64]:
        """Return how many times rarer each class is than painted, as the settings say."""
        names = [c.name for c in self.card.classes]
        if self.settings.rarity != "auto":
            given = rarities(self.settings.rarity)
            for name in given.keys() - set(names):
                self.report(Log("warning", f'There is no class "{name}" whose rarity could be taken into account.'))
            return np.array([given.get(name, 1.0) for name in names])
        octaves = model.card.settings["octaves"]
        sample = torch.cat([model.network(each).T for each in samples(octaves)]).cpu().double().numpy()
        factors = rarity.estimated(sample, known, truth.cpu().numpy())
        rare = [f"{name} {factor:.3g} ×" for name, factor in zip(names, factors, strict=True) if factor > 1.5]
        if rare:
            self.report(
                Log("info", f"Rarer in the image than painted: {', '.join(rare)}. The setting rarity changes it.")
            )
        return factors

    def _scores(self, told: NDArray[np.float64], truth: Tensor) -> dict[str, Any]:
        scores = self._counted(told, truth)
        dice = {c.name: None if d != d else float(d) for c, d in zip(scores.classes, scores.dice, strict=True)}
        return {
            "mean_dice": float(scores.mean_dice),
            "mean_jaccard": float(scores.mean_jaccard),
            "dice": dice,
            "voxels": len(truth),
        }

    def _counted(self, told: NDArray[Any], truth: Tensor) -> Scores:
        count = len(self.card.classes)
        pairs = np.bincount(truth.cpu().numpy() * count + told.argmax(axis=1), minlength=count * count)
        return Scores(self.card.classes, pairs.reshape(count, count), np.zeros(count, np.int64))

    def _count(self, loss: float, rate: float) -> None:
        self._done += 1
        seconds = time.monotonic() - self._start
        left = seconds / self._done * (self._all_steps - self._done)
        self.report(Progress("train", self._done, self._all_steps, left))

    def _learned(self, loss: float, rate: float) -> None:
        """Count a step of the model itself, and end an epoch now and then."""
        self._count(loss, rate)
        self._losses.append(loss)
        if len(self._losses) == self._steps // EPOCHS:
            epoch, mean = len(self.history) + 1, float(np.mean(self._losses))
            self._losses.clear()
            self.history.append(EpochEnded(epoch, mean, None, None, rate, is_best=epoch == EPOCHS))
            self.report(self.history[-1])


@contextlib.contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Let torch work with one thread: networks so small only lose time by handing parts of themselves around."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
