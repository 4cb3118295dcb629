"""Correct: where the model is least sure, what of its result becomes strokes, and rules that shall hold in it."""

from __future__ import annotations

import contextlib
from html import escape
from typing import Any

from slicer.i18n import tr as _

from VolumeSegmanticsLib.constraints import KINDS, parse
from VolumeSegmanticsLib.errors import InputError, VolumeSegmanticsError
from VolumeSegmanticsLib.settings import ConstrainSettings

from .accepting import Region
from .guidance import Slice, least_certain
from .job_button import JobButton
from .nodes import Node
from .section import Section
from .slice_views import VIEWS, show_place, slice_in_view
from .states import State
from .widgets import allow, data_of, fill, silently, text_of, value_of

REGION = "region"
_EVERY_TICKS = 3


class CorrectSection(Section):
    """Goes to slices, and accepts what is right there."""

    def _set_up(self, ui: Any) -> None:
        panel = self._panel
        self._where, self._ticks, self._rules = VIEWS[0], 0, ""
        self._seen: tuple[Any, set[int]] = (None, set())
        ui.acceptWhereComboBox.currentIndexChanged.connect(lambda *_: panel.attempt(self._choose_where))
        ui.leastCertainButton.clicked.connect(lambda *_: panel.attempt(self._go_to_least_certain))
        ui.acceptButton.clicked.connect(lambda *_: panel.attempt(self._accept))
        self._button = JobButton(panel, ui.constrainButton, "constrain", _("Apply rules"), self._constrain)
        ui.rulesLineEdit.setToolTip(_help_on_rules())
        ui.rulesLineEdit.textChanged.connect(lambda *_: panel.attempt(self._keep_rules))
        ui.undoConstrainButton.clicked.connect(lambda *_: panel.attempt(self._undo_rules))

    def refresh(self) -> None:
        ui, panel = self._ui, self._panel
        fill(ui.acceptWhereComboBox, _places(), self._where)
        has_confidence = panel.parameters.chosen("confidence") is not None and panel.parameters.chosen("volume")
        reason = "" if has_confidence else _("Predict first, with “Tell how sure it is” switched on.")
        allow(ui.leastCertainButton, reason)
        self._allow_accepting()
        self._show_rules()
        self._button.refresh(panel.refused("constrain") or self._no_rules())
        allow(ui.undoConstrainButton, panel.refused("undo_constrain"))

    def show(self, state: State) -> None:
        self._button.show(state)

    def tick(self) -> None:
        self._ticks += 1
        if self._ticks % _EVERY_TICKS == 0:
            self._allow_accepting()  # moving through the slices is not told to anybody

    def forget(self) -> None:
        self._rules = ""
        with silently(self._ui.rulesLineEdit):
            self._ui.rulesLineEdit.setText("")

    def _allow_accepting(self) -> None:
        allow(self._ui.acceptButton, self._panel.refused("accept") or self._no_place())

    def _no_place(self) -> str:
        """Return why there is nowhere to accept; empty where there is."""
        parameters = self._panel.parameters
        if self._where == REGION:
            return "" if parameters.chosen("region") else _("Choose or make a region under Data first.")
        try:
            slice_in_view(self._panel.scene, self._where, parameters.chosen("volume"))
        except VolumeSegmanticsError as error:
            return str(error)
        return ""

    def _choose_where(self) -> None:
        self._where = data_of(self._ui.acceptWhereComboBox)

    def _go_to_least_certain(self) -> None:
        """Go to the least certain slice that has not been shown before, and if possible is not painted."""
        parameters, axis = self._panel.parameters, self._axis()
        confidence, volume = parameters.chosen("confidence"), parameters.chosen("volume")
        key = (confidence.GetID(), confidence.GetImageData().GetMTime(), axis)
        if self._seen[0] != key:
            self._seen = (key, set())
        found = self._least_certain(confidence, volume, axis)
        self._seen[1].add(found.index)
        show_place(self._panel.scene, found.position_ras)
        told = _("Slice {index} along {axis}: the model is {percent} % sure on average.")
        self._panel.status.say(told.format(index=found.index, axis=axis, percent=round(found.confidence)))

    def _least_certain(self, confidence: Node, volume: Node, axis: str) -> Slice:
        """Return the least certain slice; where all are painted or were shown, these may come again."""
        counts, seen = self._panel.painted, self._seen[1]
        painted = counts.slices[axis] if counts else frozenset()
        for avoided in (seen | painted, set(seen)):
            with contextlib.suppress(InputError):
                return least_certain(confidence, volume, axis=axis, avoid=avoided)
        seen.clear()
        return least_certain(confidence, volume, axis=axis)

    def _axis(self) -> str:
        """Return the axis of the view that the user works with."""
        view = self._where if self._where in VIEWS else VIEWS[0]
        try:
            return slice_in_view(self._panel.scene, view, self._panel.parameters.chosen("volume"))[0]
        except VolumeSegmanticsError:
            return "z"

    def _accept(self) -> None:
        parameters = self._panel.parameters
        volume = parameters.chosen("volume")
        if self._where == REGION:
            region = Region.inside_roi(volume, parameters.chosen("region"))
        else:
            region = Region.one_slice(volume, *slice_in_view(self._panel.scene, self._where, volume))
        overwrite = bool(value_of(self._ui.overwriteCheckBox, "checked"))
        accepted = self._panel.workflow.accept(region, overwrite=overwrite)
        told = _("{n} voxels were accepted.") if accepted else _("Nothing is left to accept there.")
        self._panel.status.say(told.format(n=accepted))

    def _keep_rules(self) -> None:
        """Let the scene remember the rules, as soon as they can be read."""
        self._panel.mark_stale()
        self._rules = text_of(self._ui.rulesLineEdit)
        with contextlib.suppress(VolumeSegmanticsError):
            self._panel.parameters.keep(ConstrainSettings(rules=self._rules))

    def _show_rules(self) -> None:
        """Show the rules of a scene that was opened; what is being written stays."""
        kept = self._panel.parameters.settings(ConstrainSettings).rules
        if kept and not self._rules:
            self._rules = kept
            with silently(self._ui.rulesLineEdit):
                self._ui.rulesLineEdit.setText(kept)

    def _no_rules(self) -> str:
        """Return why there are no rules to apply; empty where there are."""
        try:
            return "" if parse(text_of(self._ui.rulesLineEdit)) else _("Write a rule first.")
        except VolumeSegmanticsError as error:
            return str(error)

    def _constrain(self) -> None:
        self._panel.preparation.make_ready("constrain")
        self._panel.workflow.constrain(text_of(self._ui.rulesLineEdit))

    def _undo_rules(self) -> None:
        self._panel.workflow.undo_constrain()
        self._panel.status.say(_("The result is what it was before the rules."))


def _help_on_rules() -> str:
    """Return what can be written as a rule, in rich text."""
    rows = "".join(f"<tr><td><code>{escape(kind.usage)}</code></td><td>{escape(kind.does)}</td></tr>" for kind in KINDS)
    told = _("Rules that shall hold in the result, with semicolons between them. Classes by name; lengths in voxels.")
    return f"<p>{told}</p><table>{rows}</table>"


def _places() -> list[tuple[str, str, str]]:
    views = {"Red": _("Slice in the red view"), "Green": _("… in the green view"), "Yellow": _("… in the yellow view")}
    return [*((name, title, "") for name, title in views.items()), (REGION, _("Inside the region"), "")]
