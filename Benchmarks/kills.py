"""What becomes of jobs whose worker is killed: ``python Benchmarks/kills.py [--count 100] [--write]``.

Trainings and predictions are started in turn in a real scene, and killed (-9) after a random part of the time that they
take. Each must end in one sentence and leave the scene as it was; then the next must run, and the last one to its end.
A job that was over before it could be killed is counted apart, and another takes its place.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import conclude, table

sys.path.insert(0, str(Path(__file__).parents[1] / "VolumeSegmantics"))

from VolumeSegmanticsSlicer.scenes import Scene
from VolumeSegmanticsSlicer.states import Phase, State
from VolumeSegmanticsSlicer.workflow import Workflow

from VolumeSegmanticsLib import io, simulate
from VolumeSegmanticsLib.launch import WorkerProcess
from VolumeSegmanticsLib.settings import PredictSettings, TrainSettings

QUICK = TrainSettings(
    encoder="resnet18", weights="none", crop_size=32, batch_size=4, crops_per_epoch=16, epochs=2, learning_rate=1e-3
)
TOO_LATE = "was over already"


class Kills:
    """A scene with strokes, a model and an earlier result, and jobs in it that are killed."""

    def __init__(self, scene: Scene, folder: Path, rng: random.Random) -> None:
        image, truth = simulate.fibre_composite((16, 48, 48))
        io.write_volume(folder / "image.nrrd", image)
        io.write_labels(folder / "strokes.seg.nrrd", simulate.strokes(truth))
        self._scene, self._rng, self._pid = scene, rng, 0
        self._has_started = threading.Event()
        self._workflow = Workflow(scene.mrml, jobs_folder=folder / "jobs", start=self._start)
        volume = scene.load_volume(folder / "image.nrrd")
        parameters = self._workflow.parameters
        parameters.choose("volume", volume)
        parameters.choose("annotation", scene.load_labels(folder / "strokes.seg.nrrd", volume))
        parameters.keep(QUICK)
        parameters.keep(PredictSettings(quality="high"))
        self._jobs: tuple[Callable[[], None], ...] = (self._workflow.train, self._workflow.predict)
        self._seconds = [self._run(start) for start in self._jobs]

    def _start(self, folder: Path) -> WorkerProcess:
        worker = WorkerProcess(folder)
        self._pid = worker.pid
        self._has_started.set()
        return worker

    def _run(self, start: Callable[[], None]) -> float:
        """Run a job to its end; return the seconds that it took."""
        began = time.monotonic()
        start()
        state = self._workflow.wait()
        assert state.phase is Phase.DONE, state.error
        return time.monotonic() - began

    def kill_one(self, number: int) -> str:
        """Start a job, kill it, and return what became of it."""
        which, before = number % len(self._jobs), self._look()
        self._has_started.clear()
        self._jobs[which]()
        self._has_started.wait()  # it is started in a thread
        end = time.monotonic() + self._rng.uniform(0, self._seconds[which])
        while time.monotonic() < end and self._workflow.pump().is_running:
            time.sleep(0.01)
        if not self._workflow.state.is_running:
            return TOO_LATE
        os.kill(self._pid, signal.SIGKILL)
        state = self._workflow.wait()
        if state.phase is Phase.DONE:
            return TOO_LATE
        if self._look() != before:
            return "changed the scene"
        return "ended in one sentence" if _is_one_sentence(state) else f"ended otherwise: {state.phase} {state.error}"

    def finish(self) -> None:
        """Run all jobs once more, to their end."""
        for start in self._jobs:
            self._run(start)
        self._workflow.close()

    def _look(self) -> list[Any]:
        """Return the strokes and the earlier result, voxel by voxel, and which nodes there are."""
        from VolumeSegmanticsSlicer.segmentations import labels_of

        parameters, mrml = self._workflow.parameters, self._scene.mrml
        nodes = [parameters.chosen(role) for role in ("annotation", "result")]
        labels = [labels_of(node, parameters.chosen("volume")).array.tobytes() for node in nodes]
        return [*labels, parameters.model_path, mrml.GetNumberOfNodes()]


def _is_one_sentence(state: State) -> bool:
    message = state.error.message if state.error else ""
    return state.phase is Phase.FAILED and message.count(".") == 1 and message.endswith(".") and "\n" not in message


def main() -> None:
    """Kill, count and print; ``--write`` puts the table into docs/benchmarks.md too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="how many jobs are killed (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Scene() as scene:
        kills = Kills(scene, Path(folder), random.Random(asked.seed))
        counted: Counter[str] = Counter()
        while counted.total() - counted[TOO_LATE] < asked.count:
            counted[kills.kill_one(counted.total())] += 1
        kills.finish()
    text = table(("what became of a killed job", "jobs"), counted.most_common())
    text += "\n\nAfter each the next job ran; the last training and the last prediction ran to their end."
    title = f"{asked.count} workers killed at random moments"
    conclude(title, text, is_kept=asked.write)


if __name__ == "__main__":
    main()
