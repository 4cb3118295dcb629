"""A worker that is being started: its job's files are written in a thread, since big volumes take seconds.

The thread knows arrays and files only. The scene is read before, by whoever owns it.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from VolumeSegmanticsLib.errors import VolumeSegmanticsError
from VolumeSegmanticsLib.events import Event, Failed, WasCancelled
from VolumeSegmanticsLib.messages import Message

STAGE = "prepare"
"""What a job does until its worker runs."""

THREAD_NAME = "prepare a job"

BREATH_SECONDS = 0.03
"""What a poll leaves to the writing thread: inside Slicer threads run only while Python code does, or waits."""

Act = Callable[[], object]
Write = Callable[[Act], object]
"""Takes what writes a file, and does it now or later."""


def now(act: Act) -> object:
    """Write at once."""
    return act()


class Worker(Protocol):
    """The part of ``WorkerProcess`` that is needed here."""

    def poll(self) -> list[Event]:
        """Return the events that came since the last call, without waiting; the very last is terminal."""

    def stop(self) -> None:
        """Ask it to end, without waiting."""

    def close(self) -> None:
        """End it, and wait until it has."""

    def send(self, message: Message) -> None:
        """Tell it something, without waiting; one that has ended does not hear it."""


StartWorker = Callable[[Path], Worker]
"""Starts the worker of the job that a folder holds."""


class Starting:
    """A worker whose job is not written yet; where that fails or is stopped, no trace of the job is left.

        writing ──> worker runs ──> its terminal event
           │ stop, or it fails
           └──────> WasCancelled, Failed

    Args:
        folder: The job's.
        writes: Write its files.
        told: Where they put events, such as warnings.
        start: Starts the worker.
    """

    def __init__(self, folder: Path, writes: Sequence[Act], told: list[Event], start: StartWorker) -> None:
        self._folder, self._writes, self._told, self._start = folder, writes, told, start
        self._worker: Worker | None = None
        self._ending: Event | None = None
        self._unsent: list[Message] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def poll(self) -> list[Event]:
        """Return the events that came since the last call, without waiting; the very last is terminal."""
        if self._worker is None and self._ending is None:
            time.sleep(BREATH_SECONDS)
        ending = self._ending  # before the others, as it comes last
        told = [self._told.pop(0) for _ in range(len(self._told))]
        if self._worker is not None:
            return told + self._worker.poll()
        return told + ([ending] if ending else [])

    def stop(self) -> None:
        """Ask the worker to end, or see to it that none is started; does not wait for what is being written."""
        with self._lock:
            self._ending = self._ending or WasCancelled()
        if self._worker is not None:
            self._worker.stop()

    def send(self, message: Message) -> None:
        """Tell the worker something, as soon as it runs."""
        with self._lock:
            if self._worker is None:
                self._unsent.append(message)
            else:
                self._worker.send(message)

    def close(self) -> None:
        """End the worker, and wait until it has."""
        self.stop()
        if self._worker is not None:
            self._worker.close()

    def _run(self) -> None:
        try:
            for write in self._writes:
                if self._ending is None:
                    write()
            with self._lock:
                if self._ending is None:
                    self._worker = self._start(self._folder)
                    for message in self._unsent:
                        self._worker.send(message)
        except VolumeSegmanticsError as error:
            self._fail(Failed(error.code, error.message, error.hint))
        except Exception as error:
            logging.getLogger(__name__).exception("A job could not be written.")
            self._fail(Failed("bug", f"The job could not be written ({type(error).__name__}: {error})."))
        self._writes = ()  # they hold arrays
        if self._worker is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _fail(self, ending: Failed) -> None:
        with self._lock:
            self._ending = self._ending or ending
