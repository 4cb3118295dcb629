"""How live mode feels: seconds from a stroke to what it changes, on a simulated tomogram, with a real worker process.

    python Benchmarks/live.py [--side 512] [--strokes 6] [--memory 4GB] [--quick] [--keep]

The worker's CPU seconds are counted too: on a machine that others use they say what it would be like on a free one.
``--keep`` puts the table at the end of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from record import conclude, table

from VolumeSegmanticsLib import io, simulate
from VolumeSegmanticsLib.events import TERMINAL, Event, Preview, Progress
from VolumeSegmanticsLib.jobs import Job
from VolumeSegmanticsLib.launch import WorkerProcess
from VolumeSegmanticsLib.messages import End, Look, Message, Strokes
from VolumeSegmanticsLib.sparse_labels import SparseLabels
from VolumeSegmanticsLib.volume import UNLABELLED, LabelMap, Volume

QUICK_SIDE, QUICK_STROKES = 128, 2
TILE = (64, 128, 128)
"""Of the simulated tomogram, which is repeated to the size that is wanted."""

STROKE_VOXELS = (3, 24)
STROKES_AT_ONCE = 12
REST_SECONDS = 2.0
POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Taken:
    """What something took: wall seconds, and CPU seconds of the worker."""

    wall: float
    cpu: float


class Session:
    """A worker in live mode, and somebody who paints on a slice."""

    def __init__(self, side: int, folder: Path, memory: str) -> None:
        image, truth = simulate.fibre_composite(TILE)
        repeats = [-(-side // n) for n in TILE]
        self.image = Volume.of(np.tile(image.array, repeats)[:side, :side, :side])
        self.truth: NDArray[np.uint8] = np.tile(truth.array, repeats)[:side, :side, :side]
        self.classes, self.folder, self.slice = truth.classes, folder, side // 2
        self.painted = np.full(self.truth.shape, UNLABELLED, np.uint8)
        self._rng, self._count = np.random.default_rng(0), 0
        io.write_volume(folder / "image.nrrd", self.image)
        settings = {"memory": memory} if memory else {}
        inputs, outputs = {"image": "image.nrrd"}, {"model": "model.safetensors", "labels": "labels.seg.nrrd"}
        Job.create(folder, task="live", settings=settings, inputs=inputs, outputs=outputs)
        self.worker = WorkerProcess(folder)
        self.process = psutil.Process(self.worker.pid)
        self.most, self._cpu_seconds = 0, 0.0
        self._heard: deque[Event] = deque()

    def paint(self) -> Strokes:
        """Paint some strokes on the slice, and return the message that tells so."""
        height, width = STROKE_VOXELS
        for _ in range(STROKES_AT_ONCE):
            y, x = self._rng.integers(0, len(self.truth) - width, 2)
            window = np.s_[self.slice, y : y + height, x : x + width]
            self.painted[window] = self.truth[window]
        self._count += 1
        labels = SparseLabels.of(LabelMap(self.painted, self.image.grid, self.classes))
        return Strokes(labels.write(self.folder / f"strokes-{self._count}.npz").name)

    def events(self) -> Iterator[Event]:
        """Yield what the worker tells; who stops listening goes on later where it was."""
        while True:
            self._look_at_the_process()
            self._heard.extend(self.worker.poll())
            while self._heard:
                yield self._heard.popleft()
            time.sleep(POLL_SECONDS)

    def _look_at_the_process(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
            self.most = max(self.most, self.process.memory_info().rss)
            self._cpu_seconds = sum(self.process.cpu_times()[:2])

    def until(self, *wanted: Callable[[Event], bool]) -> list[Taken]:
        """Wait for some events, one after the other, and return what each took from now on."""
        self._look_at_the_process()
        start, cpu, taken = time.monotonic(), self._cpu_seconds, list[Taken]()
        for event in self.events():
            if wanted[len(taken)](event):
                taken.append(Taken(time.monotonic() - start, self._cpu_seconds - cpu))
                if len(taken) == len(wanted):
                    return taken
            assert not isinstance(event, TERMINAL), event
        raise AssertionError("events never end")

    def tell(self, message: Message, *wanted: Callable[[Event], bool]) -> list[Taken]:
        """Tell the worker something, and return what its answers took."""
        self.worker.poll()
        self._heard.clear()
        self.worker.send(message)
        return self.until(*wanted)


def is_preview(event: Event) -> bool:
    return isinstance(event, Preview)


def is_learned(event: Event) -> bool:
    return isinstance(event, Progress) and event.stage == "learn" and event.done == event.total


def is_segmenting(event: Event) -> bool:
    return isinstance(event, Progress) and event.stage in ("segment", "ready")


def is_ready(event: Event) -> bool:
    return isinstance(event, Progress) and event.stage == "ready"


def measure(session: Session, strokes: int) -> list[tuple[str, Taken]]:
    """Paint, look around, wait until all is labelled, and return what each took."""
    session.worker.send(Look("z", session.slice))
    rows = [("start of the worker", session.until(is_segmenting)[0])]
    time.sleep(REST_SECONDS)
    refits, previews, settled = [], [], []
    for _ in range(strokes):
        refit, preview, _, full = session.tell(session.paint(), is_learned, is_preview, is_learned, is_preview)
        refits.append(refit)
        previews.append(preview)
        settled.append(full)
        time.sleep(REST_SECONDS)
    rows += [("stroke to first overlay, the first time", previews[0])]
    rows += [
        ("stroke to refitted model, median", median(refits)),
        ("stroke to first overlay, median", median(previews)),
    ]
    rows += [("stroke to overlay of the full training, median", median(settled))]
    rows += [("another slice, across, to its overlay", session.tell(Look("x", session.slice // 2), is_preview)[0])]
    rows += [("the rest of the volume", session.until(is_ready)[0])]
    rows += [("another slice once all is labelled", session.tell(Look("y", session.slice // 2), is_preview)[0])]
    return rows


def median(taken: list[Taken]) -> Taken:
    return Taken(statistics.median(t.wall for t in taken), statistics.median(t.cpu for t in taken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--strokes", type=int, default=6)
    parser.add_argument("--memory", default="")
    parser.add_argument("--quick", action="store_true", help="a small volume, to see that it works")
    parser.add_argument("--keep", action="store_true", help="write the table into docs/benchmarks.md")
    chosen = parser.parse_args()
    side, strokes = (QUICK_SIDE, QUICK_STROKES) if chosen.quick else (chosen.side, chosen.strokes)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(side, Path(folder), chosen.memory)
        with session.worker:
            rows = measure(session, strokes)
            session.worker.send(End())
            rows.append(("end: model and label file", session.until(lambda event: isinstance(event, TERMINAL))[0]))
    lines = [[name, f"{taken.wall:.2f} s", f"{taken.cpu:.2f} s"] for name, taken in rows]
    lines.append(["largest memory of the worker", f"{session.most / 1e9:.1f} GB", ""])
    text = table(("what", "wall", "CPU"), lines)
    conclude(f"Live mode, {side}³ voxels, one byte each", text, is_kept=chosen.keep)


if __name__ == "__main__":
    main()
