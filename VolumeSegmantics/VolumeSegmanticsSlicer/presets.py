"""Quick, balanced, thorough: a word for a few training settings that go together.

A preset decides only the settings that some preset names; everything else stays as the user has it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from VolumeSegmanticsLib.errors import SettingsError
from VolumeSegmanticsLib.settings import MODELS, TrainSettings

CUSTOM = "custom"
DEFAULT = "quick"
"""What a scene begins with in which nobody has chosen anything: it answers in seconds on any machine."""


@dataclass(frozen=True)
class Preset:
    """A choice of training settings.

    Attributes:
        title: What the user reads.
        help: When it is the right one.
        values: The settings that differ from their default.
    """

    title: str
    help: str
    values: Mapping[str, Any]


_SMALL_NETWORK = {"model": "unet2d", "encoder": "resnet18", "epochs": 10, "crops_per_epoch": 256}

PRESETS: dict[str, Preset] = {
    "quick": Preset(
        "Quick",
        "A small model, for a first look and for simple images; seconds to a few minutes.",
        {"model": "local"} if "local" in MODELS else _SMALL_NETWORK,
    ),
    "balanced": Preset(
        "Balanced", "A 2D network that looks along all three axes; minutes with a GPU, longer without.", {}
    ),
    "thorough": Preset(
        "Thorough",
        "A network that sees neighbouring slices too, trained for longer; best with a GPU.",
        {"model": "unet25d", "epochs": 80, "patience": 40},
    ),
}

DECIDED = tuple(dict.fromkeys(name for preset in PRESETS.values() for name in preset.values))
"""The settings that some preset names."""


def preset_of(settings: TrainSettings) -> str:
    """Return the name of the preset that settings follow, or ``"custom"``."""
    for name, preset in PRESETS.items():
        if all(getattr(settings, field) == value for field, value in _values(preset).items()):
            return name
    return CUSTOM


def with_preset(settings: TrainSettings, name: str) -> TrainSettings:
    """Return settings with a preset's; what does not go with its model falls back to its default."""
    wanted = _values(PRESETS[name])
    try:
        return dataclasses.replace(settings, **wanted)
    except SettingsError:
        return TrainSettings(**{"unpainted": settings.unpainted, "device": settings.device, **wanted})


def _values(preset: Preset) -> dict[str, Any]:
    """Return what a preset says about every setting that presets decide."""
    defaults = TrainSettings()
    return {name: preset.values.get(name, getattr(defaults, name)) for name in DECIDED}
