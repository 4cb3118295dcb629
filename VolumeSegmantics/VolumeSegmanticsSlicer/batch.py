"""Train and segment without a window: what ``VolumeSegmanticsBatch/volume_segmantics_batch.py`` starts."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from VolumeSegmanticsLib.errors import Cancelled, InputError, VolumeSegmanticsError
from VolumeSegmanticsLib.events import Event, Log
from VolumeSegmanticsLib.launch import clean_environment
from VolumeSegmanticsLib.settings import PredictSettings, TrainSettings

from . import batch_options
from .nodes import Node
from .runner import StartWorker, start_worker
from .scenes import Scene, stem
from .states import Phase, State
from .workflow import Workflow

DONE, BUG, MENDABLE, CANCELLED = range(4)  # exit codes

VOLUME, SEGMENTATION = "vtkMRMLVolumeNode", "vtkMRMLSegmentationNode"
PROGRESS_SECONDS = 10.0


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for.

    Returns:
        0 done, 1 a bug, 2 the user can mend it, 3 cancelled.
    """
    try:
        _run(batch_options.read(arguments))
    except SystemExit as error:  # argparse has told why
        return MENDABLE if error.code else DONE
    except (Cancelled, KeyboardInterrupt):
        _tell("Cancelled.")
        return CANCELLED
    except VolumeSegmanticsError as error:
        _tell(f"Error: {error.message}\n{error.hint}".rstrip())
        return BUG if error.code == "bug" else MENDABLE
    except Exception:
        _tell(f"This is a bug; please report it with these lines:\n{traceback.format_exc()}")
        return BUG
    return DONE


def _run(options: argparse.Namespace) -> None:
    start = _external(options.worker_python) if options.worker_python else start_worker
    with Scene() as scene, _jobs_folder(options.jobs_folder) as jobs_folder:
        if options.scene:
            scene.open(options.scene)
        with Workflow(scene.mrml, jobs_folder=jobs_folder, start=start) as workflow:
            for kind, asked in ((TrainSettings, options.train), (PredictSettings, options.predict)):
                workflow.parameters.keep(replace(workflow.parameters.settings(kind), **asked))
            workflow.parameters.model_path = options.model.absolute()
            with _Batch(scene, workflow, options) as batch:
                batch.run()
        if options.save_scene:
            scene.save(options.save_scene)
            _made(options.save_scene)


@contextmanager
def _jobs_folder(chosen: Path | None) -> Iterator[Path]:
    """Yield the folder for jobs; where none was chosen it is gone after success, and kept with its logs otherwise."""
    folder = chosen or Path(tempfile.mkdtemp(prefix="VolumeSegmantics-"))
    yield folder
    if chosen is None:
        shutil.rmtree(folder, ignore_errors=True)


class _Batch:
    """The jobs of a run. While it is entered, Ctrl-C and SIGTERM stop the job that runs."""

    def __init__(self, scene: Scene, workflow: Workflow, options: argparse.Namespace) -> None:
        self._scene, self._workflow, self._options = scene, workflow, options
        self._is_stopped = False

    def __enter__(self) -> _Batch:
        self._before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def run(self) -> None:
        """Train where there are strokes, then segment all volumes; those that nobody needs any more are let go."""
        options = self._options
        titles = self._titles()
        learned = [self._volume(name) for name in options.volumes[: len(options.strokes)]]
        if learned:
            self._train(learned)
        for n, name in enumerate(options.volumes if options.results else ()):
            volume = learned[n] if n < len(learned) else self._volume(name)
            result = self._predict(volume, titles[n])
            if n >= len(learned) and not options.save_scene:
                for node in (volume, *result):
                    self._scene.mrml.RemoveNode(node)

    def _titles(self) -> list[str]:
        """Return what the results of the volumes are called.

        Raises:
            InputError: Two would be called the same.
        """
        titles = [
            re.sub(r'[\\/:*?"<>|]', "_", name) if self._node(name, VOLUME) else stem(Path(name))
            for name in self._options.volumes
        ]
        for title, number in Counter(titles).items():
            if number > 1 and self._options.results:
                raise InputError(f'{number} volumes are called "{title}".', "Segment them in runs of their own.")
        return titles

    def _train(self, volumes: Sequence[Node]) -> None:
        options, parameters = self._options, self._workflow.parameters
        pairs = [(volume, self._strokes(name, volume)) for name, volume in zip(options.strokes, volumes, strict=True)]
        parameters.choose("volume", pairs[0][0])
        parameters.choose("annotation", pairs[0][1])
        self._do(partial(self._workflow.train, model=options.model, start_from=options.start_from, others=pairs[1:]))
        _made(options.model)

    def _predict(self, volume: Node, title: str) -> list[Node]:
        """Segment a volume; return the nodes that show the result."""
        results, parameters = self._options.results, self._workflow.parameters
        parameters.choose("volume", volume)
        for role in ("result", "confidence"):  # every volume gets its own
            parameters.choose(role, None)
        confidence = results / f"{title}-confidence.nrrd" if self._options.confidence else False
        output = results / f"{title}-result.seg.nrrd"
        state = self._do(partial(self._workflow.predict, output=output, confidence=confidence))
        for path in (output, confidence):
            if path:
                _made(path)
        return [self._scene.mrml.GetNodeByID(node_id) for node_id in state.node_ids.values()]

    def _do(self, start: Callable[[], None]) -> State:
        """Start a job and wait for its end.

        Raises:
            Cancelled: It was stopped.
            VolumeSegmanticsError: It failed.
        """
        if self._is_stopped:
            raise Cancelled
        start()
        if self._is_stopped:  # while the job was written
            self._workflow.cancel()
        state = self._workflow.wait(_Lines())
        if state.phase is Phase.CANCELLED:
            raise Cancelled
        if state.error:
            error = VolumeSegmanticsError(
                state.error.message, "\n".join(filter(None, (state.error.hint, state.note, f"Log: {state.log_path}")))
            )
            error.code = state.error.code
            raise error
        return state

    def _stop(self, *_: Any) -> None:
        self._is_stopped = True
        self._workflow.cancel()

    def _node(self, name: str, class_name: str) -> Node | None:
        return self._scene.named(name, class_name) if self._options.scene else None

    def _volume(self, name: str) -> Node:
        node = self._node(name, VOLUME)
        if node is None:
            self._refuse_unknown(name, VOLUME)
            node = self._scene.load_volume(Path(name))
        return node

    def _strokes(self, name: str, volume: Node) -> Node:
        node = self._node(name, SEGMENTATION)
        if node is None:
            self._refuse_unknown(name, SEGMENTATION)
            unpainted = self._workflow.parameters.settings(TrainSettings).unpainted
            node = self._scene.load_labels(Path(name), volume, unpainted=unpainted, report=_tell_log)
        return node

    def _refuse_unknown(self, name: str, class_name: str) -> None:
        if self._options.scene and not Path(name).exists():
            known = ", ".join(f'"{each}"' for each in self._scene.names(class_name)) or "none"
            kind = "volume" if class_name == VOLUME else "segmentation"
            raise InputError(f'"{name}" is no {kind} of the scene, and no file.', f"The scene has: {known}.")


class _Lines:
    """Shows what becomes of a job, as plain lines."""

    def __init__(self) -> None:
        self._known, self._time = State(), time.monotonic()

    def __call__(self, state: State) -> None:
        """Show what is new."""
        if new := state.lines - self._known.lines:
            _tell("\n".join(state.log[-new:]))
        for epoch in state.epochs[len(self._known.epochs) :]:
            score = "" if epoch.valid_dice is None else f", Dice {epoch.valid_dice:.3f}"
            _tell(f"epoch {epoch.epoch}: loss {epoch.train_loss or 0:.3f}{score}")
        self._known = state
        if state.total > 1 and time.monotonic() - self._time > PROGRESS_SECONDS:
            self._time = time.monotonic()
            left = "" if state.seconds_left is None else f", {state.seconds_left:.0f} s left"
            _tell(f"{state.stage}: {state.done} of {state.total}{left}")


def _external(python: Path) -> StartWorker:
    """Return what starts workers with a Python that is not Slicer's own."""
    return partial(start_worker, python=python, environment=clean_environment(os.environ, external=True))


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")


def _tell_log(event: Event) -> None:
    if isinstance(event, Log):
        _tell(event.text)


def _made(path: Path) -> None:
    sys.stdout.write(f"{path}\n")
