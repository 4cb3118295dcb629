"""Predictions with local models: how they are divided, and what they will take."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from . import devices
from .big_local_prediction import predict_in_boxes
from .blocks import WrittenPlan
from .box import Box
from .boxes import SIDES, BoxNeed, BoxPlan, BoxWork, plan_boxes, plan_in_memory
from .events import Report
from .footprint import box_bytes, free_on
from .io.lazy import LazyArray
from .local_prediction import LocalPredictor
from .models import Model
from .neighbourhoods import work
from .prediction import Prediction, check
from .settings import PredictSettings
from .unfinished import Unfinished
from .volume import Volume

_HUNGRY = 2  # times what the features of a box take: what it may take at most; it was up to 1.5 times
_GROWTH = 8  # times as much: a box of twice the side, at most


class InBoxes:
    """A prediction with a local model.

    Args:
        image: Memory-mapped or lazy.
        model, settings: Of the prediction.
        confidence: Whether the confidence is wanted too.
    """

    kind: type[WrittenPlan] = BoxPlan

    def __init__(self, image: Volume, model: Model, settings: PredictSettings, *, confidence: bool) -> None:
        check(image, model)
        settings.check_for(model.card.model)
        self.image, self.model, self.settings, self.confidence = image, model, settings, confidence
        self.device = devices.choose(settings.device)

    @cached_property
    def predictor(self) -> LocalPredictor:
        """The model, made ready to answer."""
        return LocalPredictor(self.model, self.image, self.device)

    @cached_property
    def work(self) -> BoxWork:
        """The sizes of it."""
        features, array = self.predictor.features, self.image.array
        return BoxWork(
            self.image.grid.shape, self.image.channels * array.dtype.itemsize, features.multiple, features.margin,
            self.confidence, copies=isinstance(array, LazyArray),
        )  # fmt: skip

    def surely_fits(self, budget: int) -> bool:
        """Tell without a measurement that all fits into a budget of bytes."""
        return self._in_memory.peak_bytes <= budget

    @cached_property
    def _in_memory(self) -> BoxPlan:
        """How it is done where all fits, and what it takes at most."""
        boxes, features = self.predictor.boxes(), self.predictor.features
        largest = max(work(box, features) for box in boxes)
        taken = _HUNGRY * 4 * len(self.predictor.network.mean) * largest
        return plan_in_memory(self.work, boxes[0].shape, min(self.predictor.threads, len(boxes)), taken)

    def get_ready(self) -> None:
        """Bring into memory what counts as the program itself."""
        smallest = self.work.box(min(SIDES))
        with _one_thread():
            self._in_boxes_of(smallest).answer(Box((0, 0, 0), smallest))

    def plan(self, budget: int) -> BoxPlan:
        """Divide the prediction so that it fits into a budget of bytes."""
        if self.surely_fits(budget):
            return self._in_memory
        budget = min(budget, free_on(self.device))
        return plan_boxes(self.work, self._need(budget), budget)

    def spread(self, budget: int, at_once: int, sharing: int) -> BoxPlan:
        """Divide it for several processes, each with a budget of bytes: into boxes that are soonest done.

        Args:
            budget: Of one process.
            at_once: Boxes that all processes together compute at the same time, at most.
            sharing: Processes that share a device.
        """
        budget = min(budget, free_on(self.device, sharing=sharing))
        need, work = self._need(budget), self.work
        fitting = [box for box, taken in need.bytes_of.items() if taken <= budget] or list(need.bytes_of)
        best = min(fitting, key=lambda box: math.ceil(work.count(box) / at_once) * math.prod(box) / work.gain(box))
        divided = plan_boxes(work, BoxNeed({best: need.bytes_of[best]}, need.workers), budget)
        return replace(divided, copied=-(-divided.copied // work.multiple[0]) * work.multiple[0])

    def _need(self, budget: int) -> BoxNeed:
        """Measure what boxes take, from the smallest on, as long as they fit."""
        found: dict[tuple[int, int, int], float] = {}
        for side in sorted(SIDES):
            box = self.work.box(side)
            if found and _GROWTH * max(found.values()) > budget:
                break
            with _one_thread():
                found[box] = box_bytes(self._in_boxes_of(box), box)
        return BoxNeed(found, self.predictor.threads)

    def _in_boxes_of(self, box: tuple[int, int, int]) -> LocalPredictor:
        """Return the same, before an image that is but one box."""
        z, y, x = (min(n, side) for n, side in zip(self.work.shape, box, strict=True))
        shape = (z, y, x) if self.image.channels == 1 else (z, y, x, self.image.channels)
        noise = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        return LocalPredictor(self.model, Volume(noise, replace(self.image.grid, shape=(z, y, x))), self.device)

    def steps(self, divided: BoxPlan) -> int:
        """Return how many copies and boxes there are."""
        return len(divided.copies()) + len(divided.boxes())

    def predict(self, run: Unfinished[BoxPlan], report: Report) -> Prediction:
        """Do what is not done yet of a run; the result is read from its folder when it is needed."""
        return predict_in_boxes(
            self.image, self.model, run, device=self.device, confidence=self.confidence, report=report
        )

    def seconds(self, divided: BoxPlan) -> float:
        """Try out a box, and return about how long all of them take."""
        box = Box((0, 0, 0), divided.box)
        predictor = self._in_boxes_of(divided.box)
        with _one_thread():
            predictor.answer(box)  # the first time is slower
            start = time.perf_counter()
            predictor.answer(box)
            taken = time.perf_counter() - start
        return taken * self.work.voxels / math.prod(divided.box) / divided.workers


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute as one of the threads that share the boxes will."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


__all__ = ["InBoxes"]
