import io

import pytest

from VolumeSegmanticsLib import progress
from VolumeSegmanticsLib.events import EpochEnded, Finished, Log, Preview, Progress
from VolumeSegmanticsLib.progress import ProgressLine


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and knows what is on its last line."""

    def isatty(self) -> bool:
        return True

    def last_line(self) -> str:
        screen = ""
        for drawn in self.getvalue().rpartition("\n")[2].split("\r"):
            screen = drawn + screen[len(drawn) :]
        return screen.rstrip()


@pytest.fixture
def a_clock(monkeypatch):
    """Time that passes only when told to."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


@pytest.fixture
def a_terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def a_pipe() -> io.StringIO:
    return io.StringIO()


DRAWN = {
    "the beginning": (Progress("train", 0, 100), "train   [························] 0/100"),
    "a quarter": (Progress("train", 25, 100, 61.4), "train   [██████··················] 25/100  1:01 left"),
    "the end": (Progress("predict", 9, 9, 0), "predict [████████████████████████] 9/9  0:00 left"),
    "a long word": (Progress("constrain", 0, 9), "constrain [························] 0/9"),
    "hours": (Progress("train", 1, 2, 3 * 3600 + 59), "train   [████████████············] 1/2  3:00:59 left"),
    "an unknown number": (Progress("read", 0, 0), "read …"),
    "one step": (Progress("write", 0, 1), "write …"),
    "more than all": (Progress("train", 3, 2), "train   [████████████████████████████████████] 3/2"),
}


@pytest.mark.parametrize(("event", "line"), DRAWN.values(), ids=DRAWN)
def test_progress_is_one_line_on_a_terminal(event, line, a_terminal):
    ProgressLine(a_terminal)(event)
    assert a_terminal.last_line() == line
    assert "\n" not in a_terminal.getvalue()


def test_a_shorter_line_leaves_nothing_of_a_longer_one(a_terminal, a_clock):
    show = ProgressLine(a_terminal)
    show(Progress("train", 1, 100, 3600))
    a_clock(1)
    show(Progress("read", 0, 1))
    assert a_terminal.last_line() == "read …"


def test_a_terminal_is_not_drawn_upon_more_often_than_can_be_seen(a_terminal, a_clock):
    show = ProgressLine(a_terminal)
    for done in range(100):
        show(Progress("train", done, 1000))
        a_clock(0.001)
    assert a_terminal.getvalue().count("\r") == 1
    show(Progress("train", 1000, 1000))
    assert "1000/1000" in a_terminal.last_line()


def test_a_pipe_gets_a_plain_line_now_and_then(a_pipe, a_clock):
    show = ProgressLine(a_pipe)
    for done in range(100):
        show(Progress("train", done, 100))
        a_clock(1)
    lines = a_pipe.getvalue().splitlines()
    assert len(lines) == 10
    assert "\r" not in a_pipe.getvalue()
    assert lines[1].endswith("10/100")


def test_a_pipe_is_not_told_of_single_steps(a_pipe):
    ProgressLine(a_pipe)(Progress("read", 0, 1))
    assert a_pipe.getvalue() == ""


EPOCHS = {
    "without validation": (EpochEnded(3, 0.5, None, None, 1e-3, False), "epoch 3  loss 0.500"),
    "with validation": (EpochEnded(3, 0.5, 0.4, 0.75, 1e-3, False), "epoch 3  loss 0.500  Dice 0.750"),
    "the best": (EpochEnded(3, 0.5, 0.4, 0.75, 1e-3, True), "epoch 3  loss 0.500  Dice 0.750 (best)"),
    "a loss that is no number": (EpochEnded(3, None, None, None, 1e-3, False), "epoch 3  loss nan"),
}


@pytest.mark.parametrize(("event", "text"), EPOCHS.values(), ids=EPOCHS)
def test_an_epoch_is_a_line_of_its_own_in_a_pipe(event, text, a_pipe):
    ProgressLine(a_pipe)(event)
    assert a_pipe.getvalue() == text + "\n"


def test_on_a_terminal_the_last_epoch_stands_beside_the_training_only(a_terminal, a_clock):
    show = ProgressLine(a_terminal)
    show(EPOCHS["the best"][0])
    assert a_terminal.getvalue() == ""
    show(Progress("train", 5, 10))
    assert a_terminal.last_line().endswith("5/10  epoch 3  loss 0.500  Dice 0.750 (best)")
    a_clock(1)
    show(Progress("predict", 5, 10))
    assert a_terminal.last_line().endswith("] 5/10")


def test_a_log_line_stays_above_the_moving_line(a_terminal):
    show = ProgressLine(a_terminal)
    show(Progress("train", 5, 10))
    show(Log("warning", '"Pöre" has few voxels.'))
    lines = a_terminal.getvalue().split("\n")
    assert lines[0].endswith('\rwarning: "Pöre" has few voxels.')
    assert a_terminal.last_line() == ""


def test_information_is_written_as_it_is(a_pipe):
    show = ProgressLine(a_pipe)
    show(Log("info", "two\nlines"))
    show(Preview("a.png"))
    show(Finished())
    assert a_pipe.getvalue() == "two\nlines\n"


def test_at_the_end_the_moving_line_is_gone(a_terminal):
    show = ProgressLine(a_terminal)
    show(Progress("train", 5, 10))
    show.end("done")
    assert a_terminal.getvalue().endswith("\rdone\n")
    show.end()
    assert a_terminal.getvalue().endswith("\rdone\n")
