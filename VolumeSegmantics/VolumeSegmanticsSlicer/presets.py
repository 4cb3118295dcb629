"""Quick, balanced, thorough: a word for training settings that go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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

KEPT = ("unpainted", "device")
"""The settings that no preset says anything about: they belong to the strokes and to the computer."""


def preset_of(settings: TrainSettings) -> str:
    """Return the name of the preset whose settings these are, or ``"custom"``."""
    return next((name for name in PRESETS if with_preset(settings, name) == settings), CUSTOM)


def with_preset(settings: TrainSettings, name: str) -> TrainSettings:
    """Return the settings of a preset; only ``KEPT`` ones stay as they were."""
    kept = {field: getattr(settings, field) for field in KEPT}
    return TrainSettings(**{**kept, **PRESETS[name].values})
