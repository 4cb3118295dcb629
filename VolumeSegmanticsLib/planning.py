"""What a prediction will take before it begins, whatever the model: how it is divided, memory, disk and time."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from . import devices, io, memory
from .blocks import WrittenPlan
from .errors import ResourceError, TooLittleMemory
from .events import Log, Report
from .prediction import Prediction
from .settings import PredictSettings
from .unfinished import Identity, Unfinished

_UNSTEADY = 10_000_000  # bytes that the program itself takes more or less from one time to the next
_IN_PARTS = ".zarr, .seg.nrrd, .nrrd, .tif, .h5, .mrc, .npy"
_KEPT_BACK = 100_000_000  # bytes of freed memory that the C library does not give back; some 10 to 60 MB were seen


class Way(Protocol):
    """A prediction of one volume: in slabs, or in boxes.

    Attributes:
        kind: What its plans are.
        settings: Of the prediction.
    """

    kind: type[WrittenPlan]
    settings: PredictSettings

    def surely_fits(self, budget: int) -> bool:
        """Tell without a measurement that all fits into a budget of bytes."""
        ...

    def get_ready(self) -> None:
        """Bring into memory what counts as the program itself."""
        ...

    def plan(self, budget: int) -> Any:
        """Divide the prediction so that it fits into a budget of bytes."""
        ...

    def steps(self, divided: Any) -> int:
        """Return how many parts there are."""
        ...

    def seconds(self, divided: Any) -> float:
        """Try out some parts, and return about how long all of them take."""
        ...

    def predict(self, run: Any, report: Report) -> Prediction:
        """Do what is not done yet of a run; the result is read from its folder when it is needed."""
        ...


@dataclass(frozen=True)
class Run:
    """A prediction that works on the disk and can begin, or go on.

    Attributes:
        output: The label file that it makes.
        unfinished: Its plan, and what is done of it.
        way: How it is done.
    """

    output: Path
    unfinished: Unfinished[Any]
    way: Way

    def predict(self, report: Report) -> Prediction:
        """Do what is not done yet; the result is read from the folder of the run when it is needed."""
        return self.way.predict(self.unfinished, report)


def begin_or_resume(way: Way, facts: Callable[[], Identity], outputs: Sequence[Path], report: Report) -> Run | None:
    """Return the prediction on the disk that makes a file; None where there is no need of one.

    Args:
        way: The prediction.
        facts: Returns what it is about.
        outputs: The files to be made, labels first, beside which the run keeps what it has done.
        report: Is told.

    Raises:
        ResourceError: Memory or disk are too small.
    """
    folder = Unfinished.folder_of(outputs[0]) if outputs else None
    known = Unfinished.find(folder, facts(), way.kind, report) if folder and folder.is_dir() else None
    if known:
        report(Log("info", f"An interrupted prediction goes on: {known.done} of {way.steps(known.plan)} steps."))
        return Run(outputs[0], known, way)
    if _surely_fits(way) or (folder is None and not way.settings.memory):
        return None
    divided, allowed = _planned(way)
    if not divided.on_disk:
        return None
    if folder is None:
        raise ResourceError(
            f"The volume does not fit into {way.settings.memory} of memory.",
            "Name an output file: then it goes part by part.",
        )
    _check_outputs(divided, outputs, allowed)
    place = f'{memory.told(divided.disk_bytes)} in "{folder.name}"'
    report(Log("info", f"{divided.told()}, with {place} until it is done."))
    return Run(outputs[0], Unfinished.begin(folder, facts(), divided), way)


def _surely_fits(way: Way) -> bool:
    with contextlib.suppress(ResourceError):  # a model takes less in the end than when it was loaded
        return way.surely_fits(budget(way.settings))
    return False


def _planned(way: Way) -> tuple[Any, int]:
    """Return the plan of a prediction, and the bytes that it may take."""
    way.get_ready()
    memory.give_back()
    taken = memory.in_use() + _KEPT_BACK
    try:
        allowed = budget(way.settings)
        divided = way.plan(allowed)
    except TooLittleMemory as error:
        raise ResourceError(error.message, _remedy(error if error.needed else _refused(way), taken)) from error
    memory.give_back()  # of what the plan was measured with
    return divided, allowed


def _refused(way: Way) -> TooLittleMemory:
    """Return what a plan says that has no memory at all."""
    try:
        way.plan(0)
    except TooLittleMemory as error:
        return error
    raise AssertionError("a prediction in no memory")


def _remedy(error: TooLittleMemory, taken: int) -> str:
    """Return what to do: the smallest amount that is enough, if the program itself takes so much."""
    least = memory.at_least(taken + error.needed + _UNSTEADY)
    return f"Give it at least {least}{f', or {error.otherwise}' if error.otherwise else ''}."


def _check_outputs(divided: WrittenPlan, outputs: Sequence[Path], allowed: int) -> None:
    """Make sure that memory and disk are large enough to write what a plan makes."""
    check_writers(outputs, 3 * math.prod(divided.shape), allowed)
    check_disk(divided, outputs[0].parent)


def check_writers(outputs: Sequence[Path], needed: int, budget: int) -> None:
    """Make sure that results are written some slices at a time, or that all of them fit into the memory.

    Raises:
        ResourceError: They do not.
    """
    for path in outputs:
        if needed > budget and not io.writes_in_parts(path):
            raise ResourceError(
                f'To write "{path.name}" takes {memory.told(needed)} of memory, and there are {memory.told(budget)}.',
                f"Write one of {_IN_PARTS}, or a folder: these are written some slices at a time.",
            )


def budget(settings: PredictSettings) -> int:
    """Return how many bytes a prediction may take beyond what the process holds already.

    An amount of the user's counts everything. Half of what is free is the default; only where the fusion leaves no
    choice, all of it.
    """
    if settings.memory:
        allowed, taken = memory.parse(settings.memory), memory.in_use() + _KEPT_BACK
        if allowed <= taken:
            raise TooLittleMemory(
                f"The program alone takes {memory.told(taken)}, and it is given {memory.told(allowed)}.",
                f"Give it more memory, above {memory.at_least(taken)}.",
            )
        return allowed - taken
    return memory.free() // (2 if settings.fusion == "max" else 1)


def check_disk(divided: WrittenPlan, folder: Path) -> None:
    """Make sure that what is kept on the way, and the result, have a place.

    Raises:
        ResourceError: The disk is too full.
    """
    needed, free = divided.disk_bytes + 2 * math.prod(divided.shape), shutil.disk_usage(io.existing(folder)).free
    if free < needed:
        raise ResourceError(
            f"The prediction needs {memory.told(needed)} on the disk of {folder}, and {memory.told(free)} are free.",
            "Free some space, write the result to another disk, or give it more memory.",
        )


@dataclass(frozen=True)
class Estimate:
    """What a prediction will take.

    Attributes:
        plan: How it is divided.
        seconds: About how long it computes.
        memory: Bytes, those that the program itself takes included.
        device: What computes.
    """

    plan: WrittenPlan
    seconds: float
    memory: int
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {
            "seconds": self.seconds, "memory_bytes": self.memory, "disk_bytes": self.plan.disk_bytes,
            "device": self.device, "plan": self.plan.to_dict(),
        }  # fmt: skip

    def text(self) -> str:
        """Return it for people."""
        minutes, seconds = divmod(round(self.seconds), 60)
        clock = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
        lines = [
            f"{self.plan.told()}.",
            f"time    about {clock} on {self.device}, without reading and writing",
            f"memory  {memory.told(self.memory)}",
        ]
        if self.plan.disk_bytes:
            lines.append(f"disk    {memory.told(self.plan.disk_bytes)} until the result is written")
        return "\n".join(lines)


def estimate(way: Way, outputs: Sequence[Path] = ()) -> Estimate:
    """Plan a prediction, and try out how long its parts take.

    Args:
        way: The prediction.
        outputs: The files to be made, labels first; none where that is not known yet.

    Raises:
        ResourceError: It cannot be made to fit, or its result not be written; the hint says what would help.
    """
    divided, allowed = _planned(way)
    if divided.on_disk and outputs:
        _check_outputs(divided, outputs, allowed)
    taken = memory.in_use() + divided.peak_bytes
    return Estimate(divided, way.seconds(divided), taken, str(devices.choose(way.settings.device)))


__all__ = ["Estimate", "Run", "Way", "begin_or_resume", "estimate"]
