"""Training of the local model: features of the painted voxels, and tiny networks fitted to them in a second or two.

The strokes of every class are cut into parts, and each part is told by networks that have not learned it. That gives
the score, the number of octaves, the sharpness of the probabilities, and how far the rarity of a class may go.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import devices, rarity
from .box import Box
from .card import ModelCard
from .events import EpochEnded, Log, Progress, Report, ignore
from .features import Features, local_variance
from .intensity import Intensity
from .local_fitting import TRIAL_STEPS, Painted, fit, held_out, sharpened, soften, temperature
from .metrics import Scores
from .models import Model
from .models.local import DEFAULT_OCTAVES, LocalNetwork, sight
from .neighbourhoods import aligned, boxes_around, cut, features_on, work
from .prepare import Prepared
from .settings import TrainSettings, rarities
from .slicing import LabelledVoxels

STEPS, EPOCHS = 300, 10
_OCTAVES = (2, 1, 3)  # that are tried on held-out strokes; the first is left only for one that is clearly better
_BETTER = 0.01  # of Dice
_WORK = 16_000_000  # voxels whose features are computed at most: a few seconds
_EDGE = 4.0  # an edge varies by so much more than the places where strokes lie
_MOST = 200_000  # painted voxels that are learned from
_SAMPLES, _SAMPLE_SIDE = 96, 16  # boxes of voxels anywhere, painted or not


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


class LocalTrainer:
    """One training of a local model.

    Args:
        prepared: Images and labels.
        card: What is known before; its settings need not say how many octaves.
        settings: The user's choice.
        report: Takes ``Progress``, ``EpochEnded`` and ``Log``; may raise ``Cancelled``.
    """

    def __init__(self, prepared: Prepared, card: ModelCard, settings: TrainSettings, report: Report = ignore) -> None:
        self.prepared, self.card, self.settings, self.report = prepared, card, settings, report
        self.device = devices.choose(settings.device)
        self.intensity = Intensity.from_dict(card.intensity)
        self.parts = _parts_for(prepared, settings.validation_part)
        self.history: list[EpochEnded] = []
        self._losses: list[float] = []
        self._steps = STEPS + (TRIAL_STEPS if self.parts else 0)
        self._done, self._start = 0, 0.0

    def run(self) -> Learned:
        """Train to the end.

        Raises:
            ResourceError: The device is not there.
        """
        rng = np.random.default_rng(self.settings.seed)
        tried = (self.settings.octaves,) if self.settings.octaves else _OCTAVES if self.parts else (DEFAULT_OCTAVES,)
        painted = self._painted(max(tried), rng)
        with _one_thread(self.device), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.settings.seed)
            self._start = time.monotonic()
            told = held_out(painted, tried, self.settings.width, self.parts, self._count) if self.parts else {}
            octaves = self._chosen(told, painted.truth) if told else tried[0]
            model = self._fitted(painted, octaves)
            known, factors = self._adjusted(model, painted, told.get(octaves), rng)
        scores = self._scores(known / factors, painted.truth) if told else {}
        names = [c.name for c in self.card.classes]
        scores["rarity"] = {name: round(float(f), 1) for name, f in zip(names, factors, strict=True)}
        return Learned(model, scores, self.history)

    def _adjusted(
        self, model: Model, painted: Painted, told: Tensor | None, rng: np.random.Generator
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
            factors = self._factors(model, known, painted.truth, rng)
            network.bias.copy_(-torch.from_numpy(factors).float().log())
        return known, factors

    def _painted(self, octaves: int, rng: np.random.Generator) -> Painted:
        """Compute the features of the painted voxels, of as many as a few seconds allow."""
        boxes = [
            (n, features, box, voxels, values)
            for n, example in enumerate(self.prepared.examples)
            for features in (features_on(example.image.grid, octaves),)
            for box, voxels, values in _labelled_boxes(example.labels, features, rng)
        ]
        kept = _affordable([(values, work(box, features)) for _, features, box, _, values in boxes], rng)
        found, variances, classes, places = [], [], [], []
        for count, index in enumerate(kept):
            self.report(Progress("features", count, len(kept)))
            n, features, box, voxels, values = boxes[index]
            measured = self._measured(n, features, box)
            z, y, x = torch.from_numpy(voxels - np.array(box.start)).to(self.device).T
            found.append(measured[:, z, y, x])
            variances.append(self._variances(n, features, box)[z, y, x])
            classes.append(values)
            places.append(np.column_stack([np.full(len(voxels), n), voxels]))
        self.report(Progress("features", len(kept), len(kept)))
        values = np.concatenate(classes)
        parts = _parts(values, np.concatenate(places), max(1, self.parts))
        chosen = np.sort(rng.permutation(len(values))[:_MOST])
        return Painted(
            torch.cat(found, dim=1)[:, torch.from_numpy(chosen).to(self.device)],
            torch.from_numpy(values[chosen].astype(np.int64)).to(self.device),
            torch.from_numpy(parts[chosen]).to(self.device),
            self.card.channels,
            len(self.card.classes),
            torch.cat(variances),
        )

    def _variances(self, n: int, features: Features, box: Box) -> Tensor:
        """Return how much grey values vary around each voxel of a box, (Z, Y, X)."""
        margin = [2 * fine for fine in features.fine]
        block = cut(self.prepared.examples[n].image, box, margin, self.intensity).to(self.device)
        return local_variance(block.mean(dim=0, keepdim=True), features.fine)[1][0]

    def _measured(self, n: int, features: Features, box: Box) -> Tensor:
        with torch.inference_mode():
            measured = features.of(
                cut(self.prepared.examples[n].image, box, features.margin, self.intensity).to(self.device)
            )
        return measured.clone()  # no tensor of the inference mode reaches the training

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
        fit(network, own, sees, [every] * len(sees), STEPS, self._learned)
        return model

    def _factors(
        self, model: Model, known: NDArray[np.float64], truth: Tensor, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Return how many times rarer each class is than painted, as the settings say."""
        names = [c.name for c in self.card.classes]
        if self.settings.rarity != "auto":
            given = rarities(self.settings.rarity)
            for name in given.keys() - set(names):
                self.report(Log("warning", f'There is no class "{name}" whose rarity could be taken into account.'))
            return np.array([given.get(name, 1.0) for name in names])
        samples = self._samples(model.card.settings["octaves"], rng)
        sample = torch.cat([model.network(each).T for each in samples]).cpu().double().numpy()
        factors = rarity.estimated(sample, known, truth.cpu().numpy())
        rare = [f"{name} {factor:.3g} ×" for name, factor in zip(names, factors, strict=True) if factor > 1.5]
        if rare:
            self.report(
                Log("info", f"Rarer in the image than painted: {', '.join(rare)}. The setting rarity changes it.")
            )
        return factors

    def _samples(self, octaves: int, rng: np.random.Generator) -> Iterator[Tensor]:
        """Yield features (features, N) of boxes anywhere in the images."""
        for k in range(_SAMPLES):
            n = k % len(self.prepared.examples)
            grid = self.prepared.examples[n].image.grid
            features = features_on(grid, octaves)
            sides = np.minimum(_SAMPLE_SIDE, grid.shape)
            start = np.array([rng.integers(0, n - side + 1) for n, side in zip(grid.shape, sides, strict=True)])
            yield self._measured(n, features, aligned(start, start + sides, features.multiple)).flatten(1)

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
        left = seconds / self._done * (self._steps - self._done)
        self.report(Progress("train", self._done, self._steps, left))

    def _learned(self, loss: float, rate: float) -> None:
        """Count a step of the model itself, and end an epoch now and then."""
        self._count(loss, rate)
        self._losses.append(loss)
        if len(self._losses) == STEPS // EPOCHS:
            epoch, mean = len(self.history) + 1, float(np.mean(self._losses))
            self._losses.clear()
            self.history.append(EpochEnded(epoch, mean, None, None, rate, is_best=epoch == EPOCHS))
            self.report(self.history[-1])


def _parts_for(prepared: Prepared, part: float) -> int:
    """Return how many parts are held out in turn; 0 where a class has too few voxels to do without some of them."""
    counts = np.sum([[*each.counts().values()] for each in prepared.label_maps], axis=0)
    parts = min(round(1 / part), int(counts[counts > 0].min())) if part else 0
    return parts if parts > 1 else 0


def _labelled_boxes(
    labels: NDArray[np.uint8], features: Features, rng: np.random.Generator
) -> Iterator[tuple[Box, NDArray[np.intp], NDArray[np.int64]]]:
    """Yield boxes with their labelled voxels (n, 3) and the class indices of these."""
    by_class = LabelledVoxels.of(labels, rng).by_class
    if not by_class:
        return
    voxels = np.concatenate(list(by_class.values())).astype(np.intp)
    values = np.concatenate([np.full(len(found), index, np.int64) for index, found in by_class.items()])
    for box, rows in boxes_around(voxels, features):
        yield box, voxels[rows], values[rows]


def _affordable(boxes: list[tuple[NDArray[np.int64], float]], rng: np.random.Generator) -> list[int]:
    """Return which boxes, each with its classes and its work, are learned from: all, or some of every class."""
    order = rng.permutation(len(boxes)).tolist()
    classes = sorted({int(value) for values, _ in boxes for value in np.unique(values)})
    richest = [max(order, key=lambda n, c=index: int((boxes[n][0] == c).sum())) for index in classes]  # type: ignore[misc]
    kept, spent = [], 0.0
    for n in dict.fromkeys([*richest, *order]):
        if n in richest or spent + boxes[n][1] <= _WORK:
            kept.append(n)
            spent += boxes[n][1]
    return sorted(kept)


def _parts(classes: NDArray[np.int64], places: NDArray[np.intp], count: int) -> NDArray[np.int64]:
    """Return for each voxel the part that it is held out with: of every class a stretch of its places in order.

    Voxels of one stroke, which lie beside each other, so come into the same part or into two that follow each other.
    """
    parts = np.empty(len(classes), np.int64)
    for index in np.unique(classes):
        rows = np.flatnonzero(classes == index)
        rows = rows[np.lexsort(places[rows].T[::-1])]
        parts[rows] = np.arange(len(rows)) * count // len(rows)
    return parts


@contextlib.contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Let torch work with one thread: networks so small only lose time by handing parts of themselves around."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
