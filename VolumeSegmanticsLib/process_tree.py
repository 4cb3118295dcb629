"""Processes: whether one runs, and one with all that came of it killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

KILL_SECONDS = 5.0
"""How long the system may take to clear away what was killed."""


def is_running(pid: int) -> bool:
    """Tell whether a process runs on this machine; another one may have got its number by now."""
    if sys.platform == "win32":
        return f'"{pid}"' in _output_of(["tasklist", "/NH", "/FO", "CSV", "/FI", f"PID eq {pid}"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def kill_tree(pid: int) -> None:
    """Kill a process with all that came of it: its group, its session, and descendants in sessions of their own.

    A launcher in between may be gone already, without a word to the process that it started.
    """
    if sys.platform == "win32":
        command = ["taskkill", "/T", "/F", "/PID", str(pid)]
        _output_of(command, creationflags=subprocess.CREATE_NO_WINDOW)
        return
    members = _family(pid)
    for kill, number in ((os.killpg, pid), *((os.kill, member) for member in members)):
        try:
            kill(number, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _family(pid: int) -> set[int]:
    """Return the processes that descend from one, or belong to the session of one that does; without the one itself."""
    rows = list(_processes())
    members, size = {pid}, 0
    while size < len(members):
        size = len(members)
        members |= {child for child, parent, session in rows if parent in members or session in members}
    return members - {pid}


def _processes() -> Iterator[tuple[int, int, int]]:
    """Yield the (process, parent, session) of all that run; the session is 0 where the system does not tell."""
    if not Path("/proc/self/stat").exists():
        for row in _output_of(["ps", "-A", "-o", "pid=,ppid="]).splitlines():
            pid, ppid = row.split()
            yield int(pid), int(ppid), 0
        return
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, parent, _, session = path.read_bytes().rpartition(b")")[2].split()[:4]
        except (OSError, ValueError):  # it has just ended
            continue
        yield int(path.parent.name), int(parent), int(session)


def _output_of(command: Sequence[str], creationflags: int = 0) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=KILL_SECONDS, check=False, creationflags=creationflags
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
