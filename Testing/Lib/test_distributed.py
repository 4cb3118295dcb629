"""Training by several processes; two real ones do everything that two can do here, once for all tests."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn
from torch.distributed import HashStore

from VolumeSegmanticsLib import distributed
from VolumeSegmanticsLib.distributed import Alone, Together
from VolumeSegmanticsLib.errors import Cancelled, InputError, SettingsError, VolumeSegmanticsError
from VolumeSegmanticsLib.models import Model
from VolumeSegmanticsLib.ranks import Rank, own_rank
from VolumeSegmanticsLib.volume import UNLABELLED

SCRIPT = Path(__file__).with_name("workers") / "team.py"


@pytest.fixture(scope="module")
def a_folder(tmp_path_factory):
    """A folder with an image of three noisy materials, and labels of every sixth slice."""
    folder = tmp_path_factory.mktemp("team")
    truth = np.zeros((24, 40, 36), np.uint8)
    truth[:, 20:], truth[:, 6:16, 12:24] = 1, 2
    noise = np.random.default_rng(0).normal(0, 8, truth.shape)
    labels = np.full_like(truth, UNLABELLED)
    labels[2::6] = truth[2::6]
    np.save(folder / "image.npy", (np.array([60, 120, 200])[truth] + noise).clip(0, 255).astype(np.uint8))
    np.save(folder / "labels.npy", labels)
    return folder


@pytest.fixture(scope="module")
def two(a_folder):
    """What two processes have seen, and what they and torchrun have printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT, a_folder]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    seen = [json.loads((a_folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    return SimpleNamespace(seen=seen, printed=ran.stdout + ran.stderr)


@pytest.fixture(scope="module")
def one(a_folder):
    """What a single process has seen."""
    spec = importlib.util.spec_from_file_location("team", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.losses_of(a_folder)


@pytest.fixture
def the_second_of_three():
    """A member without a connection."""
    member = Together.__new__(Together)
    member.rank = Rank(1, 1, 3)
    return member


# Two real processes -------------------------------------------------------------------------------------------------


def test_two_processes_learn_what_one_learns_from_the_same_batches(two, one):
    together = two.seen[0]["losses"]
    assert together["steps"] == pytest.approx(one["steps"], rel=1e-5)
    assert np.array(together["epochs"]) == pytest.approx(np.array(one["epochs"]), rel=1e-5)
    assert together["weights"] == pytest.approx(one["weights"], rel=1e-6)


def test_all_processes_have_the_same_losses_scores_and_weights(two):
    assert two.seen[0]["losses"] == two.seen[1]["losses"]


def test_stop_in_one_process_stops_all(two):
    assert [seen["cancelled"] for seen in two.seen] == [["Cancelled", ""]] * 2


def test_an_error_in_one_process_is_told_by_all(two):
    assert two.seen[0]["failed"] == ["VolumeSegmanticsError", "The image is not there. Copy it."]
    assert two.seen[1]["failed"] == ["InputError", "The image is not there. Copy it."]


def test_the_first_process_speaks_for_all_and_writes_the_model(two, a_folder):
    first, second = (seen["commanded"] for seen in two.seen)
    assert first["code"] == second["code"] == 0
    assert "m.safetensors" in first["stdout"]
    assert "epoch 1" in first["stderr"]
    assert second["stdout"] == second["stderr"] == ""
    assert Model.load(a_folder / "m.safetensors").card.history


def test_nothing_else_is_printed(two):
    assert two.printed == ""


# Alone --------------------------------------------------------------------------------------------------------------


def test_without_torchrun_there_is_one_process():
    assert own_rank({"RANK": "3"}) == Rank(0, 0, 1)
    assert own_rank({}).is_first
    with distributed.joined("cpu") as team:
        assert type(team) is Alone


def test_torchrun_says_which_process_this_is():
    environ = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    assert own_rank(environ) == Rank(5, 1, 8)
    assert not own_rank(environ).is_first


def test_a_batch_is_shared_evenly_or_refused(the_second_of_three):
    assert the_second_of_three.own(9) == slice(3, 6)
    for size, fitting in ((8, 9), (3, 6)):
        with pytest.raises(SettingsError) as refused:
            the_second_of_three.own(size)
        assert f"batch_size={fitting}:" in refused.value.hint


ENDINGS = {
    "its own error": (InputError("No image.", "Copy it."), InputError, "No image. Copy it."),
    "cancelling": (Cancelled(), Cancelled, ""),
    "a bug": (ZeroDivisionError("by zero"), ZeroDivisionError, "by zero"),
    "full memory": (RuntimeError("CUDA out of memory"), RuntimeError, "no memory left. Set batch_size lower."),
    "a lost connection": (RuntimeError("[gloo/pair.cc] closed"), VolumeSegmanticsError, "Another process of this"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_an_ending_is_explained_to_its_process_and_to_the_others(name, the_second_of_three):
    error, kind, told = ENDINGS[name]
    the_second_of_three._store = HashStore()
    assert type(the_second_of_three.explained(error)) is kind
    others = the_second_of_three.explained(RuntimeError("[gloo/pair.cc] closed"))
    assert isinstance(others, Cancelled if kind is Cancelled else VolumeSegmanticsError)
    assert told in str(others)


def test_a_certain_gpu_cannot_be_shared():
    with pytest.raises(SettingsError, match="cpu:0"):
        distributed._own_device("cpu:0", Rank(0, 0, 2))


def test_batch_norms_are_exchanged_there_and_back_with_the_same_weights(a_tiny_model, the_second_of_three):
    network = a_tiny_model.network
    before = network.state_dict()
    distributed._exchange(network, nn.BatchNorm2d, nn.SyncBatchNorm)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
    assert not any(type(module) is nn.BatchNorm2d for module in network.modules())
    the_second_of_three.finish(network)
    after = network.state_dict()
    assert all(after[name].data_ptr() == tensor.data_ptr() for name, tensor in before.items())
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
