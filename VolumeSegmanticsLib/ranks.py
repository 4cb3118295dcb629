"""Which of several processes this one is, where ``torchrun`` has started them to train one model together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Rank:
    """One of several processes.

    Attributes:
        number: Among all, from 0.
        on_machine: Among those of its machine, from 0.
        count: How many there are on all machines.
    """

    number: int = 0
    on_machine: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """True for the one that speaks for all, and writes the files."""
        return self.number == 0


def own_rank(environ: Mapping[str, str] = os.environ) -> Rank:
    """Return which process this is, as ``torchrun`` says in the environment; the only one without it."""
    if any(name not in environ for name in _NAMES):
        return Rank()
    return Rank(*(int(environ[name]) for name in _NAMES[:3]))
