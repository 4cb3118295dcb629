"""Nouns for tests of the panel: a Slicer as if it ran, the module's widget in it, and a hand that uses it."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

WORKER = Path(__file__).parents[1] / "workers" / "quick.py"
PATIENCE_SECONDS = 120.0
RENDERED_WIDTH = 400


@dataclass
class Starter:
    """Starts real worker processes whose tasks do quickly what ``behaviour`` says; None takes the true ones."""

    behaviour: str | None = "own"

    def __post_init__(self):
        self.workers = []

    def __call__(self, python, folder):
        from VolumeSegmanticsLib.launch import WorkerProcess

        command = [sys.executable, str(WORKER), self.behaviour] if self.behaviour else None
        self.workers.append(WorkerProcess(folder, command=command, grace_seconds=1.5))
        return self.workers[-1]


class Hand:
    """Uses the panel as a user does: presses what can be pressed, chooses, reads, and waits with Slicer alive."""

    def __init__(self, widget, scene, starter):
        import slicer
        import slicer_desktop

        self.widget, self.scene, self.starter = widget, scene, starter
        self.ui = slicer_desktop.children_by_name(widget.ui_root)
        self._live = slicer.app.processEvents

    @property
    def workflow(self):
        return self.widget.workflow

    @property
    def parameters(self):
        return self.widget.workflow.parameters

    @property
    def state(self):
        return self.widget.workflow.state

    @property
    def status(self) -> str:
        return self.ui.statusLabel.text()

    def reason(self, name) -> str:
        """Why a button is off, as its tooltip says; empty where it is on."""
        button = getattr(self.ui, name)
        return "" if button.isEnabled() else button.toolTip().partition("<b>")[2].partition("</b>")[0]

    def setting(self, name):
        """The widget of a setting below Advanced, such as ``train.epochs``."""
        return getattr(self.ui, f"{name}Setting")

    def press(self, name):
        button = getattr(self.ui, name)
        assert button.isEnabled(), f"{name} is off: {self.reason(name)}"
        button.click()

    def choose(self, name, data):
        combo = getattr(self.ui, name)
        index = combo.findData(data)
        assert index >= 0, f"{name} does not offer {data!r}"
        combo.setCurrentIndex(index)

    def live(self, seconds=0.12):
        """Let the timers run."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._live()
            time.sleep(0.005)

    def wait_until(self, condition, patience=PATIENCE_SECONDS):
        end = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < end, f"nothing came of it: {self.status}"
            self._live()
            time.sleep(0.005)
        self.live(0.15)

    def wait_for_the_end(self, patience=PATIENCE_SECONDS):
        self.wait_until(lambda: not self.state.is_running, patience)
        return self.state

    def paint(self, where, strokes=None, volume=None):
        """Paint a mask for each class name with the Segment Editor's logic."""
        strokes = strokes or self.parameters.chosen("annotation")
        volume = volume or self.parameters.chosen("volume")
        for name, mask in where.items():
            self.scene.paint(strokes, volume, name, mask)
        self.live(0.3)  # until they are counted

    def train(self):
        self.wait_until(lambda: not self.reason("trainButton"))  # strokes are counted first
        self.press("trainButton")
        return self.wait_for_the_end()

    def predict(self):
        self.press("predictButton")
        return self.wait_for_the_end()

    def picture(self, path: Path, height=0):
        """Save what the panel looks like at its usual width."""
        parent = self.widget.parent
        parent.show()
        parent.setFixedWidth(RENDERED_WIDTH)
        self.live(0.3)
        parent.resize(RENDERED_WIDTH, height or parent.sizeHint().height())
        self.live(0.1)
        parent.grab().save(str(path))


@pytest.fixture
def a_desktop(a_scene, tmp_path, monkeypatch) -> Any:
    """``slicer`` as in a running Slicer, with the scene; the user's home is empty."""
    pytest.importorskip("PySide6.QtWidgets", reason="needs Qt and the system's libraries for it", exc_type=ImportError)
    import slicer_desktop

    home = tmp_path / "home"
    home.mkdir()
    slicer_desktop.install(monkeypatch, a_scene.mrml, home)
    return slicer_desktop


@pytest.fixture
def a_quick_starter() -> Starter:
    return Starter()


@pytest.fixture
def a_hand(a_desktop, a_scene, a_quick_starter, monkeypatch):
    """The module's widget has been opened, in an empty scene; all packages are there."""
    from VolumeSegmanticsSlicer import annotate_section, desktop, preparation

    monkeypatch.setattr(desktop, "start_worker_with", a_quick_starter)
    monkeypatch.setattr(preparation, "missing", lambda *_, **__: ())
    monkeypatch.setattr(annotate_section, "CALM_SECONDS", 0.05)
    widget = a_desktop.module_file().VolumeSegmanticsWidget()
    widget.setup()
    widget.enter()
    hand = Hand(widget, a_scene, a_quick_starter)
    hand.live()
    yield hand
    widget.cleanup()
    hand.live(0.05)


@pytest.fixture
def a_volume(a_hand, a_scene):
    """A bright block in a dark volume, 12 × 14 × 16, which the panel has taken up."""
    from VolumeSegmanticsLib.volume import Grid

    grey = np.full((12, 14, 16), 50, np.int16)
    grey[3:9, 4:10, 5:12] = 150
    grey += (np.arange(grey.size) % 7).reshape(grey.shape).astype(np.int16)
    node = a_scene.new_volume(grey, Grid(grey.shape, (2.0, 0.5, 0.5)), "Scan")
    a_hand.live()
    return node


@pytest.fixture
def strokes_in_panel(a_hand, a_volume):
    """Strokes have been made by the panel's button, and both of their classes are painted."""
    a_hand.press("newStrokesButton")
    a_hand.paint({"Background": np.s_[2:11:8, 1:3, 1:15], "Class 1": np.s_[5:8:2, 5:9, 6:11]})
    return a_hand.parameters.chosen("annotation")


@pytest.fixture
def a_trained_hand(a_hand, strokes_in_panel):
    """A model has been trained."""
    from VolumeSegmanticsSlicer.states import Phase

    assert a_hand.train().phase is Phase.DONE, a_hand.status
    return a_hand


@pytest.fixture
def a_predicted_hand(a_trained_hand):
    """There is a result."""
    from VolumeSegmanticsSlicer.states import Phase

    assert a_trained_hand.predict().phase is Phase.DONE, a_trained_hand.status
    return a_trained_hand
