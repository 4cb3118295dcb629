"""From volumes and label maps to what training takes: checks, one list of classes, statistics, the hold-out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .classes import LabelClass, merge_classes
from .dataset import Example
from .errors import InputError
from .events import Log, Report, ignore
from .slicing import planes
from .volume import UNLABELLED, LabelMap, Volume, value_counts

FEW_VOXELS = 100  # of a class: with fewer, what is learned is a matter of luck


@dataclass(frozen=True)
class Prepared:
    """What training takes.

    Attributes:
        examples: One a volume.
        classes: The output of the model, in this order.
        unpainted: What the unpainted value 0 of the labels was taken for: ``"ignore"`` or ``"background"``.
    """

    examples: tuple[Example, ...]
    classes: tuple[LabelClass, ...]
    unpainted: str


def prepare(
    images: Sequence[Volume],
    labels: Sequence[LabelMap],
    *,
    axes: str = "all",
    known: tuple[LabelClass, ...] = (),
    report: Report = ignore,
) -> Prepared:
    """Check images and labels, and bring the labels of all volumes to one list of classes.

    Args:
        images, labels: As many of one as of the other, on equal grids.
        axes: Planes to learn.
        known: Classes of the model that training goes on from; they stay in the model.
        report: Takes what is worth knowing.

    Raises:
        InputError: Numbers or grids do not agree, nothing is labelled, or only one class is.
    """
    _check_pairs(images, labels)
    visible = [_where_finite(image, each, report) for image, each in zip(images, labels, strict=True)]
    groups = [_painted(each) for each in visible]
    classes, changes = merge_classes(*groups, known)
    for n, (group, change) in enumerate(zip(groups, changes, strict=False)):
        _tell_changes(n, group, change, report)
    index = {c.value: n for n, c in enumerate(classes)}
    to_index = [{value: index[new] for value, new in change.items()} for change in changes]
    examples = tuple(
        Example(image, _mapped(each.array, own), planes(image.grid, axes))
        for image, each, own in zip(images, visible, to_index, strict=False)
    )
    _check_painted(examples, classes, report)
    return Prepared(examples, classes, visible[0].unpainted)


def _check_pairs(images: Sequence[Volume], labels: Sequence[LabelMap]) -> None:
    if not images or len(images) != len(labels):
        raise InputError(f"There are {len(images)} images and {len(labels)} label maps.", "Give one of each, in pairs.")
    for image, each in zip(images, labels, strict=True):
        each.check()
        if difference := image.grid.difference(each.grid):
            raise InputError(
                f"Image and labels do not lie on the same grid: {difference}.",
                "Save the labels with the image as the reference, or resample them to it.",
            )
    channels = sorted({image.channels for image in images})
    if len(channels) > 1:
        raise InputError(
            f"The images have different numbers of channels: {channels}.", "Read all of them as grey values."
        )


def _where_finite(image: Volume, labels: LabelMap, report: Report) -> LabelMap:
    """Return the labels without those of voxels that hold no number."""
    if image.array.dtype.kind != "f":
        return labels
    array = labels.array
    lost = 0
    for z in range(len(array)):
        values = image.array[z].reshape(*array.shape[1:], -1)
        hidden = ~np.isfinite(values).all(axis=2) & (array[z] != UNLABELLED)
        if hidden.any():
            array = array.copy() if array is labels.array else array
            array[z][hidden] = UNLABELLED
            lost += int(hidden.sum())
    if lost and not value_counts(array)[:UNLABELLED].any():
        raise InputError("All labels lie where the image holds no number (NaN).", "Paint where the image has values.")
    if lost:
        report(Log("warning", f"{lost} labelled voxels hold no number (NaN) in the image and are left out."))
    return LabelMap(array, labels.grid, labels.classes, labels.unpainted)


def _painted(labels: LabelMap) -> tuple[LabelClass, ...]:
    counts = labels.counts()
    return tuple(c for c in labels.classes if counts[c.value])


def _check_painted(examples: Sequence[Example], classes: tuple[LabelClass, ...], report: Report) -> None:
    counts = np.sum([value_counts(example.labels) for example in examples], axis=0).tolist()
    totals = dict(zip(classes, counts, strict=False))
    painted = [c for c, count in totals.items() if count]
    if not painted:
        raise InputError("No voxel is labelled.", "Paint some voxels of at least two classes.")
    if len(painted) == 1:
        raise InputError(
            f"Only one class is painted ({painted[0].name}).",
            "Paint at least one other; if the unpainted voxels are the background, say --unpainted background.",
        )
    for label_class in painted:
        if totals[label_class] < FEW_VOXELS:
            report(Log("warning", f'"{label_class.name}" has only {totals[label_class]} labelled voxels: paint more.'))


def _tell_changes(n: int, group: tuple[LabelClass, ...], change: dict[int, int], report: Report) -> None:
    for c in group:
        if change[c.value] != c.value:
            report(Log("warning", f'"{c.name}", {c.value} in label file {n + 1}, is {change[c.value]} in the model.'))


def _mapped(labels: NDArray[np.uint8], change: dict[int, int]) -> NDArray[np.uint8]:
    """Return the labels under other values; a copy only where these differ."""
    if all(value == new for value, new in change.items()):
        return labels
    table = np.full(256, UNLABELLED, np.uint8)
    table[[*change]] = [*change.values()]
    mapped = np.empty_like(labels)
    for plane, source in zip(mapped, labels, strict=True):
        plane[...] = table[source]
    return mapped
