"""Amounts of memory: as people write them, and as the machine has them."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import SettingsError

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_TOLD = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8  # options of mallopt
_NEVER, _USUALLY_MAPPED = -1, 65536  # arrays at most
_LARGE, _LARGEST = 2**18, 2**25  # bytes; the larger is where glibc itself ends when large arrays come and go
_UNKNOWN = 2 * 10**9  # bytes; a machine that does not tell has at least these


def parse(text: str) -> int:
    """Return the bytes of an amount such as ``"4GB"`` or ``"500 MB"``; a GB has 10⁹ bytes, a GiB 2³⁰.

    Raises:
        SettingsError: It is no amount.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]+)\s*", text)
    amount = int(float(found[1]) * _UNITS.get(found[2].upper(), 0)) if found else 0
    if amount < 1:
        raise SettingsError(f'The setting memory is "{text}".', 'Write an amount such as "4GB" or "500 MB".')
    return amount


def told(amount: float) -> str:
    """Return an amount as people read it, such as ``"3.2 GB"``."""
    size, unit = next((row for row in _TOLD if amount >= row[0]), (1, "bytes"))
    return f"{amount / size:.3g} {unit}"


def at_least(amount: float) -> str:
    """Return an amount as a setting that is enough for it: rounded up to the next 10 MB."""
    megabytes = 10 * math.ceil(amount / 10**7)
    return f"{megabytes} MB" if megabytes < 1000 else f"{megabytes / 1000:.2f} GB"


def free() -> int:
    """Return how many bytes can still be taken without hurting anybody, limits of a container or a job included."""
    return max(1, min([amount for amount in (_free_of_machine(), _free_of_group()) if amount is not None]))


def in_use() -> int:
    """Return how many bytes this process holds in memory."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return _most_in_use()


def give_back() -> None:
    """Let the C library hand what was freed back to the machine; most keep it, glibc hands it over when asked."""
    trim = _of_glibc("malloc_trim")
    if trim:
        trim(0)


@contextlib.contextmanager
def without_gaps() -> Iterator[None]:
    """While this is entered, large arrays that are freed leave no gaps behind: glibc maps each of them on its own.

    That is for weights that are exchanged for others. Where arrays come and go all the time, mapping costs too much.
    """
    set_option = _of_glibc("mallopt")
    if not set_option:
        yield
        return
    set_option(_M_MMAP_THRESHOLD, _LARGE)
    try:
        yield
    finally:
        _keep_as_usual(set_option)


def share_one_heap() -> None:
    """Have threads that begin from now on take from one heap what they need, and find there what others have freed.

    By default glibc gives each thread a heap of its own, which holds no array above 64 MiB and keeps gaps of its own.
    It does not take this back, so it is for processes of ours.
    """
    if set_option := _of_glibc("mallopt"):
        set_option(_M_ARENA_MAX, 1)


@contextlib.contextmanager
def reused() -> Iterator[None]:
    """While this is entered, arrays that are freed wait for others to take their place.

    By default glibc maps each large array anew and hands it back at once, and every time the machine clears all pages
    of it: where layers of a network are that large, that is a good part of the time. It holds in the main thread,
    and in threads that share its heap.
    """
    set_option = _of_glibc("mallopt")
    if not set_option:
        yield
        return
    set_option(_M_MMAP_MAX, 0)
    set_option(_M_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        set_option(_M_MMAP_MAX, _USUALLY_MAPPED)
        _keep_as_usual(set_option)


def _keep_as_usual(set_option: Callable[[int, int], int]) -> None:
    set_option(_M_MMAP_THRESHOLD, _LARGEST)
    set_option(_M_TRIM_THRESHOLD, 2 * _LARGEST)
    give_back()


def _of_glibc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def _most_in_use() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 10**9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _free_of_machine() -> int:
    if sys.platform == "win32":
        return _free_on_windows()
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:  # macOS tells the whole memory only; half of it is a fair guess of what is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return _UNKNOWN


def _free_of_group() -> int | None:
    """Return what is left of the limit of a control group (containers, SLURM); None where there is none."""
    try:
        groups = Path("/proc/self/cgroup").read_text("ascii").splitlines()
        name = next(line[3:] for line in groups if line.startswith("0::"))
        folder = Path("/sys/fs/cgroup") / name.lstrip("/")
        limit, used = ((folder / f"memory.{what}").read_text("ascii").strip() for what in ("max", "current"))
        return None if limit == "max" else int(limit) - int(used)
    except (OSError, StopIteration, ValueError):
        return None


def _free_on_windows() -> int:
    class Status(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API."""

        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "page_total", "page_free", "v", "v_free", "e")),
        )

    status = Status()
    status.length = ctypes.sizeof(Status)
    known = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return int(status.free) if known else _UNKNOWN
