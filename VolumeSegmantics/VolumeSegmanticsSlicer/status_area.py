"""The one status line, the one bar, and the log behind a button."""

from __future__ import annotations

import time
from collections import deque
from html import escape
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from .section import Section
from .states import State
from .widgets import keep_height, value_of
from .wording import bar_of, headline, is_error

LOG_BYTES = 60_000
TOLD_SECONDS = 5.0
"""A running job takes the line back after so long."""
_LOG_HEIGHT = 160
_LINES = 2
"""So many lines have room, so that the panel does not move whenever a longer sentence comes."""
_EVERY_TICKS = 5
_TOLD_LINES = 200


class StatusArea(Section):
    """Shows where the job is; or else what was wrong with what the user has just asked for."""

    def _set_up(self, ui: Any) -> None:
        self._told, self._told_until = "", 0.0
        self._ticks, self._log = 0, ("", 0)
        self._lines: deque[str] = deque(maxlen=_TOLD_LINES)
        self._state = State()
        keep_height(ui.statusLabel, _LINES)
        ui.logTextEdit.setVisible(False)
        ui.logTextEdit.setFixedHeight(_LOG_HEIGHT)
        ui.logButton.toggled.connect(self._toggle_log)

    def say(self, text: str) -> None:
        """Show a sentence in place of the job's state."""
        self._tell(escape(text, quote=False))

    def tell(self, line: str) -> None:
        """Show a line of what is being done, and keep it for the log."""
        self._lines.append(line)
        self.say(line)

    def complain(self, text: str) -> None:
        """Show what went wrong."""
        self._tell(_complaint(text))

    def forget(self) -> None:
        """Show the job's state again."""
        self._told = ""

    def show(self, state: State) -> None:
        if state is not self._state and time.monotonic() > self._told_until:
            self._told = ""
        self._state = state
        self._draw()

    def tick(self) -> None:
        self._ticks += 1
        if self._ticks % _EVERY_TICKS == 0 and value_of(self._ui.logButton, "checked"):
            self._show_log()

    def _tell(self, text: str) -> None:
        self._told, self._told_until = text, time.monotonic() + TOLD_SECONDS
        self._draw()

    def _draw(self) -> None:
        state = self._state
        text = headline(state)
        self._ui.statusLabel.setText(self._told or (_complaint(text) if is_error(state) else escape(text, quote=False)))
        value, maximum = bar_of(state)
        self._ui.progressBar.setRange(0, maximum)
        self._ui.progressBar.setValue(value)

    def _toggle_log(self, shown: bool) -> None:
        self._ui.logTextEdit.setVisible(shown)
        if shown:
            self._show_log()

    def _show_log(self) -> None:
        """Show the end of the log where it has changed."""
        path = self._state.log_path
        size = path.stat().st_size if path and path.is_file() else 0
        known = (str(path), size + len(self._lines))
        if known == self._log:
            return
        self._log = known
        text = "\n".join([*self._lines, *([_end_of(path, size)] if path and size else [])])
        self._ui.logTextEdit.setPlainText(text or _("No job has told anything yet."))
        bar = self._ui.logTextEdit.verticalScrollBar()
        bar.setValue(value_of(bar, "maximum"))


def _complaint(text: str) -> str:
    return f"<b>{_('Problem')}:</b> {escape(text, quote=False)}"


def _end_of(path: Path, size: int) -> str:
    with path.open("rb") as file:
        file.seek(max(0, size - LOG_BYTES))
        return file.read(LOG_BYTES).decode("utf-8", "replace")
