"""What each of several processes does that train together: ``python team.py FOLDER``, started by torchrun.

The folder holds ``image.npy`` and ``labels.npy``. Every process leaves there what it has seen, as ``RANK.json``.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from VolumeSegmanticsLib import cli, distributed
from VolumeSegmanticsLib.card import ModelCard
from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.dataset import CropShape, CropSource, Example
from VolumeSegmanticsLib.errors import Cancelled, InputError, VolumeSegmanticsError
from VolumeSegmanticsLib.events import EpochEnded, Progress
from VolumeSegmanticsLib.intensity import Intensity
from VolumeSegmanticsLib.models import Model
from VolumeSegmanticsLib.ranks import own_rank
from VolumeSegmanticsLib.settings import TrainSettings
from VolumeSegmanticsLib.slicing import HoldOut, Slab
from VolumeSegmanticsLib.training import Trainer
from VolumeSegmanticsLib.volume import Volume

SETTINGS = TrainSettings(
    encoder="resnet18", encoder_depth=3, weights="none", crop_size=32, batch_size=4, crops_per_epoch=16, epochs=1,
    learning_rate=1e-2, augment="none", precision="float32", device="cpu", class_weights="balanced", frozen_part=0.3,
    loss="cross_entropy_dice",
)  # fmt: skip


def without_batches(network: nn.Module) -> None:
    """Let every crop be normalised by itself, so that what shares its batch does not matter."""
    for name, module in network.named_children():
        if isinstance(module, nn.BatchNorm2d):
            setattr(network, name, nn.InstanceNorm2d(module.num_features, affine=True))
        else:
            without_batches(module)


def a_trainer(folder: Path, report=lambda event: None) -> Trainer:
    classes = tuple(LabelClass.plain(value) for value in range(3))
    model = Model.new(ModelCard("unet2d", classes, settings=SETTINGS.to_dict()), size=32)
    without_batches(model.network)
    example = Example(Volume.of(np.load(folder / "image.npy")), np.load(folder / "labels.npy"), "zyx")
    intensity = Intensity((0.0,), (255.0,), (0.4,), (0.3,))
    source = CropSource([example], HoldOut((Slab(0, 0, 9),), True), intensity, CropShape(32))
    return Trainer(model, source, SETTINGS, is_pretrained=True, report=report)


def losses_of(folder: Path) -> dict:
    """Train, and return the loss of every step and epoch, and a figure that no two networks share."""
    trainer, steps, epochs = a_trainer(folder, lambda e: epochs.append(e)), [], []
    step = trainer._step
    trainer._step = lambda *batch: steps.append(step(*batch)) or steps[-1]
    trainer.run()
    weights = sum(float(tensor.double().abs().sum()) for tensor in trainer.model.network.state_dict().values())
    ended = [(e.train_loss, e.valid_loss, e.valid_dice) for e in epochs if isinstance(e, EpochEnded)]
    return {"steps": [float(each) for each in steps], "epochs": ended, "weights": weights}


def together(work) -> object:
    """Do something with the others, and return what came of it, or in what it ended."""
    try:
        with distributed.joined("cpu"):
            return work()
    except (Cancelled, VolumeSegmanticsError) as error:
        return [type(error).__name__, str(error)]


def cancelled(folder: Path) -> None:
    """Train, and let the second process ask for a stop in its second step."""

    def report(event) -> None:
        if own_rank().number == 1 and isinstance(event, Progress) and event.stage == "train" and event.done == 2:
            raise Cancelled

    a_trainer(folder, report).run()


def failed(folder: Path) -> None:
    """Train, but not in the second process, which lacks a file."""
    if own_rank().number == 1:
        raise InputError("The image is not there.", "Copy it.")
    a_trainer(folder).run()


def commanded(folder: Path) -> dict:
    """Train on the command line; return what it says, and its exit code."""
    said = io.StringIO(), io.StringIO()
    flags = [f"--set={name}={value}" for name, value in SETTINGS.changed().items()]
    with contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]):
        code = cli.main(
            [
                "train",
                str(folder / "image.npy"),
                str(folder / "labels.npy"),
                "-o",
                str(folder / "m.safetensors"),
                *flags,
            ]
        )
    return {"code": code, "stdout": said[0].getvalue(), "stderr": said[1].getvalue()}


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    seen = {
        "losses": together(lambda: losses_of(folder)),
        "cancelled": together(lambda: cancelled(folder)),
        "failed": together(lambda: failed(folder)),
        "commanded": commanded(folder),
    }
    (folder / f"{own_rank().number}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
