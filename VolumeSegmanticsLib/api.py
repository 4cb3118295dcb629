"""The three verbs: train, predict, evaluate. Arrays or paths in, typed results out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from . import constraints, distributed, io
from .advice import Advisor
from .big_prediction import identity
from .box import Box
from .box_planning import InBoxes
from .card import NOT_VALIDATED, ModelCard, history_of, made_now
from .checkpoint import Checkpoint
from .constraints import Constrained
from .dataset import ADVISED, LOOK_SIZE, CropShape, CropSource, crop_size, wider_sizes
from .errors import InputError, ResourceError, SettingsError
from .events import Log, Progress, Report, ignore
from .intensity import Intensity
from .io.lazy import LazyArray
from .jobs import write_atomically
from .local_prediction import predict_locally
from .local_training import LocalTrainer
from .metrics import Scores, score
from .models import KINDS, Model, check_buildable, neighbours
from .orientation import is_oriented
from .planning import Estimate, Run, Way, begin_or_resume, estimate
from .prediction import Prediction, predict_volume, warn_of_views
from .prepare import Prepared, prepare
from .report import evaluation_picture
from .settings import AUGMENTATIONS, MIRRORING, PredictSettings, TrainSettings
from .slab_planning import InSlabs
from .slicing import HoldOut, hold_out
from .training import Fitted, Trainer
from .unfinished import Unfinished
from .volume import UNLABELLED, Grid, LabelMap, Volume

ImageLike = Volume | NDArray[Any] | str | Path
LabelsLike = LabelMap | NDArray[Any] | str | Path

BOX_MARGIN = 32
"""Voxels around a box that are looked at too: as far as its answer depends much on what lies there."""


@dataclass(frozen=True)
class Trained:
    """The result of ``train``.

    Attributes:
        model: Ready for ``predict``.
        path: Where it was saved; None without ``output``.
    """

    model: Model
    path: Path | None = None

    @property
    def card(self) -> ModelCard:
        """The model's facts: classes, settings, scores, history."""
        return self.model.card


def train(
    images: ImageLike | Sequence[ImageLike],
    labels: LabelsLike | Sequence[LabelsLike],
    *,
    output: str | Path | None = None,
    start_from: Model | str | Path | None = None,
    settings: TrainSettings | None = None,
    report: Report = ignore,
    after_epoch: Callable[[Model, Volume], object] | None = None,
    **changes: Any,
) -> Trained:
    """Train a model on one or several volumes.

    Args:
        images: Arrays (Z, Y, X), volumes or files.
        labels: As many arrays, label maps or files; 255 is unlabelled. In arrays 0 is the class Background.
        output: The ``.safetensors`` file to write. An interrupted run with the same inputs goes on from beside it.
        start_from: A model, or its file, that training goes on from.
        settings: All settings as one object.
        report: Called with every event of the run; may raise ``Cancelled``.
        after_epoch: Called with the model as it is after every epoch, and the first image; see ``preview.Previews``.
            A local model is not ready before its end.
        **changes: Single settings, such as ``epochs=20``.

    Raises:
        VolumeSegmanticsError: With a message and a hint, for everything that the user can mend.
    """
    settings = replace(settings or TrainSettings(), **_known(TrainSettings, changes))
    if output is not None:
        io.check_writable(output)
    parent = _as_model(start_from) if start_from is not None else None
    if parent is not None:
        settings = _structure_of(parent, settings, report)
    else:
        check_buildable(settings)
    report(Progress("read", 0, 1))
    is_grey = settings.channels == "grey" or (parent is not None and parent.card.channels == 1)
    volumes = [_as_volume(image, is_grey=is_grey) for image in _as_list(images)]
    prepared = prepare(
        volumes, _read_all_labels(_as_list(labels), volumes, settings, report),  # which are not kept
        axes=settings.axes, known=parent.card.classes if parent else (), report=report,
    )  # fmt: skip
    settings = _augmented_fittingly(settings, prepared, report)
    card = _card_to_begin_with(prepared, settings, parent)
    checkpoint = None
    if KINDS[settings.model].is_local:
        model = _learned_locally(prepared, card, settings, report)
    else:
        checkpoint = _checkpoint(output, prepared, settings, parent)
        watch = (lambda model: after_epoch(model, volumes[0])) if after_epoch else None
        model = _learned_from_slices(prepared, card, settings, parent, checkpoint, report, watch)
    model.network.cpu()
    model.card = replace(model.card, name=Path(output).stem if output else "", **made_now())
    _tell_score(model.card, report)
    if not distributed.current().rank.is_first:
        return Trained(model)
    path = model.save(output) if output is not None else None
    if checkpoint:
        checkpoint.remove()
    return Trained(model, path)


def _learned_locally(prepared: Prepared, card: ModelCard, settings: TrainSettings, report: Report) -> Model:
    """Train a local model; going on from one is training it anew, which takes seconds."""
    if distributed.current().rank.count > 1:
        raise SettingsError("A local model is trained by one process, in seconds.", "Start it without torchrun.")
    return LocalTrainer(prepared, card, settings, report).run().finished()


def _learned_from_slices(
    prepared: Prepared,
    card: ModelCard,
    settings: TrainSettings,
    parent: Model | None,
    checkpoint: Checkpoint | None,
    report: Report,
    after_epoch: Callable[[Model], object] | None,
) -> Model:
    """Train a network on crops of slices."""
    labels = [example.labels for example in prepared.examples]
    held_out = hold_out(labels, range(len(prepared.classes)), settings.validation_part)
    model, source = _begin(prepared, card, held_out, settings, parent, report)
    trainer = Trainer(
        model, source, settings, is_pretrained=parent is None and settings.weights != "none",
        report=report, checkpoint=checkpoint,
        after_epoch=lambda: after_epoch(model) if after_epoch else None,
    )  # fmt: skip
    fitted = trainer.run()
    scores = {**fitted.scores, "meaning": _meaning(fitted, held_out), "learning_rate": fitted.learning_rate}
    model.card = replace(model.card, scores=scores, history=history_of(fitted.history))
    return model


def predict(
    image: ImageLike,
    model: Model | Trained | str | Path,
    *,
    output: str | Path | None = None,
    confidence: str | Path | bool = False,
    box: Sequence[Sequence[int]] | None = None,
    settings: PredictSettings | None = None,
    report: Report = ignore,
    **changes: Any,
) -> Prediction:
    """Segment a volume.

    Args:
        image: An array (Z, Y, X), a volume or a file.
        model: A model or its file.
        output: The label file to write. Where the volume is larger than the memory that may be used, the prediction
            works part by part beside it, and the same call goes on where an interrupted one was.
        confidence: True to have the confidence too, or the image file to write it to.
        box: Start and stop of Z, Y and X: only these voxels are segmented, and the result holds no others.
        settings: All settings as one object.
        report: Called with every event of the run; may raise ``Cancelled``.
        **changes: Single settings, such as ``quality="high"``, or ``cluster="local:2"`` (in a script under
            ``if __name__ == "__main__":``, since the processes that are started import it).

    Raises:
        VolumeSegmanticsError: With a message and a hint, for everything that the user can mend.
    """
    settings = replace(settings or PredictSettings(), **_known(PredictSettings, changes))
    for path in (output, confidence):
        if isinstance(path, str | Path):
            io.check_output(path)
    loaded = _as_model(model) if settings.cluster else _as_answering_model(model)
    warn_of_views(loaded, settings, report)
    volume = _opened(image, is_grey=loaded.card.channels == 1)
    if settings.cluster:
        _check_for_cluster(image, output, box, loaded, settings)
        return _predicted_on_cluster(image, volume, loaded, output, confidence, settings, report)
    wanted = Box.of(box, volume.grid.shape) if box is not None else None
    if wanted is None:
        paths = [Path(path) for path in (output, confidence) if isinstance(path, str | Path)]
        way = _way(volume, loaded, settings, confidence=bool(confidence))
        facts = partial(identity, volume, _source_of(image), loaded, settings, confidence=bool(confidence))
        run = begin_or_resume(way, facts, paths if output is not None else [], report)
        if run is not None:
            return _predicted_on_disk(run, confidence, report)
    prediction = _predicted(volume, loaded, settings, wanted, confidence=bool(confidence), report=report)
    report(Progress("write", 0, 1))
    if output is not None:
        io.write_labels(output, prediction.labels, report=report)
    if prediction.confidence is not None and not isinstance(confidence, bool):
        io.write_volume(confidence, Volume(prediction.confidence, prediction.labels.grid), report=report)
    return prediction


def _predicted(
    volume: Volume, model: Model, settings: PredictSettings, box: Box | None, *, confidence: bool, report: Report
) -> Prediction:
    """Segment a volume, or a box of it together with what the network sees around it."""
    predict_ = predict_locally if KINDS[model.card.model].is_local else predict_volume
    if box is None:
        whole = Volume(np.asanyarray(volume.array), volume.grid)
        return predict_(whole, model, settings, confidence=confidence, report=report)
    around = box.widened(BOX_MARGIN, volume.grid.shape)
    prediction = predict_(around.of_volume(volume), model, settings, confidence=confidence, report=report)
    inner = box.seen_from(around.start)
    sure = None if prediction.confidence is None else prediction.confidence[inner.window]
    return Prediction(inner.of_labels(prediction.labels), sure)


def _way(volume: Volume, model: Model, settings: PredictSettings, *, confidence: bool) -> Way:
    """Return how a volume is divided where it does not fit into the memory."""
    if KINDS[model.card.model].is_local:
        return InBoxes(volume, model, settings, confidence=confidence)
    return InSlabs(volume, model, settings)


def _predicted_on_disk(run: Run, confidence: str | Path | bool, report: Report) -> Prediction:
    """Segment a volume larger than the memory; the labels that are returned are read from their file when needed."""
    return _written(run.output, run.unfinished, run.predict(report), confidence, report)


def _written(
    output: Path, unfinished: Unfinished[Any], prediction: Prediction, confidence: str | Path | bool, report: Report
) -> Prediction:
    """Write what a run on the disk has made, and remove its folder."""
    report(Progress("write", 0, 1))
    path = io.write_labels(output, prediction.labels, report=report)
    sure = None
    if not isinstance(confidence, bool):
        io.write_volume(confidence, Volume(cast(Any, prediction.confidence), prediction.labels.grid), report=report)
    elif confidence:
        sure = np.asarray(prediction.confidence)
    unfinished.remove()
    labels = prediction.labels
    in_file = LazyArray(labels.grid.shape, labels.array.dtype, lambda box: _answer(path).array[box])
    return Prediction(LabelMap(cast(Any, in_file), labels.grid, labels.classes), sure)


def _check_for_cluster(
    image: ImageLike,
    output: str | Path | None,
    box: Sequence[Sequence[int]] | None,
    model: Model,
    settings: PredictSettings,
) -> None:
    """Make sure that a cluster can do it."""
    settings.check_for(model.card.model)
    if not isinstance(image, str | Path) or output is None:
        raise InputError(
            "A cluster reads the image from a file, and writes the result to one.", "Name both, on a shared disk."
        )
    if box is not None:
        raise SettingsError("A cluster predicts whole volumes, and this is a box of one.", "Leave cluster out.")
    if settings.fusion != "max":
        raise SettingsError(
            f'Fusion "{settings.fusion}" needs all voxels in one process.', "Use --fusion max, or leave cluster out."
        )


def _predicted_on_cluster(
    image: Any,
    volume: Volume,
    model: Model,
    output: Any,
    confidence: str | Path | bool,
    settings: PredictSettings,
    report: Report,
) -> Prediction:
    """Segment a volume with the workers of a cluster."""
    from . import cluster  # only now: it needs a package that others do without

    source = io.source_of(image)
    outputs = [Path(path) for path in (output, confidence) if isinstance(path, str | Path)]
    path = f"{source.absolute()}{str(Path(image))[len(str(source)) :]}"
    task = cluster.Task(path, source, volume, model, settings, outputs, bool(confidence))
    unfinished, prediction = cluster.predict_on_cluster(task, report)
    return _written(outputs[0], unfinished, prediction, confidence, report)


def plan_prediction(
    image: ImageLike,
    model: Model | Trained | str | Path,
    *,
    output: str | Path | None = None,
    confidence: str | Path | bool = False,
    box: Sequence[Sequence[int]] | None = None,
    settings: PredictSettings | None = None,
    **changes: Any,
) -> Estimate:
    """Tell what a prediction will take: how it is divided, memory, disk and time. A few seconds are spent on trying it.

    Arguments are those of ``predict``; nothing is made of what they name.

    Raises:
        ResourceError: It cannot be made to fit into the memory, or its result not be written; the hint says what would
            help.
    """
    settings = replace(settings or PredictSettings(), **_known(PredictSettings, changes))
    if settings.cluster:
        raise SettingsError("A plan is told for one machine, not for a cluster.", "Leave cluster out.")
    paths = [Path(path) for path in (output, confidence) if isinstance(path, str | Path)]
    for path in paths:
        io.check_output(path, makes_folders=False)
    loaded = _as_answering_model(model)
    volume = _opened(image, is_grey=loaded.card.channels == 1)
    if box is not None:
        volume = Box.of(box, volume.grid.shape).widened(BOX_MARGIN, volume.grid.shape).of_volume(volume)
    way = _way(volume, loaded, settings, confidence=bool(confidence))
    return estimate(way, paths if output is not None else [])


def evaluate(
    prediction: LabelsLike | Prediction,
    truth: LabelsLike,
    *,
    output: str | Path | None = None,
    unpainted: str = "auto",
    report: Report = ignore,
) -> Scores:
    """Compare a prediction with the truth; voxels that are 255 in the truth are left out.

    Args:
        prediction: An array, a label map, a file, or what ``predict`` returned. Its 0 is always the background.
        truth: An array, a label map or a file.
        output: A folder for ``scores.json`` and ``evaluation.png``.
        unpainted: What 0 in the truth means: ``"ignore"``, ``"background"``, or ``"auto"`` by the kind of file.
        report: Takes what is worth knowing.

    Raises:
        InputError: The grids differ, or the truth has no labelled voxel.
    """
    answer = prediction.labels if isinstance(prediction, Prediction) else _answer(prediction)
    known = _as_label_map(truth, unpainted, answer.grid, report)
    scores = score(answer, known)
    if output is not None:
        write_atomically(_folder(output) / "scores.json", json.dumps(scores.to_dict(), indent=2))
        evaluation_picture(Path(output) / "evaluation.png", answer, known, scores)
    return scores


def constrain(
    labels: LabelsLike | Prediction,
    rules: str | Sequence[str],
    *,
    output: str | Path | None = None,
    unpainted: str = "background",
    topology: bool = True,
    report: Report = ignore,
) -> Constrained:
    """Make rules hold in labels: sizes, holes, order and distances of materials.

    Args:
        labels: An array, a label map, a file, or what ``predict`` returned; not changed.
        rules: Such as ``["min-size pores 50", "inside pores matrix"]``; see ``constraints.usages``. They are applied in
            an order of their own.
        output: The label file to write.
        unpainted: What 0 means: ``"ignore"``, ``"background"``, or ``"auto"`` by the kind of file.
        topology: Whether objects, cavities and tunnels are counted, before and after.
        report: Called with every event of the run; may raise ``Cancelled``.

    Raises:
        SettingsError: A rule cannot be read; the hint says how to write it.
        InputError: A rule is about a class that the labels do not have.
    """
    parsed = constraints.parse(rules)
    if output is not None:
        io.check_output(output)
    given = labels.labels if isinstance(labels, Prediction) else _as_label_map(labels, unpainted, None, report)
    made = constraints.apply(given, parsed, with_topology=topology, report=report)
    if output is not None:
        report(Progress("write", 0, 1))
        io.write_labels(output, made.labels, report=report)
    return made


def _answer(prediction: LabelsLike) -> LabelMap:
    return _as_label_map(prediction, "background", None, ignore)


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"The folder {folder} cannot be made ({error.strerror}).", "Choose another one.") from None
    return folder


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _known(kind: type[Any], changes: dict[str, Any]) -> dict[str, Any]:
    kind._refuse_unknown(changes)
    return changes


def _as_volume(image: ImageLike, *, is_grey: bool) -> Volume:
    if isinstance(image, str | Path):
        volume = io.read_volume(image)
    else:
        volume = image if isinstance(image, Volume) else Volume.of(image)
    return io.grey(volume) if is_grey and volume.channels > 1 else volume


def _opened(image: ImageLike, *, is_grey: bool) -> Volume:
    """Return a volume that is read when it is needed, where its format permits."""
    if not isinstance(image, str | Path):
        return _as_volume(image, is_grey=is_grey)
    volume = io.open_volume(image)
    return io.lazily_grey(volume) if is_grey and volume.channels > 1 else volume


def _source_of(image: ImageLike) -> Path | None:
    return io.source_of(image) if isinstance(image, str | Path) else None


def _as_label_map(labels: LabelsLike, unpainted: str, grid: Grid | None, report: Report) -> LabelMap:
    if isinstance(labels, str | Path):
        return io.read_labels(labels, unpainted=unpainted, grid=grid, report=report)
    if isinstance(labels, LabelMap):
        return labels
    meaning = "background" if unpainted == "auto" else unpainted
    return LabelMap.of(labels, grid if grid and np.shape(labels) == grid.shape else None, unpainted=meaning)


def _read_all_labels(
    labels: Sequence[LabelsLike], volumes: Sequence[Volume], settings: TrainSettings, report: Report
) -> list[LabelMap]:
    if len(labels) != len(volumes):
        raise InputError(
            f"There are {len(volumes)} images and {len(labels)} label maps.", "Give one of each, in pairs."
        )
    pairs = zip(labels, volumes, strict=True)
    return [_as_label_map(each, settings.unpainted, volume.grid, report) for each, volume in pairs]


def _as_model(model: Model | Trained | str | Path) -> Model:
    if isinstance(model, Trained):
        return model.model
    return model if isinstance(model, Model) else Model.load(model)


def _as_answering_model(model: Model | Trained | str | Path) -> Model:
    return Model.load_to_answer(model) if isinstance(model, str | Path) else _as_model(model)


def _structure_of(parent: Model, settings: TrainSettings, report: Report) -> TrainSettings:
    """Return the settings with what cannot change when training goes on from a model."""
    theirs = {name: parent.card.settings[name] for name in KINDS[parent.card.model].structure}
    asked = settings.changed()
    for name, value in theirs.items():
        if name in asked and asked[name] != value:
            raise SettingsError(
                f"The model to start from has {name} = {value}, not {asked[name]}.", f"Leave {name} out, or train anew."
            )
    report(Log("info", f'Training goes on from the model "{parent.card.name}".'))
    return replace(settings, **theirs)


def _augmented_fittingly(settings: TrainSettings, prepared: Prepared, report: Report) -> TrainSettings:
    """Return the settings without mirrored and turned crops where the samples always lie the same way."""
    is_free = settings.augment == "auto" and not KINDS[settings.model].is_local
    if not is_free or not is_oriented([example.labels for example in prepared.examples]):
        return settings
    report(Log("info", "The annotated slices all lie the same way, so nothing is mirrored or turned (augment=all)."))
    return replace(settings, augment=" ".join(name for name in AUGMENTATIONS if name not in MIRRORING))


def _card_to_begin_with(prepared: Prepared, settings: TrainSettings, parent: Model | None) -> ModelCard:
    """Return what is known about a model before it has learned anything."""
    images = [example.image for example in prepared.examples]
    intensity = Intensity.from_dict(parent.card.intensity) if parent else Intensity.measure(images)
    card = ModelCard(
        model=settings.model,
        classes=prepared.classes,
        channels=images[0].channels,
        intensity=intensity.to_dict(),
        axes="".join(a for a in "zyx" if any(a in example.axes for example in prepared.examples)),
        spacing=images[0].grid.spacing,
        unpainted=prepared.unpainted,
        settings=settings.to_dict(),
        parent=parent.card.name if parent else "",
    )
    if parent is not None and parent.card.channels != card.channels:
        raise InputError(
            f"The image has {card.channels} channels, the model to start from takes {parent.card.channels}.",
            "Choose another model, or read the image as grey values.",
        )
    return card


def _begin(
    prepared: Prepared,
    card: ModelCard,
    held_out: HoldOut | None,
    settings: TrainSettings,
    parent: Model | None,
    report: Report,
) -> tuple[Model, CropSource]:
    """Return the model to train and the source of its crops."""
    size = crop_size(prepared.examples, settings.crop_size, 32)
    torch.manual_seed(settings.seed)
    model = Model.new(card, size=size, weights="none" if parent else settings.weights)
    if parent is not None:
        model.take_over(parent)
    examples, multiple = prepared.examples, model.multiple
    shape = CropShape(crop_size(examples, settings.crop_size, multiple), neighbours(card))
    intensity = Intensity.from_dict(card.intensity)
    source = CropSource(
        examples, held_out, intensity, shape, settings.seed, wider=wider_sizes(examples, shape.size, multiple),
        widest=crop_size(examples, max(LOOK_SIZE, shape.size), multiple),
    )  # fmt: skip
    if settings.local_weight and source.has_strokes_only and len(prepared.classes) < UNLABELLED - ADVISED:
        source.advisor = Advisor(prepared, card, settings, shape.size, report)
    return model, source


def _checkpoint(
    output: str | Path | None, prepared: Prepared, settings: TrainSettings, parent: Model | None
) -> Checkpoint | None:
    if output is None:
        return None
    path = Path(output)
    free = ("epochs", "max_minutes", "device")  # these may change when an interrupted run is taken up again
    digest = hashlib.sha256(json.dumps({k: v for k, v in settings.to_dict().items() if k not in free}).encode())
    digest.update(parent.card.to_json().encode() if parent else b"")
    for example in prepared.examples:
        digest.update(np.ascontiguousarray(example.image.array[:: max(1, len(example.image.array) // 16)]))
        for plane in example.labels:
            digest.update(np.ascontiguousarray(plane))
    return Checkpoint(path.with_name(f"{path.stem}.unfinished{path.suffix}"), digest.hexdigest())


def _meaning(fitted: Fitted, held_out: HoldOut | None) -> str:
    if not fitted.scores or held_out is None:
        return NOT_VALIDATED
    if held_out.for_good:
        return "Measured on held-out labels that the model never learned from."
    return (
        "Measured on held-out labels before they joined the training at its end: with so few labelled slices it is "
        "a rough figure, and the model should be a little better than it says."
    )


def _tell_score(card: ModelCard, report: Report) -> None:
    if "mean_dice" in card.scores:
        report(Log("info", f"Mean Dice {card.scores['mean_dice']:.3f}. {card.scores['meaning']}"))
    else:
        report(Log("warning", card.scores["meaning"]))
