"""What a job can ask for: each task reads what the job names, and returns what it made.

========  =========================================  ==================================
task      inputs                                     outputs
========  =========================================  ==================================
train     images, labels (lists, in pairs),          model
          start_from (optional)
predict   image, model                               labels, confidence (optional)
evaluate  prediction, truth                          folder
========  =========================================  ==================================

The settings of a job are those of ``TrainSettings``, ``PredictSettings``, and for evaluate ``unpainted``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import api
from .errors import InputError
from .events import Report
from .jobs import Job
from .settings import EvaluateSettings, PredictSettings, TrainSettings


def train(job: Job, report: Report) -> dict[str, Any]:
    """Train a model."""
    trained = api.train(
        _paths(job, "images"),
        _paths(job, "labels"),
        output=_path(job, job.outputs, "model"),
        start_from=_path(job, job.inputs, "start_from") if "start_from" in job.inputs else None,
        settings=TrainSettings.from_dict(job.settings),
        report=report,
    )
    return {"model": str(trained.path), "scores": trained.card.scores}


def predict(job: Job, report: Report) -> dict[str, Any]:
    """Segment an image."""
    outputs = {name: _path(job, job.outputs, name) for name in ("labels", "confidence") if name in job.outputs}
    api.predict(
        _path(job, job.inputs, "image"),
        _path(job, job.inputs, "model"),
        output=_path(job, job.outputs, "labels"),
        confidence=outputs.get("confidence", False),
        settings=PredictSettings.from_dict(job.settings),
        report=report,
    )
    return {name: str(path) for name, path in outputs.items()}


def evaluate(job: Job, report: Report) -> dict[str, Any]:
    """Compare a prediction with the truth."""
    folder = _path(job, job.outputs, "folder")
    scores = api.evaluate(
        _path(job, job.inputs, "prediction"),
        _path(job, job.inputs, "truth"),
        output=folder,
        unpainted=EvaluateSettings.from_dict(job.settings).unpainted,
        report=report,
    )
    return {"folder": str(folder), "scores": scores.to_dict()}


TASKS: dict[str, Callable[[Job, Report], dict[str, Any]]] = {"train": train, "predict": predict, "evaluate": evaluate}


def _path(job: Job, names: dict[str, Any], name: str) -> Path:
    if not isinstance(names.get(name), str):
        raise InputError(f'The job does not say where "{name}" lies.', "Make the job anew.")
    return job.path(names[name])


def _paths(job: Job, name: str) -> list[Path]:
    values = job.inputs.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f'The job does not say where the "{name}" lie.', "Make the job anew.")
    return [job.path(value) for value in values]
