"""The demonstration: a simulated tomogram, a few strokes, a model, a segmentation, its score and a picture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import api, io, jobs, report, simulate
from .events import EpochEnded, Event, Log, Report, ignore
from .metrics import Scores
from .volume import UNLABELLED, LabelMap, Volume

MINUTES = 3.0  # of training; the rest takes about another minute on two cores


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration made: its files, and how well the model did."""

    files: dict[str, Path]
    scores: Scores


def run(folder: str | Path, *, max_minutes: float = MINUTES, report_to: Report = ignore) -> Demonstration:
    """Do the whole round, and leave every step of it in a folder.

    Args:
        folder: Is made where it is missing.
        max_minutes: Wall time for training.
        report_to: Takes the events of all steps; may raise ``Cancelled``.
    """
    folder = Path(folder)
    names = ("image.nrrd", "truth.nrrd", "strokes.seg.nrrd", "model.safetensors", "result.seg.nrrd", "scores.json")
    files = {
        name.partition(".")[0]: folder / name for name in (*names, "training.png", "evaluation.png", "overview.png")
    }
    report_to(Log("info", "Simulating a tomogram of a fibre composite, and painting strokes."))
    image, truth = simulate.fibre_composite()
    strokes = simulate.strokes(truth)
    io.write_volume(files["image"], image)
    io.write_labels(files["truth"], truth)
    io.write_labels(files["strokes"], strokes)
    history: list[EpochEnded] = []

    def listen(event: Event) -> None:
        if isinstance(event, EpochEnded):
            history.append(event)
        report_to(event)

    # No network needed: the demonstration starts from random weights, and so learns more slowly than it could.
    trained = api.train(
        files["image"], files["strokes"], output=files["model"], weights="none", max_minutes=max_minutes, report=listen
    )
    prediction = api.predict(files["image"], trained, output=files["result"], report=report_to)
    scores = api.evaluate(prediction, files["truth"])
    jobs.write_atomically(files["scores"], json.dumps(scores.to_dict(), indent=2))
    report.training_picture(files["training"], history)
    _draw(files, image, strokes, prediction.labels, truth, scores)
    return Demonstration(files, scores)


def _draw(
    files: dict[str, Path], image: Volume, strokes: LabelMap, result: LabelMap, truth: LabelMap, scores: Scores
) -> None:
    """Draw the pictures; the result is shown where there is a truth, inside the scanner's field of view."""
    seen = np.where(truth.array == UNLABELLED, np.uint8(UNLABELLED), result.array)
    shown = LabelMap(seen, result.grid, result.classes)
    report.overview_picture(files["overview"], image, scribbles=strokes, prediction=shown, truth=truth)
    report.evaluation_picture(files["evaluation"], result, truth, scores, image=image)
