"""What a parent tells a worker while it runs: small frozen facts, each one JSON object on one line of stdin.

Only tasks that talk, such as ``live``, listen; the end of stdin means Stop for all.
"""

from __future__ import annotations

import dataclasses
import json
import queue
from dataclasses import dataclass

from .errors import Cancelled

_PATIENCE_SECONDS = 0.5  # on Windows signals come through only between two waits


@dataclass(frozen=True)
class Message:
    """One thing that a parent tells its worker."""


@dataclass(frozen=True)
class Strokes(Message):
    """The strokes have changed: all of them lie in the label file ``path``, absolute or in the job's folder."""

    path: str


@dataclass(frozen=True)
class Look(Message):
    """The user looks at another slice, counted from 0, perpendicular to ``axis``: ``"z"``, ``"y"`` or ``"x"``."""

    axis: str
    index: int


@dataclass(frozen=True)
class End(Message):
    """Enough: the task shall finish with what it has."""


MESSAGES = {kind.__name__: kind for kind in (Strokes, Look, End)}
_KINDS = {"str": str, "int": int}


def to_json(message: Message) -> str:
    """Return the message as one line of JSON."""
    return json.dumps({"message": type(message).__name__, **dataclasses.asdict(message)})


def from_json(line: str | bytes) -> Message | None:
    """Return the message that a line holds, or None where the line is no message."""
    try:
        values = json.loads(line)
        kind = MESSAGES[values.pop("message")]
        if all(type(values[field.name]) is _KINDS[str(field.type)] for field in dataclasses.fields(kind)):
            return kind(**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return None


class Inbox:
    """Messages in the order in which they came; a thread, or a signal, may put them in at any moment."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    def put(self, message: Message) -> None:
        """Add a message."""
        self._messages.put(message)

    def close(self) -> None:
        """Say that the task shall stop."""
        self._messages.put(None)

    @property
    def has_news(self) -> bool:
        """Whether something waits to be taken, be it that the task shall stop."""
        return not self._messages.empty()

    def take(self, *, wait: bool) -> list[Message]:
        """Return all messages that are there.

        Args:
            wait: Whether to wait for one where there is none.

        Raises:
            Cancelled: The task shall stop.
        """
        found: list[Message] = []
        while True:
            try:
                message = self._messages.get(block=wait and not found, timeout=_PATIENCE_SECONDS)
            except queue.Empty:
                if wait and not found:
                    continue
                return found
            if message is None:
                self.close()  # for whoever asks again
                raise Cancelled("the task was asked to stop")
            found.append(message)
