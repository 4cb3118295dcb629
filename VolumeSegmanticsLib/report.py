"""Pictures of a run: overview, evaluation, training. Drawn without a display."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .errors import InputError
from .events import EpochEnded
from .io.atomic import replacing
from .metrics import Scores, match_classes, wrong_voxels
from .volume import UNLABELLED, Grid, LabelClass, LabelMap, Volume

DPI = 150
WIDTH_INCHES = 10.8  # 1620 pixels
INK = "#222222"
FAINT = "#d9d9d9"
COLD, WARM = "#3b6fb6", "#e08a1e"
ERROR = LabelClass(1, "Wrong", (0.90, 0.10, 0.10))

OPACITY_OF_STROKES = 1.0
OPACITY_OF_LABELS = 0.65
OPACITY_ON_BLACK = 1.0  # so that colours are those of the legend
OPACITY_WHERE_NOT_SCORED = 0.2

MANY_CLASSES = 12
"""From here on bars and confusions carry no numbers, and legends end."""

AXIS_NAMES = ("Z", "Y", "X")


# ---------------------------------------------------------------------------------------------------- overview


@dataclass(frozen=True)
class Layer:
    """One column of the overview: the image under labels.

    Attributes:
        title: Over the column.
        labels: What lies over the image; None for the image alone.
        opacity: Of the labels, 0 to 1.
    """

    title: str
    labels: LabelMap | None
    opacity: float


def overview_picture(
    path: str | Path,
    image: Volume,
    *,
    scribbles: LabelMap | None = None,
    prediction: LabelMap | None = None,
    truth: LabelMap | None = None,
) -> Path:
    """Draw slices along the three axes: image, strokes, result, truth, side by side.

    Each slice is the one in which most was painted, or the middle one where nothing was. What is unlabelled shows the
    image.

    Args:
        path: The picture's file, PNG; written whole or not at all.
        image: One channel, or three as red, green, blue.
        scribbles: What was painted; None leaves the column out, as for the two that follow.
        prediction: The result.
        truth: What is known to be right.

    Raises:
        InputError: A label map has another shape than the image.
    """
    given = (
        Layer("Image", None, 0.0),
        Layer("Strokes", scribbles, OPACITY_OF_STROKES),
        Layer("Result", prediction, OPACITY_OF_LABELS),
        Layer("Truth", truth, OPACITY_OF_LABELS),
    )
    layers = [layer for layer in given if layer.labels is not None or layer.title == "Image"]
    _refuse_other_shapes(image, [layer.labels for layer in layers if layer.labels])
    places, window = _slices_with_most(scribbles, image.grid.shape), _grey_window(image)
    figure, axes = _rows_of_slices(image.grid, columns=len(layers))
    for axis, index in enumerate(places):
        grey = _displayable(image, axis, index, window)
        for column, layer in enumerate(layers):
            _show(axes[axis][column], _under(grey, layer, axis, index), image.grid, axis)
        axes[axis][0].set_ylabel(f"{AXIS_NAMES[axis]} = {index}", color=INK, fontsize=11)
    for column, layer in enumerate(layers):
        axes[0][column].set_title(layer.title, color=INK, fontsize=14, pad=8)
    _legend_below(figure, _classes_of(layers))
    return _save(figure, path)


def _refuse_other_shapes(image: Volume, labels: Iterable[LabelMap]) -> None:
    for other in labels:
        if other.grid.shape != image.grid.shape:
            raise InputError(
                f"Image and labels do not lie on one grid: {image.grid.difference(other.grid)}.",
                "Show labels over the image that they belong to.",
            )


def _slices_with_most(scribbles: LabelMap | None, shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Return for each axis the slice with most labelled voxels; the middle one where there is none."""
    if scribbles is None:
        return tuple(n // 2 for n in shape)
    counts = [np.zeros(n, np.int64) for n in shape]
    for z, labels in enumerate(scribbles.array):
        painted = labels != UNLABELLED
        counts[0][z] = painted.sum()
        counts[1] += painted.sum(axis=1)
        counts[2] += painted.sum(axis=0)
    return tuple(int(np.argmax(c)) if c.any() else len(c) // 2 for c in counts)


def _rows_of_slices(grid: Grid, *, columns: int) -> tuple[Figure, NDArray[Any]]:
    """Return a figure and its axes (3, columns), as high as the slices' sizes in the world ask for."""
    z, y, x = (n * s for n, s in zip(grid.shape, grid.spacing, strict=True))
    heights = np.clip([y / x, z / x, z / y], 0.15, 3.0)
    left, right, top, bottom, gap = 0.45, 0.1, 0.5, 0.6, 0.12  # inches
    wide = (WIDTH_INCHES - left - right - gap * (columns - 1)) / columns
    high = wide * heights.sum() + 2 * gap
    figure = _figure(WIDTH_INCHES, high + top + bottom)
    axes = figure.subplots(3, columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    figure.subplots_adjust(
        left=left / WIDTH_INCHES,
        right=1 - right / WIDTH_INCHES,
        top=1 - top / (high + top + bottom),
        bottom=bottom / (high + top + bottom),
        wspace=gap / wide,
        hspace=gap / (wide * heights.mean()),
    )
    return figure, axes


def _slice(array: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    return np.asarray(array[(slice(None),) * axis + (index,)])


def _grey_window(image: Volume) -> tuple[float, float]:
    """Return what to show as black and as white: the darkest and the brightest half per cent are cut."""
    step = max(1, round((image.array.size / 2e6) ** (1 / 3)))
    sample = np.asarray(image.array[::step, ::step, ::step])
    finite = sample[np.isfinite(sample)].astype(float)
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-12))


def _displayable(image: Volume, axis: int, index: int, window: tuple[float, float]) -> NDArray[np.float64]:
    """Return one slice as red, green, blue, each 0 to 1; NaN is black."""
    low, high = window
    shown = np.nan_to_num(np.clip((_slice(image.array, axis, index).astype(float) - low) / (high - low), 0, 1))
    if shown.ndim == 3 and shown.shape[2] == 3:
        return shown
    grey = shown[..., 0] if shown.ndim == 3 else shown
    return np.repeat(grey[..., None], 3, axis=2)


def _under(grey: NDArray[np.float64], layer: Layer, axis: int, index: int) -> NDArray[np.float64]:
    if layer.labels is None:
        return grey
    return _painted(grey, _slice(layer.labels.array, axis, index), layer.labels.classes, layer.opacity)


def _painted(
    grey: NDArray[np.float64],
    labels: NDArray[np.uint8],
    classes: Sequence[LabelClass],
    opacity: float | NDArray[np.float64],
) -> NDArray[np.float64]:
    """Lay the colours of labels (rows, columns) over a picture (rows, columns, 3); what is no class stays as it is.

    ``opacity`` is one number, or one a pixel (rows, columns, 1).
    """
    colors, known = np.zeros((256, 3)), np.zeros((256, 1))
    for label in classes:
        colors[label.value], known[label.value] = label.color, 1
    cover = known[labels] * opacity
    return grey * (1 - cover) + colors[labels] * cover


def _show(axes: Axes, picture: NDArray[np.float64], grid: Grid, axis: int) -> None:
    """Draw a slice in its shape in the world, first row on top, without ticks."""
    down, right = (s for i, s in enumerate(grid.spacing) if i != axis)
    axes.imshow(picture, aspect=down / right, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def _classes_of(layers: Iterable[Layer]) -> list[LabelClass]:
    """Return each class once, by name and colour, the truth's and result's before the strokes'."""
    known = {(c.name, c.color): c for layer in reversed(list(layers)) if layer.labels for c in layer.labels.classes}
    return list(known.values())


def _legend_below(figure: Figure, classes: Sequence[LabelClass]) -> None:
    if not classes:
        return
    patches = [Patch(facecolor=c.color, edgecolor=FAINT, label=_short(c.name)) for c in classes[:MANY_CLASSES]]
    if len(classes) > MANY_CLASSES:
        patches.append(Patch(facecolor="none", label=f"… and {len(classes) - MANY_CLASSES} more"))
    figure.legend(handles=patches, loc="lower center", ncols=min(len(patches), 7), frameon=False, fontsize=12)


def _short(name: str, longest: int = 18) -> str:
    """Return a name that fits under a bar, and that matplotlib takes for no formula and for no hidden entry."""
    text = name if len(name) <= longest else name[: longest - 1] + "…"
    return text.replace("$", r"\$").lstrip("_") or "–"


# ---------------------------------------------------------------------------------------------------- evaluation


def evaluation_picture(
    path: str | Path,
    prediction: LabelMap,
    truth: LabelMap,
    scores: Scores,
    *,
    image: Volume | None = None,
) -> Path:
    """Draw scores, confusion and volume fractions, and the axial slice with most wrong voxels.

    Args:
        path: The picture's file, PNG; written whole or not at all.
        prediction: What was scored.
        truth: What it was scored against.
        scores: Of the two.
        image: Shown under the slices; None shows them on black.

    Raises:
        InputError: The three have not one shape.
    """
    backdrop = image or Volume(np.broadcast_to(np.uint8(0), truth.grid.shape), truth.grid)
    _refuse_other_shapes(backdrop, (prediction, truth))
    aspect = truth.grid.shape[1] * truth.grid.spacing[1] / (truth.grid.shape[2] * truth.grid.spacing[2])
    slices_high = float(np.clip(aspect, 0.3, 1.5)) * WIDTH_INCHES / 3
    figure = _figure(WIDTH_INCHES, 4.2 + slices_high + 0.9, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    above, below = figure.subfigures(2, 1, height_ratios=(4.2, slices_high + 0.9), squeeze=False)[:, 0]
    bars, matrix, fractions = above.subplots(1, 3)
    _draw_overlaps(bars, scores)
    _draw_confusion(matrix, scores)
    _draw_fractions(fractions, scores)
    _draw_worst_slice(below, backdrop, prediction, truth, OPACITY_OF_LABELS if image else OPACITY_ON_BLACK)
    return _save(figure, path)


def _draw_overlaps(axes: Axes, scores: Scores) -> None:
    _draw_pairs(axes, scores, {"Dice": scores.dice, "Jaccard": scores.jaccard}, whole=1)
    axes.set_ylim(0, 1.19)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.axhline(scores.baseline.mean_dice, color=INK, linewidth=1, linestyle=":", zorder=0)
    axes.set_title(f"Overlap: mean Dice {scores.mean_dice:.3f}", fontsize=11)
    axes.set_xlabel(f"dotted: all one class, mean Dice {scores.baseline.mean_dice:.2f}", fontsize=8.5)


def _draw_fractions(axes: Axes, scores: Scores) -> None:
    parts = {"Truth": 100 * scores.true_fractions, "Result": 100 * scores.predicted_fractions}
    _draw_pairs(axes, scores, parts, whole=100)
    axes.set_ylim(0, 1.19 * max(float(np.nanmax(values)) for values in parts.values()))
    axes.set_title("Volume fraction, %", fontsize=11)


def _draw_pairs(axes: Axes, scores: Scores, figures: dict[str, NDArray[np.float64]], *, whole: int) -> None:
    """Draw two bars a class, with their numbers where there is room; NaN is no bar."""
    places = np.arange(len(scores.classes))
    for shift, color, (name, values) in zip((-0.2, 0.2), (COLD, WARM), figures.items(), strict=True):
        bars = axes.bar(places + shift, np.nan_to_num(values), 0.38, color=color, label=name)
        if len(places) <= MANY_CLASSES // 2:
            numbers = ["none" if np.isnan(v) else _part_text(v, whole) for v in values]
            axes.bar_label(bars, numbers, fontsize=7.5, padding=1)
    _name_ticks(axes, "x", scores.classes)
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", ncols=2, frameon=False, fontsize=8.5)


def _part_text(part: float, whole: int) -> str:
    """Return a part of 1 with two digits, of 100 with one; only the whole is told as such."""
    digits = 2 if whole == 1 else 1
    text = f"{part:.{digits}f}"
    return f">{whole - 10**-digits:.{digits}f}" if part < whole <= float(text) else text


def _name_ticks(axes: Axes, which: str, classes: Sequence[LabelClass]) -> None:
    size = 9 if len(classes) <= MANY_CLASSES else 5
    names = [_short(c.name) for c in classes]
    if which == "x":
        crowded = sum(map(len, names)) > 24
        axes.set_xticks(range(len(names)), names, fontsize=size, rotation=90 if crowded else 0)
    else:
        axes.set_yticks(range(len(names)), names, fontsize=size)


def _draw_confusion(axes: Axes, scores: Scores) -> None:
    """Draw which part of each true class was called what."""
    parts = scores.confusion / np.maximum(scores.true_voxels, 1)[:, None]
    axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    if len(parts) <= MANY_CLASSES:
        for (row, column), part in np.ndenumerate(parts):
            shade = "white" if part > 0.5 else INK
            axes.text(column, row, _part_text(100 * part, 100), ha="center", va="center", color=shade, fontsize=8.5)
    _name_ticks(axes, "x", scores.classes)
    _name_ticks(axes, "y", scores.classes)
    axes.set_xlabel("predicted as", fontsize=9)
    axes.set_ylabel("true class", fontsize=9)
    axes.set_title("Confusion, % of each true class", fontsize=11)


def _draw_worst_slice(figure: Any, image: Volume, prediction: LabelMap, truth: LabelMap, opacity: float) -> None:
    pairs = match_classes(prediction, truth)
    errors = [int(wrong_voxels(p, t, pairs).sum()) for p, t in zip(prediction.array, truth.array, strict=True)]
    index = int(np.argmax(errors))
    grey = _displayable(image, 0, index, _grey_window(image))
    wrong = wrong_voxels(prediction.array[index], truth.array[index], pairs).astype(np.uint8)
    is_scored = truth.array[index] != UNLABELLED
    scored = np.where(is_scored, opacity, OPACITY_WHERE_NOT_SCORED)[..., None]
    columns: tuple[tuple[str, NDArray[np.uint8], tuple[LabelClass, ...], Any], ...] = (
        ("Result", prediction.array[index], prediction.classes, scored),
        ("Truth", truth.array[index], truth.classes, opacity),
        ("Wrong", wrong, (ERROR,), 1.0),
    )
    panels = figure.subplots(1, 3)
    for axes, (title, labels, classes, cover) in zip(panels, columns, strict=True):
        _show(axes, _painted(grey, labels, classes, cover), image.grid, 0)
        axes.set_title(title, fontsize=11)
    if not is_scored.all():
        panels[0].set_xlabel("faint: unlabelled in the truth, not scored", fontsize=8.5)
    looked_at = max(1, int(is_scored.sum()))
    share = 100 * errors[index] / looked_at
    figure.suptitle(f"Slice with most wrong voxels: Z = {index}, {errors[index]} wrong ({share:.1f} %)", fontsize=11)
    patches = [
        Patch(facecolor=pair.label.color, edgecolor=FAINT, label=_short(pair.label.name))
        for pair in pairs[:MANY_CLASSES]
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, frameon=False, fontsize=9)


# ---------------------------------------------------------------------------------------------------- training


def training_picture(path: str | Path, history: Sequence[EpochEnded]) -> Path:
    """Draw the curves of loss and Dice over the epochs; the best epoch is marked.

    Args:
        path: The picture's file, PNG; written whole or not at all.
        history: One event an epoch.

    Raises:
        InputError: The history is empty.
    """
    if not history:
        raise InputError("No epoch was trained, so there is nothing to draw.", "Train for at least one epoch.")
    validated = [event for event in history if event.valid_dice is not None]
    figure = _figure(WIDTH_INCHES, 4.2, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    panels = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    _draw_curve(panels[0], history, "train_loss", "Training", COLD)
    _draw_curve(panels[0], history, "valid_loss", "Validation", WARM)
    _finish_curves(panels[0], history, "Loss")
    if validated:
        _draw_curve(panels[1], history, "valid_dice", "Validation", WARM)
        _finish_curves(panels[1], history, "Dice")
        panels[1].set_ylim(0, 1.02)
    return _save(figure, path)


def _draw_curve(axes: Axes, history: Sequence[EpochEnded], field: str, name: str, color: str) -> None:
    points = [(event.epoch, getattr(event, field)) for event in history if getattr(event, field) is not None]
    if points:
        marker = "o" if len(points) <= 40 else ""
        axes.plot(*zip(*points, strict=True), color=color, label=name, linewidth=1.8, marker=marker, markersize=3.5)


def _finish_curves(axes: Axes, history: Sequence[EpochEnded], title: str) -> None:
    best = [event.epoch for event in history if event.is_best]
    if best:
        axes.axvline(best[-1], color=INK, linewidth=1, linestyle=":", label=f"Best epoch: {best[-1]}")
    axes.set_title(title, fontsize=12)
    axes.set_xlabel("Epoch", fontsize=10)
    axes.set_xlim(history[0].epoch - 0.5, history[-1].epoch + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9.5)


# ---------------------------------------------------------------------------------------------------- files


def _figure(width: float, height: float, *, layout: ConstrainedLayoutEngine | None = None) -> Figure:
    figure = Figure((width, height), dpi=DPI, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | Path) -> Path:
    """Write the picture beside its place, then move it there."""
    target = Path(path)
    with replacing(target) as draft:
        figure.savefig(draft, format="png", dpi=DPI)
    return target
