"""Predicts with a limit of memory, and prints it and the peak: IMAGE MODEL OUTPUT EXTRA-BYTES WARM-UP-SHAPE OPTIONS."""

import json
import sys
from pathlib import Path

import numpy as np

from VolumeSegmanticsLib import memory, predict
from VolumeSegmanticsLib.models import Model

image, model, output, extra, shape, options = sys.argv[1:]
model = Model.load(model)
predict(np.random.default_rng(0).random(json.loads(shape), np.float32), model, device="cpu")  # loads what comes late
allowed = memory.in_use() + int(extra)
predict(image, model, output=output, device="cpu", memory=f"{allowed} B", **json.loads(options))
status = Path("/proc/self/status").read_text()  # getrusage also counts what the parent held when it forked
print(json.dumps([allowed, 1024 * int(status.split("VmHWM:")[1].split()[0])]))
