"""Data: which volume, which strokes, which region; and a part of a file that is too big to load."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from .big_file_form import BigFileForm
from .section import Section
from .slice_views import new_region
from .strokes import choose, choose_what_is_there, new_strokes
from .widgets import allow, silently

SELECTORS = {"volume": "volumeSelector", "annotation": "annotationSelector", "region": "regionSelector"}


class DataSection(Section):
    """Chooses nodes, and makes those that are missing."""

    def _set_up(self, ui: Any) -> None:
        for role, name in SELECTORS.items():
            selector = getattr(ui, name)
            selector.setMRMLScene(self._panel.scene)
            selector.currentNodeIDChanged.connect(lambda *_, role=role: self._chosen(role))
        ui.newStrokesButton.clicked.connect(lambda *_: self._panel.attempt(self._new_strokes))
        ui.newRegionButton.clicked.connect(lambda *_: self._panel.attempt(self._new_region))
        self._big_file = BigFileForm(self._panel, ui)

    def refresh(self) -> None:
        parameters = self._panel.parameters
        choose_what_is_there(self._panel.scene, parameters)
        for role, name in SELECTORS.items():
            selector, node = getattr(self._ui, name), parameters.chosen(role)
            with silently(selector):
                selector.setCurrentNodeID(node.GetID() if node else "")
        reason = "" if parameters.chosen("volume") else _("Choose a volume first.")
        allow(self._ui.newStrokesButton, reason)
        allow(self._ui.newRegionButton, reason)
        self._big_file.refresh()

    def _chosen(self, role: str) -> None:
        if self._panel.is_listening:
            node = getattr(self._ui, SELECTORS[role]).currentNode()
            self._panel.attempt(lambda: choose(self._panel.parameters, role, node))

    def _new_strokes(self) -> None:
        parameters = self._panel.parameters
        choose(parameters, "annotation", new_strokes(parameters.chosen("volume")))

    def _new_region(self) -> None:
        parameters = self._panel.parameters
        choose(parameters, "region", new_region(parameters.chosen("volume")))
