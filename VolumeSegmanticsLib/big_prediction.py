"""Prediction of volumes larger than memory: slab by slab, with everything that is between two slabs on the disk.

The image is copied into bricks once, so that slabs of any axis are read with the same effort (see ``bricks``). Class
and probability of every voxel lie in bricks too, and each slab raises them where its view is surer. Doing that twice
changes nothing, and classes reach the disk before their probabilities: whenever a run ends, redoing its last slab
gives what an undisturbed run gives.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import io, memory
from .blocks import Plan, Slab
from .bricks import Bricks
from .dataset import plane_scale
from .events import Log, Progress, Report
from .fusion import FULL, MaxTarget
from .intensity import Intensity
from .models import Model
from .prediction import Prediction, Predictor, Steps, answer_slices, class_values
from .settings import PredictSettings
from .stores import Layers, Stored, forget_pages, sample
from .unfinished import BRICKS, Identity, Unfinished
from .views import View
from .volume import Grid, LabelMap, Volume


def identity(
    image: Volume, path: Path | None, model: Model, settings: PredictSettings, *, confidence: bool = False
) -> Identity:
    """Return what has to be the same for an interrupted run to go on.

    Args:
        image: Some of its voxels are looked at.
        path: The file or folder that it lies in; None where it is an array.
        model, settings: All of them counts.
        confidence: Whether the confidence is wanted too.
    """
    voxels = hashlib.sha256(np.ascontiguousarray(sample(image).array))
    return {
        "image": {
            "path": str(path.absolute()) if path else "",
            "files": _digest(io.files_of(path)) if path else "",
            "shape": list(image.array.shape),
            "dtype": image.array.dtype.str,
            "voxels": voxels.hexdigest(),
        },
        "model": model.digest(),
        "setting": {**settings.to_dict(), "confidence": confidence},
    }


def _digest(files: Sequence[Path]) -> str:
    """Return a digest of the names of files, how large they are, and when they were changed."""
    facts = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def predict_in_slabs(
    image: Volume,
    model: Model,
    views: Sequence[View],
    run: Unfinished[Plan],
    *,
    predictor: Predictor,
    report: Report,
) -> Prediction:
    """Segment a volume slab by slab, from where the run is.

    Args:
        image: Memory-mapped or lazy.
        model: What answers.
        views: Along which it is seen.
        run: Its plan, and what is done already.
        predictor: The same model, ready to answer.
        report: Takes ``Progress`` and ``Log``; may raise ``Cancelled``.

    Returns:
        Labels and confidence whose arrays are lazy, and read from the folder of the run.

    Raises:
        ResourceError: The disk is full, or files of the run are gone.
    """
    if remark := Intensity.from_dict(model.card.intensity).remark_on(sample(image)):
        report(Log("warning", remark))
    stores = Stores.of(run, image)
    with run.disk_in_use(), arrays_reused(run.plan):
        if not run.done:
            stores.create()
        _Slabs(image, views, run, stores, predictor, report).work()
    return stores.prediction(image, model, run.plan.thickness[0])


@dataclass(frozen=True)
class Stores:
    """The files of a run.

    Attributes:
        image: The image in bricks; None where it is read from where it is.
        best: Class index of every voxel.
        probability: How sure that is; 65535 = 1.
    """

    image: Bricks | None
    best: Bricks
    probability: Bricks

    @classmethod
    def of(cls, run: Unfinished[Plan], image: Volume) -> Stores:
        """Return the files of a run, which may not be there yet."""

        def store(name: str, shape: tuple[int, ...], dtype: Any) -> Bricks:
            return Bricks(run.folder / (name + BRICKS), shape, np.dtype(dtype), run.plan.brick)

        copy = store("image", image.array.shape, image.array.dtype) if run.plan.copies else None
        return cls(copy, store("best", image.grid.shape, np.uint8), store("probability", image.grid.shape, np.uint16))

    def create(self) -> None:
        """Make all files anew."""
        for store in (self.image, self.best, self.probability):
            if store:
                store.create()

    def prediction(self, image: Volume, model: Model, thickness: int) -> Prediction:
        """Return the result, which is read when it is needed, so many slices at a time."""
        return lazy_prediction(self.best, self.probability, image, model, thickness)


def lazy_prediction(best: Stored, probability: Stored, image: Volume, model: Model, thickness: int) -> Prediction:
    """Return a result that is read when it is needed, so many slices at a time, from indices and probabilities."""
    values = class_values(model)
    labels = Layers(best, thickness, lambda best: values[best])
    sure = Layers(probability, thickness, lambda p: np.rint(p * np.float32(100 / FULL)).astype(np.uint8))
    return Prediction(LabelMap(labels.lazy(), image.grid, model.card.classes), sure.lazy())


@dataclass(frozen=True)
class Loaded:
    """A slab in memory: voxels of the image, with neighbouring slices, and what earlier views said."""

    image: NDArray[Any]
    best: NDArray[np.uint8]
    probability: NDArray[np.uint16]


@dataclass(frozen=True)
class Network:
    """What answers about slabs of an image.

    Attributes:
        predictor: The model, made ready.
        plan: Says how many slices, and which part of them, it sees at a time.
        grid: Of the image.
    """

    predictor: Predictor
    plan: Plan
    grid: Grid

    def answer(self, view: View, slab: Slab, loaded: Loaded, workers: ThreadPoolExecutor) -> Generator[int, None, None]:
        """Fuse in place what the network says; yield after every batch how many slices it held."""
        slices, best, probability = (view.of(each) for each in (loaded.image, loaded.best, loaded.probability))
        scale = plane_scale(view, self.grid.spacing)
        size = self.plan.batch[slab.axis]
        first = slab.start - max(0, slab.start - self.predictor.neighbours)

        def answer(start: int) -> int:
            stop = min(start + size, len(best))
            target = MaxTarget(best[start:stop], probability[start:stop])
            span = slice(first + start, first + stop)
            parts = answer_slices(slices, target, span, self.predictor, scale=scale, size=size, tile=self.plan.tile)
            return sum(parts)

        yield from workers.map(answer, range(0, len(best), size))


@dataclass(frozen=True)
class _Slabs:
    """The work of a run."""

    image: Volume
    views: Sequence[View]
    run: Unfinished[Plan]
    stores: Stores
    predictor: Predictor
    report: Report

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.image.grid.shape

    def work(self) -> None:
        """Do what is not done yet."""
        slabs = self.run.plan.slabs(self.views)
        copies = [slab for slab in slabs if slab.is_copy]
        for number, slab in enumerate(copies):
            self.report(Progress("read", slab.start, self._shape[0]))
            if number >= self.run.done:
                self._copy(slab)
        seen = slabs[len(copies) :]
        skipped = max(0, self.run.done - len(copies))
        before = sum(slab.stop - slab.start for slab in seen[:skipped])
        steps = Steps(sum(slab.stop - slab.start for slab in seen), self.report, before=before)
        self._see(seen[skipped:], steps)

    def _copy(self, slab: Slab) -> None:
        assert self.stores.image is not None
        window = slab.window(self._shape)
        self.stores.image.write(window, np.asarray(self.image.array[window[0]]))
        forget_pages(self.image.array)
        self.run.finished_one()

    def _see(self, slabs: Sequence[Slab], steps: Steps) -> None:
        """Send slabs through the network; the next is read, and the last written, in the meantime.

        One thread does all that concerns the disk, in order. A view's first slab is read after the last view is
        written.
        """
        ahead: deque[Slab] = deque(slabs)
        saving: Future[None] | None = None
        network = Network(self.predictor, self.run.plan, self.image.grid)
        with _workers(self.run.plan, self.predictor) as workers, ThreadPoolExecutor(1, "disk") as disk:
            loading = disk.submit(self._load, ahead[0]) if ahead else None
            while loading:
                slab, loaded = ahead.popleft(), loading.result()
                follows = bool(ahead) and ahead[0].view == slab.view
                loading = disk.submit(self._load, ahead[0]) if follows else None
                with closing(network.answer(self.views[slab.view], slab, loaded, workers)) as counts:
                    for count in counts:
                        steps.done(count)
                if saving:
                    saving.result()
                saving = disk.submit(self._save, slab, loaded)
                if ahead and not loading:
                    loading = disk.submit(self._load, ahead[0])
                del loaded
            if saving:
                saving.result()

    def _load(self, slab: Slab) -> Loaded:
        wide = slab.window(self._shape, self.predictor.neighbours)
        if self.stores.image:
            voxels = self.stores.image.read(wide)
        else:
            voxels = np.array(self.image.array[wide[0]])
            forget_pages(self.image.array)
        window = slab.window(self._shape)
        return Loaded(voxels, self.stores.best.read(window), self.stores.probability.read(window))

    def _save(self, slab: Slab, loaded: Loaded) -> None:
        """Write classes, then their probabilities: in this order a slab can be redone, see above."""
        window = slab.window(self._shape)
        self.stores.best.write(window, loaded.best)
        self.stores.probability.write(window, loaded.probability)
        self.run.finished_one()


@contextmanager
def _workers(plan: Plan, predictor: Predictor) -> Iterator[ThreadPoolExecutor]:
    """Lend threads that compute a batch each, on their share of the processor.

    The share stays the same whatever else runs there: what a layer says depends, in its last digit, on how many
    threads compute it, and results shall be the same after a resume.
    """
    before = torch.get_num_threads()
    pool = network_threads(plan, predictor, before)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


def arrays_reused(plan: Plan) -> AbstractContextManager[None]:
    """Return what is entered while a network sees slices: their layers take each other's place in memory.

    Tiles are of several sizes, and leave gaps that the next one does not fill.
    """
    return nullcontext() if plan.tile else memory.reused()


def network_threads(plan: Plan, predictor: Predictor, threads: int) -> ThreadPoolExecutor:
    """Return threads that compute a batch each, on their share of some processor threads."""
    share = max(1, threads // plan.workers) if predictor.device.type == "cpu" else threads
    return ThreadPoolExecutor(plan.workers, "network", partial(torch.set_num_threads, share))


__all__ = ["Loaded", "Network", "arrays_reused", "identity", "lazy_prediction", "network_threads", "predict_in_slabs"]
