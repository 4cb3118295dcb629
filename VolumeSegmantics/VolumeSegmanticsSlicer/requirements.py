"""What a worker needs, and what of it a Python lacks: asked of it by a short process, never by importing torch.

``NEEDED`` agrees with the dependencies in ``pyproject.toml``; sizes are those of the downloads, with what comes along.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from VolumeSegmanticsLib.errors import DependencyError, WorkerError
from VolumeSegmanticsLib.launch import clean_environment, find_python

from .commands import NO_WINDOW, PAUSE_SECONDS

OLDEST_PYTHON = (3, 10)
MEGABYTES_OF_CUDA = 3000
"""What PyTorch weighs where it comes with the libraries of an NVIDIA GPU."""

PROBE_SECONDS = 300.0
"""The first import of torch from a slow disk, with a virus scanner behind it, takes minutes; it can be cancelled."""


@dataclass(frozen=True)
class Requirement:
    """A package, or what is wrong with it.

    Attributes:
        name: As the package index has it.
        versions: Which may be used, such as ``">=2.2"``.
        reason: What it is for, to be read after "for".
        megabytes: Of the download, about.
        ships_with_slicer: Slicer has its own, which must stay as it is.
        read_in_slicer: Slicer's own Python needs it for every job, also where another runs the worker; for what only
            some files need see ``readers``.
        problem: What is wrong: ``"missing"``, ``"too old: 1.2"``, or how importing it fails.
        of_worker: Whether the Python that runs the worker lacks it, not Slicer's where that is another.
    """

    name: str
    versions: str
    reason: str
    megabytes: int = 1
    ships_with_slicer: bool = False
    read_in_slicer: bool = False
    problem: str = ""
    of_worker: bool = True

    @property
    def wanted(self) -> str:
        """Name and versions, as pip takes them."""
        return self.name + self.versions

    @property
    def is_torch(self) -> bool:
        """Whether the PyTorch extension brings it."""
        return self.name in TORCH


TORCH = ("torch", "torchvision")
SLICER = {"ships_with_slicer": True, "read_in_slicer": True}
NEEDED = (
    Requirement("numpy", ">=1.26", "arrays", 20, **SLICER),
    Requirement("scipy", ">=1.11", "distances and filters", 40, **SLICER),
    Requirement("SimpleITK", ">=2.3", "image files", 55, **SLICER),
    Requirement("mrcfile", ">=1.5", "files of electron tomography"),
    Requirement("tifffile", ">=2023.7", "TIFF files"),
    Requirement("imagecodecs", ">=2023.7", "compressed TIFF files", 20),
    Requirement("torch", ">=2.2", "training and prediction", 200),
    Requirement("torchvision", ">=0.17", "operators that networks need", 8),
    Requirement("segmentation-models-pytorch", ">=0.5", "network architectures", 5),
    Requirement("albumentations", ">=2.0.8,<2.1", "augmentation", 65),
    Requirement("safetensors", ">=0.4.3", "model files that hold no code", 1),
    Requirement("matplotlib", ">=3.8", "pictures in reports", 25),
)

# fmt: off
PROBE = """
import importlib, importlib.metadata, json, sys
sys.path[:] = [place for place in sys.path if place]  # not the current folder
found = {}
for name in json.loads(sys.argv[1]):
    try:
        found[name] = importlib.metadata.version(name) or ""
    except importlib.metadata.PackageNotFoundError:
        pass
broken = {}
for name in json.loads(sys.argv[2]):
    if name in found:
        try:
            getattr(importlib.import_module(name), "__version__")
        except BaseException as error:
            broken[name] = f"{type(error).__name__}: {error}"
print("\\n@" + json.dumps({"python": sys.version_info[:3], "found": found, "broken": broken}))
"""
# fmt: on


class Probe:
    """Asks a Python what it has, in a process of its own: poll it from a timer, and close it.

    Args:
        python: An executable; None is the one that workers run with, Slicer's own.

    Raises:
        WorkerError: It cannot be started.
    """

    def __init__(self, python: str | os.PathLike[str] | None = None) -> None:
        self.python = os.fspath(python or find_python())
        self._external = python is not None
        self._end = time.monotonic() + PROBE_SECONDS
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe would have to be read all the time
        names = [one.name for one in NEEDED]
        words = [self.python, "-c", PROBE, json.dumps(names), json.dumps(TORCH)]
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                env=clean_environment(os.environ, external=self._external),
                creationflags=NO_WINDOW,
            )
        except (OSError, ValueError) as error:
            self._output.close()
            raise WorkerError(
                f'"{self.python}" cannot be started ({error}).', "Name the python executable of an environment."
            ) from error

    def poll(self) -> tuple[Requirement, ...] | None:
        """Return what is missing or broken, or None while nobody knows yet; never waits.

        Raises:
            DependencyError: It is no Python, too old a one, or does not answer.
        """
        if self._process.poll() is None:
            if time.monotonic() < self._end:
                return None
            self.close()
            raise DependencyError(
                f'"{self.python}" does not answer within {PROBE_SECONDS:.0f} s.', "Try again, or name another Python."
            )
        answer = self._answer()
        here = _lacking(*_of_this_process(), read_in_slicer_only=True) if self._external else ()
        return _lacking(answer["found"], answer["broken"]) + tuple(replace(one, of_worker=False) for one in here)

    def close(self) -> None:
        """End it where it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def _answer(self) -> dict[str, Any]:
        self._output.seek(0)
        output = self._output.read().decode("utf-8", errors="replace")
        start = output.rfind("\n@{")
        if start < 0:
            last = output.strip().splitlines()[-1:] or ["It said nothing."]
            raise DependencyError(f'"{self.python}" cannot be used as Python.', f"Name another. {last[0]}")
        answer: dict[str, Any] = json.loads(output[start + 2 :].splitlines()[0])
        if tuple(answer["python"][:2]) < OLDEST_PYTHON:
            version = ".".join(map(str, answer["python"]))
            raise DependencyError(
                f'"{self.python}" is Python {version}.',
                f"Name one of version {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer.",
            )
        return answer


def missing(
    python: str | os.PathLike[str] | None = None, *, breathe: Callable[[], object] = lambda: None
) -> tuple[Requirement, ...]:
    """Return what a Python lacks of what the worker needs; waits for its answer.

    Args:
        python: An executable; None is Slicer's own.
        breathe: Called again and again meanwhile, such as to keep a window alive; what it raises ends the wait.

    Raises:
        DependencyError: It is no Python, too old a one, or does not answer.
        WorkerError: It cannot be started.
    """
    probe = Probe(python)
    try:
        while (lacking := probe.poll()) is None:
            breathe()
            time.sleep(PAUSE_SECONDS)
        return lacking
    finally:
        probe.close()


def megabytes(lacking: Sequence[Requirement]) -> int:
    """Return how much has to be downloaded, about."""
    return sum(MEGABYTES_OF_CUDA if one.name == "torch" and has_nvidia_gpu() else one.megabytes for one in lacking)


def has_nvidia_gpu() -> bool:
    """Whether there is a driver for an NVIDIA GPU, for which PyTorch brings libraries."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def _of_this_process() -> tuple[dict[str, str], dict[str, str]]:
    present = {}
    for one in NEEDED:
        try:
            present[one.name] = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return present, {}


def _lacking(
    found: dict[str, str], broken: dict[str, str], *, read_in_slicer_only: bool = False
) -> tuple[Requirement, ...]:
    """Return the rows of the table that a Python does not meet, with what is wrong."""
    rows = [one for one in NEEDED if one.read_in_slicer or not read_in_slicer_only]
    told = [replace(one, problem=_problem(one, found, broken)) for one in rows]
    return tuple(one for one in told if one.problem)


def _problem(one: Requirement, found: dict[str, str], broken: dict[str, str]) -> str:
    if one.name not in found:
        return "missing"
    if one.name in broken:
        return f"broken: {broken[one.name]}"
    return "" if fits(found[one.name], one.versions) else f"not {one.versions}: {found[one.name]}"


def fits(version: str, versions: str) -> bool:
    """Whether a version is one of those such as ``">=2.0.8,<2.1"``; parts that are no numbers do not count."""
    number = _numbers(version)
    for condition in filter(None, versions.split(",")):
        limit = _numbers(condition.lstrip("<>="))
        if (condition.startswith(">=") and number < limit) or (condition.startswith("<") and number >= limit):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.partition("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
