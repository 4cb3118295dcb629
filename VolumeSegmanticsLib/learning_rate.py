"""The learning rate: found by a range test that cannot pick nonsense, and changed over a run as one cycle."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

LOWEST, HIGHEST, DEFAULT = 1e-4, 3e-3, 1e-3
STEPS = 24
_FIRST, _LAST = 1e-5, 3e-1
_LEAST_DROP = 0.05  # part of the first loss; curves flatter than this say nothing


def range_test(step: Callable[[float], float], *, may_go_on: Callable[[], bool] = lambda: True) -> float:
    """Try rising learning rates and return a good one (L. N. Smith 2017).

    Args:
        step: Does one training step at a learning rate and returns its loss.
        may_go_on: Asked before every step; the test ends where the time does not last.

    Returns:
        A rate between ``LOWEST`` and ``HIGHEST``; ``DEFAULT`` where the losses say nothing.
    """
    rates = [_FIRST * (_LAST / _FIRST) ** (n / (STEPS - 1)) for n in range(STEPS)]
    losses: list[float] = []
    for rate in rates:
        if not may_go_on():
            break
        losses.append(step(rate))
        if not math.isfinite(losses[-1]) or losses[-1] > 3 * min(losses):
            break
    return suggestion(rates[: len(losses)], losses)


def suggestion(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return a learning rate from a range test: a third of the one where the smoothed loss is lowest, clamped."""
    finite = [(rate, loss) for rate, loss in zip(rates, losses, strict=True) if math.isfinite(loss)]
    if len(finite) < STEPS // 3:
        return DEFAULT
    smooth = _smoothed([loss for _, loss in finite])
    lowest = min(range(len(smooth)), key=smooth.__getitem__)
    if smooth[0] - smooth[lowest] <= _LEAST_DROP * abs(smooth[0]):
        return DEFAULT
    return min(max(finite[lowest][0] / 3, LOWEST), HIGHEST)


def _smoothed(losses: Sequence[float]) -> list[float]:
    """Return the running mean over up to three neighbours on each side."""
    return [sum(near) / len(near) for near in (losses[max(0, n - 3) : n + 4] for n in range(len(losses)))]


def one_cycle(part: float) -> float:
    """Return the learning rate at a part (0 … 1) of a run as a share of the highest.

    It rises from 1/25 over the first quarter, then falls as a cosine to 1/1000 (Smith and Topin 2018).
    """
    part = min(max(part, 0.0), 1.0)
    if part < 0.25:
        return _cosine(1 / 25, 1.0, part / 0.25)
    return _cosine(1.0, 1e-3, (part - 0.25) / 0.75)


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
