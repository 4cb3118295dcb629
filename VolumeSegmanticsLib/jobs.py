"""A job: a folder that says what to run, on what, and in the end what became of it.

``job.json`` is written once, before the run; ``log.txt`` grows while it runs; ``result.json`` is written last and
holds the terminal event. The same folder serves the panel, a shell, a test and a bug report.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .errors import InputError, ResourceError
from .events import TERMINAL, Event, from_json, to_json

VERSION = 1
FIELDS: dict[str, type] = {"version": int, "task": str, "settings": dict, "inputs": dict, "outputs": dict}

JOB_FILE = "job.json"
LOG_FILE = "log.txt"
RESULT_FILE = "result.json"

_REMEDIES = {
    errno.ENOSPC: "The disk is full: free some space, or choose a folder on another disk.",
    errno.EDQUOT: "Your share of the disk is used up: free some space, or choose a folder on another disk.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.EROFS: "The disk cannot be written to: choose a folder on another disk.",
    errno.ENOENT: "Create the folder first, or choose another one.",
    errno.ENOTDIR: "Choose a folder; a file stands in its place.",
}
_REMEDY = "Choose another folder, and check that its disk is connected and has space."


@dataclass(frozen=True)
class Job:
    """What one run is about.

    Attributes:
        folder: Where the job lives; absolute.
        task: The name of the task, a key of ``tasks.TASKS``.
        settings: The task's settings as plain values.
        inputs, outputs: Names and paths of what is read and made; a relative path is relative to the folder.
    """

    folder: Path
    task: str
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        *,
        task: str,
        settings: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> Job:
        """Write a job into a folder, which is made where it is missing; an older job there loses its result.

        Raises:
            ResourceError: The folder cannot be made or written.
        """
        values = {"task": task, "settings": settings or {}, "inputs": inputs or {}, "outputs": outputs or {}}
        text = json.dumps({"version": VERSION, **values}, indent=2, allow_nan=False, default=os.fspath)
        path = Path(folder).absolute() / JOB_FILE
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        forget_result(path.parent)
        write_atomically(path, text + "\n")
        return cls.open(path.parent)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Job:
        """Return the job that a folder holds.

        Raises:
            InputError: There is no job, or it cannot be read by this version.
        """
        path = Path(folder).absolute() / JOB_FILE
        values = _read_object(path)
        if _is_newer(values):
            raise InputError(
                f"{path} was written by a newer version of VolumeSegmantics (job version {values['version']}).",
                hint=f"Update VolumeSegmantics; this one reads jobs up to version {VERSION}.",
            )
        wrong = [name for name, kind in FIELDS.items() if type(values.get(name)) is not kind]
        wrong += sorted(values.keys() - FIELDS.keys())
        if wrong:
            raise InputError(f"{path} is no valid job: {', '.join(wrong)} cannot be used.", hint="Make the job anew.")
        del values["version"]
        return cls(path.parent, **values)

    @property
    def log_path(self) -> Path:
        """The file that takes everything a run prints."""
        return self.folder / LOG_FILE

    @property
    def result_path(self) -> Path:
        """The file that holds the terminal event; it exists once the run is over."""
        return self.folder / RESULT_FILE

    def path(self, value: str) -> Path:
        """Return the path that a value of ``inputs`` or ``outputs`` means."""
        return self.folder / value

    def open_log(self) -> IO[bytes]:
        """Open the log for appending; a job that is picked up again goes on in the same log.

        Raises:
            ResourceError: It cannot be written.
        """
        with _writing(self.log_path):
            return self.log_path.open("ab", buffering=0)

    def result(self) -> Event | None:
        """Return the terminal event of the last run, or None where there is none."""
        return read_result(self.folder)

    def keep_result(self, ending: Event) -> None:
        """Write the terminal event, atomically.

        Raises:
            ResourceError: It cannot be written.
        """
        write_atomically(self.result_path, to_json(ending) + "\n")


def read_result(folder: Path) -> Event | None:
    """Return the terminal event that a job folder holds, or None where there is none."""
    try:
        event = from_json((folder / RESULT_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return event if isinstance(event, TERMINAL) else None


def forget_result(folder: Path) -> None:
    """Remove the result of an earlier run, so that nobody takes it for that of the next.

    Raises:
        ResourceError: It is there and cannot be removed.
    """
    path = folder / RESULT_FILE
    with _writing(path):
        path.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file so that others see the old one or the new one, whole; text becomes UTF-8.

    Raises:
        ResourceError: It cannot be written. An earlier file is as it was, and nothing else is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    with _writing(path):
        try:
            _write_through(temporary, content.encode("utf-8") if isinstance(content, str) else content)
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _write_through(path: Path, content: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the system says about a file into words that help."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(
            f"{path} cannot be written ({reason}).", hint=_REMEDIES.get(error.errno or 0, _REMEDY)
        ) from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent} is no job folder: it has no {JOB_FILE}.", hint="Check the path.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).", hint="Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is no JSON file.", hint="Make the job anew.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is damaged: it holds no job.", hint="Make the job anew.")
    return values


def _is_newer(values: Mapping[str, Any]) -> bool:
    version = values.get("version")
    return isinstance(version, int) and version > VERSION
