from __future__ import annotations

import math

import pytest
import torch

from VolumeSegmanticsLib import threads
from VolumeSegmanticsLib.threads import free_threads, shared_fairly

SECONDS = {
    "an idle processor": ({1: 8.0, 4: 2.2, 8: 1.3}, 8),
    "half of it in use": ({1: 8.0, 4: 2.2, 8: 6.0}, 4),
    "all of it in use": ({1: 8.0, 4: 30.0, 8: math.inf}, 1),
    "so busy that nothing ends": ({1: math.inf, 4: math.inf, 8: math.inf}, 1),
    "more threads that hardly help": ({1: 8.0, 4: 7.0, 8: 6.9}, 1),
}


@pytest.fixture
def two_threads():
    """Torch with two threads, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("seconds", "expected"), SECONDS.values(), ids=SECONDS)
def test_as_many_threads_are_taken_as_pay_on(seconds, expected):
    assert free_threads(8, seconds.__getitem__) == expected


def test_a_single_thread_is_not_tried_against_others():
    assert free_threads(1, {1: 1.0}.__getitem__) == 1


def test_what_was_adapted_is_given_back(two_threads, monkeypatch):
    monkeypatch.setattr(threads, "_seconds_of", {1: 1.0, 2: 5.0}.__getitem__)
    with shared_fairly(torch.device("cpu")) as adapt:
        adapt()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_other_devices_keep_their_threads(two_threads, monkeypatch):
    monkeypatch.setattr(threads, "_seconds_of", {1: 1.0, 2: 5.0}.__getitem__)
    with shared_fairly(torch.device("meta")) as adapt:
        adapt()
        assert torch.get_num_threads() == 2


def test_trying_out_takes_a_moment(two_threads):
    assert free_threads(2) in (1, 2)
