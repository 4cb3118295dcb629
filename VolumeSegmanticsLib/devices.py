"""Which processor computes, and in which arithmetic."""

from __future__ import annotations

import os

import torch

from .errors import ResourceError

_FULL = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose(name: str) -> torch.device:
    """Return the device of a setting: ``"auto"`` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ResourceError: The device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ResourceError(f'There is no device "{name}".', _available()) from None
    if not _is_there(device):
        raise ResourceError(f'The device "{name}" is not there.', _available())
    return device


def told_apart(device: torch.device) -> str:
    """Return a text that is the same in processes of one machine that share a device, and in no others."""
    if device.type != "cuda":
        return str(device)
    chosen = f"{device} of {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}"
    return str(getattr(torch.cuda.get_device_properties(device), "uuid", chosen))  # from torch 2.5 on


def _is_there(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"


def _available() -> str:
    cuda = [f"cuda:{n}" for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return f"This machine has: {', '.join(['auto', 'cpu', *cuda, *mps])}."


def dtype(precision: str, device: torch.device, *, is_training: bool = False) -> torch.dtype:
    """Return the arithmetic of a setting.

    ``"auto"`` is float16 on CUDA and float32 elsewhere. Training, where weights and losses stay in float32 anyway,
    takes bfloat16 on processors that multiply matrices in it, for about half the time.

    Raises:
        ResourceError: The device does not compute in it.
    """
    if precision == "auto":
        on_cpu = "bfloat16" if is_training and _cpu_multiplies_in_bfloat16() else "float32"
        precision = {"cuda": "float16", "cpu": on_cpu}.get(device.type, "float32")
    if precision == "float16" and device.type == "cpu":
        raise ResourceError("CPUs do not compute networks in float16.", "Use float32, or bfloat16 on a recent CPU.")
    return _DTYPES[precision]


def _cpu_multiplies_in_bfloat16() -> bool:
    """Tell whether the processor has instructions for it; older ones emulate bfloat16, or gain little from it."""
    known = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # from torch 2.6 on
    return any(getattr(torch.cpu, name, bool)() for name in known)


def grad_scaler(device: torch.device, dtype: torch.dtype) -> torch.amp.GradScaler:
    """Return what keeps float16 gradients from vanishing; it does nothing for other arithmetic."""
    enabled = dtype == torch.float16
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler(device.type, enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)  # before torch 2.3


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on whatever device."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in text for w in _FULL))
