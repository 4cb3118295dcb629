"""Models: a network with its card. A new kind of model is a new file and one row in ``KINDS``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import memory
from ..card import ModelCard
from ..errors import ModelError
from ..intensity import Intensity
from ..settings import TrainSettings
from . import file, local, unet2d
from .folding import an_example, fold

Builder = Callable[[TrainSettings, int, int, int | None, str], nn.Module]


def _smp_network(settings: TrainSettings, channels: int, classes: int, size: int | None, weights: str) -> nn.Module:
    return unet2d.build(settings, weights, channels=channels, classes=classes, size=size)


def _local_network(settings: TrainSettings, channels: int, classes: int, size: int | None, weights: str) -> nn.Module:
    return local.build(settings, channels=channels, classes=classes)


@dataclass(frozen=True)
class Kind:
    """What a kind of model is made of.

    Attributes:
        build: (settings, input channels, classes, crop size, weights) → network.
        sees_neighbours: True where neighbouring slices come along as channels.
        is_local: True where it looks at the features of single voxels instead of slices.
        structure: Settings that cannot change when training goes on from a model.
    """

    build: Builder
    sees_neighbours: bool
    is_local: bool = False
    structure: tuple[str, ...] = (
        "model", "architecture", "encoder", "encoder_depth", "full_resolution", "neighbours",
    )  # fmt: skip


KINDS = {
    "unet2d": Kind(_smp_network, sees_neighbours=False),
    "unet25d": Kind(_smp_network, sees_neighbours=True),
    "local": Kind(
        _local_network, sees_neighbours=False, is_local=True, structure=("model", "octaves", "members", "width")
    ),
}


@dataclass
class Model:
    """A network and its card.

    Attributes:
        card: Its facts.
        network: Takes standardised images (N, C, H, W), gives logits (N, classes, H, W).
        made_of: Where it was loaded to answer, and cannot be trained or saved, the digest of what was loaded.
    """

    card: ModelCard
    network: nn.Module
    made_of: str = ""

    @classmethod
    def new(cls, card: ModelCard, *, size: int | None, weights: str = "none") -> Model:
        """Make a network for a card, the same for the same seed; ``weights`` as in ``TrainSettings``."""
        if card.model not in KINDS:
            raise ModelError(
                f'This version does not know models of the kind "{card.model}".', "Update VolumeSegmantics."
            )
        settings = TrainSettings.from_dict(card.settings)
        channels = card.channels * (2 * neighbours(card) + 1)
        network = _built(settings, channels, len(card.classes), size, weights)
        return cls(card, network.to(memory_format=torch.channels_last))

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Read a model file onto the CPU.

        Raises:
            ModelError: The file is missing, truncated, foreign, or of a newer version.
        """
        card, tensors = file.load(path)
        model = cls.new(card, size=None)
        unet2d.drop_absent_stages(model.network, tensors)
        own = model.network.state_dict()
        if own.keys() != tensors.keys():
            raise _unfitting(path, "the parts are others")
        for name, tensor in own.items():
            kept = tensors[name]
            if kept.shape != tensor.shape:
                raise _unfitting(path, f"{name} is {tuple(kept.shape)}, not {tuple(tensor.shape)}")
            tensor.copy_(kept)
        return model

    @classmethod
    def load_to_answer(cls, path: str | Path) -> Model:
        """Read a model file for predictions alone: what ``Predictor`` makes of the weights takes their place.

        Raises:
            ModelError: As ``load``.
        """
        with memory.without_gaps():
            model = cls.load(path)
            if KINDS[model.card.model].is_local:
                return model
            model.made_of = model.digest()
            if not fold(model.network.eval(), an_example(model.input_channels)):
                model.network = cls.load(path).network.eval()
        return model

    def digest(self) -> str:
        """Return a text that is the same for the same card and weights only."""
        if self.made_of:
            return self.made_of
        digest = hashlib.sha256(self.card.to_json().encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def take_over(self, parent: Model) -> None:
        """Start with the weights of another model of the same structure; classes are matched by name.

        A class that the other model does not have starts below the mean of the others, so it is never the answer yet.
        """
        tensors = parent.network.state_dict()
        own = self.network.state_dict()
        theirs = {c.name: n for n, c in enumerate(parent.card.classes)}
        rows = [theirs.get(c.name) for c in self.card.classes]
        last = unet2d.last_layer(self.network)
        for name, tensor in own.items():
            if name.startswith(last):
                tensors[name] = _rows_matched(tensors[name], tensor, rows)
        self.network.load_state_dict(tensors)

    def save(self, path: str | Path) -> Path:
        """Write the model as one file, atomically."""
        assert not self.made_of, "it was loaded to answer"
        return file.save(path, self.network.state_dict(), self.card)

    @property
    def input_channels(self) -> int:
        """How many channels its network sees, those of neighbouring slices included."""
        return self.card.channels * (2 * neighbours(self.card) + 1)

    @property
    def multiple(self) -> int:
        """The number that the sides of its input have to be a multiple of."""
        return unet2d.multiple_of(self.network)

    @property
    def smallest(self) -> int:
        """The number that the sides of its input must not fall below."""
        return unet2d.smallest_of(self.network)

    def logits(self, images: Tensor) -> Tensor:
        """Return logits (N, classes, H, W) for images (N, C, H, W) with values 0 … 1."""
        return self.network(standardised(images, Intensity.from_dict(self.card.intensity)))  # type: ignore[no-any-return]


def check_buildable(settings: TrainSettings) -> None:
    """Make sure, before long work, that a model of some settings can begin: its weights, too, are fetched now.

    Raises:
        VolumeSegmanticsError: As ``unet2d.build``.
    """
    _built(settings, channels=1, classes=2, size=0, weights=settings.weights)


def _built(settings: TrainSettings, channels: int, classes: int, size: int | None, weights: str) -> nn.Module:
    """Return a network, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        return KINDS[settings.model].build(settings, channels, classes, size, weights)


def _unfitting(path: str | Path, why: str) -> ModelError:
    return ModelError(
        f'The weights in "{Path(path).name}" do not fit its card ({why}).',
        "Train the model again, or update segmentation-models-pytorch.",
    )


def _rows_matched(theirs: Tensor, own: Tensor, rows: list[int | None]) -> Tensor:
    """Return a tensor of the last layer, its rows brought to the order of the classes."""
    undecided = theirs.mean(dim=0) - (2 if own.ndim == 1 else 0)
    return torch.stack([undecided if row is None else theirs[row] for row in rows])


def neighbours(card: ModelCard) -> int:
    """Return how many slices on each side a model sees."""
    kind = KINDS.get(card.model)
    return int(card.settings.get("neighbours", 1)) if kind and kind.sees_neighbours else 0


def standardised(images: Tensor, intensity: Intensity) -> Tensor:
    """Return images (N, C, H, W) with values 0 … 1 shifted and scaled to mean 0 and deviation 1."""
    repeats = images.shape[1] // len(intensity.mean)
    mean = torch.tensor(intensity.mean * repeats, device=images.device, dtype=images.dtype).view(1, -1, 1, 1)
    deviation = torch.tensor(intensity.deviation * repeats, device=images.device, dtype=images.dtype).view(1, -1, 1, 1)
    return (images - mean) / deviation
