"""Our prediction against volume-segmantics 0.4.0 from PyPI: CPU seconds, memory, and how far the labels agree.

    python Benchmarks/peer.py [--quick] [--sides 128 256] [--qualities low medium] [--write]

Both sides get the same weights, a U-Net with a resnet34 that is trained for a minute beforehand, the same grey values,
the same pictures, and one thread. They are measured in turn, every prediction as a process of its own. The peer asks
for other versions of packages than this project has, so it is installed into an environment of its own, once: some GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from record import conclude, table

from VolumeSegmanticsLib import devices, simulate
from VolumeSegmanticsLib.card import ModelCard
from VolumeSegmanticsLib.dataset import CropShape, CropSource
from VolumeSegmanticsLib.intensity import Intensity
from VolumeSegmanticsLib.metrics import score
from VolumeSegmanticsLib.models import Model
from VolumeSegmanticsLib.prepare import prepare
from VolumeSegmanticsLib.settings import TrainSettings
from VolumeSegmanticsLib.training import Trainer
from VolumeSegmanticsLib.volume import UNLABELLED, LabelMap

PEER = "volume-segmantics==0.4.0"
CACHE = Path.home() / ".cache" / "volumesegmantics-benchmarks" / "peer"
RUN = Path(__file__).with_name("peer_run.py")
INTENSITY = Intensity((0.0,), (255.0,), (0.449,), (0.226,))  # what the peer does to 8-bit images
UNSEEN = 1  # the seed of the volumes that are predicted; the network learns from that of 0
HEADS = (
    "volume", "quality", "side", "CPU-s", "× fewer", "wall, s",
    "bytes a voxel over the imports", "same labels", "in the sample", "mean Dice",
)  # fmt: skip

REMARK = """
The image is loaded before the clock starts, and the peer's model too. With little memory, `--memory` is near the least
that is accepted, and all works slab by slab over files. Outside the sample, a cylinder, there is nothing to see, and
views contradict each other, each as good as certain: the peer rounds probabilities to float16, in which all above
0.9998 are 1, and then takes the view of Z."""


def environment(folder: Path) -> Path:
    """Return the Python of an environment that holds the peer, made where there is none."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "complete").exists():
        if not (3, 10) <= sys.version_info[:2] < (3, 13):
            sys.exit(f"{PEER} needs Python 3.10, 3.11 or 3.12; run this script with one of these.")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", PEER, "rich"], check=True
        )  # it forgets to ask for rich
        (folder / "complete").touch()
    return python


def versions(python: Path) -> str:
    """Return what an environment holds."""
    names = ("volume-segmantics", "torch", "segmentation-models-pytorch", "numpy")
    ask = f"from importlib.metadata import version\nprint(', '.join(f'{{n}} {{version(n)}}' for n in {names}))"
    return subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()


def train(folder: Path, *, epochs: int, side: int) -> None:
    """Train a network on a simulated volume, and leave it in the form of either side."""
    prepared = prepare(*([made] for made in simulate.fibre_composite((side,) * 3)))
    settings = TrainSettings(
        weights="none", encoder_depth=5, full_resolution=False, epochs=epochs, learning_rate=2e-3, device="cpu"
    )
    card = ModelCard("unet2d", prepared.classes, intensity=INTENSITY.to_dict(), settings=settings.to_dict())
    model = Model.new(card, size=settings.crop_size)
    Trainer(model, CropSource(prepared.examples, None, INTENSITY, CropShape(settings.crop_size)), settings).run()
    model.save(folder / "model.safetensors")
    structure = {"type": "U_NET", "encoder_name": "resnet34", "encoder_weights": None, "in_channels": 1}
    structure["classes"] = len(card.classes)
    weights = {"model_state_dict": model.network.state_dict(), "model_struc_dict": structure, "label_codes": {}}
    torch.save(weights, folder / "model.pytorch")


def measure(python: Path, side: str, quality: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Predict in a fresh process."""
    environ = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))}
    command = [python, RUN, side, quality, folder]
    done = subprocess.run(command, check=True, capture_output=True, env=environ)
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts


def compare(quality: str, folder: Path, truth: LabelMap, options: argparse.Namespace) -> list[list[object]]:
    """Return the rows of the table for one volume and quality."""
    measured = {side: measure(python, side, quality, folder, options) for side, python in sides(options).items()}
    labels = {side: LabelMap(_labels(side, quality, folder), truth.grid, truth.classes) for side in measured}
    theirs = measured["peer"]
    return [
        [
            f"{truth.grid.shape[0]}³", quality, side, f"{facts['cpu']:.1f}", f"{theirs['cpu'] / facts['cpu']:.2f}",
            f"{facts['wall']:.1f}", f"{facts['peak'] / truth.array.size:.1f}",
            *_agreement(labels[side], labels["peer"], truth), f"{score(labels[side], truth).mean_dice:.4f}",
        ]
        for side, facts in measured.items()
    ]  # fmt: skip


def sides(options: argparse.Namespace) -> dict[str, Path]:
    """Return what is compared, and the Python of each."""
    ours = dict.fromkeys(("ours, float32", "ours, float32, little memory"), Path(sys.executable))
    if devices.dtype("auto", torch.device("cpu"), is_training=True) == torch.bfloat16:  # others would only emulate it
        ours |= dict.fromkeys(("ours, bfloat16", "ours, bfloat16, little memory"), Path(sys.executable))
    return {"peer": environment(options.environment), **ours}


def _labels(side: str, quality: str, folder: Path) -> NDArray[np.uint8]:
    """Return class values; the peer answers with the numbers of the network's outputs, which are less by one."""
    return np.load(folder / f"{side} {quality}.npy") + np.uint8(side == "peer")


def _agreement(own: LabelMap, other: LabelMap, truth: LabelMap) -> tuple[str, str]:
    """Return how many voxels have the same label: of all, and of those that lie in the sample."""
    same = own.array == other.array
    return f"{same.mean():.3%}", f"{same[truth.array != UNLABELLED].mean():.3%}"


def main() -> None:
    """Train, then measure each volume in each quality."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64³ voxels and a few steps of training")
    parser.add_argument("--sides", type=int, nargs="+", default=(128, 256), help="of the volumes, in voxels (128 256)")
    parser.add_argument("--qualities", nargs="+", choices=("low", "medium"), default=("low", "medium"))
    parser.add_argument("--threads", type=int, default=1, help="that each side computes with (1)")
    parser.add_argument("--environment", type=Path, default=CACHE, help=f"where the peer is, or goes to ({CACHE})")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(folder, epochs=1 if options.quick else 4, side=64 if options.quick else 128)
        for side in (64,) if options.quick else options.sides:
            image, truth = simulate.fibre_composite((side,) * 3, rng=UNSEEN)
            np.save(folder / "image.npy", image.array)
            rows += [row for quality in options.qualities for row in compare(quality, folder, truth, options)]
    threads = f"{options.threads} thread" + "s" * (options.threads > 1)
    title = f"Prediction against {PEER}, same weights, {threads}"
    theirs = f"The peer: {versions(environment(options.environment))}."
    conclude(title, f"{theirs}\n\n{table(HEADS, rows)}\n{REMARK}", is_kept=options.write)


if __name__ == "__main__":
    main()
