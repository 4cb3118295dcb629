"""How good and how fast the local model is: strokes on simulated tomograms, textures of one mean, Mvoxel a minute.

    python Benchmarks/local_model.py DATA-FOLDER [--side 512] [--seeds 3]

The folder holds one folder a data set, each with ``image.nrrd``, ``label.nrrd`` and ``scribbles.nrrd``. CPU seconds are
counted too, as they say the same on a busy machine as on a free one.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from record import cpu_seconds, peak_bytes, table, write_down
from scipy import ndimage

from VolumeSegmanticsLib import evaluate, io, predict, train
from VolumeSegmanticsLib.simulate import strokes
from VolumeSegmanticsLib.volume import LabelMap, Volume

SETS = ("simulated_fibres", "simulated_particles")
TEXTURE_SHAPE = (96, 96, 96)


@dataclass(frozen=True)
class Case:
    """An image, what was painted on it, and the truth."""

    name: str
    image: Volume
    painted: LabelMap
    truth: LabelMap


def from_folder(folder: Path) -> Case:
    return Case(
        folder.name,
        io.read_volume(folder / "image.nrrd"),
        io.read_labels(folder / "scribbles.nrrd"),
        io.read_labels(folder / "label.nrrd"),
    )


def textures(seed: int = 0) -> Case:
    """Three materials of one mean and one deviation: fine noise, coarse noise, stripes that run in all directions."""
    rng = np.random.default_rng(seed)
    regions = np.stack([ndimage.gaussian_filter(rng.normal(size=TEXTURE_SHAPE), 10) for _ in range(3)])
    truth = regions.argmax(axis=0).astype(np.uint8)
    fine, coarse = (ndimage.gaussian_filter(rng.normal(size=TEXTURE_SHAPE), sigma) for sigma in (0.7, 2.0))
    winding = ndimage.gaussian_filter(rng.normal(size=TEXTURE_SHAPE), 8)
    stripes = np.sin(winding / winding.std() * 12)
    grey = np.choose(truth, [_standard(each) for each in (fine, coarse, stripes)])
    image = (128 + 40 * grey).clip(0, 255).astype(np.uint8)
    labels = LabelMap.of(truth + np.uint8(1))
    return Case("textures of one mean", Volume.of(image), strokes(labels), labels)


def _standard(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return (values - values.mean()) / values.std()


def grey_value_only(case: Case) -> float:
    """Return the mean Jaccard of what grey values alone can say: for each the class that is likeliest to have it."""
    grey, labels = case.image.array, case.painted.array
    values = [c.value for c in case.painted.classes]
    counts = np.stack([np.bincount(grey[labels == value], minlength=256) for value in values]).astype(float)
    likelihood = ndimage.gaussian_filter1d(counts, 4, axis=1)
    found = np.array(values, np.uint8)[likelihood.argmax(axis=0)][grey]
    return float(evaluate(LabelMap.of(found, case.truth.grid, case.truth.classes), case.truth).mean_jaccard)


def measure(case: Case, seeds: int) -> list[object]:
    """Train and predict with some seeds; return a row of the table."""
    scores, training, prediction = [], [], []
    for seed in range(seeds):
        start = cpu_seconds()
        model = train(case.image, case.painted, model="local", seed=seed)
        trained = cpu_seconds()
        result = predict(case.image, model)
        training.append(trained - start)
        prediction.append(cpu_seconds() - trained)
        scores.append(evaluate(result, case.truth))
    jaccard = np.array([each.mean_jaccard for each in scores])
    rare = np.array([min(each.jaccard) for each in scores])
    return [
        case.name, f"{grey_value_only(case):.3f}", f"{jaccard.mean():.4f} ({jaccard.min():.4f} … {jaccard.max():.4f})",
        f"{rare.mean():.3f}", f"{np.mean(training):.1f}", f"{np.mean(prediction):.1f}",
    ]  # fmt: skip


def speed(case: Case, side: int) -> str:
    """Say how fast a cube of some voxels a side is segmented, tiled from an image."""
    repeats = [-(-side // n) for n in case.image.array.shape]
    cube = np.tile(case.image.array, repeats)[:side, :side, :side].copy()
    model = train(case.image, case.painted, model="local")
    wall, cpu = time.monotonic(), cpu_seconds()
    predict(cube, model)
    wall, cpu = time.monotonic() - wall, cpu_seconds() - cpu
    megavoxels = cube.size / 1e6
    return (
        f"{side}³ voxels, uint8: {wall:.0f} s, {megavoxels / wall * 60:.0f} Mvoxel/min; {cpu:.0f} CPU-s, which are "
        f"{megavoxels / cpu * 120:.0f} Mvoxel/min on two free cores; at most {peak_bytes() / 1e9:.1f} GB of memory."
    )


def main() -> None:
    """Measure accuracy, textures and speed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    cases = [*(from_folder(options.data / name) for name in SETS), textures()]
    heads = (
        "strokes on", "grey values only", "mean Jaccard (range)", "worst class", "training, CPU-s", "prediction, CPU-s",
    )  # fmt: skip
    rows = [measure(case, options.seeds) for case in cases]
    write_down("The local model", f"{table(heads, rows)}\n\n{speed(cases[0], options.side)}")


if __name__ == "__main__":
    main()
