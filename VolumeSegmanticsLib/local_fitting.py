"""Fitting tiny networks to painted voxels, and asking those that have not learned a stroke about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .features import Features
from .models.local import LocalNetwork, sight

TRIAL_STEPS = 200
_TRIAL_MEMBERS = 2
_BATCH = 1024
_RATE, _WEIGHT_DECAY, _DROPOUT = 1e-2, 1e-2, 0.1
_TEMPERATURES = (1.0, 1.4, 2.0, 2.8, 4.0)  # less than 1 would trust strokes, which lie where it is easy

OnStep = Callable[[float, float], None]
"""Called after every step with the loss and the learning rate."""


@dataclass(frozen=True)
class Painted:
    """The painted voxels that are learned from.

    Attributes:
        features: float32 (features, N).
        truth: int64 (N,), indices of classes.
        parts: int64 (N,): which of the parts that are held out in turn a voxel belongs to.
        channels: Of the image.
        classes: How many there are.
        variances: float32 (N,), of the grey values around.
    """

    features: Tensor
    truth: Tensor
    parts: Tensor
    channels: int
    classes: int
    variances: Tensor

    def standard(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of every feature, (features, 1) each."""
        return self.features.mean(dim=1, keepdim=True), self.features.std(dim=1, keepdim=True) + 1e-6


def fit(
    network: LocalNetwork, painted: Painted, sees: Tensor, teachers: Sequence[Tensor], steps: int, on_step: OnStep
) -> None:
    """Train all members of a network at once, each on voxels of its own.

    Args:
        network: Random weights; changed in place.
        painted: The voxels.
        sees: (members, features), 1 for the features that a member sees.
        teachers: For each member the indices of the voxels that it learns from.
        steps: How many batches.
        on_step: May raise ``Cancelled``.
    """
    network.mean, network.deviation = painted.standard()
    standard = ((painted.features - network.mean) / network.deviation).T.contiguous()
    sees = sees.to(standard.device)[:, :, None]
    with torch.no_grad():
        network.weights[0].mul_(sees.transpose(1, 2) * (sees.shape[1] / sees.sum(dim=1, keepdim=True)).sqrt())
    optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    kept = sees / (1 - _DROPOUT)
    for _ in range(steps):
        rows = torch.stack([of_member[torch.randint(len(of_member), (_BATCH,))] for of_member in teachers])
        seen = standard[rows].transpose(1, 2) * kept * (torch.rand_like(kept) > _DROPOUT)
        logits = network.member_logits(seen)
        loss = functional.cross_entropy(logits, painted.truth[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        on_step(float(loss.detach()), schedule.get_last_lr()[0])
    with torch.no_grad():
        network.weights[0].mul_(sees.transpose(1, 2))


def held_out(painted: Painted, octaves: Sequence[int], width: int, parts: int, on_step: OnStep) -> dict[int, Tensor]:
    """Return for some numbers of octaves the probabilities (N, classes) by networks that did not learn the voxel."""
    most, classes = max(octaves), painted.classes
    of_all = torch.zeros(len(octaves), parts, _TRIAL_MEMBERS, len(painted.features))
    for n, each in enumerate(octaves):
        inputs = Features(each).count(painted.channels)
        of_all[n, ..., :inputs] = sight(each, _TRIAL_MEMBERS, painted.channels)
    sees = of_all.flatten(0, 2)
    learns = [(painted.parts != n).nonzero()[:, 0] for n in range(parts)]
    teachers = [learns[n] for _ in octaves for n in range(parts) for _ in range(_TRIAL_MEMBERS)]
    network = LocalNetwork(Features(most).count(painted.channels), classes, len(sees), width)
    network = network.to(painted.features.device)
    fit(network, painted, sees, teachers, TRIAL_STEPS, on_step)
    told = {each: torch.zeros(len(painted.truth), classes, device=painted.features.device) for each in octaves}
    with torch.no_grad():
        standard = (painted.features - network.mean) / network.deviation
        for part in range(parts):
            rows = (painted.parts == part).nonzero()[:, 0]
            logits = network.member_logits(standard[:, rows].expand(len(sees), -1, -1))
            every = logits.softmax(dim=1).view(len(octaves), parts, _TRIAL_MEMBERS, classes, -1)
            for n, each in enumerate(octaves):
                told[each][rows] = every[n, part].mean(dim=0).T
    return told


def temperature(told: Tensor, truth: Tensor) -> float:
    """Return by what logits have to be divided so that held-out probabilities (N, classes) are as sure as right."""
    logits = told.clamp(min=1e-6).log()
    losses = [float(functional.cross_entropy(logits / each, truth)) for each in _TEMPERATURES]
    return _TEMPERATURES[losses.index(min(losses))]


def sharpened(told: Tensor, degrees: float) -> Tensor:
    """Return probabilities (N, classes) at a temperature."""
    return (told.clamp(min=1e-6).log() / degrees).softmax(dim=1)


def soften(network: LocalNetwork, degrees: float) -> None:
    """Divide the logits of a network by a temperature."""
    with torch.no_grad():
        network.weights[-1].div_(degrees)
        network.offsets[-1].div_(degrees)
