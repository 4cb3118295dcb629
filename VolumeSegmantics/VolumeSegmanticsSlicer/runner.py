"""Runs jobs, one at a time, each in a process of its own, without ever waiting for it.

The next job can start whatever became of the one before.
"""

from __future__ import annotations

import functools
import itertools
import logging
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path

from VolumeSegmanticsLib.errors import ResourceError, VolumeSegmanticsError, WorkerError
from VolumeSegmanticsLib.events import TERMINAL, Event, Failed, Finished, Report
from VolumeSegmanticsLib.launch import WorkerProcess
from VolumeSegmanticsLib.messages import Message

from .starting import STAGE, Act, Starting, StartWorker, Worker, Write
from .states import Phase, State

GRACE_SECONDS = 1.5
"""How long a worker may take to stop by itself: files appear whole or not at all, so killing it is safe."""

EVENTS_A_PUMP = 500
"""These take a few milliseconds; a worker that talks without end cannot hold the caller up for longer."""

WAIT_SECONDS = 0.05


start_worker: StartWorker = functools.partial(WorkerProcess, grace_seconds=GRACE_SECONDS)


class Runner:
    """One job at a time, and what is known about it.

    Args:
        jobs_folder: Holds a folder for each job; None makes one for temporary files when the first job starts.
        start: Starts the worker of a job.
    """

    def __init__(self, jobs_folder: str | PathLike[str] | None = None, start: StartWorker = start_worker) -> None:
        self.state = State()
        self._jobs_folder = Path(jobs_folder).absolute() if jobs_folder else None
        self._start_worker = start
        self._worker: Worker | None = None
        self._events: deque[Event] = deque()

    def start(self, task: str, write: Callable[[Path, Report, Write], object], show: Callable[[State], State]) -> None:
        """Start a job; where that fails, no trace of it is left. Its files are written while it runs already.

        Args:
            task: Its name.
            write: Writes the job into its folder; its report takes what the user should know, and its last argument
                what takes long and needs no scene, which is done in a thread.
            show: Called once the job has finished: shows what it made, and returns the state with it.

        Raises:
            WorkerError: One is running.
            VolumeSegmanticsError: From ``write``.
        """
        if self.state.is_running:
            raise WorkerError("A job is running.", "Wait for its end, or cancel it.")
        folder, told, later = self._new_folder(task), list[Event](), list[Act]()
        try:
            write(folder, told.append, later.append)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._show = show
        self._events.clear()
        self.state = functools.reduce(State.after, told, State(Phase.RUNNING, task, folder, STAGE))
        told.clear()
        self._worker = Starting(folder, later, told, self._start_worker)

    def pump(self) -> State:
        """Take in a few of the events that came, and return what is known now; never waits for the worker."""
        if self._worker is None:
            return self.state
        if not self._events:
            self._events.extend(self._worker.poll())
        for _ in range(min(EVENTS_A_PUMP, len(self._events))):
            event = self._events.popleft()
            self.state = self.state.after(event)
            if isinstance(event, TERMINAL):
                self._end(event)
        return self.state

    def wait(
        self, on_change: Callable[[State], object] | None = None, *, pump: Callable[[], State] | None = None
    ) -> State:
        """Pump until the job is over, and return its last state: for scripts, where no timer runs.

        Args:
            on_change: Called with each new state.
            pump: Called in place of the own one.
        """
        known = None
        while True:
            state = (pump or self.pump)()
            if on_change is not None and state is not known:
                on_change(state)
            if not state.is_running:
                return state
            if state is known:
                time.sleep(WAIT_SECONDS)
            known = state

    def send(self, message: Message) -> None:
        """Tell the worker something; nothing happens where none runs."""
        if self._worker is not None:
            self._worker.send(message)

    def cancel(self, note: str = "") -> None:
        """Ask the job to stop; it is over once a later state says so. The note says why, for the user."""
        if self._worker is not None:
            self._worker.stop()
            self.state = replace(self.state, phase=Phase.STOPPING, note=note or self.state.note)

    def forget(self) -> None:
        """Know nothing of the last job any more, but for its folder; nothing happens while it runs."""
        if self._worker is None:
            self.state = State(folder=self.state.folder)

    def close(self) -> None:
        """End the job, and wait for that."""
        if self._worker is not None:
            self._show = lambda state: state
            self._worker.close()
            self.wait()

    def _end(self, ending: Event) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()
        if isinstance(ending, Finished):
            self.state = self._shown(self.state)

    def _shown(self, state: State) -> State:
        """Return the state with what the job made; a result that cannot be shown is not lost."""
        try:
            return self._show(state)
        except VolumeSegmanticsError as error:
            failed = Failed(error.code, error.message, error.hint)
        except Exception as error:
            logging.getLogger(__name__).exception("A result could not be shown.")
            failed = Failed(
                "bug", f"The result could not be shown ({type(error).__name__}: {error}).", "Load its file."
            )
        return replace(state.after(failed), note=f"What the job made is kept: {_told(state)}")

    def _new_folder(self, task: str) -> Path:
        try:
            if self._jobs_folder is None:
                self._jobs_folder = Path(tempfile.mkdtemp(prefix="VolumeSegmantics-"))
            self._jobs_folder.mkdir(parents=True, exist_ok=True)
            for n in itertools.count(1):
                folder = self._jobs_folder / f"{n:03d}-{task}"
                if not any(self._jobs_folder.glob(f"{n:03d}-*")):
                    folder.mkdir()
                    return folder
        except OSError as error:
            reason = error.strerror or error
            raise ResourceError(
                f'No folder for the job can be made in "{self._jobs_folder}" ({reason}).',
                "Choose a folder that you may write to, on a disk with space.",
            ) from error
        raise AssertionError("numbers never end")


def _told(state: State) -> str:
    paths = [str(value) for value in state.outputs.values() if isinstance(value, str)]
    return ", ".join(paths) or str(state.folder)
