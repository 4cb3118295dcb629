"""How fast a graphics card, or whatever computes, predicts a cube, and which share of its peak that is.

    python Benchmarks/device_speed.py [--quick] [--device cuda] [--side 512] [--write]

The peak is what the device reaches in one large product of matrices, in the same arithmetic, and the operations are
those that the network needs for all slices: what padding, fusion and moving take counts as lost. Published for
comparison: tomo2seg segments 114 to 182 Mvoxel a minute with two Quadro P4000 cards.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from prediction_cost import a_model
from record import conclude, table
from torch.utils.flop_counter import FlopCounterMode

from VolumeSegmanticsLib import devices, predict, train
from VolumeSegmanticsLib.models import Model
from VolumeSegmanticsLib.prediction import Predictor
from VolumeSegmanticsLib.settings import PredictSettings
from VolumeSegmanticsLib.simulate import fibre_composite, strokes

TILE = 64  # voxels a side of what the volume is tiled from
PIXELS = 256  # a side of the slice whose operations are counted
MATRIX = {"cpu": 1024, "mps": 4096, "cuda": 8192}  # rows of the matrices
TIMES = 5  # the best of which counts


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return the wall seconds of some work, waiting for its end."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait until the device has nothing to do."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of a product of matrices."""
    side = MATRIX[device.type]
    matrix = torch.rand(side, side, device=device).to(dtype)
    return 2 * side**3 / min(seconds_of(lambda: matrix @ matrix, device) for _ in range(TIMES))


def operations(model: Model, settings: PredictSettings) -> float:
    """Return the operations of the network for a pixel."""
    predictor = Predictor(model, replace(settings, device="cpu", precision="float32"))
    slices = np.zeros((1, PIXELS, PIXELS, model.card.channels), np.float32)
    with FlopCounterMode(display=False) as counter:
        predictor.answer(slices, (1.0, 1.0), every=False)
    return counter.get_total_flops() / PIXELS**2


def row(name: str, model: Model, image: np.ndarray, settings: PredictSettings) -> list[object]:
    """Predict twice, since the first time the device gets ready, and return what the second took."""
    device = devices.choose(settings.device)
    seconds = [seconds_of(lambda: predict(image, model, settings=settings), device) for _ in range(2)][-1]
    rate = image.size / seconds
    told = [name, f"{image.shape[0]}³", f"{seconds:.1f}", f"{rate / 1e6:.2f}", f"{60 * rate / 1e6:.0f}"]
    if name == "local":
        return [*told, "", ""]
    dtype = devices.dtype(settings.precision, device)
    share = 3 * operations(model, settings) * rate / peak(device, dtype)
    return [*told, str(dtype).removeprefix("torch."), f"{share:.1%}"]


def main() -> None:
    """Predict a cube with either kind of model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64³ voxels")
    parser.add_argument("--device", default="auto", help="as volseg takes it (auto)")
    parser.add_argument("--side", type=int, default=512, help="of the cube, in voxels (512)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    side = TILE if options.quick else options.side
    tile, truth = fibre_composite((TILE,) * 3)
    image = np.tile(tile.array, (-(-side // TILE),) * 3)[:side, :side, :side]
    settings = PredictSettings(device=options.device)
    local = train(tile, strokes(truth), model="local", device=options.device).model
    rows = [row(name, model, image, settings) for name, model in (("unet2d", a_model()), ("local", local))]
    heads = (
        "model", "volume", "wall, s", "Mvoxel/s", "Mvoxel/min", "arithmetic", "of the measured peak"
    )  # fmt: skip
    device = devices.choose(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    conclude(f"Speed of prediction on {name}, quality medium", table(heads, rows), is_kept=options.write)


if __name__ == "__main__":
    main()
