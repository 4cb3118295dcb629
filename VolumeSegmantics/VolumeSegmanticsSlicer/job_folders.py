"""What the folder of a job holds: volumes and segmentations of the scene as files, and what shall be made of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.box import Box
from VolumeSegmanticsLib.events import Report
from VolumeSegmanticsLib.jobs import Job
from VolumeSegmanticsLib.settings import (
    ConstrainSettings,
    EvaluateSettings,
    LiveSettings,
    PredictSettings,
    TrainSettings,
)
from VolumeSegmanticsLib.volume import Grid

from .nodes import IMAGE_FILE, Node, grid_of, image_for_job, own_file, volume_of
from .results import BOX, provenance_of
from .segmentations import inside, labels_for_job, snapshot_of
from .starting import Write, now

MODEL_FILE = "model.safetensors"
RESULT_FILE = "result.seg.nrrd"
CONFIDENCE_FILE = "confidence.nrrd"
PREDICTION_FILE = "prediction.seg.nrrd"
TRUTH_FILE = "truth.seg.nrrd"
SCORES_FOLDER = "scores"

MARGIN = 32
"""Voxels around a region that a job gets too: learning and predicting look at what lies around a voxel."""

AnyPath = str | os.PathLike[str]


class Images:
    """Volumes as files for workers; one that has not changed since an earlier job is not written again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Box], tuple[int, Grid, Path]] = {}

    def file_of(
        self, volume_node: Node, folder: Path, box: Box | None = None, *, write: Write = now
    ) -> tuple[Path, Box]:
        """Return a file that holds a volume, and which part of it; see ``image_for_job``.

        Args:
            volume_node: The volume.
            folder: The job's, where the file is written if there is no other.
            box: What is needed, with some voxels around it; None for all.
            write: Writes the file, now or later.
        """
        grid, changed = grid_of(volume_node), volume_node.GetImageData().GetMTime()
        whole = Box((0, 0, 0), grid.shape)
        needed = box.widened(MARGIN, grid.shape) if box else whole
        for part in (whole, needed):
            known = self._known.get((volume_node.GetID(), part))
            is_there = known and (known[2].is_file() or known[2].parent in (folder, *folder.parents))  # or soon will be
            if known and is_there and known[:2] == (changed, grid):
                return known[2], part
        volume = volume_of(volume_node)
        part = whole if own_file(volume_node, volume) else needed
        if part == whole:
            path = image_for_job(volume_node, folder, write=write)
        else:
            path = folder / IMAGE_FILE
            write(lambda: io.write_volume(path, part.of_volume(volume)))
        self._known[volume_node.GetID(), part] = (changed, grid, path)
        return path, part

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
    box: Box | None = None,
    report: Report,
    write: Write = now,
) -> Box:
    """Write a job that trains on pairs of volume and segmentation node, of the first pair on a box only.

    Returns:
        The part of the first volume that the job has.
    """
    inputs: dict[str, Any] = {"images": [], "labels": []}
    parts = []
    for n, (volume_node, strokes) in enumerate(pairs, 1):
        place, wanted = (folder, box) if n == 1 else (folder / str(n), None)
        place.mkdir(exist_ok=True)
        image, part = images.file_of(volume_node, place, wanted, write=write)
        labels = labels_for_job(
            strokes,
            volume_node,
            place,
            box=wanted,
            part=part,
            write=write,
            unpainted=settings.unpainted,
            report=report,
        )
        inputs["images"].append(_told(image, folder))
        inputs["labels"].append(_told(labels, folder))
        parts.append(part)
    if start_from:
        inputs["start_from"] = str(Path(start_from).absolute())
    outputs = {"model": _output(model, MODEL_FILE)}
    Job.create(folder, task="train", settings=settings.to_dict(), inputs=inputs, outputs=outputs)
    return parts[0]


def predict_job(
    folder: Path,
    volume_node: Node,
    model: AnyPath,
    settings: PredictSettings,
    images: Images,
    *,
    output: AnyPath | None,
    confidence: AnyPath | bool,
    box: Box | None = None,
    write: Write = now,
) -> Job:
    """Write a job that segments a volume node, or a box of it only."""
    inputs = _inputs_of_prediction(folder, volume_node, model, images, box, write)
    outputs = {"labels": _output(output, RESULT_FILE)}
    if confidence:
        outputs["confidence"] = CONFIDENCE_FILE if confidence is True else str(Path(confidence).absolute())
    return Job.create(folder, task="predict", settings=settings.to_dict(), inputs=inputs, outputs=outputs)


def plan_job(
    folder: Path,
    volume_node: Node,
    model: AnyPath,
    settings: PredictSettings,
    images: Images,
    *,
    confidence: bool,
    box: Box | None = None,
    write: Write = now,
) -> Job:
    """Write a job that finds out what it would take to segment a volume node, or a box of it only."""
    inputs = _inputs_of_prediction(folder, volume_node, model, images, box, write)
    outputs = {"labels": RESULT_FILE} | ({"confidence": CONFIDENCE_FILE} if confidence else {})
    return Job.create(folder, task="plan", settings=settings.to_dict(), inputs=inputs, outputs=outputs)


def live_job(
    folder: Path,
    volume_node: Node,
    settings: LiveSettings,
    images: Images,
    *,
    model: AnyPath | None,
    labels: bool,
    box: Box | None = None,
    write: Write = now,
) -> Box:
    """Write a job that learns while somebody paints, on a volume or a box of it only.

    Returns:
        The part of the volume that the job has.
    """
    image, part = images.file_of(volume_node, folder, box, write=write)
    inputs: dict[str, Any] = {"image": _told(image, folder)}
    if box is not None:
        inputs["box"] = box.seen_from(part.start).spans
    outputs = {"model": _output(model, MODEL_FILE)} | ({"labels": RESULT_FILE} if labels else {})
    Job.create(folder, task="live", settings=settings.to_dict(), inputs=inputs, outputs=outputs)
    return part


def predict_file_job(folder: Path, image: AnyPath, model: AnyPath, settings: PredictSettings, output: AnyPath) -> Job:
    """Write a job that segments an image file, which need not be in the scene, into a label file."""
    inputs = {"image": str(Path(image).absolute()), "model": str(Path(model).absolute())}
    outputs = {"labels": str(Path(output).absolute())}
    return Job.create(folder, task="predict", settings=settings.to_dict(), inputs=inputs, outputs=outputs)


def evaluate_job(
    folder: Path,
    volume_node: Node,
    prediction: Node,
    truth: Node,
    settings: EvaluateSettings,
    *,
    report: Report,
    write: Write = now,
) -> Job:
    """Write a job that compares two segmentation nodes on the grid of a volume."""
    answer = snapshot_of(prediction, volume_node, report=report)
    known = snapshot_of(truth, volume_node, unpainted=settings.unpainted, report=report)
    box = Box.of(json.loads(told), known.grid.shape) if (told := provenance_of(prediction).get(BOX)) else None
    write(lambda: io.write_labels(folder / PREDICTION_FILE, answer.labels(report)))
    write(lambda: io.write_labels(folder / TRUTH_FILE, inside(known.labels(report), box)))
    inputs, outputs = {"prediction": PREDICTION_FILE, "truth": TRUTH_FILE}, {"folder": SCORES_FOLDER}
    return Job.create(folder, task="evaluate", settings=settings.to_dict(), inputs=inputs, outputs=outputs)


def constrain_job(
    folder: Path,
    volume_node: Node,
    result: Node,
    settings: ConstrainSettings,
    *,
    report: Report,
    write: Write = now,
) -> Job:
    """Write a job that makes rules hold in a segmentation node; what it was stays in the folder."""
    before = snapshot_of(result, volume_node, report=report)
    write(lambda: io.write_labels(folder / PREDICTION_FILE, before.labels(report)))
    inputs, outputs = {"labels": PREDICTION_FILE}, {"labels": RESULT_FILE}
    return Job.create(folder, task="constrain", settings=settings.to_dict(), inputs=inputs, outputs=outputs)


def _inputs_of_prediction(
    folder: Path, volume_node: Node, model: AnyPath, images: Images, box: Box | None, write: Write
) -> dict[str, Any]:
    image, part = images.file_of(volume_node, folder, box, write=write)
    inputs: dict[str, Any] = {"image": _told(image, folder), "model": str(Path(model).absolute())}
    if box is not None:
        inputs["box"] = box.seen_from(part.start).spans
    return inputs


def _told(path: Path, folder: Path) -> str:
    """Return a path as the job tells it: without the folder where it lies there, so that the folder can be moved."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _output(path: AnyPath | None, default: str) -> str:
    return str(Path(path).absolute()) if path else default
