"""What a run tells while it runs: small frozen facts, each one JSON object on one line."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One fact about a run."""


@dataclass(frozen=True)
class Progress(Event):
    """How far a stage has come.

    Attributes:
        stage: What is being done, e.g. ``"train"``, ``"predict"``.
        done, total: Steps of this stage; ``total`` is 0 where it is not known.
        eta_seconds: Seconds that the stage still needs; None where nobody knows.
    """

    stage: str
    done: int
    total: int
    eta_seconds: float | None = None


@dataclass(frozen=True)
class EpochEnded(Event):
    """One epoch of training is over. ``epoch`` counts from 1; the validation figures are None without validation.

    A loss that has become infinite or NaN is None once it has been sent.
    """

    epoch: int
    train_loss: float | None
    valid_loss: float | None
    valid_dice: float | None
    learning_rate: float
    is_best: bool


@dataclass(frozen=True)
class Preview(Event):
    """A picture or label file of the present state lies at ``path``; empty: there is nothing to show any more."""

    path: str


@dataclass(frozen=True)
class Log(Event):
    """A line for the log. ``level`` is ``"info"`` or ``"warning"``."""

    level: str
    text: str


@dataclass(frozen=True)
class Finished(Event):
    """Terminal: done. ``outputs`` names what was made, e.g. ``{"model": "/a/b.safetensors"}``."""

    outputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed(Event):
    """Terminal: not done. The same words as the error that caused it."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class WasCancelled(Event):
    """Terminal: the user stopped it."""


TERMINAL = (Finished, Failed, WasCancelled)
EVENTS = {kind.__name__: kind for kind in (Progress, EpochEnded, Preview, Log, *TERMINAL)}

Report = Callable[[Event], None]
"""The one callable that takes events, and that may raise ``Cancelled``."""


def ignore(event: Event) -> None:
    """Take an event and do nothing: the report of a caller who does not listen."""


def to_json(event: Event) -> str:
    """Return the event as one line of JSON; a figure that is NaN or infinite becomes null.

    Raises:
        ValueError: The outputs of ``Finished`` hold NaN or an infinity.
    """
    facts = {name: None if _is_no_number(value) else value for name, value in dataclasses.asdict(event).items()}
    return json.dumps({"event": type(event).__name__, **facts}, allow_nan=False, default=_plain)


def from_json(line: str) -> Event | None:
    """Return the event that a line holds, or None where the line is no event."""
    try:
        values = json.loads(line)
        kind = EVENTS[values.pop("event")]
        return kind(**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _plain(value: Any) -> Any:
    """Return a NumPy number as Python's own, and anything else, such as a path, as text."""
    return value.item() if hasattr(value, "item") else str(value)
