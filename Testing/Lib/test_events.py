import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from VolumeSegmanticsLib.events import (
    EVENTS,
    TERMINAL,
    EpochEnded,
    Failed,
    Finished,
    Log,
    Preview,
    Progress,
    WasCancelled,
    from_json,
    ignore,
    to_json,
)

SOME = [
    Progress("train", 3, 10, 12.5),
    Progress("predict", 0, 0),
    EpochEnded(1, 0.5, None, None, 1e-3, False),
    EpochEnded(2, 0.25, 0.5, 0.75, 1e-3, True),
    Preview("/a/Proben für Ümit/b.png"),
    Log("warning", 'two\nlines, "quoted", \u2028 and 孔隙'),
    Log("info", "\ud800"),
    Finished({"model": "/a/b.safetensors", "scores": {"dice": {"Pöre": None}}}),
    Finished(),
    Failed("input", "Nothing is painted.", "Paint."),
    Failed("bug", ""),
    WasCancelled(),
]


@pytest.mark.parametrize("event", SOME, ids=repr)
def test_an_event_survives_its_line(event):
    line = to_json(event)
    assert from_json(line) == event
    assert line.isascii()
    assert len(line.splitlines()) == 1


def test_every_kind_of_event_is_among_those():
    assert {type(event).__name__ for event in SOME} == set(EVENTS)
    assert {kind.__name__ for kind in TERMINAL} == {"Finished", "Failed", "WasCancelled"}


def test_the_name_of_the_event_comes_first():
    assert to_json(Log("info", "a")).startswith('{"event": "Log", ')


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_a_loss_that_is_no_number_is_sent_as_none(loss):
    line = to_json(EpochEnded(1, loss, loss, None, 1e-3, False))
    json.loads(line, parse_constant=pytest.fail)
    assert from_json(line) == EpochEnded(1, None, None, None, 1e-3, False)


def test_numbers_of_numpy_stay_numbers():
    sent = Progress("train", np.int64(3), np.uint8(10), np.float32(0.5))
    assert from_json(to_json(sent)) == Progress("train", 3, 10, 0.5)


def test_a_path_is_sent_as_text():
    assert from_json(to_json(Finished({"model": Path("a")}))) == Finished({"model": "a"})


def test_outputs_that_are_no_json_are_told_to_whoever_made_them():
    with pytest.raises(ValueError, match="JSON"):
        to_json(Finished({"dice": math.nan}))


NO_EVENTS = {
    "nothing": "",
    "text": "Epoch 1/10",
    "half a line": '{"event": "Log", "level": "in',
    "a number": "3",
    "null": "null",
    "a list": '["Log"]',
    "another object": '{"level": "info"}',
    "an unknown event": '{"event": "Sung"}',
    "the base of all events": '{"event": "Event"}',
    "no name": '{"event": ["Log"]}',
    "a field too few": '{"event": "Log", "level": "info"}',
    "a field too many": '{"event": "WasCancelled", "why": "so"}',
    "very deep": "[" * 100_000,
    "bytes that are no text": b"\xff\xfe\xfd",
}


@pytest.mark.parametrize("line", NO_EVENTS.values(), ids=NO_EVENTS)
def test_a_line_that_is_no_event_is_none(line):
    assert from_json(line) is None


def test_events_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Log("info", "a").text = "b"


def test_who_does_not_listen_takes_every_event():
    assert all(ignore(event) is None for event in SOME)
