"""Installs what the worker needs into Slicer's Python: PyTorch through the PyTorch extension, the rest through Slicer.

What Slicer ships (numpy, SimpleITK …) stays as it is, and torch is never imported here. A Python of the user's own,
such as a conda environment, is another way to run workers: it is looked at, and nothing is installed into it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import platform
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from VolumeSegmanticsLib.errors import Cancelled, DependencyError
from VolumeSegmanticsLib.launch import WorkerProcess, clean_environment, find_python

from .commands import Tell, run
from .pip_causes import explain
from .requirements import NEEDED, Requirement, megabytes, missing
from .runner import GRACE_SECONDS, Worker

EXTENSION, EXTENSION_MODULE = "PyTorch", "PyTorchUtils"
REQUESTER = "Volume Segmantics"

KEPT = (*(one.name for one in NEEDED if one.ships_with_slicer or one.is_torch), "requests", "pillow")
"""Packages whose present version stays, whatever the others would like."""
OPENCV, OTHER_OPENCVS = "opencv-python-headless", ("opencv-python", "opencv-contrib-python")
"""They share one folder: a second one breaks the first."""

LONGEST_PATH = 259
LONGEST_IN_TORCH = 160
"""Characters: what Windows opens, and the longest name below site-packages in the packages of PyTorch."""

TAIL_LINES = 30
REACH = "import urllib.request as r; r.urlopen('https://pypi.org/simple/pip/', timeout=10).read(1)"

BROKEN_HINT = (
    "Restart Slicer, uninstall PyTorch in the module PyTorch Utils, and press Train again; "
    "or name an external Python under Advanced."
)

Confirm = Callable[[str], bool]


def python_of_worker(external: str = "") -> str:
    """Return the Python that workers run with: the user's own where one is named, else Slicer's.

    Raises:
        DependencyError: There is no such file.
        WorkerError: Slicer's own is not found.
    """
    if external and not Path(external).is_file():
        raise DependencyError(f'There is no Python "{external}".', "Name the python executable of an environment.")
    return external or find_python()


def start_worker_with(external: str, folder: Path) -> Worker:
    """Start the worker of a job with the Python that the user has named, or Slicer's own; see ``StartWorker``."""
    environment = clean_environment(os.environ, external=bool(external))
    return WorkerProcess(
        folder, python=python_of_worker(external), environment=environment, grace_seconds=GRACE_SECONDS
    )


def question(lacking: Sequence[Requirement]) -> str:
    """Return what the user is asked before anything is downloaded."""
    rows = "\n".join(f"- {one.name}, for {one.reason}{_aside(one)}" for one in lacking)
    return (
        f"Volume Segmantics needs {len(lacking)} more Python packages, about {megabytes(lacking)} MB to download:\n"
        f"{rows}\n{path_warning()}They go into Slicer's own Python. Install them now?"
    )


def path_warning() -> str:
    """Return a warning where Windows is likely to refuse the long file names of PyTorch; else nothing."""
    folder = sysconfig.get_paths()["purelib"]
    if os.name != "nt" or len(folder) + 1 + LONGEST_IN_TORCH <= LONGEST_PATH:
        return ""
    return (
        f"Slicer is installed in a folder with a long name, and Windows may refuse PyTorch's files in it ({folder}). "
        "If that happens, install Slicer in a short one, such as C:\\Slicer.\n"
    )


def install(
    lacking: Sequence[Requirement],
    *,
    python: str = "",
    confirm: Confirm,
    report: Tell = lambda line: None,
    breathe: Callable[[], object] = lambda: None,
    slicer: Any = None,
) -> None:
    """Install what is missing into Slicer's Python, and return once it is there.

    Args:
        lacking: From `missing`.
        python: The external Python that runs the worker, where there is one.
        confirm: Shows a question, and returns whether the answer is yes.
        report: Takes the lines of what happens.
        breathe: Called again and again meanwhile, such as Slicer's ``processEvents``; may raise Cancelled.
        slicer: Slicer's package; the one that is running where it is None.

    Raises:
        Cancelled: An answer was no.
        DependencyError: It did not work; the message says why, the hint what to do.
    """
    slicer = slicer or importlib.import_module("slicer")
    _refuse_what_cannot_work(lacking, python)
    if not confirm(question(lacking)):
        raise Cancelled
    if any(one.is_torch for one in lacking):
        _install_torch(slicer, lacking, confirm, report, breathe)
    if others := [one for one in lacking if not one.is_torch]:
        _install_others(slicer, others, report, breathe)
    importlib.invalidate_caches()
    if left := missing(python or None, breathe=breathe):
        raise DependencyError(f"After the installation these packages do not work: {_told(left)}.", BROKEN_HINT)


def install_readers(
    lacking: Sequence[Requirement],
    *,
    confirm: Confirm,
    report: Tell = lambda line: None,
    breathe: Callable[[], object] = lambda: None,
    slicer: Any = None,
) -> None:
    """Install what Slicer's own Python needs to read files; arguments and errors are those of `install`."""
    if not confirm(question(lacking)):
        raise Cancelled
    _install_others(slicer or importlib.import_module("slicer"), lacking, report, breathe)
    importlib.invalidate_caches()


def _refuse_what_cannot_work(lacking: Sequence[Requirement], python: str) -> None:
    if python and (outside := [one.wanted for one in lacking if one.of_worker]):
        wanted = " ".join(f'"{name}"' for name in outside)
        raise DependencyError(
            f'"{python}" lacks {len(outside)} packages; nothing is installed into a Python that is not Slicer\'s.',
            f'Run in a shell: "{python}" -m pip install {wanted}',
        )
    if shipped := [one for one in lacking if one.ships_with_slicer]:
        raise DependencyError(f"Packages that Slicer ships do not fit: {_told(shipped)}.", "Use Slicer 5.10 or newer.")
    if _is_for_intel_macs() and any(one.is_torch for one in lacking):
        raise DependencyError(
            "PyTorch for this Slicer, which is built for Intel Macs, does not work with its numpy.",
            "Make an environment with a Python of your own, such as conda's, and name it under Advanced.",
        )


def _is_for_intel_macs() -> bool:
    return sys.platform == "darwin" and platform.machine() == "x86_64"


def _told(requirements: Sequence[Requirement]) -> str:
    return ", ".join(f"{one.name} ({one.problem})" for one in requirements)


def _aside(one: Requirement) -> str:
    return "" if one.problem == "missing" else f" ({one.problem})"


# PyTorch --------------------------------------------------------------------------------------------------------------


def _install_torch(
    slicer: Any, lacking: Sequence[Requirement], confirm: Confirm, report: Tell, breathe: Callable[[], object]
) -> None:
    """Install torch and torchvision, always both, as the PyTorch extension does; that one would import torch here."""
    logic = _pytorch_extension(slicer, confirm).PyTorchUtilsLogic()
    wanted = {one.name: one.versions for one in NEEDED if one.is_torch}
    try:
        arguments = logic._getPipInstallArguments(None, wanted["torch"], wanted["torchvision"])
        logic._installLightTheTorch()
    except (AttributeError, TypeError) as error:
        raise DependencyError(
            f"This version of the PyTorch extension is not known here ({error}).",
            "Open the module PyTorch Utils, install PyTorch there, and press Train again.",
        ) from error
    except Exception as error:  # pip's, in Slicer's words
        raise _explained(str(error), breathe) from error
    is_broken = any(one.problem.startswith("broken") for one in lacking)
    anew = [[*arguments, "--force-reinstall", "--no-deps"]] if is_broken else []  # what it needs is not replaced
    with _constraints(without=[one.name for one in lacking]) as file:
        for words in [*anew, arguments]:
            command = [find_python(), "-m", "light_the_torch", *words, "-c", str(file)]
            code, output = run(command, report=report, breathe=breathe)
            if code:
                raise _explained(output, breathe)


def _pytorch_extension(slicer: Any, confirm: Confirm) -> ModuleType:
    """Return the module of the PyTorch extension, which is installed where it is absent and the user agrees."""
    with contextlib.suppress(ImportError):
        return importlib.import_module(EXTENSION_MODULE)
    if not confirm("PyTorch comes through Slicer's PyTorch extension, which is not installed. Install the extension?"):
        raise Cancelled
    extensions = slicer.app.extensionsManagerModel()
    was_interactive = extensions.property("interactive")
    extensions.setInteractive(False)  # the question has been asked
    try:
        is_there = extensions.installExtensionFromServer(EXTENSION, False)  # no restart: the scene would be lost
    finally:
        extensions.setInteractive(True if was_interactive is None else was_interactive)
    if is_there:
        sys.path += [str(path) for path in extensions.extensionModulePaths(EXTENSION)]
        importlib.invalidate_caches()
        with contextlib.suppress(ImportError):
            return importlib.import_module(EXTENSION_MODULE)
    raise DependencyError(
        "The PyTorch extension could not be installed.",
        "Install PyTorch with the Extensions Manager, restart Slicer, and press Train again; it needs the network.",
    )


# The rest -------------------------------------------------------------------------------------------------------------


def _install_others(slicer: Any, others: Sequence[Requirement], report: Tell, breathe: Callable[[], object]) -> None:
    """Let Slicer's own installer bring packages, with what is there already held at its version."""
    wanted = [one.wanted for one in others]
    report(f"Installing {', '.join(wanted)}")
    with _constraints(without=[one.name for one in others]) as file:
        try:
            if packaging := _slicer_packaging(slicer):
                packaging.pip_ensure(
                    wanted,
                    constraints=str(file),
                    skip_packages=[OPENCV] if any(map(_version, OTHER_OPENCVS)) else None,
                    prompt_install=False,
                    prompt_restart=False,
                    requester=REQUESTER,
                )
            else:
                slicer.util.pip_install([*wanted, "-c", str(file)])
        except Exception as error:  # subprocess.CalledProcessError, whose output Slicer has printed
            raise _explained(str(error), breathe) from error


def _slicer_packaging(slicer: Any) -> Any:
    """Return ``slicer.packaging``, which Slicer has since 5.12; None before."""
    if not hasattr(slicer, "packaging"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"{slicer.__name__}.packaging")
    return getattr(slicer, "packaging", None)


@contextlib.contextmanager
def _constraints(without: Sequence[str]) -> Iterator[Path]:
    """Yield a file for pip that holds packages at their present versions, but for those to be installed."""
    present = {name: _version(name) for name in KEPT if name not in without}
    with tempfile.TemporaryDirectory(prefix="VolumeSegmantics-") as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("".join(f"{name}=={version}\n" for name, version in present.items() if version))
        yield file


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name) or ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def _explained(output: str, breathe: Callable[[], object]) -> DependencyError:
    """Return the error for a failed installation; where its output tells nothing, try whether there is a network."""
    known = explain(output)
    if known is None:
        code, reached = run([find_python(), "-c", REACH], breathe=breathe)
        known = explain(reached) if code else None
    if known is None:
        last = "\n".join(output.strip().splitlines()[-TAIL_LINES:])
        known = "The packages could not be installed.", f"The end of what the installer said:\n{last}"
    return DependencyError(*known)
