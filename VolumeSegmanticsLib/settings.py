"""What the user chose: frozen, complete, strict values.

One field gives the check, the ``--set`` option, the range of a widget, its tooltip and the row in the documentation.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from . import memory
from .errors import SettingsError

SLICE_MODELS = ("unet2d", "unet25d")
MODELS = (*SLICE_MODELS, "local")
ARCHITECTURES = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
    "Segformer", "DPT",
)  # fmt: skip
LOSSES = ("auto", "cross_entropy_dice", "cross_entropy", "dice", "jaccard", "focal", "tversky", "generalised_dice")
CLASS_WEIGHTS = ("none", "balanced", "root_balanced")
AUGMENTATIONS = ("flips", "quarter_turns", "elastic", "scale", "brightness", "contrast", "noise", "blur", "gamma")
MIRRORING = ("flips", "quarter_turns")
"""Those of them that show a sample as it never lies, if it always lies the same way."""

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
QUALITIES = ("low", "medium", "high")
FUSIONS = ("max", "mean", "vote")
CHANNELS = ("keep", "grey")
UNPAINTED = ("auto", "ignore", "background")
AXIS_LETTERS = "zyx"

_CHOICES_OF_ALL = {("weights", "none")}
"""What every model may be given, whether it has the setting or not."""

S = TypeVar("S", bound="Settings")


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
    unit: str = "",
    models: tuple[str, ...] = (),
) -> Any:
    """Declare a field of a settings class: its default, what it does, which values it takes, which models have it.

    Without ``models`` all have it.
    """
    facts = {"help": help, "minimum": minimum, "maximum": maximum, "choices": choices, "unit": unit, "models": models}
    return dataclasses.field(default=default, metadata=facts)


of_slices = functools.partial(setting, models=SLICE_MODELS)
"""Declare a field that only networks that look at slices have."""

of_local = functools.partial(setting, models=("local",))
"""Declare a field that only the local model has."""


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

    def check_for(self, model: str) -> None:
        """Check that nothing was chosen that a model does not have.

        Raises:
            SettingsError: With the models that have it.
        """
        changed = self.changed().items() - _CHOICES_OF_ALL
        for field in dataclasses.fields(self):
            models = field.metadata["models"]
            if field.name in dict(changed) and not _is_of(field, model):
                raise SettingsError(
                    f'The model "{model}" has no setting {field.name}.',
                    f"Leave {field.name} out, or use {' or '.join(models)}.",
                )

    @classmethod
    def of_model(cls, model: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of some values that a model has settings for."""
        names = [field.name for field in dataclasses.fields(cls) if _is_of(field, model)]
        return {name: values[name] for name in names if name in values}

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

    model: str = setting(
        "unet2d", "unet2d sees slices, unet25d neighbours too, local learns in seconds.", choices=MODELS
    )
    architecture: str = of_slices("Unet", "Decoder, by its name in segmentation-models-pytorch.", choices=ARCHITECTURES)
    encoder: str = of_slices("resnet34", "Encoder, by its name in segmentation-models-pytorch or timm (tu-…).")
    encoder_depth: int = of_slices(0, "Stages of the encoder; 0 = what suits the architecture.", minimum=0, maximum=5)
    full_resolution: bool = of_slices(True, "Join the pixels themselves to the decoder: sharper edges from strokes.")
    weights: str = of_slices("imagenet", '"imagenet", "none", another name that the encoder offers, or a local file.')
    neighbours: int = setting(
        1, "unet25d: slices seen on each side.", minimum=1, maximum=15, unit="slices", models=("unet25d",)
    )
    octaves: int = of_local(0, "local: scales that are looked at; 0 = tried on held-out labels.", minimum=0, maximum=4)
    members: int = of_local(4, "local: tiny networks that answer together.", minimum=1, maximum=64)
    width: int = of_local(24, "local: units in the first layer of a tiny network.", minimum=2, maximum=512)
    smoothing: int = of_local(1, "local: rounds of smoothing that keeps edges.", minimum=0, maximum=4, unit="rounds")
    rarity: str = of_local("auto", 'local: how much rarer classes are than painted: "auto", "none", or "Pore=20, …".')
    channels: str = setting("keep", "Colour images: keep their channels, or take them as grey.", choices=CHANNELS)
    axes: str = of_slices("all", 'Planes that are learned: "all", or letters such as "z" or "zy".')
    unpainted: str = setting("auto", "What the value 0 in label files means.", choices=UNPAINTED)
    epochs: int = of_slices(40, "Rounds of training at most.", minimum=1, maximum=100_000)
    max_minutes: float = of_slices(0.0, "Time limit; 0 = none.", minimum=0, maximum=100_000, unit="min")
    crops_per_epoch: int = of_slices(512, "Crops that one epoch learns from.", minimum=1, maximum=1_000_000)
    crop_size: int = of_slices(64, "Side of a crop, at the scale of the image.", minimum=32, maximum=4096, unit="px")
    batch_size: int = of_slices(8, "Crops that are learned from together.", minimum=2, maximum=1024)
    loss: str = of_slices("auto", "What is minimised; auto: strokes cross-entropy, else with Dice.", choices=LOSSES)
    class_weights: str = of_slices("none", "How much rare classes count more in the loss.", choices=CLASS_WEIGHTS)
    local_weight: float = of_slices(
        1.0, "Strokes: weight of what a local model is sure of around them; 0 = none.", minimum=0, maximum=100
    )
    edge_weight: float = of_slices(0.5, "Strokes: pull of the image's edges on those learned.", minimum=0, maximum=100)
    learning_rate: float = of_slices(0.0, "Highest learning rate; 0 = found by a range test.", minimum=0, maximum=1)
    encoder_rate: float = of_slices(0.3, "Learning rate of a pre-trained encoder as a part.", minimum=0, maximum=1)
    weight_decay: float = of_slices(1e-2, "AdamW's weight decay.", minimum=0, maximum=1)
    frozen_part: float = of_slices(0.2, "Part of the training with a pre-trained encoder frozen.", minimum=0, maximum=1)
    validation_part: float = setting(0.2, "Part of the labels held out; 0 = none.", minimum=0, maximum=0.5)
    patience: int = of_slices(20, "Epochs without a better score before it stops.", minimum=1, maximum=100_000)
    augment: str = of_slices("auto", f'"auto", "all", "none", or some of: {" ".join(AUGMENTATIONS)}.')
    precision: str = of_slices("auto", "Arithmetic; auto = the fastest that is good enough.", choices=PRECISIONS)
    device: str = setting("auto", '"auto", "cpu", "cuda", "cuda:1", "mps".')
    seed: int = setting(0, "Runs of one seed repeat; beside other programs, to rounding.", minimum=0, maximum=2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        axis_letters(self.axes)
        augmentations(self.augment)
        self.check_for(self.model)
        rarities(self.rarity)


@dataclass(frozen=True, repr=False)
class LiveSettings(TrainSettings):
    """How a local model is trained while somebody paints."""

    model: str = setting("local", "Only local models learn so fast.", choices=("local",))
    memory: str = setting("", 'Most that may be used, such as "4GB"; empty = half of what is free.')

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory:
            memory.parse(self.memory)

    @classmethod
    def like(cls, settings: TrainSettings, *, memory: str = "") -> LiveSettings:
        """Return settings with all that a training's say about local models."""
        ours = TrainSettings.of_model("local", settings.to_dict())
        return cls(**{**ours, "model": "local", "memory": memory})

    @property
    def training(self) -> TrainSettings:
        """The settings of a training that comes to the same model."""
        return TrainSettings(**{f.name: getattr(self, f.name) for f in dataclasses.fields(TrainSettings)})


@dataclass(frozen=True, repr=False)
class PredictSettings(Settings):
    """How a model is applied."""

    quality: str = of_slices("medium", "low: 1 view, medium: each axis, high: every symmetric view.", choices=QUALITIES)
    axes: str = of_slices("auto", '"auto": those that the model learned; "all", or letters such as "z" or "zy".')
    fusion: str = of_slices("max", "How several views become one answer.", choices=FUSIONS)
    batch_size: int = of_slices(0, "Slices in one batch; 0 = found by itself.", minimum=0, maximum=4096)
    precision: str = of_slices("auto", "Arithmetic; auto = float16 on CUDA, else float32.", choices=PRECISIONS)
    memory: str = setting("", 'Most that may be used, such as "4GB"; empty = half of what is free.')
    device: str = setting("auto", '"auto", "cpu", "cuda", "cuda:1", "mps".')
    cluster: str = setting("", '"local:N" worker processes, or a dask scheduler, such as "tcp://host:8786".')

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axes != "auto":
            axis_letters(self.axes)
        if self.memory:
            memory.parse(self.memory)
        local_workers(self.cluster)


@dataclass(frozen=True, repr=False)
class EvaluateSettings(Settings):
    """How a prediction is compared with the truth."""

    unpainted: str = setting("auto", "What the value 0 in the truth means.", choices=UNPAINTED)


@dataclass(frozen=True, repr=False)
class SimulateSettings(Settings):
    """What is simulated."""

    seed: int = setting(0, "Tomograms of the same seed are the same.", minimum=0, maximum=2**31 - 1)
    strokes: bool = setting(True, "Also paint the strokes of a user.")


@dataclass(frozen=True, repr=False)
class ConstrainSettings(Settings):
    """What is made to hold in a segmentation."""

    rules: str = setting("", 'Rules such as "min-size pores 50", with semicolons or line ends between them.')
    unpainted: str = setting("background", "What the value 0 in the labels means.", choices=UNPAINTED)
    topology: bool = setting(True, "Count objects, cavities and tunnels of every class, before and after.")


def axis_letters(axes: str) -> str:
    """Return the axes as letters in the order z, y, x; ``"all"`` gives ``"zyx"``."""
    letters = AXIS_LETTERS if axes == "all" else axes.lower()
    if not letters or len(set(letters)) < len(letters) or not set(letters) <= set(AXIS_LETTERS):
        raise SettingsError(f'The setting axes is "{axes}".', 'Use "all", or letters such as "z", "zy", "zyx".')
    return "".join(letter for letter in AXIS_LETTERS if letter in letters)


def local_workers(cluster: str) -> int:
    """Return how many worker processes of this machine a setting asks for; 0 where it names a scheduler, or none."""
    found = re.fullmatch(r"local:([1-9]\d*)|\w+://\S+|", cluster)
    if not found:
        raise SettingsError(
            f'The setting cluster is "{cluster}".', 'Use "local:N", or the address of a scheduler: "tcp://host:8786".'
        )
    return int(found[1] or 0)


def augmentations(augment: str) -> tuple[str, ...]:
    """Return the names of the augmentations that a setting asks for; ``"auto"`` is all, see ``api.train``."""
    known = {"auto": AUGMENTATIONS, "all": AUGMENTATIONS, "none": ()}
    names = known.get(augment, tuple(augment.replace(",", " ").split()))
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if unknown:
        raise SettingsError(f'There is no augmentation "{unknown[0]}".', f"There are: {', '.join(AUGMENTATIONS)}.")
    return names


def rarities(rarity: str) -> dict[str, float]:
    """Return the factors that a setting names: class name to how many times rarer the class is than painted."""
    pairs = [pair.rpartition("=") for pair in rarity.split(",")] if rarity not in ("auto", "none") else []
    try:
        factors = {name.strip(): float(factor) for name, _, factor in pairs}
    except ValueError:
        factors = {"": 0.0}
    if not all(name and 0 < factor < float("inf") for name, factor in factors.items()):
        raise SettingsError(
            f'The setting rarity is "{rarity}".', 'Use "auto", "none", or factors such as "Pore=20, Fibre=2".'
        )
    return factors


def _is_of(field: dataclasses.Field[Any], model: str) -> bool:
    return not field.metadata["models"] or model in field.metadata["models"]


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
