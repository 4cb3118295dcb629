"""Runs a command to its end while the caller stays alive."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

from VolumeSegmanticsLib.launch import clean_environment
from VolumeSegmanticsLib.process_tree import kill_tree

PAUSE_SECONDS = 0.05
NO_WINDOW = subprocess.CREATE_NO_WINDOW if sys.platform == "win32" else 0

Tell = Callable[[str], object]


def run(
    words: Sequence[str], *, report: Tell = lambda line: None, breathe: Callable[[], object] = lambda: None
) -> tuple[int, str]:
    """Run a command to its end, and return its exit code and what it printed; what ``breathe`` raises ends it.

    Args:
        words: The command.
        report: Takes its lines.
        breathe: Called every 50 ms.
    """
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=clean_environment(os.environ, external=False),
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        creationflags=NO_WINDOW,
    )
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process, lines), daemon=True)
    reader.start()
    told = []
    try:
        while (line := _next(lines, breathe)) is not None:
            told.append(line)
            report(line)
        return process.wait(), "\n".join(told)
    finally:
        if process.poll() is None:
            kill_tree(process.pid)  # with a launcher in between, what it started too
            process.kill()
            process.wait()
        reader.join()


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None, "the process is started with a pipe"
    with process.stdout as output:
        for line in output:
            lines.put(line.rstrip())
    lines.put(None)


def _next(lines: queue.Queue[str | None], breathe: Callable[[], object]) -> str | None:
    while True:
        breathe()
        with contextlib.suppress(queue.Empty):
            return lines.get(timeout=PAUSE_SECONDS)
