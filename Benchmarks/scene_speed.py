"""How long strokes take out of a Slicer scene, and results into it: ``python Benchmarks/scene_speed.py [--write]``.

The scene is the real one, of the slicer-core wheel. The best of several runs counts; bars: strokes of 512³ in eight
classes out in less than 0.5 s, a result of 512³ in in less than 1 s, and a job started in less than 0.1 s.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from record import conclude, table

sys.path.insert(0, str(Path(__file__).parents[1] / "VolumeSegmantics"))

from VolumeSegmanticsSlicer.nodes import fill_volume, grid_of, image_for_job
from VolumeSegmanticsSlicer.results import show_labels
from VolumeSegmanticsSlicer.scenes import Scene
from VolumeSegmanticsSlicer.segmentations import labels_for_job, labels_of
from VolumeSegmanticsSlicer.workflow import Workflow

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.events import Event, WasCancelled
from VolumeSegmanticsLib.volume import LabelMap, Volume

CLASSES = 8


def seconds(call: Callable[[], Any], after: Callable[[], Any] = lambda: None, runs: int = 3) -> float:
    """Return the wall seconds of the fastest run; what is called after each does not count."""
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
        after()
    return min(found)


class NoWorker:
    """In the place of a worker: ends at once."""

    def __init__(self, folder: Path) -> None:
        self._events: list[Event] = [WasCancelled()]

    def poll(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """It has ended already."""

    close = stop


def seconds_to_start(scene: Scene, volume: Any, strokes: Any, folder: Path) -> float:
    """Return for how long the caller waits who starts a training; the files are written meanwhile."""
    with Workflow(scene.mrml, jobs_folder=folder / "jobs", start=NoWorker) as workflow:
        workflow.parameters.choose("volume", volume)
        workflow.parameters.choose("annotation", strokes)
        return seconds(workflow.train, after=workflow.wait)


def strokes(side: int) -> np.ndarray:
    """Draw one line a class on every eighth slice: uint8 (Z, Y, X), 0 where nothing is painted."""
    rng, labels = np.random.default_rng(0), np.zeros((side, side, side), np.uint8)
    for z in range(0, side, 8):
        for value in range(1, CLASSES + 1):
            y, x = rng.integers(0, side - 20, 2)
            labels[z, y : y + 6, x : x + side // 3] = value
    return labels


def blocks(side: int) -> np.ndarray:
    """Fill everything with classes 0 … 8, in boxes of a sixteenth of the side."""
    small = np.random.default_rng(0).integers(0, CLASSES + 1, (16, 16, 16), np.uint8)
    return np.kron(small, np.ones((side // 16,) * 3, np.uint8))


def label_map(array: np.ndarray, volume: Any) -> LabelMap:
    classes = (LabelClass.plain(0), *(LabelClass(n, f"class {n}") for n in range(1, CLASSES + 1)))
    return LabelMap(array, grid_of(volume), classes)


def new_volume(scene: Scene, side: int) -> Any:
    """Return a volume node of 16-bit zeros."""
    node = scene.mrml.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume")
    fill_volume(node, Volume.of(np.zeros((side, side, side), np.uint16)))
    return node


def in_layers(scene: Scene, volume: Any, array: np.ndarray) -> Any:
    """Return a segmentation whose segments have an image each, as those that overlap."""
    node = scene.mrml.AddNewNodeByClass("vtkMRMLSegmentationNode", "layers")
    for n in range(1, CLASSES + 1):
        labels = LabelMap.of((array == n).astype(np.uint8), grid_of(volume))
        alone = show_labels(labels, volume)
        node.GetSegmentation().AddSegment(alone.GetSegmentation().GetNthSegment(0), f"Segment_{n}")
        scene.mrml.RemoveNode(alone)
    return node


def measure(scene: Scene, side: int, folder: Path) -> list[tuple[str, str, str]]:
    """Return rows of what was done, its seconds, and the bar."""
    volume = new_volume(scene, side)
    painted, result = strokes(side), label_map(blocks(side), volume)
    shared = show_labels(label_map(painted, volume), volume)
    layers = in_layers(scene, volume, painted)
    full = show_labels(result, volume)
    file = io.write_labels(folder / "result.seg.nrrd", result)
    rows: Sequence[tuple[str, Callable[[], Any], str]] = (
        ("strokes out, eight classes in one layer", lambda: labels_of(shared, volume), "0.5"),
        ("strokes out, eight layers", lambda: labels_of(layers, volume), "0.5"),
        ("strokes into the job's folder", lambda: labels_for_job(shared, volume, folder), ""),
        ("a full segmentation out", lambda: labels_of(full, volume), ""),
        ("16-bit image into the job's folder", lambda: image_for_job(volume, folder), ""),
        ("result in, a new node", lambda: show_labels(result, volume), "1"),
        ("result in, into an earlier one", lambda: show_labels(result, volume, result=full), "1"),
        ("result in, from its file", lambda: show_labels(file, volume, result=full), "1"),
    )
    measured = [(what, f"{seconds(call):.2f}", bar) for what, call, bar in rows]
    return [*measured, ("a training started", f"{seconds_to_start(scene, volume, shared, folder):.2f}", "0.1")]


def main() -> None:
    """Measure and print; ``--write`` puts the table into docs/benchmarks.md too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512, help="voxels along each side, a multiple of 16")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Scene() as scene:
        text = table(("what", "seconds", "bar"), measure(scene, asked.side, Path(folder)))
    version = importlib.metadata.version("slicer-core")
    title = f"Strokes and results of {asked.side}³ through a scene of slicer-core {version}"
    conclude(title, text, is_kept=asked.write)


if __name__ == "__main__":
    main()
