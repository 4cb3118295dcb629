"""A button that starts a job, and stops it while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from slicer.i18n import tr as _

from .states import Phase, State
from .widgets import Widget, allow

if TYPE_CHECKING:
    from .panel import Panel


class JobButton:
    """Train, Predict: each turns into Cancel while its own job runs, and while packages are installed for it.

    Args:
        panel: The panel.
        button: The widget.
        task: Of the job, as the state names it.
        title: What the button says otherwise.
        start: Starts the job.
    """

    def __init__(self, panel: Panel, button: Widget, task: str, title: str, start: Callable[[], object]) -> None:
        self._panel, self._button, self._task, self._title, self._start = panel, button, task, title, start
        self._reason, self._is_cancel = "", False
        button.clicked.connect(lambda *_: panel.attempt(self._press))

    def refresh(self, reason: str) -> None:
        """Take in why the job cannot start; empty where it can."""
        self._reason = reason

    def show(self, state: State) -> None:
        """Show what pressing the button would do."""
        is_preparing = self._panel.preparation.task == self._task
        self._is_cancel = is_preparing or (state.is_running and state.task == self._task)
        if self._is_cancel:
            is_stopping = state.phase is Phase.STOPPING
            self._button.setText(_("Stopping …") if is_stopping else _("Cancel"))
            allow(self._button, "" if is_preparing else self._panel.workflow.allowed("cancel"), _("Stop it."))
        else:
            self._button.setText(self._title)
            allow(self._button, self._reason)

    def _press(self) -> None:
        if self._panel.preparation.is_running:
            self._panel.preparation.cancel()
        elif self._is_cancel:
            self._panel.workflow.cancel()
        else:
            self._start()
