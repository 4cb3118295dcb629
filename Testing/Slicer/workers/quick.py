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
from VolumeSegmanticsLib.events import EpochEnded, Progress
from VolumeSegmanticsLib.tasks import TASKS
from VolumeSegmanticsLib.volume import LabelMap, Volume

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
    io.write_labels(outputs["labels"], LabelMap(bright + 1, image.grid, CLASSES))
    if "confidence" in outputs:
        io.write_volume(outputs["confidence"], Volume(bright * 100, image.grid))
    report(Progress("write", 1, 1))
    return outputs


def predict_when_told(job, report):
    report(Progress("predict", 0, 2))
    while not job.path("leave").exists():
        time.sleep(0.01)
    return predict(job, report)


BEHAVIOURS = {
    "own": {"train": train, "predict": predict, "constrain": TASKS["constrain"]},
    "wait": {"predict": predict_when_told},
}

if __name__ == "__main__":
    _, behaviour, *_, folder = sys.argv
    tasks = BEHAVIOURS.get(behaviour) or dict.fromkeys(("train", "predict", "evaluate"), driver.TASKS[behaviour])
    sys.exit(worker.run(folder, parent_watch=True, tasks=tasks))
