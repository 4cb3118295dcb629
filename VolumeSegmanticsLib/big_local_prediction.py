"""Prediction with a local model of volumes larger than memory: box by box, with the result on the disk.

A box is a pure function of the image, the model and the plan, and is computed by one thread, so that doing it again
gives the same bytes. Boxes are finished in their order, whoever computes them: how many are done is all that has to be
known to go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from .box import Box
from .boxes import BoxPlan
from .bricks import Bricks
from .events import Log, Progress, Report
from .intensity import Intensity
from .io.lazy import LazyArray
from .local_prediction import LocalPredictor
from .models import Model
from .prediction import Prediction, Steps
from .stores import Layers, forget_pages, sample
from .unfinished import BRICKS, Unfinished
from .volume import LabelMap, Volume


def predict_in_boxes(
    image: Volume,
    model: Model,
    run: Unfinished[BoxPlan],
    *,
    device: torch.device,
    confidence: bool,
    report: Report,
) -> Prediction:
    """Segment a volume box by box, from where the run is.

    Args:
        image: Memory-mapped or lazy.
        model: What answers.
        run: Its plan, and what is done already.
        device: What computes.
        confidence: Also keep how sure the answer is.
        report: Takes ``Progress`` and ``Log``; may raise ``Cancelled``.

    Returns:
        Labels and confidence whose arrays are lazy, and read from the folder of the run.

    Raises:
        ResourceError: The disk is full, or files of the run are gone.
    """
    if remark := Intensity.from_dict(model.card.intensity).remark_on(sample(image)):
        report(Log("warning", remark))
    stores = BoxStores.of(run.folder, run.plan, image, confidence=confidence)
    with run.disk_in_use():
        if not run.done:
            stores.create()
        _copy(image, run, stores, report)
        _answer(LocalPredictor(model, stores.seen(image), device), run, stores, report)
    return stores.prediction(image, model, run.plan)


@dataclass(frozen=True)
class BoxStores:
    """The files of a run.

    Attributes:
        image: The image in bricks; None where it is read from where it is.
        labels: Class values.
        confidence: Percent; None unless asked for.
    """

    image: Bricks | None
    labels: Bricks
    confidence: Bricks | None

    @classmethod
    def of(cls, folder: Path, plan: BoxPlan, image: Volume, *, confidence: bool, tag: str = "") -> BoxStores:
        """Return the files of a run, which may not be there yet; their names hold a tag."""

        def store(name: str, shape: tuple[int, ...], dtype: Any) -> Bricks:
            return Bricks(folder / f"{name}{tag}{BRICKS}", shape, np.dtype(dtype), plan.brick)

        return cls(
            store("image", image.array.shape, image.array.dtype) if plan.copied else None,
            store("labels", image.grid.shape, np.uint8),
            store("confidence", image.grid.shape, np.uint8) if confidence else None,
        )

    def create(self) -> None:
        """Make all files anew."""
        for store in (self.image, self.labels, self.confidence):
            if store:
                store.create()

    def seen(self, image: Volume) -> Volume:
        """Return the image as boxes are read of it."""
        if not self.image:
            return image
        return Volume(cast(Any, LazyArray(self.image.shape, self.image.dtype, self.image.read)), image.grid)

    def prediction(self, image: Volume, model: Model, plan: BoxPlan) -> Prediction:
        """Return the result, which is read when it is needed."""
        labels, sure = (
            Layers(store, plan.brick[0], lambda values: values).lazy() if store else None
            for store in (self.labels, self.confidence)
        )
        assert labels is not None
        return Prediction(LabelMap(labels, image.grid, model.card.classes), sure)


def _copy(image: Volume, run: Unfinished[BoxPlan], stores: BoxStores, report: Report) -> None:
    """Copy into bricks what has not been copied yet."""
    for number, slab in enumerate(run.plan.copies()):
        assert stores.image is not None
        report(Progress("read", slab.start, len(image.array)))
        if number >= run.done:
            window = slab.window(image.grid.shape)
            stores.image.write(window, np.asarray(image.array[window[0]]))
            run.finished_one()


def _answer(predictor: LocalPredictor, run: Unfinished[BoxPlan], stores: BoxStores, report: Report) -> None:
    """Send the boxes through the model that have not been yet."""
    boxes, copies = run.plan.boxes(), len(run.plan.copies())
    done = run.done - copies
    before = sum(_voxels(box) for box in boxes[:done])
    steps = Steps(sum(map(_voxels, boxes)), report, before=before)

    with _workers(run.plan.workers) as workers:
        for voxels in workers.map(partial(answer_box, predictor, stores), boxes[done:]):
            run.finished_one()
            steps.done(voxels)


def answer_box(predictor: LocalPredictor, stores: BoxStores, box: Box) -> int:
    """Write what the model says about a box; return how many voxels it has."""
    labels, sure = predictor.answer(box)
    forget_pages(predictor.image.array)
    stores.labels.write(box.window, labels)
    if stores.confidence:
        stores.confidence.write(box.window, sure)
    return labels.size


def _voxels(box: Box) -> int:
    z, y, x = box.shape
    return z * y * x


@contextmanager
def _workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Lend threads that keep to one core each."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "boxes", lambda: torch.set_num_threads(1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


__all__ = ["BoxStores", "answer_box", "predict_in_boxes"]
