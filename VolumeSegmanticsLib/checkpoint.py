"""The state of an unfinished training, kept beside the model to be, so that the same command goes on where it was."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import card
from .errors import ModelError
from .events import Log, Report
from .models import file

_KEY = "volume_segmantics_training"
_WRITING_SHARE = 0.05  # part of the time that may be spent on writing checkpoints

Tensors = dict[str, Tensor]


class Checkpoint:
    """A file of tensors and facts that is written now and then, and read once.

    Args:
        path: Where it lies.
        fingerprint: Says which images, labels and settings it belongs to; another run's checkpoint is not taken.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self._fingerprint = path, fingerprint
        self._written, self._cost = -float("inf"), 0.0

    def save(self, tensors: Tensors, facts: dict[str, Any]) -> None:
        """Write the state, unless the last writing was a moment ago and took long."""
        now = time.monotonic()
        if now - self._written < self._cost / _WRITING_SHARE:
            return
        file.write_tensors(self.path, tensors, {_KEY: json.dumps({"fingerprint": self._fingerprint, **facts})})
        self._written, self._cost = time.monotonic(), time.monotonic() - now

    def load(self, report: Report) -> tuple[Tensors, dict[str, Any]] | None:
        """Return the tensors and facts of an interrupted run; None where there is none of this very run."""
        if not self.path.is_file():
            return None
        try:
            facts: dict[str, Any] = json.loads(card.read_metadata(self.path)[_KEY])
            if facts["fingerprint"] == self._fingerprint:
                return file.read_tensors(self.path), facts
            what = "of other images, labels or settings"
        except (ModelError, KeyError, ValueError):
            what = "that cannot be read"
        report(Log("warning", f"An interrupted training {what} was found: starting anew."))
        return None

    def remove(self) -> None:
        """Delete the file: the run is over."""
        self.path.unlink(missing_ok=True)


def under(prefix: str, tensors: Tensors) -> Tensors:
    """Return the tensors whose name starts with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    """Return the tensors with a prefix before their names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> Tensors:
    """Return what an optimiser remembers of each parameter, as ``index.name``."""
    states = optimiser.state_dict()["state"]
    return {f"{n}.{name}": torch.as_tensor(value) for n, state in states.items() for name, value in state.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Give an optimiser back what ``optimiser_tensors`` returned."""
    state = optimiser.state_dict()
    state["state"] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state["state"].setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict(state)
