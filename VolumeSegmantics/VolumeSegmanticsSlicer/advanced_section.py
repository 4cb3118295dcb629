"""Advanced: every setting, which Python, and the folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.settings import PredictSettings, Settings, TrainSettings

from .model_files import models_in, remove_models
from .parameters import PREFIXES
from .section import Section
from .settings_form import SettingsForm
from .states import State
from .widgets import allow, ask_for_file, ask_for_folder, open_in_system, show_text, text_of

_CHOSEN_ELSEWHERE = {TrainSettings: ("device", "unpainted"), PredictSettings: ("device", "quality")}


class AdvancedSection(Section):
    """Forms that are made from the settings classes, and what belongs to this computer."""

    def _set_up(self, ui: Any) -> None:
        frames = {TrainSettings: ui.trainSettingsFrame, PredictSettings: ui.predictSettingsFrame}
        self._forms = {kind: self._form(frame, kind) for kind, frame in frames.items()}
        for button, act in (
            (ui.defaultsButton, self._restore_defaults),
            (ui.choosePythonButton, self._ask_for_python),
            (ui.chooseModelsFolderButton, self._ask_for_models_folder),
            (ui.openModelsFolderButton, lambda: open_in_system(self._panel.models_folder)),
            (ui.clearModelsButton, self._clear_models),
            (ui.openJobFolderButton, lambda: open_in_system(self._panel.workflow.state.folder)),
            (ui.openLogButton, lambda: open_in_system(self._panel.workflow.state.log_path)),
        ):
            button.clicked.connect(lambda *_, act=act: self._panel.attempt(act))
        ui.pythonLineEdit.editingFinished.connect(lambda *_: self._panel.attempt(self._take_python))

    def refresh(self) -> None:
        ui, panel = self._ui, self._panel
        for kind, form in self._forms.items():
            form.show(panel.parameters.settings(kind))
        show_text(ui.pythonLineEdit, panel.user.python)
        show_text(ui.modelsFolderLineEdit, str(panel.models_folder))
        no_folder = "" if panel.models_folder.is_dir() else _("The folder is made with the first model.")
        allow(ui.openModelsFolderButton, no_folder)
        no_models = "" if models_in(panel.models_folder) else _("There are none.")
        busy = _("A job is running.") if panel.workflow.state.is_running else ""
        allow(ui.clearModelsButton, busy or no_models)

    def show(self, state: State) -> None:
        has_folder = state.folder is not None and state.folder.is_dir()
        allow(self._ui.openJobFolderButton, "" if has_folder else _("No job has run yet."))
        has_log = state.log_path is not None and state.log_path.is_file()
        allow(self._ui.openLogButton, "" if has_log else _("No job has told anything yet."))

    def _form(self, frame: Any, kind: type[Settings]) -> SettingsForm:
        return SettingsForm(
            frame,
            kind,
            prefix=PREFIXES[kind],
            left_out=_CHOSEN_ELSEWHERE[kind],
            on_change=lambda name, value: self._panel.attempt(lambda: self._keep(kind, name, value)),
        )

    def _keep(self, kind: type[Settings], name: str, value: Any) -> None:
        parameters = self._panel.parameters
        parameters.keep(_with(parameters.settings(kind), name, value))

    def _restore_defaults(self) -> None:
        for kind in self._forms:
            self._panel.parameters.keep(kind())

    def _take_python(self) -> None:
        path = text_of(self._ui.pythonLineEdit).strip()
        if path and not Path(path).is_file():
            raise InputError(_('There is no program "{path}".').format(path=path), _("Choose a Python program."))
        self._panel.user.python = path

    def _ask_for_python(self) -> None:
        if path := ask_for_file(self._panel.root, _("Choose a Python program")):
            self._panel.user.python = str(path)

    def _ask_for_models_folder(self) -> None:
        folder = ask_for_folder(self._panel.root, _("Choose a folder for models"), self._panel.models_folder)
        if folder:
            self._panel.user.models_folder = folder

    def _clear_models(self) -> None:
        folder = self._panel.models_folder
        question = _('Delete all models in "{folder}"? This cannot be undone.').format(folder=folder)
        if self._panel.confirm(question):
            self._panel.status.say(_("{n} files were deleted.").format(n=remove_models(folder)))


def _with(settings: Settings, name: str, value: Any) -> Settings:
    """Return settings with another value; what another model does not have falls back to its default."""
    if name != "model":
        return dataclasses.replace(settings, **{name: value})
    models = {field.name: field.metadata["models"] for field in dataclasses.fields(settings)}
    kept = {field: old for field, old in settings.changed().items() if not models[field] or value in models[field]}
    return type(settings)(**{**kept, "model": value})
