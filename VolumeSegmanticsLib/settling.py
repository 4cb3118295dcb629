"""What is done once training is over: the statistics of batch norm are measured anew."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def measure_batch_statistics(network: nn.Module, run: Iterable[object]) -> None:
    """Measure the averages of batch norm anew, as plain means.

    The running averages trail behind weights that change fast; after a short run they would be wrong enough to spoil
    the answer (Wu and Johnson 2021, "precise batch norm").

    Args:
        network: In training mode; layers that are not, those of a frozen encoder, keep their statistics.
        run: Each of its steps sends a batch through the network.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
    with torch.inference_mode():
        for _ in run:
            pass
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
