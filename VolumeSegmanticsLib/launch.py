"""The parent's side of a job: start its worker process, hear its events, stop it, and leave nothing running behind."""

from __future__ import annotations

import contextlib
import enum
import fnmatch
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from .errors import WorkerError
from .events import TERMINAL, Event, Failed, Log, Preview, Progress, WasCancelled, from_json
from .jobs import LOG_FILE, forget_result, read_result
from .messages import Message, to_json
from .process_tree import KILL_SECONDS, kill_tree

GRACE_SECONDS = 5.0
BREATH_SECONDS = 0.001
"""What a poll leaves to the threads below: inside Slicer they may run only while Python code does."""

CHUNK_BYTES = 1 << 16
LINE_BYTES = 1 << 20
"""Longer lines are no events; only their end is kept."""

QUEUE_EVENTS = 1000
"""Beyond this, old events of the kinds that can be spared make room."""

SPARED: tuple[type[Event], ...] = (Progress, Log, Preview)  # the first kind goes first; an EpochEnded never goes

TAIL_LINES, TAIL_CHARACTERS, TAIL_BYTES = 20, 1000, 1 << 16

ALWAYS_SET = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONUTF8": "1",
    "PYTHONIOENCODING": "utf-8",
    "NO_ALBUMENTATIONS_UPDATE": "1",
}
SET_BY_LAUNCHER = (
    *("PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_*", "QT_*", "QML*", "TCL_LIBRARY", "TK_LIBRARY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "PIP_REQUIRE_VIRTUALENV"),
)
"""What makes another Python load Slicer's libraries instead of its own; upper case, with wildcards."""
SAVED_BY_LAUNCHER = "APPLAUNCHER_0_"
"""Slicer's launcher keeps the value that a variable had before under this prefix."""


class WorkerProcess:
    """A worker process and all that it starts, from the first line to the last survivor.

    No call blocks, but `wait` and `close`. The events end with exactly one terminal event, which comes once nothing of
    the worker is left running: what the worker said itself; else ``WasCancelled`` where it was stopped; else
    ``Failed("worker-died")`` with its last words.

        running ──> ending ──────────> over
           stop, kill, a terminal event, end of output or of the process;
           then stdin is closed, the rest gets ``grace_seconds``, and what is left is killed.

    Args:
        folder: The job's folder.
        python: The Python that runs it; `find_python` where it is None.
        command: What to start instead of Python with this library; ``run --parent-watch FOLDER`` is appended.
        grace_seconds: How long a worker that shall end may take before it is killed.
        environment: Its environment variables; see `clean_environment`.

    Raises:
        WorkerError: The process cannot be started.
        ResourceError: The result of an earlier run is in the way.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        python: str | os.PathLike[str] | None = None,
        command: Sequence[str] | None = None,
        grace_seconds: float = GRACE_SECONDS,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.grace_seconds = grace_seconds
        self._changed = threading.Condition()
        self._facts: set[_Fact] = set()
        self._events: deque[Event] = deque()
        self._outgoing: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._answer: Event | None = None
        self._ending: Event | None = None
        self._last_words: deque[str] = deque(maxlen=TAIL_LINES)
        self._log_path = self.folder / LOG_FILE
        self._log_start = _size(self._log_path)
        forget_result(self.folder)
        words = [*(command or default_command(python)), "run", "--parent-watch", str(self.folder)]
        self._process = _start(
            words, clean_environment(os.environ, external=False) if environment is None else environment
        )
        self._threads = [
            threading.Thread(target=target, name=f"worker {self.pid} {target.__name__}", daemon=True)
            for target in (self._read, self._write, self._await_exit, self._end)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process that was started; with a launcher in between, the launcher's."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether something of the worker may still run; once False, `poll` gives the terminal event or has done so."""
        return self._ending is None

    def poll(self) -> list[Event]:
        """Return the events that came since the last call, without waiting for any."""
        time.sleep(BREATH_SECONDS)
        with self._changed:
            events = list(self._events)
            self._events.clear()
        return events

    def wait(self, timeout: float | None = None) -> Event | None:
        """Wait for the end and return the terminal event, or None after ``timeout`` seconds; `poll` still gives it."""
        self._wait_for(lambda: not self.is_running, timeout)
        return self._ending

    def send(self, message: Message) -> None:
        """Tell the worker something; one that has ended does not hear it."""
        self._outgoing.put(message)

    def stop(self) -> None:
        """Ask the worker to stop; it is killed where it does not within the grace period."""
        self._note(_Fact.STOP)

    def kill(self) -> None:
        """End the worker and all that it started, without asking."""
        self._note(_Fact.KILL)

    def close(self) -> None:
        """End what still runs, at once, and wait for it."""
        self.kill()
        self.wait(2 * KILL_SECONDS)
        for thread in self._threads:
            thread.join(KILL_SECONDS)

    # One thread each: what the worker says, what it is told, that its process ends, and what follows from either.

    def _read(self) -> None:
        output = _pipe(self._process.stdout)
        try:
            with output:
                for line in lines_of(iter(lambda: output.read(CHUNK_BYTES), b"")):
                    self._take(line)
        finally:
            self._note(_Fact.SILENT)

    def _write(self) -> None:
        stdin = _pipe(self._process.stdin)
        for message in iter(self._outgoing.get, None):
            with contextlib.suppress(OSError):  # it has ended
                stdin.write(to_json(message).encode() + b"\n")
        stdin.close()

    def _await_exit(self) -> None:
        self._process.wait()
        self._note(_Fact.EXITED)

    def _end(self) -> None:
        self._wait_for(lambda: bool(self._facts))
        was_asked = not self._facts.isdisjoint(_ASKED)
        self._outgoing.put(None)  # which closes stdin
        self._wait_for(lambda: self._facts >= _GONE or _Fact.KILL in self._facts, self.grace_seconds)
        was_killed = not self._facts >= _GONE
        kill_tree(self.pid)  # where the worker is gone, what it has left behind
        self._wait_for(lambda: self._facts >= _GONE, KILL_SECONDS)
        ending = self._answer or read_result(self.folder) or self._silent_end(was_asked, was_killed)
        with self._changed:
            self._ending = ending
            self._events.append(ending)
            self._changed.notify_all()

    def _take(self, line: bytes) -> None:
        event = event_in(line)
        with self._changed:
            if event is None:
                self._last_words.extend(_readable(line))
            elif self._answer is None and self._ending is None:
                self._keep(event)

    def _keep(self, event: Event) -> None:
        if isinstance(event, TERMINAL):
            self._answer = event
            self._note(_Fact.ANSWERED)
            return
        self._events.append(event)
        if len(self._events) > QUEUE_EVENTS:
            _make_room(self._events)

    def _silent_end(self, was_asked: bool, was_killed: bool) -> Event:
        if was_asked:
            return WasCancelled()
        how = "closed its output and had to be killed" if was_killed else _how_it_ended(self._process.returncode)
        words = [*self._last_words, *_tail_of(self._log_path, self._log_start)][-TAIL_LINES:]
        hint = [
            _remedy(self._process.returncode, was_killed),
            "Its last words:" if words else "It said nothing.",
            *words,
        ]
        hint.append(f"Log: {self._log_path}")
        return Failed("worker-died", f"The worker process {how} without an answer.", "\n".join(filter(None, hint)))

    def _note(self, fact: _Fact) -> None:
        with self._changed:
            self._facts.add(fact)
            self._changed.notify_all()

    def _wait_for(self, condition: Callable[[], bool], timeout: float | None = None) -> None:
        with self._changed:
            self._changed.wait_for(condition, timeout)


class _Fact(enum.Enum):
    """What is known about a worker process that shall end, or has."""

    STOP = enum.auto()
    KILL = enum.auto()
    ANSWERED = enum.auto()
    SILENT = enum.auto()
    EXITED = enum.auto()


_ASKED = {_Fact.STOP, _Fact.KILL}
_GONE = {_Fact.SILENT, _Fact.EXITED}


# How to start it ------------------------------------------------------------------------------------------------------


def find_python() -> str:
    """Return the Python that can run a worker: this one, or PythonSlicer where this program is Slicer.

    Raises:
        WorkerError: There is none.
    """
    if Path(sys.executable or "").name.lower().startswith("python"):
        return sys.executable
    if found := shutil.which("PythonSlicer"):
        return found
    raise WorkerError("No Python was found that could run the worker process.", hint="Name one in the settings.")


def default_command(python: str | os.PathLike[str] | None = None) -> list[str]:
    """Return what starts this library's command line; by path, since PythonSlicer would not find it with ``-m``."""
    return [os.fspath(python or find_python()), "-u", str(Path(__file__).absolute().with_name("__main__.py"))]


def clean_environment(base: Mapping[str, str], *, external: bool) -> dict[str, str]:
    """Return the environment variables for a worker.

    Args:
        base: The variables of this process.
        external: Whether the worker's Python is not Slicer's own. It then must not see what Slicer's launcher set: such
            variables get the value that they had before Slicer was started, and are dropped where they had none.
    """
    kept = {name: value for name, value in base.items() if not (external and _is_set_by_launcher(name))}
    return kept | (_before_launcher(base) if external else {}) | ALWAYS_SET


def _is_set_by_launcher(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name.upper(), pattern) for pattern in (*SET_BY_LAUNCHER, "APPLAUNCHER_*"))


def _before_launcher(base: Mapping[str, str]) -> dict[str, str]:
    start = len(SAVED_BY_LAUNCHER)
    return {name[start:]: value for name, value in base.items() if name.upper().startswith(SAVED_BY_LAUNCHER)}


def _start(words: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process as the head of its own group, with both output streams in one unbuffered pipe."""
    # stderr shares the pipe: what is said before the worker has its log is told as its last words
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env=dict(environment),
            start_new_session=sys.platform != "win32",
            creationflags=flags,
        )
    except (OSError, ValueError) as error:
        raise WorkerError(f"{words[0]} cannot be started ({error}).", hint="Check the path of Python.") from error


# What it says ---------------------------------------------------------------------------------------------------------


def lines_of(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a stream of bytes, of each the last ``LINE_BYTES``; memory stays bounded whatever comes."""
    line = bytearray()
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        line += first
        for part in others:
            yield bytes(line[-LINE_BYTES:])
            line[:] = part
        del line[:-LINE_BYTES]
    yield bytes(line)


def event_in(line: bytes) -> Event | None:
    """Return the event in a line, also behind something that was printed without an end of line; None where is none."""
    start = line.find(b'{"event"')
    if start < 0:
        return None
    try:
        return from_json(line[start:].decode())
    except (ValueError, RecursionError):
        return None


def _make_room(events: deque[Event]) -> None:
    """Drop the oldest event that can be spared."""
    for kind in SPARED:
        for index, event in enumerate(events):
            if isinstance(event, kind):
                del events[index]
                return


def _readable(line: bytes) -> list[str]:
    """Return the end of a line as text, in a list; an empty list where nothing is to be read."""
    text = line[-4 * TAIL_CHARACTERS :].decode(errors="replace").strip()
    return [text[-TAIL_CHARACTERS:]] if text else []


def _tail_of(path: Path, start: int) -> list[str]:
    """Return the last lines that a log has got since it was ``start`` bytes long."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, _size(path) - TAIL_BYTES))
            lines = file.read(TAIL_BYTES).splitlines()
    except OSError:
        return []
    return [text for line in lines[-TAIL_LINES:] for text in _readable(line)]


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "could not be ended and is given up"
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was ended by {name}"


def _remedy(code: int | None, was_killed: bool) -> str:
    """Return what a SIGKILL, also one that a launcher passes on as exit code, mostly means."""
    is_likely_memory = not was_killed and code in (-9, 137)
    return (
        "It may have run out of memory: close other programs, or lower the memory budget." if is_likely_memory else ""
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "the process is started with pipes"
    return stream
