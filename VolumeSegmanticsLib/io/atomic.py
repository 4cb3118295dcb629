"""Writing so that a file is either the earlier one or the whole new one."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..process_tree import is_running

_MARK = ".writing-"
_EARLIER = ".earlier"
_MANY = 100  # files, from which on waiting for the whole disk first is quicker than for one after the other


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a draft's path; when the block ends well, the draft takes the place of ``path``.

    The draft lies in a hidden folder beside ``path``, which never outlives the block. Only a process that is killed
    leaves it behind: its name tells target, machine and process, and the next writing of the same target on the same
    machine removes it, once that process is gone.

    The disk has the whole draft before it is moved, and the move before the block ends. Whatever else is written
    beside the draft (the voxels of a detached header) is moved too, and before it. Everything gets the rights that new
    files and folders have there. The draft's suffixes are in lower case, since some writers know no others.

    Raises:
        OSError: Nothing can be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left_behind(path)
    folder = path.parent / f"{_mark(path)}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        stem, dot, suffixes = path.name.partition(".")
        draft = folder / (stem + dot + suffixes.lower())
        yield draft
        _settle(folder)
        for companion in folder.iterdir():
            if companion != draft:
                companion.replace(path.parent / companion.name)
        _exchange(draft, path)
        _flush_folder(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_left_behind(path: Path) -> None:
    """Remove drafts of a file whose process, on this machine, was killed; those of other machines stay."""
    mark = _mark(path)
    with contextlib.suppress(OSError):  # where nothing can be removed, nothing can be written either
        for folder in [each for each in path.parent.iterdir() if each.name.startswith(mark)]:
            pid = folder.name.removeprefix(mark).partition("-")[0]
            if pid.isdecimal() and not is_running(int(pid)):
                if (folder / _EARLIER).exists() and not path.exists():  # killed in the middle of the exchange
                    (folder / _EARLIER).replace(path)
                shutil.rmtree(folder, ignore_errors=True)


def _mark(path: Path) -> str:
    """Return how the names of folders begin that hold drafts of a file made on this machine; names may not be long."""
    digest = hashlib.sha256(path.name.encode(errors="surrogateescape")).hexdigest()
    return f"{_MARK}{path.name[:40]}-{digest[:8]}-{socket.gethostname()[:40]}-"


def _settle(folder: Path) -> None:
    """Give all files in a folder the usual rights, which the folder has, and wait until the disk has them."""
    usual = folder.stat().st_mode
    paths = list(folder.rglob("*"))
    for path in paths:
        with contextlib.suppress(OSError):  # some systems have their own idea of rights
            path.chmod(usual & (0o777 if path.is_dir() else 0o666))
    if len(paths) > _MANY:
        _flush_disk_of(folder)
    for path in (*paths, folder):
        if path.is_dir():
            _flush_folder(path)
        else:
            _flush(path)


def _flush(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    """Wait until the disk knows the names in a folder; some systems do not let us."""
    with contextlib.suppress(OSError), _opened(path) as folder:
        os.fsync(folder)


def _flush_disk_of(folder: Path) -> None:
    """Wait until a disk has everything, where the system can; it says nothing of what failed."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError), _opened(folder) as opened:
            ctypes.CDLL(None).syncfs(opened)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    opened = os.open(folder, os.O_RDONLY)  # on Windows an OSError
    try:
        yield opened
    finally:
        os.close(opened)


def _exchange(draft: Path, path: Path) -> None:
    if not (draft.is_dir() and path.is_dir()):
        draft.replace(path)
        return
    earlier = draft.parent / _EARLIER  # a folder that holds files cannot be replaced in one step
    path.replace(earlier)
    try:
        draft.replace(path)
    except OSError:
        earlier.replace(path)
        raise
