"""Which slice somebody watches while a model learns: a small file in the job's folder, which may change at any time."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from .settings import AXIS_LETTERS

WATCH_FILE = "watch.json"


@dataclass(frozen=True)
class Watched:
    """A slice of the image that a job learns from.

    Attributes:
        axis: ``"z"``, ``"y"`` or ``"x"``, which it is perpendicular to.
        index: Counted from 0; one beyond the image means its last slice.
    """

    axis: str
    index: int


def watch(folder: str | os.PathLike[str], watched: Watched) -> None:
    """Tell a job which slice is watched: at once, and without waiting for the disk; nothing is lost where it fails."""
    path = Path(folder) / WATCH_FILE
    draft = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with contextlib.suppress(OSError):
            draft.write_text(json.dumps(asdict(watched)), "utf-8")
            draft.replace(path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def watched_in(folder: str | os.PathLike[str]) -> Watched | None:
    """Return the slice that is watched; None where there is none, or where the file cannot be read."""
    try:
        values = json.loads((Path(folder) / WATCH_FILE).read_text("utf-8"))
        watched = Watched(str(values["axis"]), int(values["index"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return watched if len(watched.axis) == 1 and watched.axis in AXIS_LETTERS else None
