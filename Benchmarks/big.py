"""Volumes larger than memory: what is left after a kill, how time and memory grow, what fits into 4 GB, and clusters.

    python Benchmarks/big.py resume|growth|memory|sparse|cluster [--quick] [--minutes 10] [--write]

resume  kill -9 at random moments, then the same prediction again: the same bytes as an undisturbed run?
growth  CPU time and memory of cubes that grow, in 4 GB
memory  a cube of 1024 voxels a side in 4 GB: all of it by the local model, for some minutes by the U-Net
sparse  4096 × 4096 × 2048 voxels in 4 GB, for some minutes, and how long all of it would take
cluster a cube by two dask workers with a thread each, and by one process with two threads

Every prediction is a process of its own. Images are simulated, and mapped from files. Where a run is stopped after some
minutes, space for what it will never write is not asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from prediction_cost import a_model
from record import conclude, cpu_seconds, peak_bytes, table

from VolumeSegmanticsLib import planning, predict, train
from VolumeSegmanticsLib.errors import Cancelled
from VolumeSegmanticsLib.events import Event, Log, Progress
from VolumeSegmanticsLib.memory import share_one_heap
from VolumeSegmanticsLib.simulate import fibre_composite, strokes

MODELS = ("local", "unet2d")
TILE = (32, 64, 64)
PREDICTING = "predicting\n"
CLUSTER_SIDES = {"local": 512, "unet2d": 256}  # voxels: about a minute each
GROWTH_PART = 0.2  # of the minutes that are given, for each axis of a cube


@dataclass(frozen=True)
class Case:
    """One prediction.

    Attributes:
        image, model, output: Files.
        memory: As ``--memory`` takes it.
        budget: Bytes instead of that, beside what the program itself takes; 0 = none.
        axes: That the U-Net looks along.
        seconds: After which it is stopped; 0 = never.
        cluster: As ``--cluster`` takes it.
    """

    image: str
    model: str
    output: str
    memory: str = "4GB"
    budget: int = 0
    axes: str = "auto"
    seconds: float = 0.0
    cluster: str = ""


class Stopwatch:
    """Takes the events of a prediction, and stops it when its time is over."""

    def __init__(self, seconds: float) -> None:
        self.parts, self.plan = (0, 1), "All in memory at once"
        self._seconds, self._begun, self._wall, self._cpu = seconds, time.monotonic(), 0.0, 0.0

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, Log) and event.text.startswith("In "):
            self.plan = event.text.partition(", with")[0]
        if not isinstance(event, Progress) or event.stage != "predict":
            return
        if not self._wall:
            self._wall, self._cpu = time.monotonic(), cpu_seconds()
            sys.stdout.write(PREDICTING)
            sys.stdout.flush()
        self.parts = (event.done, event.total)
        if self._seconds and time.monotonic() - self._wall > self._seconds:
            raise Cancelled

    def result(self) -> dict[str, object]:
        """Return what was done, and what it took since the first part began."""
        return {
            "part": self.parts[0] / self.parts[1], "plan": self.plan, "cpu": cpu_seconds() - self._cpu,
            "wall": time.monotonic() - self._wall, "whole": time.monotonic() - self._begun, "peak": peak_bytes(),
        }  # fmt: skip


def measure(case: Case) -> None:
    """Be the process that predicts; print what it took."""
    share_one_heap()  # as the command line does
    if case.budget:
        planning.budget = lambda settings: case.budget
    if case.seconds:
        planning.check_disk = lambda divided, folder: None
    watch = Stopwatch(case.seconds)
    options = {"axes": case.axes} if case.axes != "auto" else {}
    with contextlib.suppress(Cancelled):
        predict(
            case.image, case.model, output=case.output, memory=case.memory, device="cpu", cluster=case.cluster,
            report=watch, **options,
        )  # fmt: skip
    sys.stdout.write(json.dumps(watch.result()))


def started(case: Case) -> subprocess.Popen[str]:
    """Start the process of a case."""
    command = [sys.executable, __file__, "memory", "--measure", json.dumps(asdict(case))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def measured(case: Case) -> dict[str, object]:
    """Run a case in a process of its own, and return what it took."""
    process = started(case)
    text, _ = process.communicate()
    assert process.returncode == 0, case
    return json.loads(text.rpartition("\n")[2])


def models(folder: Path) -> dict[str, str]:
    """Make a U-Net with random weights, and a local model that has learned strokes."""
    image, truth = fibre_composite((32, 96, 96))
    train(image, strokes(truth), model="local", output=folder / "local.safetensors")
    a_model().save(folder / "unet2d.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in MODELS}


def an_image(folder: Path, shape: tuple[int, int, int], planes: int = 0) -> str:
    """Write a volume tiled from a simulated one; beyond so many planes (0 = all) the file is a gap of zeros."""
    path = folder / f"{'x'.join(map(str, shape))}.npy"
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    tile = fibre_composite(TILE)[0].array
    layer = np.tile(tile, (1, -(-shape[1] // TILE[1]), -(-shape[2] // TILE[2])))[:, : shape[1], : shape[2]]
    for start in range(0, planes or shape[0], TILE[0]):
        stop = min(start + TILE[0], shape[0])
        array[start:stop] = layer[: stop - start]
    array.flush()
    return str(path)


def resume(folder: Path, options: argparse.Namespace) -> str:
    """Kill predictions at random moments."""
    side, kills = 64 if options.quick else 128, options.kills
    image, rng, rows = an_image(folder, (side, side, side)), random.Random(0), []
    for name, model in models(folder).items():
        budget = 40_000_000 if name == "local" else 600 * side * side
        whole = Case(image, model, str(folder / "whole.nrrd"), budget=budget)
        seconds = float(measured(whole)["wall"])
        expected, same = _digest(whole.output), 0
        for number in range(kills):
            case = Case(image, model, str(folder / f"{name}{number}.nrrd"), budget=budget)
            _killed(case, rng.uniform(0, seconds))
            measured(case)
            same += _digest(case.output) == expected
        rows.append([name, f"{side}³", kills, same])
    return table(("model", "volume", "killed at random moments", "the same bytes after a resume"), rows)


def _killed(case: Case, seconds: float) -> None:
    process = started(case)
    assert process.stdout is not None
    assert process.stdout.readline() == PREDICTING
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def growth(folder: Path, options: argparse.Namespace) -> str:
    """Predict cubes that grow; the U-Net axis by axis, and no more of an axis than some minutes permit."""
    sides = (48, 96) if options.quick else (128, 256, 512, 1024)
    rows = []
    for name, model in models(folder).items():
        costs: list[float] = []
        for side in sides:
            image, seconds = an_image(folder, (side, side, side)), 60 * options.minutes * GROWTH_PART
            whole = Case(image, model, str(folder / "out.nrrd"))
            cases = [whole] if name == "local" else [replace(whole, axes=axis, seconds=seconds) for axis in "zyx"]
            found = [measured(case) for case in cases]
            costs.append(sum(float(each["cpu"]) / float(each["part"]) for each in found) / side**3 * 1e6)
            rows.append([
                name, f"{side}³", f"{costs[-1]:.3f}", f"{costs[-1] / costs[1]:.3f}" if costs[1:] else "",
                f"{min(float(each['part']) for each in found):.0%}",
                f"{max(float(each['peak']) for each in found) / 1e9:.2f}", found[0]["plan"],
            ])  # fmt: skip
            Path(image).unlink()
    heads = (
        "model", "volume", "CPU-µs a voxel", f"× that of {sides[1]}³", "done, at least", "peak, GB", "how (first axis)"
    )  # fmt: skip
    return table(heads, rows)


def memory(folder: Path, options: argparse.Namespace) -> str:
    """Predict a cube in 4 GB."""
    side = 128 if options.quick else 1024
    return _in_4_gb(folder, an_image(folder, (side, side, side)), side**3, {"unet2d": 60 * options.minutes}, "auto")


def sparse(folder: Path, options: argparse.Namespace) -> str:
    """Begin with a volume of 34 GB in 4 GB; the U-Net only along Z, whose slabs need no copy of the image."""
    shape = (64, 256, 256) if options.quick else (2048, 4096, 4096)
    image, seconds = an_image(folder, shape, planes=128), 60 * options.minutes
    return _in_4_gb(folder, image, int(np.prod(shape)), dict.fromkeys(MODELS, seconds), "z")


def cluster(folder: Path, options: argparse.Namespace) -> str:
    """Predict a cube with two workers, and without, in turn; the best of each counts."""
    rows = []
    for name, model in models(folder).items():
        side = 96 if options.quick else CLUSTER_SIDES[name]
        image = an_image(folder, (side, side, side))
        alone, together = (Case(image, model, str(folder / "out.nrrd"), cluster=where) for where in ("", "local:2"))
        found = [(measured(alone), measured(together)) for _ in range(1 if options.quick else options.runs)]
        one, two = (min(float(each[n]["wall"]) for each in found) for n in range(2))
        whole = [min(float(each[n]["whole"]) for each in found) for n in range(2)]
        rows.append([
            name, f"{side}³", f"{side**3 / one / 1e6:.2f}", f"{side**3 / two / 1e6:.2f}", f"{one / two:.2f}",
            f"{whole[0]:.1f}", f"{whole[1]:.1f}", found[0][1]["plan"],
        ])  # fmt: skip
    heads = (
        "model", "volume", "one process, Mvoxel/s", "two workers, Mvoxel/s", "ratio", "all of it, s",
        "with the start of workers, s", "how",
    )  # fmt: skip
    return table(heads, rows)


def _in_4_gb(folder: Path, image: str, voxels: int, seconds: dict[str, float], axes: str) -> str:
    rows = []
    for name, model in models(folder).items():
        case = Case(
            image, model, str(folder / f"{name}.nrrd"), seconds=seconds.get(name, 0.0),
            axes="auto" if name == "local" else axes,
        )  # fmt: skip
        found = measured(case)
        part = float(found["part"])
        rows.append([
            name, f"{voxels / 1e9:.3g}", found["plan"], f"{part:.2%}", f"{found['wall'] / 60:.1f}",
            f"{found['wall'] / part / 3600:.2f}", f"{found['cpu'] / part / 3600:.2f}", f"{found['peak'] / 1e9:.2f}",
        ])  # fmt: skip
    heads = ("model", "Gvoxel", "how", "done", "min", "all of it, h", "all of it, CPU-h", "peak, GB")
    return table(heads, rows)


WHAT: dict[str, Callable[[Path, argparse.Namespace], str]] = {
    "resume": resume, "growth": growth, "memory": memory, "sparse": sparse, "cluster": cluster,
}  # fmt: skip
TITLES = {
    "resume": "Predictions killed and taken up again",
    "growth": "Prediction of cubes that grow, in 4 GB",
    "memory": "A large cube in 4 GB",
    "sparse": "A sparse file of a tomogram in 4 GB",
    "cluster": "Two dask workers against one process with two threads",
}


def main() -> None:
    """Measure, or be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=tuple(WHAT), help="what is measured")
    parser.add_argument("--quick", action="store_true", help="small volumes")
    parser.add_argument("--minutes", type=float, default=10.0, help="for what is not done to its end (10)")
    parser.add_argument("--kills", type=int, default=10, help="how many predictions are killed (10)")
    parser.add_argument("--runs", type=int, default=3, help="of each side of the comparison with a cluster (3)")
    parser.add_argument("--folder", type=Path, help="where to work, on a disk with some GB")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(Case(**json.loads(options.measure)))
        return
    for name in options.what:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            conclude(TITLES[name], WHAT[name](Path(folder), options), is_kept=options.write)


if __name__ == "__main__":
    main()
