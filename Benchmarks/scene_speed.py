"""How long strokes take out of a Slicer scene, and results into it: ``python Benchmarks/scene_speed.py [--write]``.

The scene is the real one, of the slicer-core wheel. The best of several runs counts; bars: strokes of 512³ in eight
classes out in less than 0.5 s, a result of 512³ in in less than 1 s.
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
import slicer
import vtk
from record import table, write_down
from vtk.util.numpy_support import numpy_to_vtk

sys.path.insert(0, str(Path(__file__).parents[1] / "VolumeSegmantics"))

from VolumeSegmanticsSlicer.nodes import grid_of, image_for_job
from VolumeSegmanticsSlicer.results import show_labels
from VolumeSegmanticsSlicer.segmentations import labels_for_job, labels_of

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.volume import LabelMap

CLASSES = 8


def seconds(call: Callable[[], Any], runs: int = 3) -> float:
    """Return the wall seconds of the fastest run."""
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


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


class Scene:
    """A scene in which segmentations work; the logics must live as long as it does."""

    def __init__(self) -> None:
        self.mrml, self._application = slicer.vtkMRMLScene(), slicer.vtkSlicerApplicationLogic()
        self._application.SetMRMLScene(self.mrml)
        self._segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
        self._segmentations.SetMRMLApplicationLogic(self._application)
        self._segmentations.SetMRMLScene(self.mrml)

    def new_volume(self, side: int) -> Any:
        """Return a volume node of 16-bit zeros."""
        image = vtk.vtkImageData()
        image.SetDimensions(side, side, side)
        image.GetPointData().SetScalars(numpy_to_vtk(np.zeros(side**3, np.uint16), deep=True))
        node = self.mrml.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume")
        node.SetAndObserveImageData(image)
        return node

    def in_layers(self, volume: Any, array: np.ndarray) -> Any:
        """Return a segmentation whose segments have an image each, as those that overlap."""
        node = self.mrml.AddNewNodeByClass("vtkMRMLSegmentationNode", "layers")
        for n in range(1, CLASSES + 1):
            labels = LabelMap.of((array == n).astype(np.uint8), grid_of(volume))
            alone = show_labels(labels, volume)
            node.GetSegmentation().AddSegment(alone.GetSegmentation().GetNthSegment(0), f"Segment_{n}")
            self.mrml.RemoveNode(alone)
        return node


def measure(side: int, folder: Path) -> list[tuple[str, str, str]]:
    """Return rows of what was done, its seconds, and the bar."""
    scene = Scene()
    volume = scene.new_volume(side)
    painted, result = strokes(side), label_map(blocks(side), volume)
    shared = show_labels(label_map(painted, volume), volume)
    layers = scene.in_layers(volume, painted)
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
    return [(what, f"{seconds(call):.2f}", bar) for what, call, bar in rows]


def main() -> None:
    """Measure and print; ``--write`` puts the table into docs/benchmarks.md too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512, help="voxels along each side, a multiple of 16")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = table(("what", "seconds", "bar"), measure(asked.side, Path(folder)))
    version = importlib.metadata.version("slicer-core")
    title = f"Strokes and results of {asked.side}³ through a scene of slicer-core {version}"
    if asked.write:
        write_down(title, text)
    else:
        sys.stdout.write(f"{title}\n\n{text}\n")


if __name__ == "__main__":
    main()
