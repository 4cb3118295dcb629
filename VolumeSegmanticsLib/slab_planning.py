"""Predictions with networks that see slices: how they are divided, and what they will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from . import devices
from .big_prediction import predict_in_slabs
from .blocks import Plan, Work, WrittenPlan, in_slabs, plan, tiles
from .dataset import plane_scale
from .events import Report
from .footprint import need_of, surely_fits
from .models import Model, neighbours
from .prediction import Prediction, Predictor, check, seen_axes
from .settings import PredictSettings
from .unfinished import Unfinished
from .views import View, views
from .volume import Volume

_THICKEST_SPREAD = 32  # slices; as many as are written in one piece
_LONG = 3.0  # s; what takes longer is not tried twice


class InSlabs:
    """A prediction with a network that sees slices.

    Args:
        image: Memory-mapped or lazy.
        model, settings: Of the prediction.
    """

    kind: type[WrittenPlan] = Plan

    def __init__(self, image: Volume, model: Model, settings: PredictSettings) -> None:
        check(image, model)
        self.image, self.model, self.settings = image, model, settings
        self.views = views(settings.quality, seen_axes(image, model, settings))
        self.work = _work(image, model, settings, self.views)

    @cached_property
    def predictor(self) -> Predictor:
        """The model, made ready to answer."""
        return Predictor(self.model, self.settings)

    def surely_fits(self, budget: int) -> bool:
        """Tell without trying the network that all fits into memory."""
        resident = self.work.voxels * (self.work.image_bytes + self.work.fused_bytes())
        largest = max(self.work.pixels(axis) for axis in self.work.axes) * max(1, self.work.batch)
        return surely_fits(resident, largest, devices.choose(self.settings.device).type, budget)

    def get_ready(self) -> None:
        """Bring into memory what counts as the program itself."""
        assert self.predictor

    def plan(self, budget: int) -> Plan:
        """Divide the prediction so that it fits into a budget of bytes."""
        return plan(self.work, need_of(self.predictor), budget)

    def spread(self, budget: int, at_once: int, sharing: int) -> Plan:
        """Divide it for several processes, each with a budget of bytes: into thin slabs, so that all have work.

        Args:
            budget: Of one process.
            at_once: Threads that all processes have together.
            sharing: Processes that share a device.
        """
        need = need_of(self.predictor, sharing=sharing)
        return in_slabs(replace(self.work, thickest=_THICKEST_SPREAD), need, budget)

    def steps(self, divided: Plan) -> int:
        """Return how many slabs there are."""
        return len(divided.slabs(self.views))

    def predict(self, run: Unfinished[Plan], report: Report) -> Prediction:
        """Do what is not done yet of a run; the result is read from its folder when it is needed."""
        return predict_in_slabs(self.image, self.model, self.views, run, predictor=self.predictor, report=report)

    def seconds(self, divided: Plan) -> float:
        """Try out a batch of every axis, and return about how long the network computes."""
        taken = {axis: self._seconds(axis, divided) for axis in self.work.axes}
        return sum(taken[view.axis] for view in self.views)

    def _seconds(self, axis: int, divided: Plan) -> float:
        """Return about how long the network computes all slices of an axis."""
        rows, columns = (n for a, n in enumerate(self.work.shape) if a != axis)
        seen = [min(n, divided.tile or n) for n in (rows, columns)]
        channels = self.predictor.card.channels * (2 * self.predictor.neighbours + 1)
        picture = np.random.default_rng(0).random((divided.batch[axis], *seen, channels), np.float32)
        before = torch.get_num_threads()
        torch.set_num_threads(max(1, before // divided.workers))
        try:
            taken = self._once(picture, self.work.scales[axis])
            if taken < _LONG:  # the first time is slower
                taken = self._once(picture, self.work.scales[axis])
        finally:
            torch.set_num_threads(before)
        parts = len(tiles((rows, columns), divided.tile))
        return taken * parts * self.work.shape[axis] / divided.batch[axis] / divided.workers

    def _once(self, picture: Any, scale: tuple[float, float]) -> float:
        start = time.perf_counter()
        self.predictor.answer(picture, scale, every=False)
        return time.perf_counter() - start


def _work(image: Volume, model: Model, settings: PredictSettings, seen: Sequence[View]) -> Work:
    z, y, x = (plane_scale(View(axis), image.grid.spacing) for axis in range(3))
    return Work(
        image.grid.shape, tuple(seen), image.channels * image.array.dtype.itemsize, len(model.card.classes),
        settings.fusion, neighbours(model.card), (z, y, x), settings.batch_size,
    )  # fmt: skip


__all__ = ["InSlabs"]
