"""Losses that only labelled pixels enter.

Every loss takes logits (N, C, H, W), targets (N, H, W) that hold a class index or ``UNLABELLED``, and class weights
(C,) or None; it returns a scalar. Overlap losses sum over the whole batch and leave out the classes that it lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .volume import UNLABELLED

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def pixel_shares(target: Tensor) -> Tensor:
    """Return how much every pixel counts, float (N, H, W): 0 where unlabelled, 1 on the mean of the labelled ones.

    The pixels of a crop count by the inverse square root of their number. A fully labelled crop still has more to say
    than one that is crossed by a stroke or by the edge of an annotated slice, but it does not drown it.
    """
    labelled = (target != UNLABELLED).float()
    shares = labelled * labelled.sum((1, 2), keepdim=True).clamp_min(1).rsqrt()
    return shares * (labelled.sum() / shares.sum().clamp_min(1e-6))


def _mean_over_pixels(loss: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of a loss (N, H, W) over labelled pixels, by their shares and the weights of their classes."""
    shares = pixel_shares(target)
    if weights is not None:
        shares = shares * weights[target.masked_fill(target == UNLABELLED, 0).long()]
    return (loss * shares).sum() / shares.sum().clamp_min(1e-6)


@dataclass(frozen=True)
class _Overlap:
    """Soft counts of a batch over its labelled pixels, each (C,)."""

    truth: Tensor
    predicted: Tensor
    squared: Tensor
    common: Tensor

    @classmethod
    def of(cls, logits: Tensor, target: Tensor) -> _Overlap:
        shares = pixel_shares(target).unsqueeze(1)
        probabilities = logits.float().softmax(dim=1)
        truth = functional.one_hot(target.masked_fill(target == UNLABELLED, 0).long(), logits.shape[1]).movedim(-1, 1)
        over = (0, 2, 3)
        return cls(
            (truth * shares).sum(over),
            (probabilities * shares).sum(over),
            (probabilities.square() * shares).sum(over),
            (probabilities * truth * shares).sum(over),
        )

    def mean(self, loss: Tensor, weights: Tensor | None) -> Tensor:
        """Return the weighted mean over the classes that the batch holds."""
        share = (self.truth > 0).float() * (1.0 if weights is None else weights)
        return (loss * share).sum() / share.sum().clamp_min(1e-6)


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy, the mean over labelled pixels; 0 where there are none."""
    surprise = functional.cross_entropy(logits.float(), target.long(), ignore_index=UNLABELLED, reduction="none")
    return _mean_over_pixels(surprise, target, weights)


def dice(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - soft Dice (Milletari et al. 2016, with plain sums), the mean over classes."""
    overlap = _Overlap.of(logits, target)
    return overlap.mean(1 - (2 * overlap.common + 1) / (overlap.truth + overlap.predicted + 1), weights)


def jaccard(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """1 - soft Jaccard with squared probabilities (Jaccard2 of Bertoldo et al. 2021), the mean over classes."""
    overlap = _Overlap.of(logits, target)
    union = overlap.truth + overlap.squared - overlap.common
    return overlap.mean(1 - (overlap.common + 1) / (union + 1), weights)


def tversky(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Tversky loss (Salehi et al. 2017), alpha 0.3 on false positives, beta 0.7 on false negatives."""
    overlap = _Overlap.of(logits, target)
    false_positive, false_negative = overlap.predicted - overlap.common, overlap.truth - overlap.common
    index = (overlap.common + 1) / (overlap.common + 0.3 * false_positive + 0.7 * false_negative + 1)
    return overlap.mean(1 - index, weights)


def generalised_dice(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Generalised Dice (Sudre et al. 2017): classes weighted by the inverse square of their size in the batch."""
    overlap = _Overlap.of(logits, target)
    shares = torch.where(overlap.truth > 0, 1 / overlap.truth.clamp_min(1).square(), torch.zeros_like(overlap.truth))
    if weights is not None:
        shares = shares * weights
    common = (shares * overlap.common).sum()
    return 1 - 2 * common / (shares * (overlap.truth + overlap.predicted)).sum().clamp_min(1e-12)


def focal(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Focal loss (Lin et al. 2017) with gamma 2, the mean over labelled pixels."""
    surprise = functional.cross_entropy(logits.float(), target.long(), ignore_index=UNLABELLED, reduction="none")
    return _mean_over_pixels((1 - (-surprise).exp()).square() * surprise, target, weights)


def cross_entropy_dice(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """The sum of cross-entropy and Dice, halved."""
    return (cross_entropy(logits, target, weights) + dice(logits, target, weights)) / 2


LOSSES: dict[str, Loss] = {
    "cross_entropy_dice": cross_entropy_dice,
    "cross_entropy": cross_entropy,
    "dice": dice,
    "jaccard": jaccard,
    "focal": focal,
    "tversky": tversky,
    "generalised_dice": generalised_dice,
}


def class_weights(kind: str, voxels: list[int]) -> Tensor | None:
    """Return weights (C,) of mean 1 over the painted classes: by the inverse of their voxels, or its square root."""
    if kind == "none":
        return None
    counts = torch.tensor(voxels, dtype=torch.float32)
    power = {"balanced": 1.0, "root_balanced": 0.5}[kind]
    weights = torch.where(counts > 0, counts.clamp_min(1) ** -power, torch.zeros_like(counts))
    return weights / weights.sum() * (counts > 0).sum()
