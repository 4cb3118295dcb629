"""Live mode: a local model that learns while somebody paints, and shows the slice in view at once.

After a stroke a short training gives the first answer. Once nothing new comes, the full one takes its place, with the
score and the sharpness of held-out strokes, and labels the volume block by block, from the slice in view outwards:

    strokes ──> measure what is new ──> learn shortly ──> show ──> measure the rest ──> learn fully ──> show ──> blocks
       ^                                                                                                           │
       └────────────────────────────── a message, between any two small steps <────────────────────────────────────┘

Features depend on the image only: they are computed once, also before anything is painted.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from . import devices
from . import memory as amounts
from .box import Box
from .card import made_now
from .errors import InputError
from .events import Event, Log, Preview, Progress, Report
from .intensity import Intensity
from .kept_features import KeptFeatures
from .live_learning import LiveLearner
from .live_prediction import LiveLabels, LivePredictor
from .live_strokes import LiveStrokes
from .local_learning import STEPS, Learned
from .local_prediction import ROUND_REACH
from .messages import End, Inbox, Look, Message, Strokes
from .models import Model
from .models.local import DEFAULT_OCTAVES
from .preview import PreviewFiles, middle_of_slice
from .settings import AXIS_LETTERS, LiveSettings
from .sparse_labels import SparseLabels
from .volume import LabelMap, Volume

SHORT_STEPS = 150
"""Batches of the training that gives the first answer: a quarter of a second on a free core."""

FEWEST_CLASSES = 2
TILE_SIDE = 128
"""Voxels of a slice that are answered about at once."""

_WORKING_BYTES = 200_000_000  # what a thread needs while it computes

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Made:
    """What live mode came to.

    Attributes:
        model: An ordinary local model, its card complete but for the name.
        labels: Of the box that was to be labelled; None where none were wanted.
    """

    model: Model
    labels: LabelMap | None


class Live:
    """One session of live mode.

    Args:
        image: What is painted on.
        settings: The user's choice.
        folder: The job's: takes previews, and names of files are relative to it.
        inbox: Brings ``Strokes``, ``Look`` and ``End``.
        report: Takes ``Progress``, ``Preview`` and ``Log``; may raise ``Cancelled``.
        box: What is labelled; None for all of the image.

    Raises:
        InputError: The image is constant.
        ResourceError: The device is not there.
    """

    def __init__(
        self,
        image: Volume,
        settings: LiveSettings,
        folder: Path,
        inbox: Inbox,
        report: Report,
        *,
        box: Box | None = None,
    ) -> None:
        self._image, self._settings, self._folder = image, settings, folder
        self._inbox, self._report = inbox, report
        box = box or Box((0, 0, 0), image.grid.shape)
        device = devices.choose(settings.device)
        self._threads = torch.get_num_threads() if device.type == "cpu" else 1
        octaves = settings.octaves or DEFAULT_OCTAVES
        intensity = Intensity.measure([image])
        room = _budget(settings) - math.prod(box.shape) - self._threads * _WORKING_BYTES
        self._kept = KeptFeatures(image, octaves, intensity, device, memory=max(0, room), folder=folder)
        self._strokes = LiveStrokes(self._kept, settings.seed)
        self._learner = LiveLearner(self._kept, self._strokes, settings)
        self._labels = LiveLabels(self._kept, box)
        self._previews = PreviewFiles(folder)
        self._look = Look("z", (box.start[0] + box.stop[0]) // 2)
        self._shown: Look | None = None
        self._learned: Learned | None = None
        self._predictor: LivePredictor | None = None
        self._is_new = self._is_settled = self._is_ending = False
        self._refusal = ""

    def run(self, *, wants_labels: bool) -> Made:
        """Go on until a message says End.

        Args:
            wants_labels: Whether the box shall be labelled in the end.

        Raises:
            InputError: There is nothing to learn from in the end.
            Cancelled: The session was asked to stop.
        """
        acts = (self._learn_shortly, self._show, self._measure, self._learn_fully, self._look_ahead, self._go_on)
        with self._pool():
            self._prepare()
            while not self._is_ending:
                has_done = any(act() for act in acts)
                if not has_done:
                    self._tell("wait" if self._learned is None else "ready")
                latest = {type(message): message for message in self._inbox.take(wait=not has_done)}
                for kind, message in latest.items():
                    _HEARD[kind](self, message)
            return self._finished(wants_labels)

    # What comes from outside

    def _take_strokes(self, message: Strokes) -> None:
        """Measure what is new of the strokes; an error in them ends nothing."""
        try:
            strokes = SparseLabels.read(self._folder / message.path)
            if strokes.shape != self._image.grid.shape:
                raise InputError("The strokes were painted on another image.", "Turn live mode off and on again.")
        except InputError as error:
            self._report(Log("warning", str(error)))
            return
        is_other = self._strokes.replace(strokes.inside(self._labels.box))
        self._strokes.measure(self._do_all)
        try:
            self._check_classes()
        except InputError as error:
            self._refuse(str(error))
        else:
            self._is_new |= is_other or self._learned is None
            self._refusal = ""

    def _take_look(self, message: Look) -> None:
        if len(message.axis) == 1 and message.axis in AXIS_LETTERS:
            self._look = message

    def _take_end(self, message: End) -> None:
        self._is_ending = True

    def _check_classes(self) -> None:
        painted = self._strokes.measured.painted
        if not painted:
            raise InputError("Nothing is painted.", "Paint some voxels of at least two classes.")
        if len(painted) < FEWEST_CLASSES:
            raise InputError(f"Only one class is painted ({painted[0].name}).", "Paint at least one other.")

    def _refuse(self, why: str) -> None:
        """Say why nothing can be learned, once, and take back what was learned before."""
        if why != self._refusal:
            self._refusal = why
            self._report(Log("warning", why))
        if self._learned is not None:
            self._learned = self._predictor = None
            self._is_new = self._is_settled = False
            self._labels.forget()
            self._report(Preview(""))

    # What is done, in small steps; each returns whether there was anything to do

    def _learn_shortly(self) -> bool:
        """Learn from what is measured."""
        if not self._is_new:
            return False
        self._is_new = False
        self._use(self._learner.learn(SHORT_STEPS, 0.0, self._tell_learning), is_settled=False)
        return True

    def _show(self) -> bool:
        """Show the slice in view as the present model has it."""
        if self._predictor is None or self._shown == self._look:
            return False
        part = self._slice_in_view()
        if part is not None:
            labels = self._labels.of(part)
            labels = self._answered(self._predictor, part) if labels is None else labels
            if labels is None:
                return True
            classes = self._predictor.classes
            self._report(Preview(str(self._previews.write(LabelMap(labels, part.grid(self._image.grid), classes)))))
        self._shown = self._look
        return True

    def _measure(self) -> bool:
        """Compute features of painted voxels that lack them."""
        has_done = self._strokes.measure(self._do_all)
        self._is_new |= has_done and self._learned is not None
        return has_done

    def _learn_fully(self) -> bool:
        """Learn as a training would, unless something comes up."""
        if self._learned is None or self._is_settled:
            return False
        with contextlib.suppress(_News):
            part = self._settings.validation_part
            self._use(self._learner.learn(STEPS, part, self._tell_learning_or_leave), is_settled=True)
        return True

    def _look_ahead(self) -> bool:
        """Compute what will be needed to show the slice in view."""
        part = self._slice_in_view()
        pieces = self._missing_around(part) if part is not None and self._kept.is_enough_room else []
        self._done_unless_news(self._kept.compute, pieces)
        return bool(pieces)

    def _go_on(self) -> bool:
        """Compute, or label, a few of the blocks that come next."""
        ready: list[Box] = []
        for block in self._labels.waiting(AXIS_LETTERS.index(self._look.axis), self._look.index):
            if pieces := self._labels.missing(block, self._reach):
                self._do_all(self._kept.compute, pieces[: self._threads])
                self._tell("segment")
                return True
            if self._is_settled:
                ready.append(block)
            if len(ready) == self._threads:
                break
        for block, labels in zip(ready, self._do_all(self._answer, map(self._labels.own, ready)), strict=True):
            self._labels.keep(block, labels)
            self._tell("segment")
        return bool(ready)

    def _finished(self, wants_labels: bool) -> Made:
        """Learn fully, whatever else comes, and label what is left."""
        self._check_classes()
        while self._measure():
            self._tell("segment")
        if self._is_new or not self._is_settled:
            self._use(self._learner.learn(STEPS, self._settings.validation_part, self._tell_learning), is_settled=True)
        while wants_labels and self._go_on():
            pass
        assert self._learned is not None, "it has just been learned"
        model = self._learned.finished()
        model.network.cpu()
        model.card = replace(model.card, **made_now())
        grid = self._labels.box.grid(self._image.grid)
        return Made(model, LabelMap(self._labels.array, grid, model.card.classes) if wants_labels else None)

    # How it is done

    @contextlib.contextmanager
    def _pool(self) -> Iterator[None]:
        """Have threads, each on one core, and leave nothing behind."""
        before = torch.get_num_threads()
        self._workers = ThreadPoolExecutor(self._threads, "live", lambda: torch.set_num_threads(1))
        try:
            yield
        finally:
            self._workers.shutdown(cancel_futures=True)
            torch.set_num_threads(before)
            self._previews.remove()
            self._kept.close()

    def _do_all(self, act: Callable[[T], R], items: Iterable[T]) -> list[R]:
        return list(self._workers.map(act, items))

    def _done_unless_news(self, act: Callable[[T], R], items: Sequence[T]) -> list[R] | None:
        """Return what an act returns for all items; None where a message came before the last of them."""
        found: list[R] = []
        for start in range(0, len(items), self._threads):
            if self._inbox.has_news and not self._is_ending:
                return None
            found += self._do_all(act, items[start : start + self._threads])
        return found

    def _prepare(self) -> None:
        """Measure how the image looks everywhere, and let torch load what it needs for learning."""
        self._report(Progress("prepare", 0, 1))
        if not self._kept.is_enough_room:
            needed = amounts.told(self._kept.nbytes)
            self._report(Log("warning", f"Neither memory nor disk have {needed} for this image: it will be slower."))
        self._learner.prepare(self._do_all)

    def _use(self, learned: Learned, *, is_settled: bool) -> None:
        self._learned, self._is_settled = learned, is_settled
        self._predictor = LivePredictor(learned.model, self._kept)
        self._labels.forget()
        self._shown = None

    @property
    def _reach(self) -> Sequence[int]:
        return [ROUND_REACH * self._settings.smoothing * fine for fine in self._kept.features.fine]

    def _slice_in_view(self) -> Box | None:
        """Return what the labelled box has of the slice in view; None where that is nothing."""
        axis = AXIS_LETTERS.index(self._look.axis)
        return middle_of_slice(self._image.grid.shape, axis, self._look.index).common(self._labels.box)

    def _missing_around(self, part: Box) -> list[Box]:
        around = part.grown(self._reach).common(Box((0, 0, 0), self._image.grid.shape))
        return self._kept.missing(around) if around else []

    def _answered(self, predictor: LivePredictor, part: Box) -> NDArray[np.uint8] | None:
        """Return the labels of a part of a slice; None where a message came before all was done."""
        if self._done_unless_news(self._kept.compute, self._missing_around(part)) is None:
            return None
        tiles = part.tiles(TILE_SIDE)
        found = self._done_unless_news(lambda tile: predictor.answer(tile)[0], tiles)
        if found is None:
            return None
        labels = np.empty(part.shape, np.uint8)
        for tile, each in zip(tiles, found, strict=True):
            labels[tile.seen_from(part.start).window] = each
        return labels

    def _answer(self, box: Box) -> NDArray[np.uint8]:
        assert self._predictor is not None, "blocks are labelled once there is a model"
        return self._predictor.answer(box)[0]

    # What is told

    def _tell(self, stage: str) -> None:
        self._report(Progress(stage, self._labels.done, self._labels.total))

    def _tell_learning(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._report(replace(event, stage="learn"))

    def _tell_learning_or_leave(self, event: Event) -> None:
        if self._inbox.has_news:
            raise _News
        self._tell_learning(event)


class _News(Exception):
    """A message came."""


_HEARD: dict[type[Message], Callable[[Live, Any], None]] = {
    Strokes: Live._take_strokes,
    Look: Live._take_look,
    End: Live._take_end,
}


def _budget(settings: LiveSettings) -> int:
    return amounts.parse(settings.memory) if settings.memory else amounts.free() // 2
