"""What processes on several machines are asked: to look at an image, to plan a prediction, to do a part of it.

They are told by an order, which holds plain values. The image, and the folder of the run with the model in it, lie on a
disk that all of them see. A file in that folder names the process that sends the orders: as soon as it does not, parts
that nobody wants any more end by themselves, wherever they run.
"""

from __future__ import annotations

import hashlib
import json
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import devices, io, memory, planning
from .blocks import WrittenPlan
from .box_planning import InBoxes
from .errors import Cancelled, InputError
from .models import KINDS, Model
from .parts import Parts, Way, parts_of
from .settings import PredictSettings
from .slab_planning import InSlabs
from .unfinished import MODEL, SESSION
from .volume import Volume

_TAG = 12  # letters


@dataclass(frozen=True)
class Order:
    """What a process has to know, as plain values.

    Attributes:
        image: Path of the image, with the dataset in the file where it has several.
        channels: Of the model: an image of colours is taken as grey where it has one.
        folder: Of the run, on a disk that all processes see; the model lies there too.
        about: Digest of all that the run is about.
        session: Names the process that sends this order; as long as it does, a file in the folder says so.
        settings: Of the prediction.
        confidence: Whether the confidence is wanted too.
        plan: How it is done; empty as long as nobody knows.
    """

    image: str
    channels: int
    folder: str
    about: str
    session: str
    settings: dict[str, Any]
    confidence: bool
    plan: dict[str, Any]

    def to_json(self) -> str:
        """Return the order as a text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        """Return what ``to_json`` was called on."""
        return cls(**json.loads(text))

    def open_image(self) -> Volume:
        """Return the image; what is needed of it is read later."""
        volume = io.open_volume(self.image)
        return io.lazily_grey(volume) if self.channels == 1 and volume.channels > 1 else volume

    def check_wanted(self) -> None:
        """Make sure that whoever has sent the order still wants it.

        Raises:
            Cancelled: The run was stopped, or another process has taken it up.
            InputError: This machine does not see the folder.
        """
        if _session(self).exists():
            return
        if not Path(self.folder).is_dir():
            raise _unseen("folder", Path(self.folder).parent)
        raise Cancelled("nobody waits for this part any more")

    def way(self) -> Way:
        """Return the prediction, with image and model as this process reads them."""
        return way_of(self.open_image(), Model.load_to_answer(Path(self.folder) / MODEL), self)

    def parts(self, way: Way, plan: WrittenPlan) -> Parts:
        """Return the parts of the prediction; files of different runs have different names."""
        facts = json.dumps([self.about, plan.to_dict()])
        return parts_of(way, plan, Path(self.folder), hashlib.sha256(facts.encode()).hexdigest()[:_TAG])

    def with_plan(self, plan: WrittenPlan) -> Order:
        """Return the same order with a plan."""
        return replace(self, plan=plan.to_dict())


def way_of(image: Volume, model: Model, order: Order) -> Way:
    """Return the prediction that an order is about."""
    settings = PredictSettings.from_dict(order.settings)
    if KINDS[model.card.model].is_local:
        return InBoxes(image, model, settings, confidence=order.confidence)
    return InSlabs(image, model, settings)


def begin_session(order: Order) -> None:
    """Write down who sends orders; those of others are void from now on."""
    end_session(order)
    _session(order).touch()


def end_session(order: Order) -> None:
    """Make all orders of a run void."""
    for file in Path(order.folder).glob(f"*{SESSION}"):
        file.unlink(missing_ok=True)


def _session(order: Order) -> Path:
    return Path(order.folder) / f"{order.session}{SESSION}"


# What a process is asked --------------------------------------------------------------------------------------------


@dataclass
class _Held:
    """The parts of an order, with its model: it comes once, not with every part.

    Attributes:
        text: The order.
        parts: Ready to be done.
        users: Those who do one now; and this process, as long as no other order has come.
    """

    text: str
    parts: Parts
    users: int = 1

    def leave(self) -> None:
        """Have one user less; without any, the threads are given back."""
        self.users -= 1
        if not self.users:
            self.parts.close()


_lock = threading.Lock()
_held: _Held | None = None


def do(text: str, number: int, threads: int) -> int:
    """Do one part of an order, and return its number."""
    order = Order.from_json(text)
    order.check_wanted()
    with _lent(text, threads) as parts:
        parts.do(number, order.check_wanted)
    return number


def look(text: str, image_bytes: int, sharing: int) -> int:
    """Make sure that this process sees image and folder of an order, and return how many bytes it may take.

    Args:
        text: The order.
        image_bytes: Size of the image file, as whoever sends the order sees it.
        sharing: Processes of this machine that work together.

    Raises:
        InputError: It does not see them.
        Cancelled: Another process has taken up the run.
        ResourceError: The memory that it is given does not even hold the program.
    """
    order = Order.from_json(text)
    source = io.source_of(order.image)
    if not source.exists() or (source.is_file() and source.stat().st_size != image_bytes):
        raise _unseen("image", source)
    if not any(Path(order.folder).glob(f"*{SESSION}")):  # a folder of the same name on a disk of its own
        raise _unseen("folder", Path(order.folder).parent)
    order.check_wanted()
    settings = PredictSettings.from_dict(order.settings)
    return planning.budget(settings) // (1 if settings.memory else sharing)


def _unseen(what: str, path: Path) -> InputError:
    return InputError(
        f'The worker on {platform.node()} does not see the {what} "{path}".',
        "Image and result have to lie on a disk that all machines of the cluster see, under the same path.",
    )


def device_of(text: str) -> str:
    """Return what tells the device of an order, in this process, from those of other processes and machines."""
    device = devices.choose(PredictSettings.from_dict(Order.from_json(text).settings).device)
    return f"{devices.told_apart(device)} on {platform.node()}"


def planned(text: str, budget: int, at_once: int, threads: int, sharing: int) -> dict[str, Any]:
    """Return the plan of an order for processes like this one.

    Args:
        text: The order.
        budget: Bytes that the least of them may take.
        at_once: Threads that all of them have together.
        threads: Threads of this one.
        sharing: Processes that share its device.

    Raises:
        ResourceError: It cannot be made to fit; the hint says what would.
    """
    order = Order.from_json(text)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        held, way = memory.in_use(), order.way()
        way.get_ready()
        memory.give_back()
        plan = way.spread(budget - max(0, memory.in_use() - held), at_once, sharing)
        return replace(plan, disk_bytes=order.parts(way, plan).disk_bytes).to_dict()
    finally:
        torch.set_num_threads(before)


@contextmanager
def _lent(text: str, threads: int) -> Iterator[Parts]:
    """Lend the parts of an order; those of another order are closed, by their last user where they have some."""
    global _held
    with _lock:
        if not _held or _held.text != text:
            if _held:
                _held.leave()
            _held = _Held(text, _ready_parts(text, threads))
        held = _held
        held.users += 1
    try:
        yield held.parts
    finally:
        with _lock:
            held.leave()


def _ready_parts(text: str, threads: int) -> Parts:
    order = Order.from_json(text)
    way = order.way()
    parts = order.parts(way, way.kind.from_dict(order.plan))
    parts.get_ready(threads)
    return parts


__all__ = ["Order", "begin_session", "device_of", "do", "end_session", "look", "planned", "way_of"]
