"""What a parent tells its worker."""

from __future__ import annotations

import pytest

from VolumeSegmanticsLib.errors import Cancelled
from VolumeSegmanticsLib.messages import End, Inbox, Look, Strokes, from_json, to_json

MESSAGES = (Strokes("strökes 1.npz"), Look("y", 12), End())


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_line_that_carries_it(message):
    line = to_json(message)
    assert "\n" not in line
    assert from_json(line) == from_json(line.encode()) == message


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "null", '{"message": "Boom"}', '{"message": "Look", "axis": "z"}', b"\xff\xfe",
     '{"message": "Look", "axis": "z", "index": "3"}', '{"message": "Look", "axis": "z", "index": true}',
     '{"message": "End", "more": 1}', "[" * 100_000],
)  # fmt: skip
def test_what_is_no_message_is_none(line):
    assert from_json(line) is None


def test_an_inbox_gives_what_came_in_order_and_once():
    inbox = Inbox()
    assert not inbox.has_news
    assert inbox.take(wait=False) == []
    for message in MESSAGES:
        inbox.put(message)
    assert inbox.has_news
    assert inbox.take(wait=True) == [*MESSAGES]
    assert inbox.take(wait=False) == []


def test_a_closed_inbox_stops_whoever_asks_however_often():
    inbox = Inbox()
    inbox.put(End())
    inbox.close()
    for _ in range(2):
        with pytest.raises(Cancelled):
            inbox.take(wait=True)
    assert inbox.has_news
