"""Train: which model, on what, and a button that becomes Cancel; the curves of loss and Dice."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from VolumeSegmanticsLib.events import EpochEnded
from VolumeSegmanticsLib.settings import TrainSettings

from .accelerators import DeviceQuery
from .job_button import JobButton
from .loss_chart import LossChart
from .model_files import new_model
from .presets import CUSTOM, DEFAULT, PRESETS, preset_of, with_preset
from .preview_display import PreviewDisplay
from .section import Section
from .states import State
from .widgets import allow, data_of, fill, silently, text_of, value_of

FEWEST_CLASSES = 2


class TrainSection(Section):
    """Starts and stops trainings, also the one that goes on from the last model."""

    def _set_up(self, ui: Any) -> None:
        panel = self._panel
        self._button = JobButton(panel, ui.trainButton, "train", _("Train"), self._train)
        self._chart = LossChart(ui.lossChart)
        self._epochs: tuple[EpochEnded, ...] = ()
        self._preview = PreviewDisplay(panel, "train")
        self._query: DeviceQuery | None = DeviceQuery()
        self._devices = self._query.devices()
        ui.presetComboBox.currentIndexChanged.connect(lambda *_: panel.attempt(self._choose_preset))
        ui.deviceComboBox.currentIndexChanged.connect(lambda *_: panel.attempt(self._choose_device))
        ui.previewCheckBox.toggled.connect(lambda *_: panel.attempt(self._choose_preview))
        ui.trainAgainButton.clicked.connect(lambda *_: panel.attempt(lambda: self._train(again=True)))

    def refresh(self) -> None:
        ui, panel = self._ui, self._panel
        self._begin_with_default()
        chosen = self._preset()
        fill(ui.presetComboBox, _preset_choices(chosen), chosen)
        volume = panel.parameters.chosen("volume")
        ui.modelNameLineEdit.setPlaceholderText(volume.GetName() if volume else "")
        fill(ui.deviceComboBox, self._device_choices(), panel.user.device)
        with silently(ui.previewCheckBox):
            ui.previewCheckBox.setChecked(panel.user.wants_preview)
        reason = panel.refused("train") or self._too_little_painted()
        self._button.refresh(reason)
        allow(ui.trainAgainButton, reason or panel.refused("predict_file"))

    def show(self, state: State) -> None:
        self._button.show(state)
        if state.task == "train":
            self._epochs = state.epochs
            self._chart.show(self._epochs)
        self._preview.show(state)

    def forget(self) -> None:
        self._epochs = ()
        self._chart.show(self._epochs)

    def tick(self) -> None:
        self._preview.tick()
        self._chart.show(self._epochs)  # the panel may be wider now
        if self._query is not None and self._query.is_over:
            self._devices, self._query = self._query.devices(), None
            self._panel.mark_stale()

    def close(self) -> None:
        if self._query is not None:
            self._query.close()

    def _train(self, *, again: bool = False) -> None:
        panel = self._panel
        panel.preparation.make_ready("train")
        panel.workflow.device = panel.user.device
        volume = panel.parameters.chosen("volume")
        name = text_of(self._ui.modelNameLineEdit).strip() or (volume.GetName() if volume else "")
        path = new_model(panel.models_folder, name)
        self._preview.begin()
        panel.workflow.train(model=path, start_from=panel.parameters.model_path if again else None)

    def _too_little_painted(self) -> str:
        """Return why there is too little to learn from; empty where that is not known."""
        counts = self._panel.painted
        painted = sum(one.voxels > 0 for one in counts.classes) if counts else FEWEST_CLASSES
        settings = self._panel.parameters.settings(TrainSettings)
        if painted >= FEWEST_CLASSES or (painted and settings.unpainted == "background"):
            return ""
        return _("Paint some voxels of at least two classes first.")

    def _begin_with_default(self) -> None:
        """Choose the default preset once a volume is chosen, in a scene in which no training was ever set up."""
        parameters = self._panel.parameters
        if parameters.preset or parameters.chosen("volume") is None:
            return
        settings, parameters.preset = parameters.settings(TrainSettings), self._preset()
        if parameters.preset == DEFAULT:
            parameters.keep(with_preset(settings, DEFAULT))

    def _preset(self) -> str:
        """Return the preset of the settings; where nobody has chosen any, the default."""
        parameters = self._panel.parameters
        settings = parameters.settings(TrainSettings)
        return preset_of(settings) if parameters.preset or settings.changed() else DEFAULT

    def _choose_preset(self) -> None:
        name = data_of(self._ui.presetComboBox)
        if name in PRESETS:
            parameters = self._panel.parameters
            parameters.preset = name
            parameters.keep(with_preset(parameters.settings(TrainSettings), name))

    def _choose_device(self) -> None:
        self._panel.user.device = data_of(self._ui.deviceComboBox)

    def _choose_preview(self) -> None:
        self._panel.user.wants_preview = bool(value_of(self._ui.previewCheckBox, "checked"))

    def _device_choices(self) -> list[tuple[str, str, str]]:
        known = [(device.name, device.title, "") for device in self._devices]
        name = self._panel.user.device
        return known if name in [item[0] for item in known] else [*known, (name, name, _("It is not there now."))]


def _preset_choices(chosen: str) -> list[tuple[str, str, str]]:
    choices = [(name, _(preset.title), _(preset.help)) for name, preset in PRESETS.items()]
    custom = (CUSTOM, _("As set under Advanced"), _("Settings that differ from those of the others."))
    return [*choices, custom] if chosen == CUSTOM else choices
