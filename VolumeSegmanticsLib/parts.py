"""A prediction in parts that processes on several machines share.

A part is a pure function of the image, the model and the plan, and writes whole bricks that no other part writes. So
it may be done twice, and even by two machines at the same time: whoever writes last writes the same bytes.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .big_local_prediction import BoxStores, answer_box
from .big_prediction import Loaded, Network, arrays_reused, lazy_prediction, network_threads
from .blocks import Plan, Slab, WrittenPlan
from .box import Box
from .box_planning import InBoxes
from .boxes import BoxPlan
from .bricks import Bricks, Voxels, Window
from .local_prediction import LocalPredictor
from .prediction import Prediction
from .settings import AXIS_LETTERS
from .slab_planning import InSlabs
from .stores import forget_pages
from .unfinished import BRICKS
from .views import View
from .volume import Volume

Way = InSlabs | InBoxes
GoOn = Callable[[], None]
"""Called now and then during a part; raises ``Cancelled`` where nobody wants it any more."""

_SIDE = 32  # voxels of a brick along the axes that a slab does not cut
_FUSED_BYTES = 8  # a voxel of what is read together at the end: class and probability, those of the next axis, a choice


class Parts(ABC):
    """The parts of a prediction: first those that copy the image, then those that answer.

    Attributes:
        copies: Slabs of the image that are copied.
        answers: What the model is asked about.
        stores: All files that the parts write.
        at_once: Parts that one process may work on at the same time.
    """

    copies: Sequence[Slab]
    answers: Sequence[Any]
    stores: Sequence[Bricks]
    at_once: int
    _threads: ThreadPoolExecutor | None = None

    def __init__(self) -> None:
        self._lent = ExitStack()

    @property
    def count(self) -> int:
        """How many parts there are."""
        return len(self.copies) + len(self.answers)

    @property
    def disk_bytes(self) -> int:
        """What the files take."""
        return sum(store.nbytes for store in self.stores)

    def create(self) -> None:
        """Make all files anew."""
        for store in self.stores:
            store.create()

    def get_ready(self, threads: int) -> None:
        """Get ready to do parts, with so many threads of the processor."""
        self._places = threading.Semaphore(self.at_once)
        self._prepare(threads)

    def do(self, number: int, go_on: GoOn) -> None:
        """Do one part."""
        with self._places:
            go_on()
            if number < len(self.copies):
                self._copy(self.copies[number])
            else:
                self._answer(self.answers[number - len(self.copies)], go_on)

    @abstractmethod
    def prediction(self, budget: int) -> Prediction:
        """Return the result, which is read when it is needed, in some bytes of memory."""

    @abstractmethod
    def size(self, number: int) -> int:
        """Return how much work a part is; copies are none."""

    def close(self) -> None:
        """Give back threads and memory."""
        if self._threads:
            self._threads.shutdown(wait=False)
        self._lent.close()

    @abstractmethod
    def _prepare(self, threads: int) -> None: ...

    @abstractmethod
    def _copy(self, slab: Slab) -> None: ...

    @abstractmethod
    def _answer(self, part: Any, go_on: GoOn) -> None: ...


class BoxParts(Parts):
    """Boxes of a local model, each computed by one thread."""

    def __init__(self, way: InBoxes, plan: BoxPlan, folder: Path, tag: str) -> None:
        super().__init__()
        self._way, self._plan = way, plan
        self._files = BoxStores.of(folder, plan, way.image, confidence=way.confidence, tag=tag)
        self.stores = [store for store in (self._files.image, self._files.labels, self._files.confidence) if store]
        self.copies, self.answers, self.at_once = plan.copies(), plan.boxes(), plan.workers

    def prediction(self, budget: int) -> Prediction:
        """Return the result, which is read when it is needed: few slices at a time, whatever the budget."""
        return self._files.prediction(self._way.image, self._way.model, self._plan)

    def size(self, number: int) -> int:
        """Return the voxels of a box."""
        return math.prod(self.answers[number - len(self.copies)].shape) if number >= len(self.copies) else 0

    def _prepare(self, threads: int) -> None:
        seen = self._files.seen(self._way.image)
        self._predictor = LocalPredictor(self._way.model, seen, self._way.device)

    def _copy(self, slab: Slab) -> None:
        assert self._files.image is not None
        _copy(self._way.image, slab, self._files.image)

    def _answer(self, part: Box, go_on: GoOn) -> None:
        torch.set_num_threads(1)
        answer_box(self._predictor, self._files, part)


class SlabParts(Parts):
    """Slabs of a network that sees slices; every axis has files of its own, and all its views are one part.

    So no part waits for another one, or reads what another one has written.
    """

    at_once = 2  # one is computed while another is read or written

    def __init__(self, way: InSlabs, plan: Plan, folder: Path, tag: str) -> None:
        super().__init__()
        self._way, self._plan = way, plan
        self._views = {axis: [view for view in way.views if view.axis == axis] for axis in way.work.axes}
        self.copies = plan.slabs(())
        self.answers = [slab for slab in plan.slabs([View(axis) for axis in self._views]) if not slab.is_copy]
        array, shape = way.image.array, way.image.grid.shape
        suffix = f"{tag}{BRICKS}"
        self._image = Bricks(folder / f"image{suffix}", array.shape, np.dtype(array.dtype), self._brick(0))
        self._best, self._probability = (
            {
                axis: Bricks(folder / f"{name}-{AXIS_LETTERS[axis]}{suffix}", shape, np.dtype(dtype), self._brick(axis))
                for axis in self._views
            }
            for name, dtype in (("best", np.uint8), ("probability", np.uint16))
        )
        self.stores = [*([self._image] if plan.copies else []), *self._best.values(), *self._probability.values()]

    def _brick(self, axis: int) -> Voxels:
        """Return the sides of bricks of which slabs of an axis take whole ones."""
        z, y, x = (min(n, self._plan.thickness[a] if a == axis else _SIDE) for a, n in enumerate(self._plan.shape))
        return z, y, x

    def prediction(self, budget: int) -> Prediction:
        """Return the result, which is read when it is needed, as many slices at a time as fit."""
        area = math.prod(self._plan.shape[1:])
        thickness = max(1, min(_SIDE, budget // (2 * _FUSED_BYTES * area)))
        best, probability = (_Fused(self._best, self._probability, wants_class=wanted) for wanted in (True, False))
        return lazy_prediction(best, probability, self._way.image, self._way.model, thickness)

    def size(self, number: int) -> int:
        """Return the slices that the network sees, those of all views."""
        if number < len(self.copies):
            return 0
        slab = self.answers[number - len(self.copies)]
        return (slab.stop - slab.start) * len(self._views[slab.axis])

    def _prepare(self, threads: int) -> None:
        self._network = Network(self._way.predictor, self._plan, self._way.image.grid)
        self._threads = network_threads(self._plan, self._way.predictor, threads)
        self._computing = threading.Lock()
        self._lent.enter_context(arrays_reused(self._plan))

    def _copy(self, slab: Slab) -> None:
        _copy(self._way.image, slab, self._image)

    def _answer(self, part: Slab, go_on: GoOn) -> None:
        window = part.window(self._plan.shape)
        loaded = self._loaded(part)
        assert self._threads is not None
        with self._computing:
            for view in self._views[part.axis]:
                with closing(self._network.answer(view, part, loaded, self._threads)) as counts:
                    for _ in counts:
                        go_on()
        self._best[part.axis].write(window, loaded.best)
        self._probability[part.axis].write(window, loaded.probability)

    def _loaded(self, slab: Slab) -> Loaded:
        wide = slab.window(self._plan.shape, self._way.predictor.neighbours)
        if self._plan.copies:
            voxels = self._image.read(wide)
        else:
            voxels = np.array(self._way.image.array[wide[0]])
            forget_pages(self._way.image.array)
        shape = tuple(part.stop - part.start for part in slab.window(self._plan.shape))
        return Loaded(voxels, np.zeros(shape, np.uint8), np.zeros(shape, np.uint16))


@dataclass(frozen=True)
class _Fused:
    """What the surest axis says about each voxel; the first of several that are as sure.

    Attributes:
        best, probability: Files of every axis, in the order of the views.
        wants_class: Whether it is the class that is read, or its probability.
    """

    best: dict[int, Bricks]
    probability: dict[int, Bricks]
    wants_class: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the volume."""
        return next(iter(self.best.values())).shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one value."""
        return np.dtype(np.uint8 if self.wants_class else np.uint16)

    def read(self, window: Window) -> NDArray[Any]:
        """Return the values of a box."""
        (first, best), *others = self.best.items()
        classes, sure = best.read(window), self.probability[first].read(window)
        for axis, store in others:
            probability = self.probability[axis].read(window)
            better = probability > sure
            np.copyto(classes, store.read(window), where=better)
            np.copyto(sure, probability, where=better)
        return classes if self.wants_class else sure


def _copy(image: Volume, slab: Slab, store: Bricks) -> None:
    window = slab.window(image.grid.shape)
    store.write(window, np.asarray(image.array[window[0]]))
    forget_pages(image.array)


def parts_of(way: Way, plan: WrittenPlan, folder: Path, tag: str) -> Parts:
    """Return the parts of a prediction with a plan, with files in a folder whose names hold a tag."""
    if isinstance(way, InBoxes):
        assert isinstance(plan, BoxPlan)
        return BoxParts(way, plan, folder, tag)
    assert isinstance(plan, Plan)
    return SlabParts(way, plan, folder, tag)


__all__ = ["BoxParts", "GoOn", "Parts", "SlabParts", "Way", "parts_of"]
