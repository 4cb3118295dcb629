"""What the folder of a job holds: volumes and segmentations of the scene as files, and what shall be made of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.events import Report
from VolumeSegmanticsLib.jobs import Job
from VolumeSegmanticsLib.settings import EvaluateSettings, PredictSettings, TrainSettings
from VolumeSegmanticsLib.volume import Grid

from .nodes import Node, grid_of, image_for_job
from .segmentations import labels_for_job, labels_of

MODEL_FILE = "model.safetensors"
RESULT_FILE = "result.seg.nrrd"
CONFIDENCE_FILE = "confidence.nrrd"
PREDICTION_FILE = "prediction.seg.nrrd"
TRUTH_FILE = "truth.seg.nrrd"
SCORES_FOLDER = "scores"

AnyPath = str | os.PathLike[str]


class Images:
    """Volumes as files for workers; one that has not changed since an earlier job is not written again."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, Grid, Path]] = {}

    def file_of(self, volume_node: Node, folder: Path) -> Path:
        """Return a file that holds a volume, in a job's folder where there is no other; see ``image_for_job``."""
        grid, changed = grid_of(volume_node), volume_node.GetImageData().GetMTime()
        known = self._known.get(volume_node.GetID())
        if known and known[:2] == (changed, grid) and known[2].is_file():
            return known[2]
        path = image_for_job(volume_node, folder)
        self._known[volume_node.GetID()] = (changed, grid, path)
        return path

    def forget(self) -> None:
        """Forget all: the scene is another."""
        self._known.clear()


def train_job(
    folder: Path,
    pairs: Sequence[tuple[Node, Node]],
    settings: TrainSettings,
    images: Images,
    *,
    model: AnyPath | None,
    start_from: AnyPath | None,
    report: Report,
) -> Job:
    """Write a job that trains on pairs of volume and segmentation node."""
    inputs: dict[str, Any] = {"images": [], "labels": []}
    for n, (volume_node, strokes) in enumerate(pairs, 1):
        place = folder if n == 1 else folder / str(n)
        place.mkdir(exist_ok=True)
        labels = labels_for_job(strokes, volume_node, place, unpainted=settings.unpainted, report=report)
        inputs["images"].append(_told(images.file_of(volume_node, place), folder))
        inputs["labels"].append(_told(labels, folder))
    if start_from:
        inputs["start_from"] = str(Path(start_from).absolute())
    outputs = {"model": _output(model, MODEL_FILE)}
    return Job.create(folder, task="train", settings=settings.to_dict(), inputs=inputs, outputs=outputs)


def predict_job(
    folder: Path,
    volume_node: Node,
    model: AnyPath,
    settings: PredictSettings,
    images: Images,
    *,
    output: AnyPath | None,
    confidence: AnyPath | bool,
) -> Job:
    """Write a job that segments a volume node."""
    inputs = {"image": _told(images.file_of(volume_node, folder), folder), "model": str(Path(model).absolute())}
    outputs = {"labels": _output(output, RESULT_FILE)}
    if confidence:
        outputs["confidence"] = CONFIDENCE_FILE if confidence is True else str(Path(confidence).absolute())
    return Job.create(folder, task="predict", settings=settings.to_dict(), inputs=inputs, outputs=outputs)


def evaluate_job(
    folder: Path, volume_node: Node, prediction: Node, truth: Node, settings: EvaluateSettings, *, report: Report
) -> Job:
    """Write a job that compares two segmentation nodes on the grid of a volume."""
    answer = labels_of(prediction, volume_node, report=report)
    known = labels_of(truth, volume_node, unpainted=settings.unpainted, report=report)
    io.write_labels(folder / PREDICTION_FILE, answer)
    io.write_labels(folder / TRUTH_FILE, known)
    inputs, outputs = {"prediction": PREDICTION_FILE, "truth": TRUTH_FILE}, {"folder": SCORES_FOLDER}
    return Job.create(folder, task="evaluate", settings=settings.to_dict(), inputs=inputs, outputs=outputs)


def _told(path: Path, folder: Path) -> str:
    """Return a path as the job tells it: without the folder where it lies there, so that the folder can be moved."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _output(path: AnyPath | None, default: str) -> str:
    return str(Path(path).absolute()) if path else default
