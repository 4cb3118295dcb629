"""How many threads the processor has free at the moment.

The layers of a network are short, and after each of them all threads wait for the last one. On a processor that others
use too one of them is always late, and two threads can be twenty times slower than one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_SIDE = 256  # of the matrices that are multiplied to try it out: about a millisecond
_TIMES = 24
_ENDLESS_SECONDS = 0.2
_WORTH_WHILE = 0.8  # more threads have to take less than this part of the time


@contextmanager
def shared_fairly(device: torch.device) -> Iterator[Callable[[], None]]:
    """Give back the number of threads in the end; meanwhile the function that is lent adapts it to what is free.

    Where the processor is idle, or does not compute at all, every call comes to the same.
    """
    most = torch.get_num_threads()

    def adapt() -> None:
        if device.type == "cpu" and most > 1:
            torch.set_num_threads(free_threads(most))

    try:
        yield adapt
    finally:
        torch.set_num_threads(most)


def free_threads(most: int, seconds_of: Callable[[int], float] | None = None) -> int:
    """Return how many threads pay, at most ``most``: more have to save a fifth of the time.

    Args:
        most: How many there are.
        seconds_of: Returns how long some work takes with a number of threads; by default it is tried.
    """
    seconds_of = seconds_of or _seconds_of
    best, seconds = 1, seconds_of(1)
    for threads in sorted({max(1, most // 2), most} - {1}):
        taken = seconds_of(threads)
        if taken < _WORTH_WHILE * seconds:
            best, seconds = threads, taken
    return best


def _seconds_of(threads: int) -> float:
    """Multiply matrices for a few milliseconds; work that takes far longer is as good as endless."""
    torch.set_num_threads(threads)
    matrix = torch.ones(_SIDE, _SIDE)
    start = time.perf_counter()
    for _ in range(_TIMES):
        matrix @ matrix
        if time.perf_counter() - start > _ENDLESS_SECONDS:
            return float("inf")
    return time.perf_counter() - start
