"""Segment: which model, from how many directions, into which node, or from file to file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from VolumeSegmanticsLib.settings import PredictSettings

from .job_button import JobButton
from .model_files import SUFFIX, card_of, models_in, told
from .nodes import Node
from .results import may_be_refilled
from .scenes import stem
from .section import Section
from .states import Phase, State
from .strokes import choose, nodes_of
from .widgets import (
    allow,
    ask_for_file,
    ask_for_folder,
    choose_node,
    data_of,
    fill,
    keep_narrow,
    leave_out,
    silently,
    text_of,
    value_of,
)
from .wording import cost

RESULT_ENDING = " segmentation.seg.nrrd"


class SegmentSection(Section):
    """Applies the chosen model."""

    def _set_up(self, ui: Any) -> None:
        panel = self._panel
        self._button = JobButton(panel, ui.predictButton, "predict", _("Predict"), self._predict)
        self._planning = JobButton(panel, ui.planButton, "plan", _("Estimate"), self._plan)
        self._planned: tuple[Any, ...] = ()
        self._card: tuple[Path | None, float] | None = None
        keep_narrow(ui.resultSelector)
        ui.resultSelector.setMRMLScene(panel.scene)
        for signal in (ui.resultSelector.currentNodeIDChanged, ui.resultSelector.nodeActivated):
            signal.connect(lambda *_: self._choose_result())
        self._seen_in_3d = ""
        ui.show3DButton.toggled.connect(self._look_at_surfaces)
        ui.modelComboBox.currentIndexChanged.connect(lambda *_: panel.attempt(self._choose_model))
        ui.openModelButton.clicked.connect(lambda *_: panel.attempt(self._open_model))
        ui.qualityComboBox.currentIndexChanged.connect(lambda *_: panel.attempt(self._choose_quality))
        ui.confidenceCheckBox.toggled.connect(lambda *_: panel.attempt(self._choose_confidence))
        ui.predictFileButton.clicked.connect(lambda *_: panel.attempt(lambda: self._predict_file(ask_for_file)))
        ui.predictFolderButton.clicked.connect(lambda *_: panel.attempt(lambda: self._predict_file(ask_for_folder)))

    def refresh(self) -> None:
        ui, panel = self._ui, self._panel
        model, result = panel.parameters.model_path, panel.parameters.chosen("result")
        fill(ui.modelComboBox, _model_choices(panel.models_folder, model), str(model or ""))
        self._show_card(model)
        fill(ui.qualityComboBox, _qualities(), panel.parameters.settings(PredictSettings).quality)
        if panel.has_other_nodes:
            segmentations = nodes_of(panel.scene, "vtkMRMLSegmentationNode")
            leave_out(ui.resultSelector, [node.GetID() for node in segmentations if not may_be_refilled(node)])
        choose_node(ui.resultSelector, result)
        with silently(ui.confidenceCheckBox):
            ui.confidenceCheckBox.setChecked(panel.user.wants_confidence)
        ui.show3DButton.setSegmentationNode(result)
        allow(ui.show3DButton, "" if result else _("There is no result yet."))
        self._button.refresh(panel.refused("predict"))
        self._planning.refresh(panel.refused("plan"))
        if self._planned != self._choice():
            ui.planLabel.setText("")
        ui.planLabel.setVisible(bool(text_of(ui.planLabel)))
        for button in (ui.predictFileButton, ui.predictFolderButton):
            allow(button, panel.refused("predict_file"))

    def show(self, state: State) -> None:
        self._button.show(state)
        self._planning.show(state)
        if state.task == "plan" and state.phase is Phase.DONE and self._planned == self._choice():
            self._ui.planLabel.setText(cost(state.outputs))
            self._ui.planLabel.setVisible(True)

    def forget(self) -> None:
        choose_node(self._ui.resultSelector, None)
        self._seen_in_3d = ""

    def let_go(self, node: Node) -> None:
        if self._ui.resultSelector.currentNode() is node:
            choose_node(self._ui.resultSelector, None)

    def _predict(self) -> None:
        panel = self._panel
        panel.preparation.make_ready("predict")
        panel.workflow.device = panel.user.device
        panel.workflow.predict(confidence=panel.user.wants_confidence)

    def _look_at_surfaces(self, shown: bool) -> None:
        """Turn the 3D views to a result that is shown the first time: a sample may be too small to be seen in them."""
        result, layout = self._panel.parameters.chosen("result"), slicer.app.layoutManager()
        if shown and result and layout is not None and result.GetID() != self._seen_in_3d:
            self._seen_in_3d = result.GetID()
            layout.resetThreeDViews()

    def _plan(self) -> None:
        panel = self._panel
        panel.preparation.make_ready("plan")
        panel.workflow.device = panel.user.device
        self._planned = self._choice()
        panel.workflow.plan(confidence=panel.user.wants_confidence)

    def _choice(self) -> tuple[Any, ...]:
        """Return all that an estimate depends on."""
        parameters, user = self._panel.parameters, self._panel.user
        nodes = [parameters.chosen(role) for role in ("volume", "region")]
        stamps = [(node.GetID(), node.GetMTime()) for node in nodes if node]
        settings = parameters.settings(PredictSettings)
        return (*stamps, parameters.model_path, settings, user.device, user.wants_confidence)

    def _predict_file(self, ask: Callable[..., Path | None]) -> None:
        panel = self._panel
        image = ask(panel.root, _("Segment an image without loading it"))
        if image is None:
            return
        panel.preparation.make_ready("predict")
        if not panel.user.python:
            panel.preparation.make_readable(image, "predict")
        panel.workflow.device = panel.user.device
        panel.workflow.predict_file(image, free_result(image))

    def _choose_result(self) -> None:
        node = self._ui.resultSelector.currentNode()
        if self._panel.is_listening and node is not self._panel.parameters.chosen("result"):
            self._panel.attempt(lambda: choose(self._panel.parameters, "result", node))

    def _choose_model(self) -> None:
        path = data_of(self._ui.modelComboBox)
        self._panel.parameters.model_path = Path(path) if path else None

    def _open_model(self) -> None:
        if path := ask_for_file(self._panel.root, _("Choose a model"), f"{_('Models')} (*{SUFFIX})"):
            self._panel.parameters.model_path = path

    def _choose_quality(self) -> None:
        parameters = self._panel.parameters
        settings = parameters.settings(PredictSettings)
        parameters.keep(dataclasses.replace(settings, quality=data_of(self._ui.qualityComboBox)))

    def _choose_confidence(self) -> None:
        self._panel.user.wants_confidence = bool(value_of(self._ui.confidenceCheckBox, "checked"))

    def _show_card(self, model: Path | None) -> None:
        """Show what is known about a model, read anew only when its file is another."""
        known = (model, model.stat().st_mtime if model and model.is_file() else 0.0)
        if known == self._card:
            return
        self._card = known
        card = card_of(model) if model and known[1] else None
        self._ui.modelCardLabel.setText(told(card) if card else "")
        self._ui.modelCardLabel.setVisible(card is not None)


def free_result(image: Path) -> Path:
    """Return a label file beside an image that does not exist yet."""
    path, n = image.with_name(stem(image) + RESULT_ENDING), 1
    while path.exists():
        n += 1
        path = image.with_name(f"{stem(image)} {n}{RESULT_ENDING}")
    return path


def _model_choices(folder: Path, chosen: Path | None) -> list[tuple[str, str, str]]:
    """Return the models of the folder, the newest first, and the one that was chosen from elsewhere."""
    paths = models_in(folder)
    if chosen and chosen not in paths:
        paths.append(chosen)
    choices = [(str(path), path.name.removesuffix(SUFFIX), str(path)) for path in paths]
    if chosen:
        return choices
    return [("", _("Choose a model") if choices else _("None yet: train one"), ""), *choices]


def _qualities() -> list[tuple[str, str, str]]:
    return [
        ("low", _("One direction, fast"), _("Slices along the first axis only.")),
        ("medium", _("Three directions"), _("Slices along each axis that the model has learned.")),
        ("high", _("All directions, slow"), _("Slices along each axis, turned and mirrored too.")),
    ]
