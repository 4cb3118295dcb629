"""The local model: tiny networks that look at the features of one voxel each, and answer together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..features import Features
from ..settings import TrainSettings

DEFAULT_OCTAVES = 2
"""How many octaves a model has where nothing else was chosen."""


class LocalNetwork(nn.Module):
    """Several perceptrons of three layers, as one batch of matrices.

    Args:
        features: Inputs.
        classes: Outputs.
        members: How many perceptrons.
        width: Units of the first layer; the second has half as many.

    Attributes:
        mean, deviation: (features, 1), what turns a feature into a standard one.
        edge: The variance of grey values 0 … 1 above which they are taken for an edge.
        bias: (classes,), what is added to the logits of a class because it is rarer than it was painted.
    """

    def __init__(self, features: int, classes: int, members: int, width: int) -> None:
        super().__init__()
        sides = [features, width, max(2, width // 2), classes]
        self.weights = nn.ParameterList(_drawn(members, b, a) for a, b in itertools.pairwise(sides))
        self.offsets = nn.ParameterList(torch.zeros(members, b, 1) for b in sides[1:])
        self.register_buffer("mean", torch.zeros(features, 1))
        self.register_buffer("deviation", torch.ones(features, 1))
        self.register_buffer("bias", torch.zeros(classes))
        self.register_buffer("edge", torch.tensor(0.002))

    def member_logits(self, standard: Tensor) -> Tensor:
        """Return what every member says, (members, classes, N), about standard features (members, features, N)."""
        values = standard
        for weight, offset in zip(self.weights[:-1], self.offsets[:-1], strict=True):
            values = torch.baddbmm(offset, weight, values).relu_()
        return torch.baddbmm(self.offsets[-1], self.weights[-1], values)

    def forward(self, features: Tensor) -> Tensor:
        """Return the mean probabilities (classes, N) that the members give to features (features, N) as measured."""
        return self.ready()(features)

    def ready(self) -> Callable[[Tensor], Tensor]:
        """Return ``forward`` for many calls: what the weights alone decide is computed now."""
        weight = self.weights[0] / self.deviation.T
        first = (self.offsets[0] - weight @ self.mean).flatten()[:, None], weight.flatten(0, 1)
        last, members = self.offsets[2] + self.bias[:, None], len(weight)

        def answer(features: Tensor) -> Tensor:
            hidden = torch.addmm(*first, features).relu_().view(members, -1, features.shape[1])
            hidden = torch.baddbmm(self.offsets[1], self.weights[1], hidden).relu_()
            return torch.baddbmm(last, self.weights[2], hidden).softmax(dim=1).mean(dim=0)

        return answer


def _drawn(members: int, outputs: int, inputs: int) -> nn.Parameter:
    return nn.Parameter((torch.rand(members, outputs, inputs) * 2 - 1) * math.sqrt(6 / inputs))


def build(settings: TrainSettings, *, channels: int, classes: int) -> LocalNetwork:
    """Make the network of some settings, with random weights."""
    inputs = Features(settings.octaves or DEFAULT_OCTAVES).count(channels)
    return LocalNetwork(inputs, classes, settings.members, settings.width)


def sight(octaves: int, members: int, channels: int) -> Tensor:
    """Return which features each member sees, (members, features), 0 or 1.

    Some see single voxels only, some their surroundings too, and the last sees all: surroundings tell textures apart,
    but next to an edge, where nobody has painted, those who do not look that far know better.
    """
    ways = [(octave, pooled) for octave in range(1, octaves + 1) for pooled in (False, True)]
    count, last = min(members, len(ways)), len(ways) - 1
    chosen = [ways[round(n * last / (count - 1))] for n in range(count)] if count > 1 else ways[-1:]
    return torch.stack([Features(octaves).seen(*chosen[n % count], channels) for n in range(members)])
