"""What a job can ask for: each task reads what the job names, and returns what it made.

========  =========================================  ==================================
task      inputs                                     outputs
========  =========================================  ==================================
train     images, labels (lists, in pairs),          model
          start_from (optional)
predict   image, model, box (optional)               labels, confidence (optional)
plan      image, model, box (optional)               as of predict, all optional, which are not
                                                     made; seconds, memory_bytes, … (values)
evaluate  prediction, truth                          folder
constrain labels                                     labels
simulate                                             image, strokes (if the settings want them)
live      image, box (optional)                      model, labels (optional)
========  =========================================  ==================================

The settings of a job are those of ``TrainSettings``, ``PredictSettings``, ``EvaluateSettings``,
``ConstrainSettings``, ``SimulateSettings`` and ``LiveSettings``. What needs torch is imported when a task runs:
simulating works before it is installed.

``live`` talks with its parent as long as that paints. It takes ``Strokes`` (files of ``SparseLabels``), ``Look`` and
``End``, and tells ``Preview``: the slice in view, whose labels come twice after a stroke, from a short training and
then from the full one. ``Progress`` names what it does: prepare, learn, segment (blocks), and, when nothing is left to
do until the next message, ready, or wait, where too little is painted. With ``End`` it finishes; with the end of stdin
nothing is left of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import io, simulate
from .box import Box
from .errors import InputError
from .events import Progress, Report
from .jobs import Job
from .messages import Inbox
from .settings import (
    ConstrainSettings,
    EvaluateSettings,
    LiveSettings,
    PredictSettings,
    SimulateSettings,
    TrainSettings,
)


def train(job: Job, report: Report) -> dict[str, Any]:
    """Train a model."""
    from . import api
    from .preview import Previews

    trained = api.train(
        _paths(job, "images"),
        _paths(job, "labels"),
        output=_path(job, job.outputs, "model"),
        start_from=_path(job, job.inputs, "start_from") if "start_from" in job.inputs else None,
        settings=TrainSettings.from_dict(job.settings),
        report=report,
        after_epoch=Previews(job.folder, report),
    )
    return {"model": str(trained.path), "scores": trained.card.scores}


def predict(job: Job, report: Report) -> dict[str, Any]:
    """Segment an image."""
    from . import api

    outputs = {name: _path(job, job.outputs, name) for name in ("labels", "confidence") if name in job.outputs}
    api.predict(
        _path(job, job.inputs, "image"),
        _path(job, job.inputs, "model"),
        output=_path(job, job.outputs, "labels"),
        confidence=outputs.get("confidence", False),
        box=job.inputs.get("box"),
        settings=PredictSettings.from_dict(job.settings),
        report=report,
    )
    return {name: str(path) for name, path in outputs.items()}


def plan(job: Job, report: Report) -> dict[str, Any]:
    """Find out what it would take to segment an image; a few parts of it are tried."""
    from . import api

    report(Progress("try", 0, 0))
    outputs = {name: _path(job, job.outputs, name) for name in ("labels", "confidence") if name in job.outputs}
    estimate = api.plan_prediction(
        _path(job, job.inputs, "image"),
        _path(job, job.inputs, "model"),
        output=outputs.get("labels"),
        confidence=outputs.get("confidence", False),
        box=job.inputs.get("box"),
        settings=PredictSettings.from_dict(job.settings),
    )
    return estimate.to_dict()


def evaluate(job: Job, report: Report) -> dict[str, Any]:
    """Compare a prediction with the truth."""
    from . import api

    folder = _path(job, job.outputs, "folder")
    scores = api.evaluate(
        _path(job, job.inputs, "prediction"),
        _path(job, job.inputs, "truth"),
        output=folder,
        unpainted=EvaluateSettings.from_dict(job.settings).unpainted,
        report=report,
    )
    return {"folder": str(folder), "scores": scores.to_dict()}


def constrain(job: Job, report: Report) -> dict[str, Any]:
    """Make rules hold in labels."""
    from . import api

    settings, labels = ConstrainSettings.from_dict(job.settings), _path(job, job.outputs, "labels")
    made = api.constrain(
        _path(job, job.inputs, "labels"),
        settings.rules,
        output=labels,
        unpainted=settings.unpainted,
        topology=settings.topology,
        report=report,
    )
    return {"labels": str(labels), **made.to_dict()}


def simulate_tomogram(job: Job, report: Report) -> dict[str, Any]:
    """Simulate a tomogram of a fibre composite, and the strokes of a user."""
    settings = SimulateSettings.from_dict(job.settings)
    report(Progress("simulate", 0, 1))
    image, truth = simulate.fibre_composite(rng=settings.seed)
    made = {"image": io.write_volume(_path(job, job.outputs, "image"), image)}
    if settings.strokes:
        strokes = simulate.strokes(truth, rng=settings.seed)
        made["strokes"] = io.write_labels(_path(job, job.outputs, "strokes"), strokes)
    return {name: str(path) for name, path in made.items()}


def live(job: Job, report: Report, *, inbox: Inbox) -> dict[str, Any]:
    """Train a local model while somebody paints, and show what it makes of the slice in view."""
    from .live import Live

    settings = LiveSettings.from_dict(job.settings)
    model_path = _path(job, job.outputs, "model")
    labels_path = _path(job, job.outputs, "labels") if "labels" in job.outputs else None
    io.check_writable(model_path)
    image = io.read_volume(_path(job, job.inputs, "image"))
    if settings.channels == "grey" and image.channels > 1:
        image = io.grey(image)
    box = Box.of(job.inputs["box"], image.grid.shape) if "box" in job.inputs else None
    made = Live(image, settings, job.folder, inbox, report, box=box).run(wants_labels=labels_path is not None)
    report(Progress("write", 0, 1))
    made.model.card = replace(made.model.card, name=model_path.stem)
    outputs = {"model": str(made.model.save(model_path))}
    if labels_path is not None and made.labels is not None:
        outputs["labels"] = str(io.write_labels(labels_path, made.labels))
    return {**outputs, "scores": made.model.card.scores}


TASKS: dict[str, Callable[[Job, Report], dict[str, Any]]] = {
    "train": train,
    "predict": predict,
    "plan": plan,
    "evaluate": evaluate,
    "constrain": constrain,
    "simulate": simulate_tomogram,
}

TALKS: dict[str, Callable[..., dict[str, Any]]] = {"live": live}
"""Tasks that go on listening to their parent while they run: they take an ``Inbox`` too, as ``inbox``."""


def _path(job: Job, names: dict[str, Any], name: str) -> Path:
    if not isinstance(names.get(name), str):
        raise InputError(f'The job does not say where "{name}" lies.', "Make the job anew.")
    return job.path(names[name])


def _paths(job: Job, name: str) -> list[Path]:
    values = job.inputs.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f'The job does not say where the "{name}" lie.', "Make the job anew.")
    return [job.path(value) for value in values]
