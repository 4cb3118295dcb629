"""What the user chose for this computer, whatever the scene: device, folder of models, Python of the worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

_PREFIX = "VolumeSegmantics/"
DEFAULT_DEVICE = "auto"


class ApplicationSettings(Protocol):
    """The part of ``QSettings`` that is needed here."""

    def value(self, key: str) -> Any:
        """Return what was kept, or None."""

    def setValue(self, key: str, value: Any) -> None:
        """Keep a text."""


class UserChoices:
    """Read from and kept in the application's settings; they outlive the scene and the session."""

    def __init__(self, settings: ApplicationSettings) -> None:
        self._settings = settings

    @property
    def device(self) -> str:
        """The device that computes, as ``TrainSettings.device`` names it."""
        return self._text("Device") or DEFAULT_DEVICE

    @device.setter
    def device(self, name: str) -> None:
        self._settings.setValue(_PREFIX + "Device", name)

    @property
    def models_folder(self) -> Path:
        """Where trained models are kept."""
        text = self._text("ModelsFolder")
        return Path(text) if text else Path.home() / "VolumeSegmantics" / "models"

    @models_folder.setter
    def models_folder(self, folder: Path) -> None:
        self._settings.setValue(_PREFIX + "ModelsFolder", str(folder))

    @property
    def python(self) -> str:
        """The Python that workers run with; empty for Slicer's own."""
        return self._text("Python")

    @python.setter
    def python(self, path: str) -> None:
        self._settings.setValue(_PREFIX + "Python", path)

    @property
    def wants_confidence(self) -> bool:
        """Whether predictions tell their confidence too."""
        return self._text("Confidence") != "no"

    @wants_confidence.setter
    def wants_confidence(self, wanted: bool) -> None:
        self._settings.setValue(_PREFIX + "Confidence", "yes" if wanted else "no")

    @property
    def wants_preview(self) -> bool:
        """Whether the present model's answer is shown while it trains."""
        return self._text("Preview") != "no"

    @wants_preview.setter
    def wants_preview(self, wanted: bool) -> None:
        self._settings.setValue(_PREFIX + "Preview", "yes" if wanted else "no")

    def _text(self, name: str) -> str:
        return str(self._settings.value(_PREFIX + name) or "")
