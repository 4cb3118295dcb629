"""What a prediction will take before it begins: how it is divided, memory, disk and time."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import devices, io, memory
from .big_prediction import identity
from .blocks import Plan, Work, plan, tiles
from .dataset import plane_scale
from .errors import ResourceError
from .events import Log, Report
from .footprint import need_of, surely_fits
from .models import Model, neighbours
from .prediction import Predictor, check, seen_axes
from .settings import PredictSettings
from .unfinished import Unfinished
from .views import View, views
from .volume import Volume

_LONG = 3.0  # s; what takes longer is not tried twice


@dataclass(frozen=True)
class Run:
    """A prediction in slabs that can begin, or go on.

    Attributes:
        output: The label file that it makes.
        unfinished: Its plan, and what is done of it.
        views: Along which it looks.
        predictor: Answers.
    """

    output: Path
    unfinished: Unfinished
    views: tuple[View, ...]
    predictor: Predictor


def begin_or_resume(
    image: Volume, source: Path | None, model: Model, settings: PredictSettings, outputs: Sequence[Path], report: Report
) -> Run | None:
    """Return the prediction in slabs that makes a file; None where there is no need to divide it.

    Args:
        image: Memory-mapped or lazy.
        source: The file or folder that it lies in.
        model, settings: Of the prediction.
        outputs: The files to be made, labels first, beside which the run keeps what it has done.
        report: Is told.

    Raises:
        ResourceError: Memory or disk are too small.
        ModelError: The model takes another number of channels.
    """
    check(image, model)
    seen = views(settings.quality, seen_axes(image, model, settings))
    work, facts = _work(image, model, settings, seen), partial(identity, image, source, model, settings)
    folder = Unfinished.folder_of(outputs[0]) if outputs else None
    known = Unfinished.find(folder, facts(), report) if folder and folder.is_dir() else None
    if known:
        report(Log("info", f"An interrupted prediction goes on: {known.done} of {len(known.plan.slabs(seen))} steps."))
        return Run(outputs[0], known, seen, Predictor(model, settings))
    if _surely_fits(work, settings) or (folder is None and not settings.memory):
        return None
    predictor = Predictor(model, settings)
    divided = plan(work, need_of(predictor), budget(settings))
    if not divided.in_slabs:
        return None
    if folder is None:
        raise ResourceError(
            f"The volume does not fit into {settings.memory} of memory.", "Name an output file: then it goes in slabs."
        )
    _check_writers(outputs, 3 * work.voxels, budget(settings))
    check_disk(divided, folder.parent)
    report(Log("info", f'{_how(divided)}, with {memory.told(divided.disk_bytes)} in "{folder.name}" until it is done.'))
    return Run(outputs[0], Unfinished.begin(folder, facts(), divided), seen, predictor)


def _check_writers(outputs: Sequence[Path], needed: int, budget: int) -> None:
    """Make sure that results are written some slices at a time, or that all of them fit into the memory."""
    for path in outputs:
        if needed > budget and not io.writes_in_parts(path):
            raise ResourceError(
                f'To write "{path.name}" takes {memory.told(needed)} of memory, and there are {memory.told(budget)}.',
                "Write .nrrd, .seg.nrrd, .tif or .zarr, which are written some slices at a time.",
            )


def budget(settings: PredictSettings) -> int:
    """Return how many bytes a prediction may take beyond what the process holds already.

    An amount of the user's counts everything. Half of what is free is the default; only where the fusion leaves no
    choice, all of it.
    """
    if settings.memory:
        allowed, taken = memory.parse(settings.memory), memory.in_use()
        if allowed <= taken:
            raise ResourceError(
                f"The program alone takes {memory.told(taken)}, and it is given {memory.told(allowed)}.",
                f"Give it more, at least --memory {math.ceil(taken / 10**9) + 1}GB.",
            )
        return allowed - taken
    return memory.free() // (2 if settings.fusion == "max" else 1)


def check_disk(divided: Plan, folder: Path) -> None:
    """Make sure that what is between two slabs, and the result, have a place.

    Raises:
        ResourceError: The disk is too full.
    """
    needed, free = divided.disk_bytes + 2 * math.prod(divided.shape), shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"The prediction needs {memory.told(needed)} on the disk of {folder}, and {memory.told(free)} are free.",
            "Free some space, write the result to another disk, or give more --memory.",
        )


@dataclass(frozen=True)
class Estimate:
    """What a prediction will take.

    Attributes:
        plan: How it is divided.
        seconds: About how long the network computes.
        memory: Bytes, those that the program itself takes included.
        device: What computes.
    """

    plan: Plan
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
            f"{_how(self.plan)}.",
            f"time    about {clock} on {self.device}, without reading and writing",
            f"memory  {memory.told(self.memory)}",
        ]
        if self.plan.disk_bytes:
            lines.append(f"disk    {memory.told(self.plan.disk_bytes)} until the result is written")
        return "\n".join(lines)


def estimate(image: Volume, model: Model, settings: PredictSettings) -> Estimate:
    """Plan a prediction, and try out how long the network takes for a batch of every axis.

    Raises:
        ResourceError: It cannot be made to fit; the hint says what would.
    """
    seen = views(settings.quality, seen_axes(image, model, settings))
    work, predictor = _work(image, model, settings, seen), Predictor(model, settings)
    divided = plan(work, need_of(predictor), budget(settings))
    taken = {axis: _seconds(axis, divided, work, predictor) for axis in work.axes}
    total = sum(taken[view.axis] for view in seen)
    return Estimate(divided, total, divided.peak_bytes + memory.in_use(), str(predictor.device))


def _work(image: Volume, model: Model, settings: PredictSettings, seen: Sequence[View]) -> Work:
    z, y, x = (plane_scale(View(axis), image.grid.spacing) for axis in range(3))
    return Work(
        image.grid.shape, tuple(seen), image.channels * image.array.dtype.itemsize, len(model.card.classes),
        settings.fusion, neighbours(model.card), (z, y, x), settings.batch_size,
    )  # fmt: skip


def _surely_fits(work: Work, settings: PredictSettings) -> bool:
    """Tell without trying the network that all fits into memory."""
    resident = work.voxels * (work.image_bytes + work.fused_bytes())
    largest = max(work.pixels(axis) for axis in work.axes) * max(1, work.batch)
    return surely_fits(resident, largest, devices.choose(settings.device).type, budget(settings))


def _seconds(axis: int, divided: Plan, work: Work, predictor: Predictor) -> float:
    """Return about how long the network computes all slices of an axis."""
    rows, columns = (n for a, n in enumerate(work.shape) if a != axis)
    seen = [min(n, divided.tile or n) for n in (rows, columns)]
    channels = predictor.card.channels * (2 * predictor.neighbours + 1)
    picture = np.random.default_rng(0).random((divided.batch[axis], *seen, channels), np.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // divided.workers))
    try:
        taken = _once(picture, work.scales[axis], predictor)
        if taken < _LONG:  # the first time is slower
            taken = _once(picture, work.scales[axis], predictor)
    finally:
        torch.set_num_threads(before)
    parts = len(tiles((rows, columns), divided.tile))
    return taken * parts * work.shape[axis] / divided.batch[axis] / divided.workers


def _once(picture: Any, scale: tuple[float, float], predictor: Predictor) -> float:
    start = time.perf_counter()
    predictor.answer(picture, scale, every=False)
    return time.perf_counter() - start


def _how(divided: Plan) -> str:
    if not divided.in_slabs:
        return "All in memory at once"
    z, y, x = divided.thickness
    tiled = f", in tiles of {divided.tile} pixels" if divided.tile else ""
    return f"In slabs of {z} slices along Z, {y} along Y, {x} along X{tiled}"


__all__ = ["Estimate", "Run", "begin_or_resume", "estimate"]
