"""Where the time of training a U-Net goes, and how its memory grows with the volume.

    python Benchmarks/training_speed.py [--quick] [--only speed|memory] [--write]

speed   some steps on a simulated volume: what the network takes, what the thread takes that prepares crops, how long
        the one waits for the other, and what arithmetic and the order of pixels in memory change
memory  some steps on volumes that grow, with five annotated slices, and with the same strokes in one corner

Every training is a process of its own, by default settings without pre-trained weights. Images and labels are mapped
from files: what was read of them counts as long as nobody else needs the room. What is counted in CPU seconds is the
same on a busy machine, if ``OMP_NUM_THREADS=1``; how long is waited is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from record import conclude, cpu_seconds, peak_bytes, resident_bytes, table

from VolumeSegmanticsLib import dataset, devices, train
from VolumeSegmanticsLib.augment import Augmentation
from VolumeSegmanticsLib.events import Event, Progress
from VolumeSegmanticsLib.settings import TrainSettings
from VolumeSegmanticsLib.simulate import fibre_composite, strokes
from VolumeSegmanticsLib.volume import UNLABELLED

LABELS = ("slices", "strokes")
ANNOTATED = 5  # slices
WARM = 3  # steps that are not counted: the first ones choose how layers are computed
RATE = 1e-3  # given, so that no range test runs


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        image, labels: Files.
        steps: Batches that are learned.
        precision: As the setting takes it.
        is_channels_last: Whether the channels of a pixel lie beside each other, as they do by default.
    """

    image: str
    labels: str
    steps: int
    precision: str = "auto"
    is_channels_last: bool = True

    @property
    def settings(self) -> TrainSettings:
        """Return the settings of ``train``."""
        crops = self.steps * TrainSettings().batch_size
        return TrainSettings(
            weights="none", device="cpu", epochs=1, crops_per_epoch=crops, learning_rate=RATE, precision=self.precision
        )

    @property
    def dtype(self) -> str:
        """Return the name of the arithmetic that the precision comes to."""
        chosen = devices.dtype(self.precision, torch.device("cpu"), is_training=True)
        return str(chosen).removeprefix("torch.")


@dataclass(frozen=True, eq=False)
class Tomogram:
    """A simulated cube that larger volumes are tiled from.

    Attributes:
        image, truth, painted: uint8 (Z, Y, X): grey values, classes, and the strokes of a user.
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    painted: NDArray[np.uint8]

    @classmethod
    def simulated(cls, side: int) -> Tomogram:
        """Simulate one."""
        image, truth = fibre_composite((side, side, side))
        return cls(image.array, truth.array, strokes(truth).array)

    def written(self, folder: Path, side: int) -> dict[str, str]:
        """Write a cube as image, with annotated slices, and with the strokes in a corner; return the files."""
        files = {name: str(folder / f"{name}{side}.npy") for name in ("image", *LABELS)}
        image, slices, painted = (
            np.lib.format.open_memmap(file, "w+", np.uint8, (side, side, side)) for file in files.values()
        )
        for z in range(side):
            image[z] = self._plane(self.image, z, side)
        slices[:], painted[:] = UNLABELLED, UNLABELLED
        for z in ((2 * np.arange(ANNOTATED) + 1) * side) // (2 * ANNOTATED):
            slices[z] = self._plane(self.truth, z, side)
        painted[tuple(slice(n) for n in self.painted.shape)] = self.painted
        return files

    @staticmethod
    def _plane(array: NDArray[np.uint8], z: int, side: int) -> NDArray[np.uint8]:
        times = -(-side // array.shape[1])
        return np.tile(array[z % len(array)], (times, times))[:side, :side]


class Stopwatch:
    """Takes the events of a training, and the seconds of the parts of it."""

    def __init__(self, steps: int) -> None:
        self._steps, self._batches = steps, 0
        self._seconds = {"crops": 0.0, "augmentation": 0.0, "waited": 0.0}
        self._marks: dict[int, dict[str, float]] = {}
        self._begun = cpu_seconds()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, Progress) and event.stage == "train" and event.done in (WARM, self._steps):
            self._mark(event.done)

    def begin(self) -> None:
        """Watch the library from now on."""
        prepared = dataset._prepared

        def watched(make: Callable[[], Any], count: int) -> Iterator[Any]:
            if not self._marks:
                self._mark(0)
            with closing(prepared(self._timed("crops", time.thread_time, make, is_batch=True), count)) as batches:
                yield from iter(self._timed("waited", time.perf_counter, lambda: next(batches, None)), None)

        dataset._prepared = watched
        Augmentation.__call__ = self._timed("augmentation", time.thread_time, Augmentation.__call__)

    def result(self) -> dict[str, float]:
        """Return CPU seconds a batch, which part of the time was waited, and the CPU seconds of all but the steps.

        Crops are made some batches ahead, so theirs are divided by the batches made, not by those learned.
        """
        start, warm, end = (self._marks[step] for step in (0, WARM, self._steps))
        passed = {name: end[name] - warm[name] for name in end}
        return {
            "network": (passed["cpu"] - passed["crops"]) / (self._steps - WARM),
            "crops": end["crops"] / end["batches"],
            "augmentation": end["augmentation"] / end["batches"],
            "waited": passed["waited"] / passed["wall"],
            "besides": cpu_seconds() - self._begun - (end["cpu"] - start["cpu"]),
            "threads": end["threads"],
        }

    def _mark(self, step: int) -> None:
        now = {"cpu": cpu_seconds(), "wall": time.perf_counter(), "threads": torch.get_num_threads()}
        self._marks[step] = now | self._seconds | {"batches": self._batches}

    def _timed(
        self, name: str, clock: Callable[[], float], work: Callable[..., Any], *, is_batch: bool = False
    ) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start = clock()
            done = work(*arguments)
            self._seconds[name] += clock() - start
            self._batches += is_batch
            return done

        return timed


class Memory(threading.Thread):
    """Watches the most that is held besides mapped files, which leave the memory when others need the room."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self._over = 0, threading.Event()

    def run(self) -> None:
        """Look again and again."""
        while not self._over.wait(0.01):
            self.most = max(self.most, self._held())

    def end(self) -> int:
        """Return the most, in bytes."""
        self._over.set()
        self.join()
        return self.most

    @staticmethod
    def _held() -> int:
        status = Path("/proc/self/status")
        if not status.exists():
            return resident_bytes()
        return 1024 * int(status.read_text().split("RssAnon:")[1].split()[0])


def measure(case: Case) -> None:
    """Be the process that trains; print what it took."""
    if not case.is_channels_last:
        torch.channels_last = torch.contiguous_format  # the library says the former wherever it orders memory
    watch, memory = Stopwatch(case.steps), Memory()
    watch.begin()
    memory.start()
    train(case.image, case.labels, settings=case.settings, report=watch)
    sys.stdout.write(json.dumps(watch.result() | {"held": memory.end(), "peak": peak_bytes()}))


def measured(case: Case) -> dict[str, float]:
    """Train in a process of its own, and return what it took."""
    command = [sys.executable, __file__, "--measure", json.dumps(asdict(case))]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def speed(folder: Path, is_quick: bool) -> str:
    """Train by default settings, then in every arithmetic, and in both orders of memory."""
    side, steps = (64, 8) if is_quick else (128, 60)
    files = Tomogram.simulated(side).written(folder, side)
    cases = [(name, Case(files["image"], files[name], steps)) for name in LABELS]
    for is_last in (True, False):
        for dtype in dict.fromkeys((cases[0][1].dtype, "float32")):
            changed = replace(cases[0][1], precision=dtype, is_channels_last=is_last)
            cases += [("slices", changed)] if (changed.dtype, is_last) != (cases[0][1].dtype, True) else []
    heads = (
        "labels", "arithmetic", "channels", "threads", "network, CPU-ms a batch", "crops, CPU-ms a batch",
        "crops, part of both", "augmentation, part of both", "waited for crops, part of the time",
        "all but the steps, CPU-s",
    )  # fmt: skip
    return table(heads, [_row_of_speed(name, case, measured(case)) for name, case in cases])


def _row_of_speed(name: str, case: Case, found: dict[str, float]) -> list[object]:
    both = found["network"] + found["crops"]
    return [
        name, case.dtype, "last" if case.is_channels_last else "first", f"{found['threads']:.0f}",
        f"{1000 * found['network']:.0f}", f"{1000 * found['crops']:.1f}", f"{found['crops'] / both:.1%}",
        f"{found['augmentation'] / both:.1%}", f"{found['waited']:.1%}", f"{found['besides']:.1f}",
    ]  # fmt: skip


def memory(folder: Path, is_quick: bool) -> str:
    """Train on volumes that grow."""
    sides, steps = ((64, 96), 4) if is_quick else ((128, 512, 1024), 8)
    tile, rows, found = Tomogram.simulated(sides[0]), [], {}
    for side in sides:
        files = tile.written(folder, side)
        for name in LABELS:
            found[name, side] = each = measured(Case(files["image"], files[name], steps))
            rows.append([
                f"{side}³", name, f"{each['peak'] / 1e6:.0f}", f"{each['held'] / 1e6:.0f}", f"{each['besides']:.1f}",
            ])  # fmt: skip
        for file in files.values():
            Path(file).unlink()
    heads = ("volume", "labels", "peak, MB", "most that no file holds, MB", "all but the steps, CPU-s")
    return f"{table(heads, rows)}\n\n{_growth(found, sides[0], sides[-1])}"


def _growth(found: dict[tuple[str, int], dict[str, float]], small: int, large: int) -> str:
    """Say how many bytes a voxel takes."""
    told = []
    for name in LABELS:
        first, last = found[name, small], found[name, large]
        peak, held = ((last[what] - first[what]) / (large**3 - small**3) for what in ("peak", "held"))
        told.append(f"{peak:.2f} bytes a voxel with {name}, {held:.2f} of them in no file")
    return f"Memory grows by {' and by '.join(told)}. The files of image and labels are 1 byte a voxel each."


WHAT: dict[str, Callable[[Path, bool], str]] = {"speed": speed, "memory": memory}


def main() -> None:
    """Measure, or be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(WHAT), help="one table of the two")
    parser.add_argument("--quick", action="store_true", help="small volumes, few steps")
    parser.add_argument("--folder", type=Path, help="where to work, on a disk with some GB")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(Case(**json.loads(options.measure)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        texts = [WHAT[name](Path(folder), options.quick) for name in WHAT if options.only in (None, name)]
    conclude("Where the time and the memory of training go", "\n\n".join(texts), is_kept=options.write)


if __name__ == "__main__":
    main()
