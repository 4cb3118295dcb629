"""Events for people: one line that moves on a terminal, a few plain lines everywhere else."""

from __future__ import annotations

import math
import time
from typing import TextIO

from .events import EpochEnded, Event, Log, Progress

_BAR = 24  # characters
_REDRAW_SECONDS = 0.1
_PLAIN_SECONDS = 10.0


class ProgressLine:
    """A ``report`` that writes to a stream, normally stderr."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._moves = stream.isatty()
        self._drawn, self._width = -float("inf"), 0
        self._epoch = ""

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, EpochEnded):
            self._epoch = _epoch_text(event)
            if not self._moves:
                self._write(self._epoch)
        elif isinstance(event, Log):
            self._write(f"{event.level}: {event.text}" if event.level != "info" else event.text)

    def end(self, text: str = "") -> None:
        """Leave the moving line, and write a last text."""
        self._clear()
        if text:
            self._write(text)

    def _progress(self, event: Progress) -> None:
        now = time.monotonic()
        wait = _REDRAW_SECONDS if self._moves else _PLAIN_SECONDS
        if now - self._drawn < wait and event.done != event.total:
            return
        self._drawn = now
        text = _progress_text(event)
        if self._moves:
            line = f"{text}  {self._epoch}" if event.stage == "train" else text
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
            self._stream.flush()
        elif event.total > 1:
            self._write(text)

    def _write(self, text: str) -> None:
        self._clear()
        self._stream.write(text + "\n")
        self._stream.flush()

    def _clear(self) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0


def _progress_text(event: Progress) -> str:
    if event.total <= 1:
        return f"{event.stage} …"
    filled = _BAR * event.done // event.total
    left = f"  {_clock(event.eta_seconds)} left" if event.eta_seconds is not None else ""
    return f"{event.stage:<7} [{'█' * filled}{'·' * (_BAR - filled)}] {event.done}/{event.total}{left}"


def _epoch_text(event: EpochEnded) -> str:
    loss = math.nan if event.train_loss is None else event.train_loss
    text = f"epoch {event.epoch}  loss {loss:.3f}"
    return (
        text if event.valid_dice is None else f"{text}  Dice {event.valid_dice:.3f}{' (best)' if event.is_best else ''}"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
