"""What tri-axis prediction costs beside the bare network, in CPU seconds and in memory.

    python Benchmarks/prediction_cost.py [--quick]

The bare network is the same architecture with batch norm folded, channels-last, in the same batches, on tensors that
are in memory already. Every measurement is a process of its own; the volume is a memory-mapped file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from record import cpu_seconds, peak_bytes, table, write_down

from VolumeSegmanticsLib import LabelClass, PredictSettings, io
from VolumeSegmanticsLib.card import ModelCard
from VolumeSegmanticsLib.intensity import Intensity
from VolumeSegmanticsLib.models import Model
from VolumeSegmanticsLib.prediction import Predictor, batch_size, predict_volume
from VolumeSegmanticsLib.settings import TrainSettings
from VolumeSegmanticsLib.views import views
from VolumeSegmanticsLib.volume import Volume

CLASSES = 3


def a_model() -> Model:
    """Return a U-Net with a resnet34 and random weights."""
    torch.manual_seed(0)
    classes = tuple(LabelClass.plain(value) for value in range(1, CLASSES + 1))
    intensity = Intensity((0.0,), (255.0,), (0.5,), (0.25,)).to_dict()
    settings = TrainSettings(weights="none").to_dict()
    return Model.new(ModelCard("unet2d", classes, intensity=intensity, settings=settings), size=64)


def whole(path: Path) -> dict[str, float]:
    """Predict a volume; return CPU seconds and peak memory."""
    model, image = a_model(), io.read_volume(path)
    start = cpu_seconds()
    predict_volume(image, model, PredictSettings(device="cpu"))
    return {"cpu": cpu_seconds() - start, "peak": peak_bytes()}


def bare(path: Path) -> dict[str, float]:
    """Run the network alone over as many slices, in the same batches."""
    image = io.read_volume(path)
    predictor = Predictor(a_model(), PredictSettings(device="cpu"))
    seconds = 0.0
    for view in views("medium", "all"):
        slices = view.of(image.array)
        size = batch_size(slices.shape, (1.0, 1.0), predictor)
        for start in range(0, len(slices), size):
            batch = torch.from_numpy(np.ascontiguousarray(slices[start : start + size])).float()[:, None] / 255
            batch = batch.contiguous(memory_format=torch.channels_last)
            begin = cpu_seconds()
            with torch.inference_mode():
                predictor.network(batch)
            seconds += cpu_seconds() - begin
    return {"cpu": seconds, "peak": peak_bytes()}


def in_process(what: str, path: Path) -> dict[str, float]:
    """Run one measurement in a fresh process."""
    command = [sys.executable, __file__, "--measure", what, str(path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def a_volume(side: int, folder: Path) -> Path:
    """Write a cube of smooth noise as a raw NRRD."""
    rng = np.random.default_rng(0)
    array = rng.integers(0, 255, (side, side, side), np.uint8)
    return io.write_volume(folder / f"{side}.nrrd", Volume.of(array))


def main() -> None:
    """Measure, or be the process that measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--measure", nargs=2)
    options = parser.parse_args()
    if options.measure:
        result = {"whole": whole, "bare": bare}[options.measure[0]](Path(options.measure[1]))
        sys.stdout.write(json.dumps(result))
        return
    sides = (64, 128) if options.quick else (160, 320)
    with tempfile.TemporaryDirectory() as folder:
        paths = [a_volume(side, Path(folder)) for side in sides]
        results = [(in_process("whole", path), in_process("bare", path)) for path in paths]
    rows = [
        [f"{side}³", f"{w['cpu']:.1f}", f"{b['cpu']:.1f}", f"{w['cpu'] / b['cpu']:.3f}", f"{w['peak'] / 2**20:.0f}"]
        for side, (w, b) in zip(sides, results, strict=True)
    ]
    growth = (results[1][0]["peak"] - results[0][0]["peak"]) / (sides[1] ** 3 - sides[0] ** 3)
    text = table(("volume", "whole, CPU-s", "bare network, CPU-s", "ratio", "peak, MiB"), rows)
    write_down(
        "Cost of tri-axis prediction, maximum fusion, float32",
        f"{text}\n\nPeak memory grows by {growth:.2f} bytes a voxel, the image itself included.",
    )


if __name__ == "__main__":
    main()
