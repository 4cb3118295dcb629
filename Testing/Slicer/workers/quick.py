"""Stands in for the library's ``__main__`` with tasks that take no time: ``quick.py BEHAVIOUR run … FOLDER``.

``own`` trains and predicts without any network, ``wait`` does so once the file ``leave`` lies in the job's folder; the
other behaviours are those of ``Testing/Lib/workers/driver.py``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "Lib" / "workers"))

import driver

from VolumeSegmanticsLib import io, worker
from VolumeSegmanticsLib.box import Box
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.errors import InputError, ResourceError
from VolumeSegmanticsLib.events import EpochEnded, Preview, Progress
from VolumeSegmanticsLib.messages import End, Look, Strokes
from VolumeSegmanticsLib.sparse_labels import SparseLabels
from VolumeSegmanticsLib.tasks import TASKS
from VolumeSegmanticsLib.volume import LabelMap, Volume

NAMES = ("train", "predict", "plan", "evaluate")
CLASSES = (LabelClass(1, "dark"), LabelClass(2, "bright"))


def train(job, report):
    for epoch in range(1, 4):
        report(EpochEnded(epoch, 1 / epoch, 2 / epoch, 1 - 1 / epoch, 1e-3, True))
    model = job.path(job.outputs["model"])
    model.write_bytes(b"a model")
    return {"model": str(model), "scores": {"mean_dice": 0.75}}


def predict(job, report):
    image = io.read_volume(job.path(job.inputs["image"]))
    if "box" in job.inputs:
        image = Box.of(job.inputs["box"], image.grid.shape).of_volume(image)
    bright = (image.array > image.array.mean()).astype("uint8")
    outputs = {name: str(job.path(path)) for name, path in job.outputs.items()}
    if "labels" in outputs:
        io.write_labels(outputs["labels"], LabelMap(bright + 1, image.grid, CLASSES))
    if "confidence" in outputs:
        io.write_volume(outputs["confidence"], Volume(bright * 100, image.grid))
    report(Progress("write", 1, 1))
    return outputs


def plan(job, report):
    """Tell some cost of a prediction, and refuse it where it may take a byte of memory only."""
    if job.settings["memory"] == "1 B":
        raise ResourceError("The program alone takes 300 MB, and it is given 1 bytes.", "Give it more.")
    io.read_volume(job.path(job.inputs["image"]))
    report(Progress("try", 0, 0))
    return {"seconds": 95.0, "memory_bytes": 1_300_000_000, "disk_bytes": 0}


def predict_when_told(job, report):
    report(Progress("predict", 0, 2))
    while not job.path("leave").exists():
        time.sleep(0.01)
    return predict(job, report)


def live(job, report, *, inbox):
    """Show what is brighter than the mean in the slice in view, as long as two classes are painted."""
    image, look, count, labels = io.read_volume(job.path(job.inputs["image"])), Look("z", 0), 0, None
    whole = Box.of(job.inputs["box"], image.grid.shape) if "box" in job.inputs else None
    report(Progress("wait", 0, 1))
    while True:
        for message in inbox.take(wait=True):
            if isinstance(message, End):
                return predict(job, report) | train(job, report) if labels else _refuse()
            look = message if isinstance(message, Look) else look
            if isinstance(message, Strokes):
                labels = SparseLabels.read(job.path(message.path))
        if labels is not None and len(labels.painted) > 1:
            count += 1
            box = middle_of_slice(image, look).common(whole) if whole else middle_of_slice(image, look)
            bright = (box.of_volume(image).array > image.array.mean()).astype("uint8")
            path = job.path(f"preview-{count}.seg.nrrd")
            io.write_labels(path, LabelMap(bright + 1, box.grid(image.grid), CLASSES))
            report(Preview(str(path)))
        elif count:
            report(Preview(""))
        report(Progress("ready" if count else "wait", 1, 1))


def middle_of_slice(image, look):
    spans = [(0, n) for n in image.grid.shape]
    axis = "zyx".index(look.axis)
    spans[axis] = (look.index, look.index + 1)
    return Box.of(spans, image.grid.shape)


def _refuse():
    raise InputError("Nothing is painted.")


BEHAVIOURS = {
    "own": {"train": train, "predict": predict, "plan": plan, "constrain": TASKS["constrain"]},
    "wait": {"predict": predict_when_told},
}

if __name__ == "__main__":
    _, behaviour, *_, folder = sys.argv
    tasks = BEHAVIOURS.get(behaviour) or dict.fromkeys(
        ("train", "predict", "plan", "evaluate"), driver.TASKS[behaviour]
    )
    sys.exit(worker.run(folder, parent_watch=True, tasks=tasks, talks={"live": live}))
