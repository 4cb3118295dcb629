"""The child's side of a job: run one task, tell what happens as lines of JSON, and end with exactly one terminal event.

The events have the process's stdout to themselves. Whatever else is printed, by Python, by C libraries or by child
processes, goes to the job's log.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import importlib.metadata
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from .errors import Cancelled, InputError, VolumeSegmanticsError
from .events import TERMINAL, Event, Failed, Finished, Progress, Report, WasCancelled, to_json
from .jobs import Job, forget_result
from .launch import lines_of
from .messages import Inbox, from_json

Task = Callable[[Job, Report], Mapping[str, Any] | None]
Talk = Callable[..., Mapping[str, Any] | None]
"""A task that takes an ``Inbox`` too, as ``inbox``."""

Known = tuple[Mapping[str, Task], Mapping[str, Talk]]

DONE, BUG, MENDABLE, CANCELLED = range(4)  # exit codes

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")
ORPHAN_SECONDS = 30.0
"""How long a task may stay silent once nobody is left who could kill it."""

PACKAGES = ("volumesegmantics", "numpy", "scipy", "SimpleITK", "torch", "segmentation-models-pytorch", "albumentations")


def run(
    folder: str | os.PathLike[str],
    *,
    parent_watch: bool,
    tasks: Mapping[str, Task] | None = None,
    talks: Mapping[str, Talk] | None = None,
) -> int:
    """Run the job that a folder holds, and return the exit code of the process.

    Args:
        folder: The job's folder.
        parent_watch: Whether the end of stdin means Stop; otherwise stdin is ignored.
        tasks: The tasks by name; those of the module ``tasks`` where it is None.
        talks: More of them, which listen to the parent while they run.

    Returns:
        0 done, 1 a bug, 2 the user can mend it, 3 cancelled.
    """
    stop = Stop()
    with _private_channels() as (stdin, stdout), _signals_ask(stop):
        lines = EventLines(stdout, stop)
        if parent_watch:
            threading.Thread(target=_watch_parent, args=(stdin, lines, stop), daemon=True).start()
        ending = _run_and_log(folder, lines, stop, None if tasks is None else (tasks, talks or {}))
        lines.send_last(ending)
    return _exit_code(ending)


class Stop:
    """Whether, and why, the run shall stop. A plain attribute, so that a signal may come at any moment.

    Attributes:
        reason: Empty as long as it shall not.
        inbox: What the parent tells; a task that waits for more is woken up.
    """

    def __init__(self) -> None:
        self.reason = ""
        self.inbox = Inbox()

    def ask(self, reason: str) -> None:
        """Ask the run to stop at its next report; the first reason stays."""
        self.reason = self.reason or reason
        self.inbox.close()


class EventLines:
    """The protected stdout: one event a line, from any thread, nothing after the terminal event."""

    def __init__(self, descriptor: int, stop: Stop) -> None:
        self._descriptor = descriptor
        self._stop = stop
        self._lock = threading.Lock()
        self.over = threading.Event()

    def report(self, event: Event) -> None:
        """Send an event, and raise ``Cancelled`` where Stop was asked."""
        assert not isinstance(event, TERMINAL), "a task returns or raises; it does not report its own end"
        self._send(event)
        if not isinstance(event, Progress):
            log(to_json(event))
        if self._stop.reason:
            raise Cancelled(self._stop.reason)

    def send_last(self, ending: Event) -> None:
        """Send the terminal event; threads that are left are stopped at their next report."""
        self._send(ending)
        self._stop.ask("the run is over")

    def is_heard(self) -> bool:
        """Return whether somebody still listens; asked with an empty line, which is no event."""
        return self._write(b"\n")

    def _send(self, event: Event) -> None:
        line = to_json(event).encode() + b"\n"
        if not self._write(line, is_last=isinstance(event, TERMINAL)):
            self._stop.ask("nobody listens any more")

    def _write(self, line: bytes, *, is_last: bool = False) -> bool:
        """Write a line, if the last is not out yet; return False where nobody reads."""
        with self._lock:
            if self.over.is_set():
                return True
            if is_last:
                self.over.set()
            try:
                _write_all(self._descriptor, line)
            except OSError:
                return False
            return True


def log(text: str) -> None:
    """Write a line with the time to the log; a full disk shall not end the run for the log's sake."""
    with contextlib.suppress(OSError):
        _write_all(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode(errors="backslashreplace"))


# What runs, and how it can end ------------------------------------------------------------------------------------


def _run_and_log(folder: str | os.PathLike[str], lines: EventLines, stop: Stop, known: Known | None) -> Event:
    """Run the job and keep its result; return how it ended, whatever happened."""
    try:
        job = Job.open(folder)
        forget_result(job.folder)
        _print_into(job)
    except VolumeSegmanticsError as error:
        log(f"failed: {error}")
        return Failed(error.code, error.message, error.hint)
    _log_start(job)
    ending = _kept(job, _ending_of(job, lines.report, stop, known))
    log(f"end: {to_json(ending)}")
    return ending


def _ending_of(job: Job, report: Report, stop: Stop, known: Known | None) -> Event:
    """Run the job's task and return the terminal event. What is raised after Stop was asked counts as cancelled."""
    ending: Event
    try:
        ending = Finished(dict(_task(job.task, known, stop.inbox)(job, report) or {}))
        to_json(ending)  # outputs that are no JSON are the task's mistake, and told as such
    except VolumeSegmanticsError as error:
        ending = Failed(error.code, error.message, error.hint)
    except (Cancelled, KeyboardInterrupt):
        ending = WasCancelled()
    except BaseException as error:  # SystemExit too: a run without an answer helps nobody
        log(traceback.format_exc().rstrip())
        ending = _unforeseen(error, job)
    if stop.reason and isinstance(ending, Failed):
        log(f"failed while stopping: {ending}")
        ending = WasCancelled()
    if isinstance(ending, WasCancelled):
        log(f"stopped: {stop.reason or 'by the task'}")
    return ending


def _task(name: str, known: Known | None, inbox: Inbox) -> Task:
    if known is None:
        from . import tasks as our_own  # only now: much comes with it

        known = our_own.TASKS, our_own.TALKS
    tasks: dict[str, Task] = {each: partial(talk, inbox=inbox) for each, talk in known[1].items()}
    tasks |= known[0]
    if name not in tasks:
        raise InputError(f"There is no task {name!r}.", hint=f"The tasks are: {', '.join(sorted(tasks))}.")
    return tasks[name]


def _kept(job: Job, ending: Event) -> Event:
    """Write the result; a run that cannot leave its result behind has not finished."""
    try:
        job.keep_result(ending)
    except VolumeSegmanticsError as error:
        log(f"no result file: {error}")
        return Failed(error.code, error.message, error.hint) if isinstance(ending, Finished) else ending
    return ending


def _exit_code(ending: Event) -> int:
    if isinstance(ending, Failed):
        return BUG if ending.code == "bug" else MENDABLE
    return CANCELLED if isinstance(ending, WasCancelled) else DONE


# Exceptions that nobody turned into a VolumeSegmanticsError ---------------------------------------------------------


def _unforeseen(error: BaseException, job: Job) -> Failed:
    """Return the words for an exception from below: something that the user can mend after all, or a bug."""
    if failed := explained(error):
        return failed
    what = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
    return Failed("bug", f"The task {job.task!r} met an unexpected error ({what}).", f"The log has it: {job.log_path}")


def explained(error: BaseException) -> Failed | None:
    """Return the words for an exception from below that the user can mend after all; None where it is a bug."""
    return next((failed for explain in (_as_memory, _as_disk, _as_package) if (failed := explain(error))), None)


def _as_memory(error: BaseException) -> Failed | None:
    is_torch = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    if not isinstance(error, MemoryError) and not is_torch:
        return None
    hint = "Close other programs, use a smaller volume or batch, or lower the memory budget."
    return Failed("memory", "There was not enough memory.", hint)


def _as_disk(error: BaseException) -> Failed | None:
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return Failed("resource", f"The disk is full ({error}).", "Free some space and start the job again.")


def _as_package(error: BaseException) -> Failed | None:
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or not package or package == __package__:
        return None
    return Failed(
        "dependency", f"The Python package {package!r} is missing.", f"Install {package} into {sys.executable}."
    )


# File descriptors, signals, the parent -------------------------------------------------------------------------------


@contextlib.contextmanager
def _private_channels() -> Iterator[tuple[int, int]]:
    """Keep stdin and stdout for ourselves: everybody else reads nothing, and prints to stderr or the log.

    This also holds for C libraries and child processes: the private descriptors are not inherited. Descriptor 0 must
    not stay the pipe that a thread waits on, since on Windows a C library that only looks at it would wait as well.
    """
    _open_what_is_closed()
    private = [os.dup(number) for number in (0, 1, 2)]
    nothing = os.open(os.devnull, os.O_RDONLY)
    was_enabled = faulthandler.is_enabled()
    _flush()
    os.dup2(nothing, 0)
    os.dup2(private[2], 1)
    os.dup2(private[2], 2)
    try:
        if not was_enabled:
            faulthandler.enable(2)
        yield private[0], private[1]
    finally:
        if not was_enabled:
            faulthandler.disable()
        _flush()
        for number, descriptor in enumerate(private):
            os.dup2(descriptor, number)
        for descriptor in (nothing, *private[1:]):  # a thread may still read private[0]
            os.close(descriptor)


def _open_what_is_closed() -> None:
    """Fill 0, 1 and 2 where cron or a daemon closed them, lest the next file that is opened becomes our stdout."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def _print_into(job: Job) -> None:
    """Send all that is printed to the end of the job's log.

    Raises:
        ResourceError: The log cannot be written.
    """
    with job.open_log() as file:
        _flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


@contextlib.contextmanager
def _signals_ask(stop: Stop) -> Iterator[None]:
    """Let signals ask for Stop, where Python allows it: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda which, _: stop.ask(f"signal {which}")) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _watch_parent(stdin: int, lines: EventLines, stop: Stop) -> None:
    """Take messages from stdin, and ask for Stop at its end.

    When the parent is gone too, nobody could kill a silent task: end here.
    """
    with contextlib.suppress(OSError):
        for line in lines_of(iter(lambda: os.read(stdin, 4096), b"")):
            if message := from_json(line):
                stop.inbox.put(message)
    stop.ask("the parent closed stdin")
    while not lines.over.wait(ORPHAN_SECONDS):
        if not lines.is_heard():
            log("end: the parent is gone and the task does not stop")
            os._exit(CANCELLED)


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _log_start(job: Job) -> None:
    log(f"start: task {job.task!r} in {job.folder}, process {os.getpid()}")
    log(f"versions: Python {platform.python_version()} on {platform.platform()}; {_versions()}")
    log(f"settings: {job.settings}; inputs: {job.inputs}; outputs: {job.outputs}")


def _versions() -> str:
    found = []
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{package} {importlib.metadata.version(package)}")
    return ", ".join(found)
