"""What the user chose: frozen, complete, strict values.

One field gives the check, the ``--set`` option, the range of a widget, its tooltip and the row in the documentation.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import SettingsError

MODELS = ("unet2d", "unet25d")
ARCHITECTURES = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
    "Segformer", "DPT",
)  # fmt: skip
LOSSES = ("auto", "cross_entropy_dice", "cross_entropy", "dice", "jaccard", "focal", "tversky", "generalised_dice")
CLASS_WEIGHTS = ("none", "balanced", "root_balanced")
AUGMENTATIONS = ("flips", "quarter_turns", "elastic", "scale", "brightness", "contrast", "noise", "blur", "gamma")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
QUALITIES = ("low", "medium", "high")
FUSIONS = ("max", "mean", "vote")
CHANNELS = ("keep", "grey")
UNPAINTED = ("auto", "ignore", "background")
AXIS_LETTERS = "zyx"

S = TypeVar("S", bound="Settings")


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
    unit: str = "",
) -> Any:
    """Declare a field of a settings class: its default, what it does, and which values it takes."""
    facts = {"help": help, "minimum": minimum, "maximum": maximum, "choices": choices, "unit": unit}
    return dataclasses.field(default=default, metadata=facts)


@dataclass(frozen=True, repr=False)
class Settings:
    """The common part: checks on creation, strict reading from dictionaries and from text.

    Raises:
        SettingsError: A field is unknown, of the wrong type or out of range.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))

    @classmethod
    def from_dict(cls: type[S], values: Mapping[str, Any]) -> S:
        """Make settings from a dictionary; fields that it lacks keep their default."""
        cls._refuse_unknown(values)
        return cls(**values)

    @classmethod
    def from_text(cls: type[S], values: Mapping[str, str]) -> S:
        """Make settings from texts such as ``{"epochs": "5"}``, as a command line holds them."""
        cls._refuse_unknown(values)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        return cls(**{name: _parsed(fields[name], text) for name, text in values.items()})

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from their default."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON-able values."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.changed().items())
        return f"{type(self).__name__}({told})"

    @classmethod
    def _refuse_unknown(cls, values: Mapping[str, Any]) -> None:
        if not isinstance(values, Mapping):
            raise SettingsError(f"The settings are {values!r}.", "They are pairs of a name and a value.")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f'Did you mean "{near[0]}"?' if near else f"There are: {', '.join(known)}."
                raise SettingsError(f'There is no setting "{name}".', hint)


@dataclass(frozen=True, repr=False)
class TrainSettings(Settings):
    """How a model is trained."""

    model: str = setting("unet2d", "unet2d sees single slices; unet25d sees their neighbours too.", choices=MODELS)
    architecture: str = setting("Unet", "Decoder, by its name in segmentation-models-pytorch.", choices=ARCHITECTURES)
    encoder: str = setting("resnet34", "Encoder, by its name in segmentation-models-pytorch or timm (tu-…).")
    encoder_depth: int = setting(0, "Stages of the encoder; 0 = what suits the architecture.", minimum=0, maximum=5)
    full_resolution: bool = setting(True, "Join the pixels themselves to the decoder: sharper edges from strokes.")
    weights: str = setting("imagenet", '"imagenet", "none", another name that the encoder offers, or a local file.')
    neighbours: int = setting(1, "unet25d: slices seen on each side.", minimum=1, maximum=15, unit="slices")
    channels: str = setting("keep", "Colour images: keep their channels, or take them as grey.", choices=CHANNELS)
    axes: str = setting("all", 'Planes that are learned: "all", or letters such as "z" or "zy".')
    unpainted: str = setting("auto", "What the value 0 in label files means.", choices=UNPAINTED)
    epochs: int = setting(40, "Rounds of training at most.", minimum=1, maximum=100_000)
    max_minutes: float = setting(0.0, "Time limit; 0 = none.", minimum=0, maximum=100_000, unit="min")
    crops_per_epoch: int = setting(512, "Crops that one epoch learns from.", minimum=1, maximum=1_000_000)
    crop_size: int = setting(64, "Side of a crop, at the scale of the image.", minimum=32, maximum=4096, unit="px")
    batch_size: int = setting(8, "Crops that are learned from together.", minimum=2, maximum=1024)
    loss: str = setting("auto", "What is minimised; auto: strokes cross-entropy, else with Dice.", choices=LOSSES)
    class_weights: str = setting("none", "How much rare classes count more in the loss.", choices=CLASS_WEIGHTS)
    learning_rate: float = setting(0.0, "Highest learning rate; 0 = found by a range test.", minimum=0, maximum=1)
    encoder_rate: float = setting(0.3, "Learning rate of a pre-trained encoder as a part.", minimum=0, maximum=1)
    weight_decay: float = setting(1e-2, "AdamW's weight decay.", minimum=0, maximum=1)
    frozen_part: float = setting(0.2, "Part of the training with a pre-trained encoder frozen.", minimum=0, maximum=1)
    validation_part: float = setting(0.2, "Part of the labels held out; 0 = none.", minimum=0, maximum=0.5)
    patience: int = setting(20, "Epochs without a better score before it stops.", minimum=1, maximum=100_000)
    augment: str = setting("all", f'"all", "none", or some of: {" ".join(AUGMENTATIONS)}.')
    precision: str = setting("auto", "Arithmetic; auto = the fastest that is good enough.", choices=PRECISIONS)
    device: str = setting("auto", '"auto", "cpu", "cuda", "cuda:1", "mps".')
    seed: int = setting(0, "Runs with the same seed repeat.", minimum=0, maximum=2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        axis_letters(self.axes)
        augmentations(self.augment)
        if self.model == "unet2d" and "neighbours" in self.changed():
            raise SettingsError("unet2d sees no neighbouring slices.", "Leave neighbours out, or use unet25d.")


@dataclass(frozen=True, repr=False)
class PredictSettings(Settings):
    """How a model is applied."""

    quality: str = setting("medium", "low: 1 view, medium: each axis, high: every symmetric view.", choices=QUALITIES)
    axes: str = setting("auto", '"auto": those that the model learned; "all", or letters such as "z" or "zy".')
    fusion: str = setting("max", "How several views become one answer.", choices=FUSIONS)
    batch_size: int = setting(0, "Slices in one batch; 0 = found by itself.", minimum=0, maximum=4096)
    precision: str = setting("auto", "Arithmetic; auto = float16 on CUDA, else float32.", choices=PRECISIONS)
    device: str = setting("auto", '"auto", "cpu", "cuda", "cuda:1", "mps".')

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axes != "auto":
            axis_letters(self.axes)


@dataclass(frozen=True, repr=False)
class EvaluateSettings(Settings):
    """How a prediction is compared with the truth."""

    unpainted: str = setting("auto", "What the value 0 in the truth means.", choices=UNPAINTED)


def axis_letters(axes: str) -> str:
    """Return the axes as letters in the order z, y, x; ``"all"`` gives ``"zyx"``."""
    letters = AXIS_LETTERS if axes == "all" else axes.lower()
    if not letters or len(set(letters)) < len(letters) or not set(letters) <= set(AXIS_LETTERS):
        raise SettingsError(f'The setting axes is "{axes}".', 'Use "all", or letters such as "z", "zy", "zyx".')
    return "".join(letter for letter in AXIS_LETTERS if letter in letters)


def augmentations(augment: str) -> tuple[str, ...]:
    """Return the names of the augmentations that a setting asks for."""
    names = {"all": AUGMENTATIONS, "none": ()}.get(augment, tuple(augment.replace(",", " ").split()))
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if unknown:
        raise SettingsError(f'There is no augmentation "{unknown[0]}".', f"There are: {', '.join(AUGMENTATIONS)}.")
    return names


def _checked(field: dataclasses.Field[Any], value: Any) -> Any:
    kind: type[Any] = type(field.default)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise SettingsError(f"The setting {field.name} is {value!r}.", f"It takes {_KIND_WORDS[kind]}.")
    choices, low, high = (field.metadata[name] for name in ("choices", "minimum", "maximum"))
    if choices and value not in choices:
        raise SettingsError(f'The setting {field.name} is "{value}".', f"It takes one of: {', '.join(choices)}.")
    if kind in (int, float) and not low <= value <= high:  # NaN is on neither side
        unit = f" {field.metadata['unit']}" if field.metadata["unit"] else ""
        raise SettingsError(f"The setting {field.name} is {value}{unit}.", f"It goes from {low} to {high}.")
    return kind(value)


_KIND_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
_TRUTHS = {"true": True, "false": False}


def _parsed(field: dataclasses.Field[Any], text: str) -> Any:
    kind: type[Any] = type(field.default)
    try:
        return _TRUTHS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        raise SettingsError(f'The setting {field.name} is "{text}".', f"It takes {_KIND_WORDS[kind]}.") from None
