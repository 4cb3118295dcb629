"""Losses that only labelled pixels enter.

Every loss takes logits (N, C, H, W), targets (N, H, W) that hold a class index or ``UNLABELLED``, and class weights
(C,) or None; it returns a scalar. Overlap losses sum over the whole batch and leave out the classes that it lacks.
Where the batch is shared by several processes, ``total`` makes sums over all of it out of those over a part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .volume import UNLABELLED

Loss = Callable[..., Tensor]
Total = Callable[[Tensor], Tensor]


def _of_own(sums: Tensor) -> Tensor:
    return sums


@dataclass(frozen=True)
class _Overlap:
    """Soft counts of a batch over its labelled pixels, each (C,)."""

    truth: Tensor
    predicted: Tensor
    squared: Tensor
    common: Tensor

    @classmethod
    def of(cls, logits: Tensor, target: Tensor, total: Total) -> _Overlap:
        labelled = (target != UNLABELLED).unsqueeze(1)
        probabilities = logits.float().softmax(dim=1) * labelled
        one_hot = functional.one_hot(target.masked_fill(target == UNLABELLED, 0).long(), logits.shape[1])
        truth = one_hot.movedim(-1, 1) * labelled
        over = (0, 2, 3)
        sums = (
            truth.sum(over).float(),
            probabilities.sum(over),
            probabilities.square().sum(over),
            (probabilities * truth).sum(over),
        )
        return cls(*total(torch.stack(sums)))

    def mean(self, loss: Tensor, weights: Tensor | None) -> Tensor:
        """Return the weighted mean over the classes that the batch holds."""
        share = (self.truth > 0).float() * (1.0 if weights is None else weights)
        return (loss * share).sum() / share.sum().clamp_min(1e-6)


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None = None, total: Total = _of_own) -> Tensor:
    """Cross-entropy, the mean over labelled pixels; 0 where there are none."""
    summed = functional.cross_entropy(
        logits.float(), target.long(), weight=weights, ignore_index=UNLABELLED, reduction="sum"
    )
    return _mean(summed, _shares(target, weights), total)


def _shares(target: Tensor, weights: Tensor | None) -> Tensor:
    """Return how much each pixel counts."""
    labelled = target != UNLABELLED
    return labelled.float() if weights is None else labelled * weights[target.masked_fill(~labelled, 0).long()]


def _mean(loss: Tensor, shares: Tensor, total: Total) -> Tensor:
    """Return a sum of losses as a weighted mean; 0 where there are none."""
    loss, share = total(torch.stack([loss, shares.sum()]))
    return loss / share.clamp_min(1e-6)


def dice(logits: Tensor, target: Tensor, weights: Tensor | None = None, total: Total = _of_own) -> Tensor:
    """1 - soft Dice (Milletari et al. 2016, with plain sums), the mean over classes."""
    overlap = _Overlap.of(logits, target, total)
    return overlap.mean(1 - (2 * overlap.common + 1) / (overlap.truth + overlap.predicted + 1), weights)


def jaccard(logits: Tensor, target: Tensor, weights: Tensor | None = None, total: Total = _of_own) -> Tensor:
    """1 - soft Jaccard with squared probabilities (Jaccard2 of Bertoldo et al. 2021), the mean over classes."""
    overlap = _Overlap.of(logits, target, total)
    union = overlap.truth + overlap.squared - overlap.common
    return overlap.mean(1 - (overlap.common + 1) / (union + 1), weights)


def tversky(logits: Tensor, target: Tensor, weights: Tensor | None = None, total: Total = _of_own) -> Tensor:
    """Tversky loss (Salehi et al. 2017), alpha 0.3 on false positives, beta 0.7 on false negatives."""
    overlap = _Overlap.of(logits, target, total)
    false_positive, false_negative = overlap.predicted - overlap.common, overlap.truth - overlap.common
    index = (overlap.common + 1) / (overlap.common + 0.3 * false_positive + 0.7 * false_negative + 1)
    return overlap.mean(1 - index, weights)


def generalised_dice(logits: Tensor, target: Tensor, weights: Tensor | None = None, total: Total = _of_own) -> Tensor:
    """Generalised Dice (Sudre et al. 2017): classes weighted by the inverse square of their size in the batch."""
    overlap = _Overlap.of(logits, target, total)
    shares = torch.where(overlap.truth > 0, 1 / overlap.truth.clamp_min(1).square(), torch.zeros_like(overlap.truth))
    if weights is not None:
        shares = shares * weights
    common = (shares * overlap.common).sum()
    return 1 - 2 * common / (shares * (overlap.truth + overlap.predicted)).sum().clamp_min(1e-12)


def focal(logits: Tensor, target: Tensor, weights: Tensor | None = None, total: Total = _of_own) -> Tensor:
    """Focal loss (Lin et al. 2017) with gamma 2, the mean over labelled pixels."""
    labelled = target != UNLABELLED
    log_p = functional.log_softmax(logits.float(), dim=1).movedim(1, -1)[labelled]
    index = target[labelled].long().unsqueeze(1)
    log_p_true = log_p.gather(1, index).squeeze(1)
    shares = _shares(target[labelled], weights)
    return _mean(-(shares * (1 - log_p_true.exp()).square() * log_p_true).sum(), shares, total)


def cross_entropy_dice(logits: Tensor, target: Tensor, weights: Tensor | None = None, total: Total = _of_own) -> Tensor:
    """The sum of cross-entropy and Dice, halved."""
    return (cross_entropy(logits, target, weights, total) + dice(logits, target, weights, total)) / 2


LOSSES: dict[str, Loss] = {
    "cross_entropy_dice": cross_entropy_dice,
    "cross_entropy": cross_entropy,
    "dice": dice,
    "jaccard": jaccard,
    "focal": focal,
    "tversky": tversky,
    "generalised_dice": generalised_dice,
}


def off_edges(images: Tensor, logits: Tensor) -> Tensor:
    """Penalty for edges of the answer that do not lie on edges of the image: a gated CRF (Obukhov et al. 2019).

    Strokes seldom touch edges, so they do not say where between two classes the edge lies. The image does: pixels that
    are near each other and of like grey should be of one class. All pixels take part, labelled or not.

    Args:
        images: (N, C, H, W) with values 0 … 1.
        logits: (N, classes, H, W).

    Returns:
        A scalar: for a pixel on the mean, the sum over its neighbours.
    """
    probabilities = logits.float().softmax(dim=1)
    energy = logits.new_zeros((), dtype=torch.float32)
    for down, right in _NEIGHBOURS:
        one, other = _shifted(images, down, right)
        alike = torch.exp(-0.5 * ((one - other).square().mean(dim=1) / _LIKE_GREY**2 + (down**2 + right**2) / _NEAR**2))
        one, other = _shifted(probabilities, down, right)
        energy = energy + (alike * (1 - (one * other).sum(dim=1))).sum()
    return energy / images[:, 0].numel()


_NEAR = 2  # pixels
_LIKE_GREY = 0.1  # of the range of grey values
_NEIGHBOURS = [
    (down, right)
    for down in range(_NEAR + 1)
    for right in range(-_NEAR, _NEAR + 1)
    if (down, right) > (0, 0) and down**2 + right**2 <= _NEAR**2 + 1
]  # each pair of pixels once


def _shifted(images: Tensor, down: int, right: int) -> tuple[Tensor, Tensor]:
    """Return the pixels that have a neighbour some rows down and columns to the right, and these neighbours."""
    height, width = images.shape[-2:]
    left, far = max(0, -right), max(0, right)
    return images[..., : height - down, left : width - far], images[..., down:, far : width - left]


def class_weights(kind: str, voxels: list[int]) -> Tensor | None:
    """Return weights (C,) of mean 1 over the painted classes: by the inverse of their voxels, or its square root."""
    if kind == "none":
        return None
    counts = torch.tensor(voxels, dtype=torch.float32)
    power = {"balanced": 1.0, "root_balanced": 0.5}[kind]
    weights = torch.where(counts > 0, counts.clamp_min(1) ** -power, torch.zeros_like(counts))
    return weights / weights.sum() * (counts > 0).sum()
