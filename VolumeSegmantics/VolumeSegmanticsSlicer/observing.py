"""Observing VTK objects, and letting go of all of them at once."""

from __future__ import annotations

from collections.abc import Callable

from .nodes import Node


class Observations:
    """Callbacks on events of VTK objects."""

    def __init__(self) -> None:
        self._known: list[tuple[Node, int]] = []

    def add(self, observed: Node, event: int | str, call: Callable[..., object], *, priority: float = 0.0) -> None:
        """Call something with the object and the name of the event whenever it happens; high priorities go first."""
        self._known.append((observed, observed.AddObserver(event, call, priority)))

    def clear(self) -> None:
        """Let go of all."""
        for observed, tag in self._known:
            observed.RemoveObserver(tag)
        self._known.clear()
