"""A second look at the image at full resolution, joined to what a network of encoder and decoder has found."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES = 16
"""Channels of either side before they are joined."""


class Detailed(nn.Module):
    """A network whose answer is refined by the pixels themselves.

    Encoders such as a ResNet halve the image in their first layer, so a decoder has no feature finer than two pixels.
    Where whole slices are annotated it learns to guess the edges; strokes seldom touch edges, and shapes grow fat. One
    convolution at full resolution, joined to the decoder's features, gives the edges back for few operations.

    Args:
        network: Takes images (N, channels, H, W), gives ``FEATURES`` channels (N, FEATURES, H, W).
        channels: Input channels.
        classes: Output channels.
    """

    def __init__(self, network: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.network = network
        self.detail = _layer(channels)
        self.joint = _layer(2 * FEATURES)
        self.last = nn.Conv2d(FEATURES, classes, 1)

    @property
    def encoder(self) -> nn.Module:
        """The encoder of the network."""
        return self.network.encoder

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes, H, W)."""
        return self.last(self.joint(torch.cat([self.network(images), self.detail(images)], dim=1)))


def _layer(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, FEATURES, 3, padding=1, bias=False), nn.BatchNorm2d(FEATURES), nn.ReLU(inplace=True)
    )
