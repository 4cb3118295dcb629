"""One bar for a whole job, and a time left that can be believed: from events that leap about."""

from __future__ import annotations

import itertools

import pytest
from VolumeSegmanticsSlicer.pace import LONG, SPANS, Pace

from VolumeSegmanticsLib.events import Progress


def seen(task, *events):
    """What is known after each of some events ``(seconds, stage, done, total)``."""
    pace, known = Pace(), []
    for now, stage, done, total in events:
        pace = pace.after(task, Progress(stage, done, total, eta_seconds=9999.0), now)
        known.append(pace)
    return known


def steady(start, seconds, stage, total, first=0):
    """Events of a stage whose steps take the same time each."""
    return [(start + seconds * (n - first), stage, n, total) for n in range(first, total + 1)]


@pytest.fixture
def a_training():
    """A network whose held-out strokes join at 70 %: a local model is asked a second time there."""
    return [
        (0, "read", 0, 1),
        *steady(1, 0.2, "advice", 100),
        *[(22 + n, "learning rate", 0, 1) for n in range(8)],
        *steady(30, 1, "train", 100)[:71],
        *steady(101, 0.2, "advice", 100),
        *steady(122, 1, "train", 100, first=71),
    ]


def test_the_bar_of_a_training_only_grows_and_is_nearly_full_after_its_last_step(a_training):
    parts = [pace.part for pace in seen("train", *a_training)]
    assert parts == sorted(parts)
    assert parts[-1] == 0.97
    assert 0.7 < parts[a_training.index((101, "advice", 0, 100))] < 0.9


def test_the_time_left_is_told_for_the_long_stage_only_and_not_at_its_beginning(a_training):
    known = list(zip(a_training, seen("train", *a_training), strict=True))
    told = [event for event, pace in known if pace.seconds_left is not None]
    assert {stage for _, stage, _, _ in told} == {"train"}
    assert told[0][0] == 40
    assert all(pace.seconds_left is None for event, pace in known if 122 <= event[0] < 132)


def test_the_time_left_of_steady_steps_is_right():
    for (now, *_), pace in zip(steady(0, 1, "train", 100), seen("train", *steady(0, 1, "train", 100)), strict=True):
        assert pace.seconds_left is None or pace.seconds_left == pytest.approx(100 - now)


def test_the_time_left_of_a_long_stage_is_told_after_half_a_minute():
    told = [pace.seconds_left for pace in seen("train", *steady(0, 1, "train", 1000))]
    assert told[29] is None
    assert told[30] == 970


def test_slow_first_steps_do_not_make_the_time_leap():
    """Ten steps of 3 s, then steps of a third of a second: what is told changes by no more than a fifth a second."""
    slow = steady(0, 3, "predict", 300)[:11]
    fast = [(30 + (n - 10) / 3, "predict", n, 300) for n in range(11, 301)]
    known = zip(slow + fast, seen("predict", *slow, *fast), strict=True)
    told = [(now, pace.seconds_left) for (now, *_), pace in known if pace.seconds_left is not None]
    for (before, earlier), (now, later) in itertools.pairwise(told):
        assert abs(later - earlier) <= (now - before) * (1 + 0.2 * earlier)
    assert told[-1][1] < 10


def test_reading_between_the_steps_of_a_prediction_belongs_to_its_time():
    events = []
    for n in range(20):
        events += [(3 * n, "read", 5 * n, 100), (3 * n + 2, "predict", n, 20)]
    told = [pace.seconds_left for pace in seen("predict", *events)]
    assert told[-1] == pytest.approx(3, abs=0.5)


def test_no_second_is_left_after_the_last_step():
    assert seen("train", *steady(0, 1, "train", 50))[-1].seconds_left is None


def test_a_stage_that_nobody_knows_leaves_the_bar_where_it_is():
    assert [pace.part for pace in seen("predict", (0, "predict", 1, 2), (1, "polish", 1, 1))] == [0.535, 0.535]


def test_a_task_without_known_stages_shows_one_stage_at_a_time():
    assert [pace.part for pace in seen("live", (0, "segment", 3, 4), (1, "ready", 0, 4))] == [0.75, 0.0]


@pytest.mark.parametrize("task", SPANS)
def test_the_parts_of_a_task_fill_the_bar(task):
    assert min(span[0] for span in SPANS[task].values()) == 0
    assert 0.95 < max(span[1] for span in SPANS[task].values()) <= 1
    assert all(start < stop for start, stop in SPANS[task].values())


def test_the_stages_whose_time_is_told_are_known():
    assert all(any(stage in spans for spans in SPANS.values()) for stage in LONG)
