from __future__ import annotations

import pytest
import torch

from VolumeSegmanticsLib import checkpoint as module
from VolumeSegmanticsLib.checkpoint import Checkpoint, optimiser_tensors, prefixed, restore_optimiser, under
from VolumeSegmanticsLib.errors import ResourceError
from VolumeSegmanticsLib.events import ignore


@pytest.fixture
def a_path(tmp_path):
    return tmp_path / "Mödel.unfinished.safetensors"


@pytest.fixture
def some_tensors() -> dict[str, torch.Tensor]:
    return {"network.a": torch.arange(6.0).reshape(2, 3), "best.a": torch.zeros(2, 3), "steps": torch.tensor(7)}


def test_tensors_and_facts_come_back(a_path, some_tensors):
    facts = {"epoch": 3, "scores": {"dice": {"Pöre": 0.5, "none": None}}, "learning_rate": 1e-3}
    Checkpoint(a_path, "this run").save(some_tensors, facts)
    tensors, told = Checkpoint(a_path, "this run").load(ignore)
    assert {k: told[k] for k in facts} == facts
    for name, tensor in some_tensors.items():
        assert tensor.equal(tensors[name])


def test_there_is_none_at_the_beginning_and_none_after_the_end(a_path, some_tensors, heard):
    checkpoint = Checkpoint(a_path, "this run")
    assert checkpoint.load(heard.append) is None
    checkpoint.save(some_tensors, {})
    checkpoint.remove()
    assert not a_path.exists()
    assert checkpoint.load(heard.append) is None
    checkpoint.remove()
    assert heard == []


def damages(path, some_tensors):
    return {
        "another run's": lambda: Checkpoint(path, "another run").save(some_tensors, {}),
        "truncated": lambda: path.write_bytes(path.read_bytes()[:-5]),
        "empty": lambda: path.write_bytes(b""),
        "foreign": lambda: path.write_text("no tensors at all"),
    }


@pytest.mark.parametrize("how", ["another run's", "truncated", "empty", "foreign"])
def test_a_file_that_does_not_fit_is_told_and_not_taken(how, a_path, some_tensors, heard):
    Checkpoint(a_path, "this run").save(some_tensors, {})
    damages(a_path, some_tensors)[how]()
    assert Checkpoint(a_path, "this run").load(heard.append) is None
    assert [event.level for event in heard] == ["warning"]
    assert "starting anew" in heard[0].text


def test_writing_takes_a_small_part_of_the_time_only(a_path, some_tensors, monkeypatch):
    """Writing takes ten seconds, so two hundred pass before the next time; an epoch takes fifty."""
    now, written = [0.0], []

    def write(*_) -> None:
        written.append(now[0])
        now[0] += 10

    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.file, "write_tensors", write)
    checkpoint = Checkpoint(a_path, "this run")
    for _ in range(10):
        checkpoint.save(some_tensors, {})
        now[0] += 50
    assert written == [0, 210, 420]


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path, some_tensors):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError) as told:
        Checkpoint(tmp_path / "file" / "x.safetensors", "this run").save(some_tensors, {})
    assert told.value.hint


def test_prefixes_come_and_go(some_tensors):
    assert under("network.", some_tensors).keys() == {"a"}
    assert under("x.", prefixed("x.", some_tensors)).keys() == some_tensors.keys()


def test_an_optimiser_goes_on_as_if_it_had_never_stopped():
    def one_step(weight, optimiser):
        optimiser.zero_grad()
        (weight * torch.tensor([1.0, -2.0, 3.0])).square().sum().backward()
        optimiser.step()

    def begin(start):
        weight = torch.nn.Parameter(start.clone())
        resting = torch.nn.Parameter(torch.ones(2))  # has no gradient, so no memory
        return weight, torch.optim.AdamW([{"params": [resting]}, {"params": [weight]}], lr=0.1)

    weight, optimiser = begin(torch.ones(3))
    for _ in range(3):
        one_step(weight, optimiser)
    again, restored = begin(weight.detach())
    restore_optimiser(restored, {name: tensor.clone() for name, tensor in optimiser_tensors(optimiser).items()})
    one_step(weight, optimiser)
    one_step(again, restored)
    assert weight.equal(again)
