"""VolumeSegmantics: from a few brush strokes to a full segmentation of a tomogram.

Importing this costs nothing and needs nothing; each name loads its layer when it is first used::

    from VolumeSegmanticsLib import train, predict, evaluate
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "train": "api",
    "predict": "api",
    "evaluate": "api",
    "constrain": "api",
    "read_volume": "io",
    "read_labels": "io",
    "write_volume": "io",
    "write_labels": "io",
    "Grid": "volume",
    "Volume": "volume",
    "LabelMap": "volume",
    "LabelClass": "classes",
    "UNLABELLED": "classes",
    "TrainSettings": "settings",
    "PredictSettings": "settings",
    "VolumeSegmanticsError": "errors",
    "Cancelled": "errors",
}
__all__ = list(_PLACES)  # the table is the list


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
