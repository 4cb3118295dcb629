"""Batch norm folded into the convolution before it: the same answer with fewer operations."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CLOSE = 1e-3  # of the largest logit; a fold that changes more than this is not taken
_SIDE = 128  # px of the example; some networks take no less


def an_example(channels: int) -> Tensor:
    """Return a picture of noise, always the same, on which a fold is observed."""
    return torch.randn(1, channels, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))


def folded(network: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of a network with every batch norm that directly follows a convolution folded into it.

    Which follows which is observed on an example, (N, C, H, W); where the folded copy answers otherwise, for instance
    because the output of a convolution is used twice, the copy is not folded.
    """
    copied = copy.deepcopy(network).eval()
    return copied if fold(copied, example) else copy.deepcopy(network).eval()


def fold(network: nn.Module, example: Tensor) -> bool:
    """Fold batch norms of a network in place; False where it answers otherwise now, and is of no use any more."""
    with torch.inference_mode():
        before = network(example)
    for convolution, norm in _pairs(network, example):
        _set(network, convolution, fuse_conv_bn_eval(network.get_submodule(convolution), network.get_submodule(norm)))
        _set(network, norm, nn.Identity())
    with torch.inference_mode():
        after = network(example)
    return torch.allclose(before, after, atol=_CLOSE * float(before.abs().max()) + 1e-6, rtol=_CLOSE)


def _pairs(network: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Return the names of convolutions and of the batch norms that take their output, both used once."""
    made_by: dict[int, str] = {}
    kept: list[Any] = []  # keeps every tensor alive, so that no id is used twice
    pairs, uses = [], dict.fromkeys((name for name, _ in network.named_modules()), 0)

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            uses[name] += 1
            kept.append((inputs, output))
            if isinstance(module, nn.Conv2d):
                made_by[id(output)] = name
            elif id(inputs[0]) in made_by:
                pairs.append((made_by[id(inputs[0])], name))

        return hook

    norms = (nn.Conv2d, nn.BatchNorm2d)
    handles = [m.register_forward_hook(watch(n)) for n, m in network.named_modules() if _is_plain(m, norms)]
    with torch.inference_mode():
        network(example)
    for handle in handles:
        handle.remove()
    return [pair for pair in pairs if uses[pair[0]] == uses[pair[1]] == 1]


def _is_plain(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    return type(module) in kinds  # timm's subclasses of BatchNorm2d hold an activation too


def _set(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)
