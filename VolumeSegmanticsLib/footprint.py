"""How much memory a model takes while it answers: measured on something small, before anything large begins."""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .blocks import Need
from .box import Box
from .local_prediction import LocalPredictor
from .prediction import BATCH_PIXELS, Predictor

_SIDE = 256  # px of the picture; memory grows with the pixels from here on
_SPARE = 1.4  # libraries keep some memory that no tensor knows of, and between arrays there are gaps
_NUMPY_VALUE, _NUMPY_ANSWER = 8, 3  # bytes: grey values before and after scaling; class and probability
_CUT_BYTES = 12  # a voxel of a box with its margin: as it is stored, as float32, and that in order
_DEVICE_SHARE = 0.5  # of what is free
_HUNGRIEST = 4096  # bytes a pixel; a U-Net with a resnet34 takes about 400


class _Living(TorchDispatchMode):
    """While this is entered, counts the bytes of all new tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.peak, self._living = 0, 0
        self._owners: dict[int, int] = {}  # address of a storage to the number of its tensors

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._begin(tensor)
        return made

    def _begin(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address not in self._owners:
            self._owners[address] = 0
            self._living += size
            self.peak = max(self.peak, self._living)
        self._owners[address] += 1
        weakref.finalize(tensor, self._end, address, size)

    def _end(self, address: int, size: int) -> None:
        self._owners[address] -= 1
        if not self._owners[address]:
            del self._owners[address]
            self._living -= size


def need_of(predictor: Predictor, *, sharing: int = 1) -> Need:
    """Return what a network takes, on the memory and on its device, which so many processes share."""
    side = -(-max(_SIDE, predictor.smallest) // predictor.multiple) * predictor.multiple
    channels = predictor.card.channels * (2 * predictor.neighbours + 1)
    with _Living() as tensors:
        predictor.answer(np.zeros((1, side, side, channels), np.float32), (1.0, 1.0), every=False)
    pixel = _SPARE * tensors.peak / side**2
    waiting = _NUMPY_VALUE * channels + _NUMPY_ANSWER
    pixels, kind = BATCH_PIXELS[predictor.device.type], predictor.device.type
    if kind == "cuda":
        return Need(
            waiting, waiting, pixels, device_pixel=pixel, device_memory=free_on(predictor.device, sharing=sharing)
        )
    return Need(pixel, waiting, pixels, workers=torch.get_num_threads() if kind == "cpu" else 1)


def free_on(device: torch.device, *, sharing: int = 1) -> int:
    """Return how many bytes of a device's own memory may be used by each of the processes that share it.

    More than enough where it has none.
    """
    return int(torch.cuda.mem_get_info(device)[0] * _DEVICE_SHARE) // sharing if device.type == "cuda" else 2**62


def box_bytes(predictor: LocalPredictor, shape: tuple[int, int, int]) -> float:
    """Return what a local model takes for a box; ``predictor`` sees an image of this shape, or a larger one."""
    with _Living() as tensors:
        predictor.answer(Box((0, 0, 0), shape))
    wide = math.prod(n + 2 * m for n, m in zip(shape, predictor.features.margin, strict=True))
    return _SPARE * tensors.peak + _CUT_BYTES * wide * predictor.image.channels


def surely_fits(voxel_bytes: int, largest_slice: int, device: str, budget: int) -> bool:
    """Tell without a measurement that a volume can be predicted in memory, whatever the network.

    Args:
        voxel_bytes: What image and fusion take.
        largest_slice: Pixels of a slice as the network gets it.
        device: Its kind.
        budget: Bytes that there are.
    """
    return voxel_bytes + max(BATCH_PIXELS[device], largest_slice) * _HUNGRIEST < budget


__all__ = ["box_bytes", "free_on", "need_of", "surely_fits"]
