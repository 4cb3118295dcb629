"""Which model when: mean Jaccard against painted voxels and against the CPU seconds of training.

    python Benchmarks/which_model.py DATA-FOLDER [--quick]

The folder holds one folder a data set, each with ``image.nrrd``, ``label.nrrd`` and ``scribbles.nrrd``. Fewer strokes
are some of these, drawn by chance, of every class at least one. The chart becomes ``docs/pictures/which-model.png``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from record import DOCUMENT, cpu_seconds, table, write_down
from scipy import ndimage

from VolumeSegmanticsLib import evaluate, io, predict, train
from VolumeSegmanticsLib.volume import UNLABELLED, LabelMap, Volume

SETS = ("simulated_fibres", "simulated_particles")
PARTS = (0.25, 0.5, 1.0)
PICTURE = DOCUMENT.parent / "pictures" / "which-model.png"
HEADS = ("strokes on", "model", "painted voxels", "training, CPU-s", "prediction, CPU-s", "mean Jaccard", "worst class")


@dataclass(frozen=True)
class Way:
    """A way to train: model, settings, the name under which the chart has it."""

    name: str
    model: str
    minutes: float = 0.0

    def settings(self) -> dict[str, object]:
        """Return the settings of ``train``."""
        by_time = {"max_minutes": self.minutes} if self.minutes else {}
        return {"model": self.model, "weights": "none", "device": "cpu", **by_time}


@dataclass(frozen=True)
class Point:
    """What came of one training."""

    data: str
    way: Way
    part: float
    voxels: int
    seconds: float
    prediction_seconds: float
    jaccard: float
    worst: float

    def row(self) -> list[object]:
        """Return the row of the table."""
        return [
            self.data, self.way.name, self.voxels, f"{self.seconds:.0f}", f"{self.prediction_seconds:.0f}",
            f"{self.jaccard:.3f}", f"{self.worst:.3f}",
        ]  # fmt: skip


def some_strokes(painted: LabelMap, part: float) -> LabelMap:
    """Return a part of the strokes, whole ones, of every class at least one."""
    kept = np.full_like(painted.array, UNLABELLED)
    rng = np.random.default_rng(0)
    for value in (c.value for c in painted.classes):
        strokes, count = ndimage.label(painted.array == value)
        chosen = rng.permutation(count)[: max(1, round(part * count))] + 1
        kept[np.isin(strokes, chosen)] = value
    return LabelMap(kept, painted.grid, painted.classes, painted.unpainted)


def measure(data: Path, way: Way, part: float) -> Point:
    """Train, predict, evaluate."""
    image, truth = io.read_volume(data / "image.nrrd"), io.read_labels(data / "label.nrrd")
    painted = some_strokes(io.read_labels(data / "scribbles.nrrd"), part)
    start = cpu_seconds()
    model = train(image, painted, **way.settings())
    trained = cpu_seconds()
    result = predict(_in_memory(image), model, device="cpu")
    predicted = cpu_seconds()
    scores = evaluate(result, truth)
    return Point(
        data.name, way, part, int(np.count_nonzero(painted.array != UNLABELLED)), trained - start, predicted - trained,
        scores.mean_jaccard, float(np.nanmin(scores.jaccard)),
    )  # fmt: skip


def _in_memory(image: Volume) -> Volume:
    return Volume(np.array(image.array), image.grid)


def trials(minutes: float) -> Iterator[tuple[Way, float]]:
    """Yield every way with the parts of the strokes that it gets."""
    for way in (Way("local", "local"), Way("2D", "unet2d", minutes), Way("2.5D", "unet25d", minutes)):
        yield from ((way, part) for part in PARTS)
    for name, model in (("2D", "unet2d"), ("2.5D", "unet25d")):
        yield Way(f"{name}, a quarter of the time", model, minutes / 4), 1.0


def draw(points: list[Point], path: Path) -> None:
    """Draw the chart: one column a data set; above, painted voxels, below, CPU seconds."""
    names = list(dict.fromkeys(point.data for point in points))
    figure = Figure(figsize=(10.8, 7), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes: NDArray[np.object_] = figure.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        _draw_column(axes[:, column], [point for point in points if point.data == name], name.replace("_", " "))
    figure.savefig(path)


def _draw_column(axes: NDArray[np.object_], points: list[Point], title: str) -> None:
    above, below = axes
    for model, color in (("local", "#2a9d6f"), ("unet2d", "#3b6fb6"), ("unet25d", "#e08a1e")):
        own = [point for point in points if point.way.model == model]
        longest = max((point.way.minutes for point in own), default=0)
        by_labels = [(point.voxels, point.jaccard) for point in own if point.way.minutes == longest]
        by_time = sorted((point.seconds, point.jaccard) for point in own if point.part == 1.0)
        style = {"color": color, "marker": "o", "label": {"local": "local", "unet2d": "2D", "unet25d": "2.5D"}[model]}
        above.plot(*zip(*by_labels, strict=True), **style)
        below.plot(*zip(*by_time, strict=True), **style)
    above.set(title=title, xlabel="painted voxels", ylabel="mean Jaccard")
    below.set(xlabel="CPU seconds of training, all strokes", ylabel="mean Jaccard", xscale="log")
    for each in axes:
        each.grid(alpha=0.3)
        each.legend(frameon=False)


def main() -> None:
    """Measure all ways on all sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--quick", action="store_true", help="one set, twelve seconds a network, no chart in docs")
    options = parser.parse_args()
    names, minutes = (SETS[:1], 0.2) if options.quick else (SETS, 2.0)
    points = [measure(options.data / name, way, part) for name in names for way, part in trials(minutes)]
    draw(points, Path(tempfile.gettempdir()) / PICTURE.name if options.quick else PICTURE)
    write_down("Which model when", table(HEADS, [point.row() for point in points]))


if __name__ == "__main__":
    main()
