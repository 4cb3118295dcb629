"""What is known about the present job, or else the last one: a frozen value that a panel can draw."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from VolumeSegmanticsLib.errors import Cancelled, WorkerError
from VolumeSegmanticsLib.events import (
    EpochEnded,
    Event,
    Failed,
    Finished,
    Log,
    Preview,
    Progress,
    WasCancelled,
)
from VolumeSegmanticsLib.jobs import LOG_FILE

from .pace import Pace

LOG_LINES = 50


class Phase(enum.Enum):
    """Where a job is.

    idle ──> running ──> stopping ──┐
             ^     │                │
             │     └──────┬─────────┘
             │            v
             └── done, failed, cancelled
    """

    IDLE = "idle"
    RUNNING = "running"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class State:
    """What is known about a job.

    Attributes:
        phase: Where it is.
        task: ``"train"``, ``"predict"``, ``"plan"``, ``"evaluate"``, ``"constrain"`` or
            ``"live"``; empty before the first job.
        folder: The job's folder.
        stage: What it does at the moment, as ``Progress`` says it.
        done, total: Steps of this stage; ``total`` is 0 where it is not known.
        pace: How far the whole job is.
        epochs: All epochs that are over, with their losses and Dice.
        preview: The latest picture of what the model does, a path; empty where there is none, or none any more.
        log: The last lines that it told, oldest first.
        lines: How many lines it told in all.
        outputs: What it made, as ``Finished`` says it: paths by name, and ``scores``.
        node_ids: The nodes that show it, by their role: ``"result"``, ``"confidence"``.
        note: What the user should know besides about how it ended.
        error: Why it failed: ``message``, ``hint`` and ``code``; None where it did not.
    """

    phase: Phase = Phase.IDLE
    task: str = ""
    folder: Path | None = None
    stage: str = ""
    done: int = 0
    total: int = 0
    pace: Pace = field(default_factory=Pace)
    epochs: tuple[EpochEnded, ...] = ()
    preview: str = ""
    log: tuple[str, ...] = ()
    lines: int = 0
    outputs: Mapping[str, Any] = field(default_factory=dict)
    node_ids: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    error: Failed | None = None

    @property
    def is_running(self) -> bool:
        """Whether the job is not over yet."""
        return self.phase in (Phase.RUNNING, Phase.STOPPING)

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the long stage of the job still takes; None where nobody knows."""
        return self.pace.seconds_left if self.is_running else None

    @property
    def epoch(self) -> int:
        """The number of the last epoch that is over; 0 before the first."""
        return self.epochs[-1].epoch if self.epochs else 0

    @property
    def best_dice(self) -> float | None:
        """The best mean Dice on held-out labels so far; None without any."""
        return max((e.valid_dice for e in self.epochs if e.valid_dice is not None), default=None)

    @property
    def log_path(self) -> Path | None:
        """The file that holds everything the job printed."""
        return self.folder / LOG_FILE if self.folder else None

    def after(self, event: Event) -> State:
        """Return what is known once an event has happened."""
        return _FOLDS[type(event)](self, event)


def result_of(state: State) -> State:
    """Return a state whose job has done what it should: for scripts.

    Raises:
        WorkerError: The job has failed, with its own words.
        Cancelled: It was stopped.
    """
    if state.error is not None:
        raise WorkerError(state.error.message, state.error.hint)
    if state.phase is Phase.CANCELLED:
        raise Cancelled
    return state


def _ended(state: State, phase: Phase, **changes: Any) -> State:
    return replace(state, phase=phase, **changes)


def _progressed(state: State, event: Progress) -> State:
    pace = state.pace.after(state.task, event, time.monotonic())
    return replace(state, stage=event.stage, done=event.done, total=event.total, pace=pace)


_FOLDS: dict[type[Event], Callable[[State, Any], State]] = {
    Progress: _progressed,
    EpochEnded: lambda state, event: replace(state, epochs=(*state.epochs, event)),
    Preview: lambda state, event: replace(state, preview=event.path),
    Log: lambda state, event: replace(state, log=(*state.log, event.text)[-LOG_LINES:], lines=state.lines + 1),
    Finished: lambda state, event: _ended(state, Phase.DONE, outputs=event.outputs),
    Failed: lambda state, event: _ended(state, Phase.FAILED, error=event),
    WasCancelled: lambda state, event: _ended(state, Phase.CANCELLED),
}
