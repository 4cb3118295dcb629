from __future__ import annotations

import pytest
import torch

from VolumeSegmanticsLib import devices
from VolumeSegmanticsLib.errors import ResourceError


def test_there_is_always_a_device():
    assert devices.choose("auto").type in ("cpu", "cuda", "mps")
    assert devices.choose("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "cuda:-1", "tpu", "", "meta", "gpu", "CPU ", "cpu:0:0", "xla"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name):
    with pytest.raises(ResourceError) as told:
        devices.choose(name)
    assert "cpu" in told.value.hint


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(ResourceError, match='"cuda" is not there'):
        devices.choose("cuda")


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "mps", torch.float32),
        ("auto", "cuda", torch.float16),
        ("bfloat16", "cpu", torch.bfloat16),
        ("float32", "cuda", torch.float32),
    ],
)
def test_the_arithmetic_is(precision, device, expected):
    assert devices.dtype(precision, torch.device(device)) is expected


def test_half_precision_on_a_cpu_is_refused_with_what_to_use():
    with pytest.raises(ResourceError, match="float16") as told:
        devices.dtype("float16", torch.device("cpu"))
    assert "bfloat16" in told.value.hint


OUT_OF_MEMORY = {
    "CUDA": RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    "its own type": torch.OutOfMemoryError("CUDA out of memory."),
    "MPS": RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    "CPU on Windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    "numpy": MemoryError("Unable to allocate 8 GiB"),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_memory_that_ran_out_is_known_as_such(error):
    assert devices.is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), OSError("memory")])
def test_other_errors_are_not(error):
    assert not devices.is_out_of_memory(error)


@pytest.mark.parametrize(("others", "is_same"), [("0", True), ("1", False)])
def test_a_gpu_is_told_apart_from_that_of_another_process(others, is_same, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: object())  # without a uuid, as before torch 2.5

    def told(visible):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return devices.told_apart(torch.device("cuda:0"))

    assert (told("0") == told(others)) == is_same
