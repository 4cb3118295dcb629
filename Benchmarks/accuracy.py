"""How good the results are that a user gets on two cores, without a GPU and without pre-trained weights.

    python Benchmarks/accuracy.py DATA-FOLDER [--quick | --minutes M] [NAME …]

The folder holds one folder a data set, each with ``image.nrrd``, ``label.nrrd`` and label files to learn from.
Training, prediction and evaluation run as the commands of the README, each in its own process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from record import cpu_seconds, table, write_down

from VolumeSegmanticsLib import io
from VolumeSegmanticsLib.volume import UNLABELLED, LabelMap


@dataclass(frozen=True)
class Case:
    """One training: data set, label file (or the step between annotated slices), minutes, what it must reach."""

    name: str
    data: str
    labels: str
    minutes: float
    figure: str
    bar: float
    options: tuple[str, ...] = ()


CASES = (
    Case("fibres, five slices", "simulated_fibres", "five_slices.nrrd", 5, "mean_jaccard", 0.94),
    Case("fibres, scribbles", "simulated_fibres", "scribbles.nrrd", 5, "mean_jaccard", 0.88),
    Case("particles, five slices", "simulated_particles", "five_slices.nrrd", 5, "mean_jaccard", 0.975),
    Case("torso, every fifth slice", "ts_ct_torso", "every 5", 5, "mean_dice", 0.80, ("--unpainted", "background")),
)


def volseg(*arguments: object) -> Any:
    """Run a command; return its result."""
    command = [sys.executable, "-m", "VolumeSegmanticsLib", *map(str, arguments), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout)


def labels_of(case: Case, data: Path, folder: Path) -> Path:
    """Return the label file of a case; sparse ones are made from the truth."""
    if not case.labels.startswith("every "):
        return data / case.data / case.labels
    truth = io.read_labels(data / case.data / "label.nrrd")
    kept = np.array(truth.array)
    step = int(case.labels.removeprefix("every "))
    kept[[z for z in range(len(kept)) if z % step]] = UNLABELLED
    return io.write_labels(folder / "labels.nrrd", LabelMap(kept, truth.grid, truth.classes))


def measure(case: Case, data: Path, minutes: float) -> list[object]:
    """Train, predict, evaluate; return a row of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, truth = (data / case.data / file for file in ("image.nrrd", "label.nrrd"))
        start = cpu_seconds(resource.RUSAGE_CHILDREN)
        volseg(
            "train", image, labels_of(case, data, folder), "-o", folder / "model.safetensors", "--weights", "none",
            "--max-minutes", minutes, *case.options,
        )  # fmt: skip
        trained = cpu_seconds(resource.RUSAGE_CHILDREN)
        volseg("predict", image, folder / "model.safetensors", "-o", folder / "result.seg.nrrd")
        predicted = cpu_seconds(resource.RUSAGE_CHILDREN)
        scores = volseg("evaluate", folder / "result.seg.nrrd", truth, *case.options)
    worst = min(scores["classes"], key=lambda c: c["dice"])
    return [
        case.name, f"{trained - start:.0f}", f"{predicted - trained:.0f}", f"{scores['mean_jaccard']:.4f}",
        f"{scores['mean_dice']:.4f}", f"{worst['dice']:.3f} ({worst['name']})", f"{case.figure} ≥ {case.bar}",
    ]  # fmt: skip


def main() -> None:
    """Measure the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", help="words of the cases to run; all where none are given")
    parser.add_argument("--quick", action="store_true", help="half a minute of training each")
    parser.add_argument("--minutes", type=float, help="of training each; on a busy machine, 9 with OMP_NUM_THREADS=1")
    options = parser.parse_intermixed_args()
    cases = [case for case in CASES if not options.names or any(name in case.name for name in options.names)]
    minutes = 0.5 if options.quick else options.minutes
    rows = [measure(case, options.data, minutes or case.minutes) for case in cases]
    heads = ("case", "training, CPU-s", "prediction, CPU-s", "mean Jaccard", "mean Dice", "worst Dice", "aim")
    write_down("Accuracy on two cores", table(heads, rows))


if __name__ == "__main__":
    main()
