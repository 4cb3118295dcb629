"""What every section of the panel is: some widgets, and what they show and do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .nodes import Node
from .states import State
from .widgets import Widget

if TYPE_CHECKING:
    from .panel import Panel


class Section:
    """A section of the panel; each method may stay as it is.

    Args:
        panel: What the sections share.
        ui: The widgets of the panel by their object names.
    """

    def __init__(self, panel: Panel, ui: Widget) -> None:
        self._panel = panel
        self._ui = ui
        self._set_up(ui)

    def _set_up(self, ui: Any) -> None:
        """Connect widgets, once."""

    def refresh(self) -> None:
        """Show what is chosen in the scene and what can be done: whenever something of that may have changed."""

    def show(self, state: State) -> None:
        """Show where the job is: whenever that has changed."""

    def tick(self) -> None:
        """Do a little of what has waited: ten times a second."""

    def enter(self) -> None:
        """Begin: the user comes to the module."""

    def leave(self) -> None:
        """Put tools away: the user goes to another module."""

    def forget(self) -> None:
        """Let go of nodes: the scene is being closed."""

    def let_go(self, node: Node) -> None:
        """Forget one node: it is about to be removed."""

    def close(self) -> None:
        """End what would outlive the panel."""
