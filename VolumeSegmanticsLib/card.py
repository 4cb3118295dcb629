"""The model card: all facts about a model, as JSON in the header of its one ``.safetensors`` file.

A safetensors file starts with the length of its header (8 bytes, little-endian) and the header itself, JSON that gives
for every tensor its place, and free text under ``__metadata__`` (https://github.com/huggingface/safetensors). So the
card is read, and a truncated file noticed, with the standard library alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .classes import LabelClass
from .errors import InputError, ModelError
from .events import EpochEnded

CARD_KEY = "volume_segmantics_card"
CARD_VERSION = 1
NOT_VALIDATED = "Not validated: too few labels to hold any out. Look at the result."
PACKAGES = ("volumesegmantics", "torch", "segmentation-models-pytorch", "albumentations", "numpy")
_LONGEST_HEADER = 100_000_000  # bytes, the limit of the format itself


@dataclass(frozen=True)
class ModelCard:
    """Facts about a model.

    Attributes:
        model: Kind of model, e.g. ``"unet2d"``.
        classes: What it tells apart; output channel n of the network is ``classes[n]``.
        channels: Values that one voxel of its images holds (grey: 1, RGB: 3).
        intensity: Grey-value statistics of the training images, see ``intensity.Intensity``.
        axes: Planes that it learned, e.g. ``"zyx"``.
        spacing: Voxel spacing (Z, Y, X) of the first training image.
        unpainted: What 0 in the label files was taken for, ``"ignore"`` or ``"background"``.
        settings: The training settings, complete.
        scores: What validation gave, and in words what that means.
        history: One dictionary an epoch.
        versions: Of the packages that made it.
        name: What the user calls it.
        created: ISO 8601 time.
        parent: Name of the model that training went on from; empty for none.
        version: Of this card's format.
    """

    model: str
    classes: tuple[LabelClass, ...]
    channels: int = 1
    intensity: dict[str, Any] = field(default_factory=dict)
    axes: str = "zyx"
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unpainted: str = "background"
    settings: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    history: tuple[dict[str, Any], ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    name: str = ""
    created: str = ""
    parent: str = ""
    version: int = CARD_VERSION

    def to_json(self) -> str:
        """Return the card as JSON text; a figure that is NaN or infinite becomes null, as JSON has neither."""
        facts = json.loads(json.dumps(dataclasses.asdict(self)), parse_constant=lambda _: None)
        return json.dumps(facts, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Make the card from what ``to_json`` returned.

        Raises:
            ModelError: The card is of a newer version, or is no card.
        """
        try:
            values = json.loads(text)
            version = int(values["version"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise ModelError("The model card cannot be read.", "Train the model again, or get the file anew.") from None
        if version > CARD_VERSION:
            raise ModelError(
                f"The model was made by a newer VolumeSegmantics (card version {version}, this one reads "
                f"{CARD_VERSION}).",
                "Update VolumeSegmantics.",
            )
        try:
            return cls(**{**values, **_as_tuples(values)})
        except (KeyError, TypeError, AttributeError, ValueError, InputError) as error:
            raise ModelError(f"The model card is not complete: {error}.", "Train the model again.") from None


def made_now() -> dict[str, Any]:
    """Return what a card says about when, and with which packages, its model was made."""
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"created": created, "versions": _versions()}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def history_of(epochs: Iterable[EpochEnded]) -> tuple[dict[str, Any], ...]:
    """Return what a card says about the epochs of a training."""
    return tuple({"epoch": e.epoch, "train_loss": e.train_loss, "valid_dice": e.valid_dice} for e in epochs)


def _as_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "classes": tuple(LabelClass.from_dict(c) for c in values["classes"]),
        "spacing": tuple(values["spacing"]),
        "history": tuple(values["history"]),
    }


def read_card(path: str | Path) -> ModelCard:
    """Return the card of a model file; needs no package at all.

    Raises:
        ModelError: There is no such file, it is truncated, or it is not a model of VolumeSegmantics.
    """
    metadata = read_metadata(path)
    if CARD_KEY not in metadata:
        raise ModelError(
            f'"{Path(path).name}" is a safetensors file, but no model of VolumeSegmantics.',
            "Choose a file that `volseg train` made.",
        )
    return ModelCard.from_json(metadata[CARD_KEY])


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the free texts in the header of a safetensors file, after a check that the file is whole.

    Raises:
        ModelError: There is no such file, or it is truncated, or no safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"There is no model file {path}.", "Check the path, or train a model first.")
    with path.open("rb") as file:
        header_bytes = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
        text = file.read(header_bytes) if 2 <= header_bytes <= _LONGEST_HEADER else b""
    try:
        header = json.loads(text.decode("utf-8"))
        texts = dict(header.pop("__metadata__", {}) or {})
        end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
        raise ModelError(
            f'"{path.name}" is not a model file, or its beginning is damaged.',
            "Choose a .safetensors file that `volseg train` made.",
        ) from None
    if path.stat().st_size < 8 + header_bytes + end:
        raise ModelError(f'The model file "{path.name}" is truncated.', "Copy it again, or train the model again.")
    return texts
