"""Annotate: Slicer's own Segment Editor, with the tools for strokes only, and how much of each class is painted."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from html import escape
from typing import Any

import slicer
from slicer.i18n import tr as _

from VolumeSegmanticsLib.errors import VolumeSegmanticsError
from VolumeSegmanticsLib.settings import TrainSettings

from .guidance import Counts, Painted, counting
from .nodes import Node
from .observing import Observations
from .parameters import MODULE_NAME
from .section import Section
from .widgets import data_of, fill, paragraphs

EFFECTS = ("Paint", "Draw", "Erase", "Threshold", "Grow from seeds", "Fill between slices")
UNDO_STATES = 10
CALM_SECONDS = 0.5
"""Strokes are counted once nothing has changed for so long."""
COUNTING_SECONDS = 0.02
"""Counting may take so long at once; big strokes are counted in parts."""


class AnnotateSection(Section):
    """The editor and the counts follow the volume and the strokes that are chosen."""

    def _set_up(self, ui: Any) -> None:
        editor = ui.segmentEditor
        editor.setEffectNameOrder(list(EFFECTS))
        editor.setProperty("unorderedEffectsVisible", False)
        editor.setSegmentationNodeSelectorVisible(False)
        editor.setSourceVolumeNodeSelectorVisible(False)
        editor.setSwitchToSegmentationsButtonVisible(False)
        editor.setProperty("show3DButtonVisible", False)
        editor.setAutoShowSourceVolumeNode(False)  # nor while the user works in another module
        editor.setMaximumNumberOfUndoStates(UNDO_STATES)
        ui.unpaintedComboBox.currentIndexChanged.connect(lambda *_: self._panel.attempt(self._choose_unpainted))
        self._observations = Observations()
        self._shown: tuple[Node | None, Node | None] = (None, None)
        self._is_entered = self._has_keys = False
        self._changed_at = 0.0
        self._counting: Iterator[Counts | None] = iter(())

    def enter(self) -> None:
        self._is_entered = True
        self._ui.segmentEditor.updateEffectList()  # tools may have come late

    def refresh(self) -> None:
        parameters = self._panel.parameters
        volume, annotation = parameters.chosen("volume"), parameters.chosen("annotation")
        if (volume, annotation) != self._shown or self._is_astray(volume, annotation):
            self._edit(volume, annotation)
        fill(self._ui.unpaintedComboBox, _unpainted_choices(), parameters.settings(TrainSettings).unpainted)
        is_ready = volume is not None and annotation is not None
        self._ui.segmentEditor.setEnabled(is_ready)
        self._give_keys(is_ready)
        if volume is None:
            self._ui.paintedLabel.setText(_("Load a volume, and choose it above."))
        elif annotation is None:
            self._ui.paintedLabel.setText(_("Press “New” beside the strokes, and paint a little of each material."))

    def tick(self) -> None:
        if self._changed_at and time.monotonic() - self._changed_at >= CALM_SECONDS:
            self._changed_at = 0.0
            self._begin_to_count()
        self._count()

    def leave(self) -> None:
        self._is_entered = False
        self._ui.segmentEditor.setActiveEffect(None)
        self._give_keys(False)
        self._ui.segmentEditor.removeViewObservations()

    def forget(self) -> None:
        self._observations.clear()
        self._shown, self._changed_at, self._counting = (None, None), 0.0, iter(())
        self._give_keys(False)
        self._ui.segmentEditor.setSegmentationNode(None)
        self._ui.segmentEditor.removeViewObservations()

    def close(self) -> None:
        self._ui.segmentEditor.setMRMLSegmentEditorNode(None)  # a second panel's editor would share its tools

    def _edit(self, volume: Node | None, annotation: Node | None) -> None:
        """Hand volume and strokes to the editor; it takes them in this order only."""
        editor = self._ui.segmentEditor
        node = _editor_node(self._panel.scene)
        editor.setMRMLSegmentEditorNode(node)
        editor.setMRMLScene(self._panel.scene)
        editor.setSegmentationNode(annotation)
        if annotation is not None:
            editor.setSourceVolumeNode(volume)
        self._observations.clear()
        self._observations.add(node, "ModifiedEvent", _exclude_each_other)
        self._panel.painted = None
        self._shown = (volume, annotation)
        self._ui.paintedLabel.setText("")
        if annotation is not None:
            segmentation = annotation.GetSegmentation()
            for event in ("SourceRepresentationModified", "SegmentAdded", "SegmentRemoved", "SegmentModified"):
                self._observations.add(segmentation, getattr(slicer.vtkSegmentation, event), self._note_change)
        self._begin_to_count()
        self._count()

    def _is_astray(self, volume: Node | None, annotation: Node | None) -> bool:
        """Tell whether the editor has taken up other nodes by itself, as it does when a scene is imported."""
        if volume is None or annotation is None:
            return False
        node = _editor_node(self._panel.scene)
        return node.GetSegmentationNode() is not annotation or node.GetSourceVolumeNode() is not volume

    def _give_keys(self, wanted: bool) -> None:
        """Have keys for tools, segments and undo only where something can be painted: the whole window hears them."""
        wanted = wanted and self._is_entered and slicer.util.mainWindow() is not None
        if wanted != self._has_keys:
            self._has_keys = wanted
            editor = self._ui.segmentEditor
            (editor.installKeyboardShortcuts if wanted else editor.uninstallKeyboardShortcuts)()

    def _note_change(self, *_: object) -> None:
        self._changed_at, self._counting = time.monotonic(), iter(())

    def _begin_to_count(self) -> None:
        volume, annotation = self._shown
        self._counting = counting(annotation, volume) if volume and annotation else iter(())

    def _count(self) -> None:
        """Go on counting for a moment, and show the answer once it is there."""
        end = time.monotonic() + COUNTING_SECONDS
        try:
            for answer in self._counting:
                if answer is not None:
                    self._panel.painted = answer
                    self._ui.paintedLabel.setText(paragraphs([_told(one) for one in answer.classes]))
                    self._panel.mark_stale()
                if time.monotonic() > end:
                    return
        except VolumeSegmanticsError as error:
            self._panel.painted = None
            self._ui.paintedLabel.setText(escape(str(error)))
            self._panel.mark_stale()

    def _choose_unpainted(self) -> None:
        parameters = self._panel.parameters
        settings = parameters.settings(TrainSettings)
        parameters.keep(dataclasses.replace(settings, unpainted=data_of(self._ui.unpaintedComboBox)))


def _unpainted_choices() -> list[tuple[str, str, str]]:
    return [
        ("auto", _("is ignored"), _("Nobody has looked at it: it teaches nothing. Paint some background too.")),
        ("ignore", _("is always ignored"), _("Also in strokes that came from a result.")),
        ("background", _("is background"), _("All of it: choose this only where everything else is painted.")),
    ]


def _editor_node(scene: Node) -> Node:
    """Return the editor's own settings, apart from those of the module Segment Editor."""
    node = scene.GetSingletonNode(MODULE_NAME, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = scene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        node.UnRegister(None)  # CreateNodeByClass leaves that to its caller
        node.SetSingletonTag(MODULE_NAME)
        node = scene.AddNode(node)
    _exclude_each_other(node)
    return node


def _exclude_each_other(node: Node, *_: object) -> None:
    """See to it that a voxel has one class, whatever is chosen below the tools."""
    node.SetOverwriteMode(node.OverwriteAllSegments)


def _told(one: Painted) -> str:
    """Return one class in rich text: its colour, name, how much of it is painted, and whether that is too little."""
    color = "#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in one.color))
    count = _("{voxels} voxels").format(voxels=f"{one.voxels:,}".replace(",", "\u202f"))
    if one.voxels:
        count += _(" in one slice") if one.slices == 1 else _(" in {slices} slices").format(slices=one.slices)
    warning = f"<br><i>{escape(one.warning)}</i>" if one.warning else ""
    return f'<font color="{color}">■</font> {escape(one.name)}: {count}{warning}'
