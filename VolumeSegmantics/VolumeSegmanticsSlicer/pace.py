"""How far a whole job is: one part that only grows, and a time left that is told once it can be believed.

A worker tells how far its present stage is. Stages take unequal times, some come twice, and the first steps of each are
slow, so its own guesses leap about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from VolumeSegmanticsLib.events import Progress

SPANS: dict[str, dict[str, tuple[float, float]]] = {
    "train": {
        "prepare": (0.0, 0.02),
        "read": (0.02, 0.04),
        "features": (0.04, 0.2),
        "advice": (0.04, 0.2),
        "learning rate": (0.2, 0.25),
        "train": (0.25, 0.97),
    },
    "predict": {"prepare": (0.0, 0.05), "read": (0.05, 0.1), "predict": (0.1, 0.97), "write": (0.97, 1.0)},
    "constrain": {"prepare": (0.0, 0.1), "constrain": (0.1, 0.9), "write": (0.9, 1.0)},
}
"""Which part of a task each of its stages is, about; a task that is not here has one stage at a time.

What comes after the last step of a training, such as measuring and writing, is not told.
"""

LONG = ("train", "predict")
"""The stages whose time is told: the others are short, or nobody knows."""

PASSING = ("read",)
"""Stages that come between the steps of a long one again and again, and belong to its time."""

_KNOWN = ((0.1, 4.0), (0.02, 30.0))
"""Parts of a stage and seconds: before both of a row have passed, its pace says little about the rest."""
_CALM_SECONDS = 5.0
"""Within such a time the end that is told follows the one that is expected."""


@dataclass(frozen=True)
class Pace:
    """What has been seen of a job.

    Attributes:
        part: Of the whole job that is done, 0 to 1.
        seconds_left: Until the end of the long stage; None where nobody knows.
        stage: The present one.
        begun: When it was first heard of, and which part of it was done then.
        heard: When that was last so.
    """

    part: float = 0.0
    seconds_left: float | None = None
    stage: str = ""
    begun: tuple[float, float] = (0.0, 0.0)
    heard: float = 0.0

    def after(self, task: str, event: Progress, now: float) -> Pace:
        """Return what is known at a time (seconds) at which a task has told of its progress."""
        done = min(1.0, event.done / event.total) if event.total else 0.0
        part = self._part(task, event.stage, done)
        if event.stage in PASSING and self.stage in LONG:
            return replace(self, part=part)
        is_new = event.stage != self.stage or done < self.begun[1]
        begun = (now, done) if is_new else self.begun
        left = None if is_new else self._calmed(_expected(event.stage, done, begun, now), now)
        return Pace(part, left, event.stage, begun, now)

    def _part(self, task: str, stage: str, done: float) -> float:
        """Return the part of the whole job, which never falls where its stages are known."""
        if task not in SPANS:
            return done
        start, stop = SPANS[task].get(stage, (0.0, 0.0))
        return max(self.part, start + (stop - start) * done)

    def _calmed(self, expected: float | None, now: float) -> float | None:
        """Return the seconds left, which follow what is expected slowly."""
        if expected is None or self.seconds_left is None:
            return expected
        passed = now - self.heard
        told = max(0.0, self.seconds_left - passed)
        return told + (expected - told) * (1 - math.exp(-passed / _CALM_SECONDS))


def _expected(stage: str, done: float, begun: tuple[float, float], now: float) -> float | None:
    """Return the seconds that a stage still takes at its pace so far; None while that says little, and in the end."""
    seconds, progress = now - begun[0], done - begun[1]
    is_known = any(progress >= part and seconds >= least for part, least in _KNOWN)
    return seconds / progress * (1 - done) if is_known and stage in LONG and done < 1 else None
