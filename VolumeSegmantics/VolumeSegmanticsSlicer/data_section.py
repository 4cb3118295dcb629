"""Data: which volume, which strokes, which region; and a part of a file that is too big to load."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

from .big_file_form import BigFileForm
from .nodes import Node
from .results import is_result
from .section import Section
from .slice_views import new_region
from .strokes import choose, choose_what_is_there, new_strokes, nodes_of
from .widgets import allow, choose_node, keep_narrow, leave_out

SELECTORS = {"volume": "volumeSelector", "annotation": "annotationSelector", "region": "regionSelector"}


class DataSection(Section):
    """Chooses nodes, and makes those that are missing."""

    def _set_up(self, ui: Any) -> None:
        for role, name in SELECTORS.items():
            selector = getattr(ui, name)
            keep_narrow(selector)
            selector.setMRMLScene(self._panel.scene)
            # The first keeps still where the other node has the same name.
            for signal in (selector.currentNodeIDChanged, selector.nodeActivated):
                signal.connect(lambda *_, role=role: self._chosen(role))
        ui.newStrokesButton.clicked.connect(lambda *_: self._panel.attempt(self._new_strokes))
        ui.newRegionButton.clicked.connect(lambda *_: self._panel.attempt(self._new_region))
        self._big_file = BigFileForm(self._panel, ui)

    def refresh(self) -> None:
        parameters = self._panel.parameters
        if self._panel.has_other_nodes:
            choose_what_is_there(self._panel.scene, parameters)
            results = [node for node in nodes_of(self._panel.scene, "vtkMRMLScalarVolumeNode") if is_result(node)]
            leave_out(self._ui.volumeSelector, [node.GetID() for node in results])  # nothing to segment
        for role, name in SELECTORS.items():
            choose_node(getattr(self._ui, name), parameters.chosen(role))
        reason = "" if parameters.chosen("volume") else _("Choose a volume first.")
        allow(self._ui.newStrokesButton, reason)
        allow(self._ui.newRegionButton, reason)
        self._big_file.refresh()

    def forget(self) -> None:
        for name in SELECTORS.values():
            choose_node(getattr(self._ui, name), None)

    def let_go(self, node: Node) -> None:
        for name in SELECTORS.values():
            if getattr(self._ui, name).currentNode() is node:
                choose_node(getattr(self._ui, name), None)

    def _chosen(self, role: str) -> None:
        node = getattr(self._ui, SELECTORS[role]).currentNode()
        if self._panel.is_listening and node is not self._panel.parameters.chosen(role):
            self._panel.attempt(lambda: self._choose(role, node))

    def _choose(self, role: str, node: Node | None) -> None:
        choose(self._panel.parameters, role, node)
        if role == "volume" and node is not None:
            slicer.util.setSliceViewerLayers(background=node, fit=True)

    def _new_strokes(self) -> None:
        parameters = self._panel.parameters
        choose(parameters, "annotation", new_strokes(parameters.chosen("volume")))

    def _new_region(self) -> None:
        parameters = self._panel.parameters
        choose(parameters, "region", new_region(parameters.chosen("volume")))
