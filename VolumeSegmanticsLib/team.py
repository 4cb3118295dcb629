"""The workers of a scheduler: asking them, and handing parts of a prediction out to them.

What a worker does is told in ``orders``. A part whose worker is lost is done again by another one: dask sees to that,
and parts can be done twice.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from . import memory, orders
from .errors import Cancelled, ResourceError
from .events import Log, Progress, Report
from .scheduler import POLL_SECONDS, dask_distributed

_FETCH_SECONDS = 5.0  # after which a worker that has answered may be lost
_LOOK_SECONDS = 2.0  # between two looks at who is there
_DASK_SHARE = 0.6  # of a worker's limit: dask moves things to the disk beyond it

_T = TypeVar("_T")
Asking = Generator[None, None, _T]
"""A conversation with workers: each step looks whether they have answered, and none of them waits."""


@dataclass(frozen=True)
class Seat:
    """What a worker has.

    Attributes:
        budget: Bytes of memory that it may take.
        device: Tells its device from those of others; several workers may share one.
    """

    budget: int
    device: str


class Team:
    """The workers.

    Attributes:
        threads: What each of them has, by its address; those that are gone are not there any more.
    """

    def __init__(self, client: Any, report: Report) -> None:
        self._client, self._report = client, report
        self._looked, self._bell = 0.0, threading.Event()
        self._welcomed: set[str] = set()
        self.threads: dict[str, int] = {}

    def wait(self) -> None:
        """Wait until there is a worker; a cluster may start them only now."""
        is_told = False
        while not self.look():
            if not is_told:
                self._report(Log("warning", "The scheduler has no workers: waiting for the first one."))
            is_told = True
            self._report(Progress("prepare", 0, 1))
            time.sleep(POLL_SECONDS)

    def look(self) -> dict[str, int]:
        """Return who is there, as of some seconds ago."""
        if time.monotonic() - self._looked > _LOOK_SECONDS or not self.threads:
            before, self.threads = self.threads, dict(self._client.nthreads())
            self._looked = time.monotonic()
            if before and not self.threads:
                self._report(Log("warning", "All workers are gone: waiting for new ones."))
        return self.threads

    def newcomers(self) -> list[str]:
        """Return the addresses of workers that are not welcome yet."""
        return [address for address in self.look() if address not in self._welcomed]

    def welcome(self, addresses: Iterable[str]) -> None:
        """Let workers get parts."""
        self._welcomed.update(addresses)

    def waited_for(self, asking: Asking[_T]) -> _T:
        """Return what a conversation ends with."""
        while True:
            try:
                next(asking)
            except StopIteration as end:
                return cast(_T, end.value)
            self._report(Progress("prepare", 0, 1))
            time.sleep(POLL_SECONDS)

    def ask(self, function: Callable[..., Any], asked: dict[str, tuple[Any, ...]]) -> Asking[dict[str, Any]]:
        """Return what workers answer to questions, by their addresses; those who leave are left out."""
        waiting = {
            address: self._client.submit(function, *question, workers=[address], pure=False)
            for address, question in asked.items()
        }
        answers: dict[str, Any] = {}
        while waiting:
            there = self.look()
            for address, future in list(waiting.items()):
                if future.done():
                    with suppress(_Late):
                        answers[address] = _answer(future)
                if address in answers or address not in there:
                    del waiting[address]
            if waiting:
                yield
        return answers

    def done(self, text: str, numbers: Iterable[int], at_once: int) -> Generator[int | None, None, None]:
        """Have parts done; yield the number of each as soon as it is, and None now and then while none is.

        Args:
            text: The order.
            numbers: Of the parts.
            at_once: Parts that a worker may have at the same time; no more than it has threads.
        """
        waiting, running = deque(numbers), dict[Any, tuple[int, str]]()
        try:
            while waiting or running:
                busy = Counter(address for _, address in running.values())
                for address, threads in self.look().items():
                    if address not in self._welcomed:
                        continue
                    for number in _taken(waiting, min(threads, at_once) - busy[address]):
                        running[self._submitted(text, number, address)] = (number, address)
                self._bell.wait(POLL_SECONDS)
                self._bell.clear()
                finished = [future for future in running if future.done()]
                for future in finished:
                    if future.status in ("error", "cancelled"):
                        _answer(future)  # raises it; the number is known already
                    yield running.pop(future)[0]
                if not finished:
                    yield None
        finally:
            with suppress(Exception):
                self._client.cancel(list(running))

    def _submitted(self, text: str, number: int, address: str) -> Any:
        """Hand a part to a worker; if that is lost, another one gets it."""
        future = self._client.submit(_do, text, number, workers=[address], allow_other_workers=True, pure=False)
        future.add_done_callback(lambda _: self._bell.set())
        return future


def _taken(waiting: deque[int], count: int) -> list[int]:
    return [waiting.popleft() for _ in range(min(count, len(waiting)))]


class _Late(Exception):
    """An answer is there, and does not come."""


def _answer(future: Any) -> Any:
    """Return what a worker answered.

    Raises:
        _Late: It does not come: its worker may have ended in between.
    """
    try:
        return future.result(timeout=_FETCH_SECONDS)
    except Cancelled:
        raise ResourceError(
            "Another process has begun to make the same result.", "Let it end, or write to another file."
        ) from None
    except dask_distributed().TimeoutError as error:
        if future.status == "error":  # raised by the worker
            raise
        raise _Late from error


# What workers are asked; they find these functions by name ----------------------------------------------------------


def _do(text: str, number: int) -> int:
    return orders.do(text, number, _own().state.nthreads)


def look(text: str, image_bytes: int, sharing: int) -> Seat:
    """Have a worker look at image and folder, see ``orders.look``."""
    allowed = orders.look(text, image_bytes, sharing)
    limit = _own().memory_manager.memory_limit
    budget = min(allowed, int(_DASK_SHARE * limit) - memory.in_use()) if limit else allowed
    return Seat(budget, orders.device_of(text))


def planned(text: str, budget: int, at_once: int, sharing: int) -> dict[str, Any]:
    """Have a worker plan, see ``orders.planned``."""
    return orders.planned(text, budget, at_once, _own().state.nthreads, sharing)


def _own() -> Any:
    return dask_distributed().get_worker()


__all__ = ["Asking", "Seat", "Team", "look", "planned"]
