"""The folder of an unfinished prediction, beside the result to be, so that the same command goes on where it was."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from .blocks import AnyPlan
from .errors import ResourceError
from .events import Log, Report
from .jobs import write_atomically
from .memory import told

BRICKS = ".bricks"
"""Suffix of the files that hold voxels."""

MODEL, SESSION = "model.safetensors", ".session"
"""What workers of a cluster find there too: the model, and a file whose name is that of the process that sends them."""

_FILE = "progress.json"
_OTHERS = (f"*{BRICKS}", MODEL, f"*{SESSION}", ".*.tmp")
_VERSION = 1

Identity = dict[str, Any]
"""What the run is about, as JSON-able values: what has to be the same for it to go on."""


@dataclass
class Unfinished(Generic[AnyPlan]):
    """What a run has done so far.

    Attributes:
        folder: Where its files lie.
        identity: What it is about.
        plan: How it is done.
        done: Slabs or boxes that are finished, in the order of the plan.
        ahead: Those beyond that are finished too, where several are worked on together.
        sizes: Bytes of the files that hold voxels, by name.
    """

    folder: Path
    identity: Identity
    plan: AnyPlan
    done: int = 0
    ahead: list[int] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def folder_of(output: Path) -> Path:
        """Return the folder of the run that makes a file."""
        return output.with_name(f"{output.name}.unfinished")

    @classmethod
    def find(cls, folder: Path, identity: Identity, kind: type[AnyPlan], report: Report) -> Unfinished[AnyPlan] | None:
        """Return the interrupted run of this very identity, if its files are whole; any other is removed, and told.

        A run that was killed before it had a plan has done nothing, so there is nothing to tell of it.
        """
        if not cls.has_begun(folder):
            if folder.is_dir():
                remove(folder)
            return None
        try:
            known = json.loads((folder / _FILE).read_text("utf-8"))
            other = [name for name in identity if known["identity"].get(name) != identity[name]]
            sizes = {name: int(size) for name, size in known.get("sizes", {}).items()}
            lost = [name for name in sizes if _sizes(folder).get(name) != sizes[name]]
            if known["version"] == _VERSION and not other and not lost:
                plan, ahead = kind.from_dict(known["plan"]), [int(number) for number in known.get("ahead", [])]
                return cls(folder, identity, plan, int(known["done"]), ahead, sizes)
            if other:
                what = f"with another {other[0]}"
            else:
                what = f'whose file "{lost[0]}" is gone or damaged' if lost else "of another version"
        except (OSError, ValueError, KeyError, TypeError):
            what = "that cannot be read"
        report(Log("warning", f"An interrupted prediction {what} was found: starting anew."))
        remove(folder)
        return None

    @classmethod
    def begin(cls, folder: Path, identity: Identity, plan: AnyPlan) -> Unfinished[AnyPlan]:
        """Make the folder of a new run, with its plan.

        Raises:
            ResourceError: It cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(f"{folder} cannot be made ({error.strerror}).", "Choose another folder.") from error
        run = cls(folder, identity, plan)
        run.keep()
        return run

    def keep(self) -> None:
        """Write down how far it has come; files keep the size that they had at first."""
        self.sizes = {**_sizes(self.folder), **self.sizes}
        facts = {
            "version": _VERSION, "done": self.done, "ahead": self.ahead, "sizes": self.sizes,
            "identity": self.identity, "plan": self.plan.to_dict(),
        }  # fmt: skip
        write_atomically(self.folder / _FILE, json.dumps(facts, indent=1))

    def finished_one(self) -> None:
        """Write down that one more is done."""
        self.done += 1
        self.keep()

    def finished(self, number: int) -> None:
        """Write down that one is done, whichever it is."""
        self.ahead = sorted({*self.ahead, number})
        while self.ahead and self.ahead[0] == self.done:
            self.done += 1
            del self.ahead[0]
        self.keep()

    def is_done(self, number: int) -> bool:
        """Tell whether one is finished."""
        return number < self.done or number in self.ahead

    @contextlib.contextmanager
    def disk_in_use(self) -> Iterator[None]:
        """Work with files of the run.

        Raises:
            ResourceError: The disk is full, or files are gone.
        """
        try:
            yield
        except OSError as error:
            raise ResourceError(
                f"The files in {self.folder} cannot be used ({error.strerror or error}).",
                f"It takes {told(self.plan.disk_bytes)} there. The same command goes on where it was.",
            ) from error

    @staticmethod
    def has_begun(folder: Path) -> bool:
        """Tell whether a folder holds a run with a plan."""
        return (folder / _FILE).exists()

    def remove(self) -> None:
        """Delete everything: the run is over."""
        remove(self.folder)


def _sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of the files that hold voxels, by name."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob(f"*{BRICKS}"))}


def remove(folder: Path) -> None:
    """Delete the files of an unfinished prediction, its facts first, and the folder if nothing else lies there."""
    others = (path for pattern in _OTHERS for path in folder.glob(pattern))
    for path in (folder / _FILE, *others):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
