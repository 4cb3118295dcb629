"""Pictures of the panel in its states, 400 pixels wide: ``python render_panel.py FOLDER``.

The widgets that only Slicer has are stand-ins: these show alignment, wording and what is off, not Slicer's style.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "standins")]

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import slicer_desktop  # noqa: E402
from conftest import Scene  # noqa: E402
from panel_nouns import Hand, Starter  # noqa: E402

from VolumeSegmanticsLib.events import EpochEnded, Failed  # noqa: E402
from VolumeSegmanticsLib.volume import Grid  # noqa: E402

SHAPE = (12, 40, 48)


def states(hand, volume_name="Fibre composite"):
    """Bring the panel from one state to the next, and yield the name of each."""
    from VolumeSegmanticsSlicer.pace import Pace
    from VolumeSegmanticsSlicer.states import Phase, State

    yield "1-empty"
    grey = np.random.default_rng(0).integers(0, 200, SHAPE).astype(np.int16)
    hand.scene.new_volume(grey, Grid(SHAPE, (2.0, 0.5, 0.5)), volume_name)
    hand.live()
    yield "2-volume"
    hand.press("newStrokesButton")
    hand.paint({"Background": np.s_[3, 2:8, 2:30], "Class 1": np.s_[3, 20:22, 5:14]})
    yield "3-strokes"
    epochs = tuple(
        EpochEnded(n, 1.1 / n**0.6, 1.2 / n**0.5, None if n == 1 else 1 - 0.8 / n**0.7, 1e-3, True)
        for n in range(1, 19)
    )
    training = State(Phase.RUNNING, "train", Path("/tmp"), "train", 700, 1600, Pace(0.58, 97.0), epochs)
    yield from shown(hand, "4-training", training)
    yield from shown(hand, "5-stopping", replace(training, phase=Phase.STOPPING))
    died = Failed(
        "worker-died", "The worker process was ended by SIGKILL.", "Was the memory full? Close other programs."
    )
    yield from shown(hand, "6-failed", replace(training, phase=Phase.FAILED, error=died))
    hand.train()
    hand.predict()
    yield "7-predicted"
    hand.ui.advancedSection.setProperty("collapsed", False)
    hand.press("logButton")
    hand.live()
    yield "8-advanced-and-log"


def shown(hand, name, state):
    """Show a state that takes too long to come by itself."""
    runner = hand.workflow._runner
    before, runner.state = runner.state, state
    hand.live()
    yield name
    runner.state = before
    hand.live()


def render(folder: Path) -> None:
    """Save a picture of each state into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as home:
        scene = Scene.new(Path(home))
        slicer_desktop.install(patch, scene.mrml, Path(home))
        from VolumeSegmanticsSlicer import annotate_section, desktop, preparation

        starter = Starter()
        patch.setattr(desktop, "start_worker_with", starter)
        patch.setattr(preparation, "missing", lambda *_, **__: ())
        patch.setattr(annotate_section, "CALM_SECONDS", 0.05)
        widget = slicer_desktop.module_file().VolumeSegmanticsWidget()
        widget.setup()
        widget.enter()
        hand = Hand(widget, scene, starter)
        for name in states(hand):
            hand.picture(folder / f"{name}.png")
        widget.cleanup()


if __name__ == "__main__":
    render(Path(sys.argv[1]))
