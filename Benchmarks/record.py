"""What every benchmark needs: CPU seconds, memory, and a place to write its table down."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PACKAGES = ("volumesegmantics", "torch", "segmentation-models-pytorch", "numpy")


def cpu_seconds(who: int = resource.RUSAGE_SELF) -> float:
    """Return the CPU seconds used so far, user and system, by this process or by its children."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def peak_bytes(who: int = resource.RUSAGE_SELF) -> int:
    """Return the largest resident memory so far."""
    status = Path("/proc/self/status")
    if who == resource.RUSAGE_SELF and status.exists():  # getrusage also counts what a parent held when it forked
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_bytes() -> int:
    """Return the memory that this process holds now; its largest so far where the system does not tell."""
    status = Path("/proc/self/status")
    return 1024 * int(status.read_text().split("VmRSS:")[1].split()[0]) if status.exists() else peak_bytes()


def machine() -> str:
    """Return processor, cores and versions in one line."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    )
    processor = names[0].partition(":")[2].strip() if names else platform.processor()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_down(title: str, text: str) -> None:
    """Print a result, and put it at the end of the document."""
    today = datetime.date.today().isoformat()
    section = f"\n## {title}, {today}\n\n{machine()}\n\n{text}\n"
    sys.stdout.write(section)
    with DOCUMENT.open("a", encoding="utf-8") as document:
        document.write(section)


def conclude(title: str, text: str, *, is_kept: bool) -> None:
    """Print a result; where it is kept, put it at the end of the document too."""
    if is_kept:
        write_down(title, text)
    else:
        sys.stdout.write(f"{title}\n\n{text}\n")
