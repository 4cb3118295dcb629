"""Training: one straight loop over batches of crops, one cycle of the learning rate, the best weights kept."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import devices, distributed, metrics
from .augment import Augmentation
from .checkpoint import Checkpoint, optimiser_tensors, prefixed, restore_optimiser, under
from .dataset import ADVISED, CropSource
from .errors import ModelError
from .events import EpochEnded, Log, Progress, Report, ignore
from .judging import dice_of_planes, much_worse
from .learning_rate import STEPS, one_cycle, range_test
from .losses import LOSSES, Loss, class_weights, off_edges
from .models import Model, neighbours, standardised
from .settings import TrainSettings, augmentations
from .settling import measure_batch_statistics
from .threads import shared_fairly
from .volume import UNLABELLED

JOINING_PART = 0.7  # of a run: here borrowed held-out labels join the training
_BATCHES_MIN = 4
_TESTING_PART = 0.2  # of a run that the range test may take at most
_WORSE = 0.02  # of Dice: less is chance
_SETTLING_BATCHES = 24
_SETTLING_ROUND = 2**31 - 1  # no epoch has this number


@dataclass
class Fitted:
    """What a run of training came to.

    Attributes:
        history: One entry an epoch.
        scores: Mean Dice and Jaccard and those of each class on the held-out labels; empty without any.
        learning_rate: The highest rate.
    """

    history: list[EpochEnded] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 0.0


class Clock:
    """Which part (0 … 1) of a run is over, by its steps or by its minutes, whichever comes first."""

    def __init__(
        self, steps: int, minutes: float, *, used_seconds: float = 0.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._steps, self._seconds = steps, minutes * 60
        self._now, self._start = now, now() - used_seconds
        self._cut = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the start, those before a resume included."""
        return self._now() - self._start

    def part(self, step: int) -> float:
        """Return the part that is over after a number of steps."""
        by_time = self.seconds / self._seconds if self._seconds else 0.0
        return min(1.0, max(step / self._steps, by_time, self._cut))

    def go_on_at(self, part: float, step: int) -> None:
        """Leave out what lies between now and a part of the run."""
        left = (1 - part) / max(1e-9, 1 - self.part(step))
        self._steps = step + max(1, round((self._steps - step) * left))
        self._cut = part

    def eta_seconds(self, step: int) -> float | None:
        """Return how many seconds are left, or None at the beginning."""
        part = self.part(step)
        return self.seconds * (1 - part) / part if part > 0.01 else None


class Trainer:
    """The state of one run: network, optimiser, crops, and what is best so far.

    Args:
        model: Starting weights; changed in place.
        source: Where the crops come from.
        settings: The user's choice.
        is_pretrained: True where the encoder starts with weights worth keeping.
        report: Takes ``Progress``, ``EpochEnded`` and ``Log``; may raise ``Cancelled``.
        checkpoint: Where the state is kept after every epoch; None keeps none.
        after_epoch: Called after every epoch; may use the model, and leave its network in evaluation mode.
    """

    def __init__(
        self,
        model: Model,
        source: CropSource,
        settings: TrainSettings,
        *,
        is_pretrained: bool = False,
        report: Report = ignore,
        checkpoint: Checkpoint | None = None,
        after_epoch: Callable[[], object] = lambda: None,
    ) -> None:
        self.team = distributed.current()
        self.model, self.source, self.settings, self.report = model, source, settings, self.team.heard(report)
        self.own = self.team.own(settings.batch_size)
        self.device = devices.choose(settings.device)
        self.dtype = devices.dtype(settings.precision, self.device, is_training=True)
        self.network = model.network.to(self.device)
        self.learning = self.team.ready(self.network)
        self.checkpoint, self.after_epoch = checkpoint, after_epoch
        self.loss: Loss = LOSSES[_loss_name(settings.loss, source)]
        self.weights = self._class_weights()
        self.frozen_part = settings.frozen_part if is_pretrained else 0.0
        self.encoder_rate = settings.encoder_rate if is_pretrained else 1.0
        self.augment = Augmentation(augmentations(settings.augment), slices=2 * neighbours(model.card) + 1)
        self.batches = max(_BATCHES_MIN, settings.crops_per_epoch // settings.batch_size)
        self.validation = source.validation_batches(settings.batch_size)
        self.scaler = devices.grad_scaler(self.device, self.dtype)
        self.fitted = Fitted()
        self.best: dict[str, Tensor] = {}
        self.has_joined = False
        self.stalled_at = 0  # the step; 0 = it never stalled

    def run(self) -> Fitted:
        """Train to the end; afterwards the model holds the best weights."""
        with shared_fairly(self.device) as self.adapt_threads:
            fitted = self._run()
        self.team.finish(self.network)
        return fitted

    def _run(self) -> Fitted:
        self.optimiser = self._new_optimiser()
        epoch, used_seconds = self._resume_together()
        steps = self.settings.epochs * self.batches
        clock = Clock(steps, self.settings.max_minutes, used_seconds=used_seconds, now=self.team.now)
        if self.stalled_at:
            clock.go_on_at(JOINING_PART, self.stalled_at)
        self._freeze(self.frozen_part > 0)
        if not self.has_joined:  # else it was asked for when the held-out labels joined
            self.source.take_advice()
        self.adapt_threads()
        if not self.fitted.learning_rate:
            self.fitted.learning_rate = self.settings.learning_rate or self._found_rate(clock)
        step = epoch * self.batches
        while clock.part(step) < 1 or not self.fitted.history:  # one step at least, however short the time
            epoch += 1
            loss, step = self._epoch(epoch, step, clock)
            self._end_epoch(epoch, loss, clock.part(step))
            if self._has_stalled() and clock.part(step) < 1:
                if not self._may_join():
                    break
                clock.go_on_at(JOINING_PART, step)
                self.stalled_at = step
            if clock.part(step) >= JOINING_PART and self._may_join():
                self._join()
            if clock.part(step) < 1:
                self._save(epoch, clock.seconds)
        self._keep_best()
        self._leave_out_poor_planes()
        return self.fitted

    def _epoch(self, epoch: int, step: int, clock: Clock) -> tuple[float, int]:
        """Train one round, or what is left of the time; return its mean loss and the number of steps so far."""
        torch.manual_seed(self.settings.seed + epoch)  # for encoders with dropout; a resumed epoch repeats
        self.network.train()
        self.adapt_threads()
        total = torch.zeros((), device=self.device)
        done = 0
        for images, labels in self._batches(self.batches, epoch):
            part = clock.part(step)
            self._freeze(part < self.frozen_part)
            self._set_rate(self.fitted.learning_rate * one_cycle(part))
            total += self._step(images, labels)
            step, done = step + 1, done + 1
            self.report(Progress("train", step, clock_total(step, clock), clock.eta_seconds(step)))
            if clock.part(step) >= 1:
                break
        return float(total) / max(1, done), step

    def _batches(self, count: int, round: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what this process learns of each batch."""
        return self.source.batches(count, self.settings.batch_size, self.augment, round=round, own=self.own)

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Learn from one batch; return its loss."""
        images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        labels = labels.to(self.device, non_blocking=True)
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits = self.learning(standardised(images, self.source.intensity))
        loss = self._loss_of(logits, labels)
        self.scaler.scale(loss + self._off_edges(images, logits)).backward()
        self.team.meet()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return loss.detach()

    def _loss_of(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the labels, and of what was advised, which counts less."""
        is_advice = (labels >= ADVISED) & (labels != UNLABELLED)
        loss = self.loss(logits, labels.masked_fill(is_advice, UNLABELLED), self.weights, self.team.total)
        if not self.source.advisor:
            return loss
        advice = (labels - ADVISED).masked_fill(~is_advice, UNLABELLED)
        return loss + self.settings.local_weight * self.loss(logits, advice, self.weights, self.team.total)

    def _off_edges(self, images: Tensor, logits: Tensor) -> Tensor | float:
        """Return the penalty for edges of the answer that lie off those of the image, where only strokes are known."""
        if not self.settings.edge_weight or not self.source.has_strokes_only:
            return 0.0
        channels = self.model.card.channels
        middle = neighbours(self.model.card) * channels
        return self.settings.edge_weight * off_edges(images[:, middle : middle + channels], logits)

    def _end_epoch(self, epoch: int, train_loss: float, part: float) -> None:
        """Validate, keep the weights if they are the best, and tell."""
        valid_loss, scores = self._validate() if self.validation and not self.has_joined else (None, None)
        self._refuse_divergence(epoch)
        is_best = scores is not None and self._is_better(scores.mean_dice, valid_loss)
        if is_best and scores is not None:
            self.fitted.scores = _told(scores, epoch)
            self.best = copy.deepcopy({k: v.cpu() for k, v in self.network.state_dict().items()})
        rate = self.fitted.learning_rate * one_cycle(part)
        ended = EpochEnded(epoch, train_loss, valid_loss, scores.mean_dice if scores else None, rate, is_best)
        self.fitted.history.append(ended)
        self.report(ended)
        self.after_epoch()

    def _validate(self) -> tuple[float, metrics.Scores]:
        """Return loss and scores on the crops of the held-out labels."""
        self.network.eval()
        classes = self.model.card.classes
        confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
        losses = []
        with torch.inference_mode():
            for images, labels in self.validation:
                labels = labels.to(self.device)
                logits = self.network(standardised(images.to(self.device), self.source.intensity)).float()
                losses.append(float(self.loss(logits, labels, self.weights)))
                confusion += _confusion(logits.argmax(dim=1), labels, len(classes))
        numbers = torch.tensor([sum(losses) / len(losses), *confusion.flatten().tolist()], dtype=torch.float64)
        loss, *counts = self.team.as_first(numbers).tolist()
        told = np.array(counts, np.int64).reshape(confusion.shape)
        return loss, metrics.Scores(classes, told, np.zeros(len(classes), np.int64))

    def _is_better(self, dice: float, loss: float | None) -> bool:
        """Tell whether a validation is better than all before; where the Dice is the same, by its loss."""
        earlier = [(e.valid_dice, -(e.valid_loss or 0.0)) for e in self.fitted.history if e.valid_dice is not None]
        return not earlier or (dice, -(loss or 0.0)) > max(earlier)

    def _refuse_divergence(self, epoch: int) -> None:
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.network.parameters()):
            raise ModelError(
                f"The training diverged in epoch {epoch}: the weights are no numbers any more.",
                f"Set a learning rate below {self.fitted.learning_rate:.2g}, or 0 to have it found.",
            )

    def _has_stalled(self) -> bool:
        """Tell whether validation has not become better for ``patience`` epochs."""
        scored = [e for e in self.fitted.history if e.valid_dice is not None]
        since_best = next((n for n, e in enumerate(reversed(scored)) if e.is_best), 0)
        return not self.has_joined and since_best >= self.settings.patience

    def _may_join(self) -> bool:
        held_out = self.source.held_out
        return held_out is not None and not held_out.for_good and not self.has_joined

    def _join(self) -> None:
        self.source.release_held_out()
        self.source.take_advice()
        self.weights = self._class_weights()
        self.has_joined = True
        self.report(Log("info", "The held-out labels join the training now; the score told is the one before."))

    def _keep_best(self) -> None:
        """Take the best weights that validation has found, or the last ones where they have learned more since then."""
        if self.best and not self.has_joined:
            self.network.load_state_dict(self.best)
        self._settle()
        if self.best and self.has_joined and self._has_gone_wrong():
            self.report(Log("warning", "The end of the training made the model worse; what it was before is kept."))
            self.network.load_state_dict(self.best)
            self._settle()

    def _leave_out_poor_planes(self) -> None:
        """Have the model say that planes which it tells much worse than others are not to be asked for."""
        looks = {letter: self.source.looks(letter) for letter in self.model.card.axes}
        dice = dice_of_planes(looks, self._counted, self.model.card.classes) if len(looks) > 1 else {}
        poor = much_worse(dice)
        if poor:
            told = ", ".join(f"{letter} {each:.2f}" for letter, each in dice.items())
            self.report(
                Log(
                    "warning",
                    f"Planes across {' and '.join(poor)} are told badly and left out of predictions (mean Dice of "
                    f"labels in planes across {told}). Annotate a slice across {poor[0]} to have them learned.",
                )
            )
            axes = "".join(letter for letter in self.model.card.axes if letter not in poor)
            self.model.card = dataclasses.replace(self.model.card, axes=axes)

    def _counted(self, images: Tensor, labels: Tensor) -> NDArray[np.int64]:
        """Return counts (truth, prediction) over the labelled pixels of some images, as the first process has them."""
        with torch.inference_mode():
            logits = self.network(standardised(images.to(self.device), self.source.intensity))
        counts = _confusion(logits.argmax(dim=1), labels.to(self.device), len(self.model.card.classes))
        return self.team.as_first(counts.double()).numpy().astype(np.int64)

    def _has_gone_wrong(self) -> bool:
        """Tell whether held-out labels are told worse than before they were learned, which should be the other way."""
        return bool(self._validate()[1].mean_dice < self.fitted.scores["mean_dice"] - _WORSE)

    def _settle(self) -> None:
        """Measure the batch statistics anew."""
        self.network.train()
        self._freeze(self.frozen_part >= 1)
        measure_batch_statistics(self.network, self._settling())
        self.network.eval()

    def _settling(self) -> Iterator[Tensor]:
        """Yield what the network says about some crops."""
        for images, _ in self.source.batches(
            _SETTLING_BATCHES, self.settings.batch_size, self.augment, round=_SETTLING_ROUND
        ):
            yield self.network(standardised(images.to(self.device), self.source.intensity))

    def _found_rate(self, clock: Clock) -> float:
        """Run the range test on a copy of the weights; the network is as before afterwards."""
        self.report(Progress("learning rate", 0, 1))
        before = copy.deepcopy(self.network.state_dict())
        batches = self._batches(STEPS, 0)
        self.network.train()

        def step(rate: float) -> float:
            self._set_rate(rate)
            self.report(Progress("learning rate", 0, 1))
            return float(self._step(*next(batches)))

        rate = range_test(step, may_go_on=lambda: clock.part(0) < _TESTING_PART)
        batches.close()  # type: ignore[attr-defined]
        self.network.load_state_dict(before)
        self.optimiser = self._new_optimiser()
        self.scaler = devices.grad_scaler(self.device, self.dtype)
        self.report(Log("info", f"The highest learning rate is {rate:.2g}."))
        return rate

    def _new_optimiser(self) -> torch.optim.AdamW:
        encoder = list(self.network.encoder.parameters())
        of_encoder = {id(parameter) for parameter in encoder}
        others = [parameter for parameter in self.network.parameters() if id(parameter) not in of_encoder]
        groups = [{"params": others, "share": 1.0}, {"params": encoder, "share": self.encoder_rate}]
        return torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=self.settings.weight_decay)

    def _set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]

    def _freeze(self, is_frozen: bool) -> None:
        """Let the encoder rest or learn; a resting encoder keeps its batch statistics too."""
        encoder = self.network.encoder
        for parameter in encoder.parameters():
            parameter.requires_grad_(not is_frozen)
        if is_frozen:
            encoder.eval()
        elif self.network.training:
            encoder.train()

    def _class_weights(self) -> Tensor | None:
        voxels = self.source.voxel_counts(len(self.model.card.classes))
        weights = class_weights(self.settings.class_weights, voxels)
        return weights if weights is None else weights.to(self.device)

    def _save(self, epoch: int, seconds: float) -> None:
        """Keep the state, in case the run is interrupted."""
        if self.checkpoint is None or not self.team.rank.is_first:
            return
        tensors = prefixed("network.", self.network.state_dict()) | prefixed("best.", self.best)
        facts = {
            "epoch": epoch,
            "seconds": seconds,
            "has_joined": self.has_joined,
            "stalled_at": self.stalled_at,
            "learning_rate": self.fitted.learning_rate,
            "scores": self.fitted.scores,
            "history": [dataclasses.asdict(entry) for entry in self.fitted.history],
            "scaler": self.scaler.state_dict(),
        }
        self.checkpoint.save(tensors | prefixed("optimiser.", optimiser_tensors(self.optimiser)), facts)

    def _resume_together(self) -> tuple[int, float]:
        """Go on where all processes were, see ``_resume``."""
        epoch, seconds = self._resume()
        if int(self.team.as_first(torch.tensor([epoch], dtype=torch.float64))) != epoch:
            raise ModelError(
                "Not all processes find the same unfinished training.",
                "Write the model to a disk that all machines share, or delete what is unfinished.",
            )
        self.team.meet()
        return epoch, seconds

    def _resume(self) -> tuple[int, float]:
        """Go on from the checkpoint where there is one; return how many epochs are over, and their seconds."""
        kept = self.checkpoint.load(self.report) if self.checkpoint else None
        if kept is None:
            return 0, 0.0
        tensors, facts = kept
        self.network.load_state_dict(under("network.", tensors))
        self.best = under("best.", tensors)
        restore_optimiser(self.optimiser, under("optimiser.", tensors))
        self.scaler.load_state_dict(facts["scaler"])
        history = [EpochEnded(**entry) for entry in facts["history"]]
        self.fitted = Fitted(history, facts["scores"], facts["learning_rate"])
        self.stalled_at = facts["stalled_at"]
        if facts["has_joined"]:
            self._join()
        self.report(Log("info", f"Training goes on after epoch {facts['epoch']}, where it was interrupted."))
        return facts["epoch"], facts["seconds"]


def _loss_name(wanted: str, source: CropSource) -> str:
    """Return which loss ``"auto"`` means: the overlap of shapes says nothing where only strokes are known of them."""
    if wanted != "auto":
        return wanted
    return "cross_entropy" if source.has_strokes_only else "cross_entropy_dice"


def clock_total(step: int, clock: Clock) -> int:
    """Return an estimate of the number of steps of a run."""
    part = clock.part(step)
    return max(step, round(step / part)) if part > 0 else step


def _confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return (truth, prediction) counts over the labelled pixels, on the CPU."""
    labelled = labels != UNLABELLED
    pairs = labels[labelled].long() * classes + predicted[labelled]
    return torch.bincount(pairs.cpu(), minlength=classes * classes).view(classes, classes)


def _told(scores: metrics.Scores, epoch: int) -> dict[str, Any]:
    return {
        "mean_dice": float(scores.mean_dice),
        "mean_jaccard": float(scores.mean_jaccard),
        "dice": {c.name: _number(d) for c, d in zip(scores.classes, scores.dice, strict=True)},
        "voxels": int(scores.confusion.sum()),
        "epoch": epoch,
    }


def _number(value: float) -> float | None:
    return None if value != value else float(value)
