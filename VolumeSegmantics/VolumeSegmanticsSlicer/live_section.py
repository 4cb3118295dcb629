"""Live: a button that has a local model learn every stroke at once, and ends with a result."""

from __future__ import annotations

import time
from typing import Any

import slicer
from slicer.i18n import tr as _

from VolumeSegmanticsLib.errors import VolumeSegmanticsError

from .model_files import new_model
from .nodes import Node
from .observing import Observations
from .preview_display import PreviewDisplay
from .section import Section
from .states import Phase, State
from .widgets import allow, silently, text_of

TASK = "live"
CALM_SECONDS = 0.3
"""Strokes are told once nothing has changed for so long."""

EVENTS = ("SourceRepresentationModified", "SegmentAdded", "SegmentRemoved", "SegmentModified")


class LiveSection(Section):
    """Starts and ends live mode, and tells it what is painted."""

    def _set_up(self, ui: Any) -> None:
        self._button = ui.liveButton
        self._preview = PreviewDisplay(self._panel, TASK)
        self._observations = Observations()
        self._changed_at = 0.0
        self._reason = ""
        self._state = State()
        self._button.clicked.connect(lambda *_: self._panel.attempt(self._press))

    def refresh(self) -> None:
        self._reason = self._panel.refused("live_start")

    def show(self, state: State) -> None:
        self._state = state
        is_on = self._is_on
        if not is_on:
            self._observations.clear()
            self._changed_at = 0.0
        with silently(self._button):
            self._button.setChecked(is_on or self._is_preparing)
        self._button.setText(self._text())
        allow(self._button, "" if self._is_preparing else self._refusal())
        self._preview.show(state)

    def tick(self) -> None:
        self._preview.tick()
        if self._changed_at and time.monotonic() - self._changed_at >= CALM_SECONDS:
            self._changed_at = 0.0
            try:
                self._panel.workflow.live_update()
            except VolumeSegmanticsError as error:
                self._panel.status.complain(str(error))

    def forget(self) -> None:
        self._observations.clear()
        self._changed_at = 0.0

    def let_go(self, node: Node) -> None:
        if node is self._panel.parameters.chosen("annotation"):
            self.forget()

    @property
    def _is_on(self) -> bool:
        return self._state.is_running and self._state.task == TASK

    @property
    def _is_preparing(self) -> bool:
        return self._panel.preparation.task == TASK

    def _text(self) -> str:
        if self._is_preparing:
            return _("Cancel")
        if not self._is_on:
            return _("Live")
        if self._state.phase is Phase.STOPPING:
            return _("Stopping …")
        return _("Cancel") if self._panel.workflow.allowed("live_stop") else _("End live mode")

    def _refusal(self) -> str:
        return self._panel.workflow.allowed("cancel") if self._is_on else self._reason

    def _press(self) -> None:
        """Start, or keep what has been learned; what is being finished, or has not begun to learn, is cancelled."""
        panel = self._panel
        if self._is_preparing:
            panel.preparation.cancel()
        elif not self._is_on:
            self._start()
        elif panel.workflow.allowed("live_stop") or not self._state.preview:
            panel.workflow.cancel()
        else:
            panel.workflow.live_stop()

    def _start(self) -> None:
        panel = self._panel
        panel.preparation.make_ready(TASK)
        panel.status.forget()  # live mode may have nothing to tell for long
        panel.workflow.device = panel.user.device
        volume, strokes = panel.parameters.chosen("volume"), panel.parameters.chosen("annotation")
        name = text_of(self._ui.modelNameLineEdit).strip() or (volume.GetName() if volume else "")
        panel.workflow.live_start(model=new_model(panel.models_folder, name))
        self._preview.begin()
        for event in EVENTS:
            self._observations.add(strokes.GetSegmentation(), getattr(slicer.vtkSegmentation, event), self._note_change)

    def _note_change(self, *_: object) -> None:
        self._changed_at = time.monotonic()
