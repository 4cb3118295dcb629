"""Training to equal Dice: our training against that of volume-segmantics 0.4.0 from PyPI, in CPU seconds.

    python Benchmarks/peer_training.py [--quick] [--side 96] [--same-network] [--environment PATH] [--write]

Both sides learn from one simulated cube, labelled to the last voxel, and segment another one that they have not seen:
a U-Net with a resnet34 that starts from random weights, planes of all axes, one thread. The peer trains once as it is
shipped, and for some lengths of time as suits random weights; ours with longer and longer runs, each from the start,
until it has both the peer's Dice and the peer's CPU seconds. The environment of the peer is that of ``peer.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peer import CACHE, PEER, UNSEEN, environment, versions
from record import conclude, table

from VolumeSegmanticsLib import io, simulate
from VolumeSegmanticsLib.box import Box
from VolumeSegmanticsLib.metrics import Scores, score
from VolumeSegmanticsLib.volume import LabelMap, Volume

RUN = Path(__file__).with_name("peer_training_run.py")
LEARNED = 0  # the seed of the cube that is learned
EPOCHS = (1, 2, 3, 5, 8, 12, 18, 27, 40)  # of our runs
STEP = 1.5  # about the cost of each as a multiple of the one before

SHIPPED = {
    "data_im_dirname": "data", "seg_im_out_dirname": "seg", "model_output_fn": "trained_2d_model",
    "data_hdf5_path": "/data", "seg_hdf5_path": "/data", "clip_data": True, "st_dev_factor": 2.575,
    "minmax_norm": False, "use_imagenet_norm": True, "training_axes": "All", "downsample": False,
    "training_set_proportion": 0.85, "cuda_device": 0, "num_cyc_frozen": 8, "num_cyc_unfrozen": 5, "patience": 4,
    "starting_lr": 5e-5, "encoder_lr_multiplier": 0.1, "loss_criterion": "CombinedCEDiceLoss",
    "eval_metric": "MeanIoU", "dice_averaging": "macro",
}  # fmt: skip
"""The peer's settings files, as far as its training reads them."""

NEEDED = {
    "random_seed": 0,
    "model": {"type": "U_Net", "encoder_name": "resnet34", "encoder_weights": None, "encoder_depth": 5},
}
"""What differs for this comparison; so does ``image_size``, which is the side of the cube."""

FOR_RANDOM_WEIGHTS = {"num_cyc_frozen": 0, "starting_lr": 1e-3, "encoder_lr_multiplier": 1.0}

PEERS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("peer, as shipped", {}),
    *(("peer, for random weights", {**FOR_RANDOM_WEIGHTS, "num_cyc_unfrozen": epochs}) for epochs in (2, 4, 13)),
)

SAME_NETWORK = {"encoder_depth": 5, "full_resolution": False}
"""What makes our network the peer's."""

HEADS = ("side", "epochs", "training, CPU-s", "wall, s", "mean Dice", "Dice of matrix, fibre, pore")

REMARK = """
As shipped the peer enlarges every slice to 512² and starts from a ConvNeXt that has learned ImageNet; here slices
keep their size, and both sides start a resnet34 from random weights. Its schedule is made for weights that are worth
keeping: a learning rate of 5e-5, of which the encoder gets nothing for 8 epochs, and a tenth for 5. Set for random
weights it trains all of the network at 1e-3, at most as many epochs. It loads its slices in the process that trains,
without the workers that would cost CPU seconds of their own. Ours trains with its defaults: crops of 64², a fifth of
the labels held out for validation, bfloat16 where the processor multiplies in it. Imports are not counted; reading,
validation and writing are. One seed: a difference of 0.005 is chance."""

NETWORKS = {
    False: "Ours has four of the resnet34's five stages, and joins the pixels to the decoder: its default.",
    True: "Ours has the peer's network here: five stages, and no pixels joined to the decoder.",
}


@dataclass(frozen=True)
class Trial:
    """A training, and what the model makes of the unseen cube."""

    name: str
    epochs: int
    cpu: float
    wall: float
    scores: Scores

    @property
    def dice(self) -> float:
        """The mean over the classes."""
        return self.scores.mean_dice

    def row(self) -> list[object]:
        """Return the row of the table."""
        each = ", ".join(f"{dice:.3f}" for dice in self.scores.dice)
        return [self.name, self.epochs, f"{self.cpu:.0f}", f"{self.wall:.0f}", f"{self.dice:.4f}", each]


@dataclass(frozen=True)
class Bench:
    """Where trials are made.

    Attributes:
        folder: Of the files that both sides read, and of one folder a trial.
        truth: Of the unseen cube.
        python: That of the peer.
        threads: That each side computes with.
        network: Our settings that say which network.
    """

    folder: Path
    truth: LabelMap
    python: Path
    threads: int
    network: Mapping[str, Any]

    def ours(self, epochs: int) -> Trial:
        """Train with our defaults, but from random weights."""
        settings = {**self.network, "weights": "none", "epochs": epochs}
        return self._trial("ours", "ours", Path(sys.executable), epochs, settings)

    def peer(self, name: str, settings: dict[str, Any]) -> Trial:
        """Train as the peer does."""
        epochs = settings["num_cyc_frozen"] + settings["num_cyc_unfrozen"]
        return self._trial("peer", name, self.python, epochs, settings)

    def _trial(self, side: str, name: str, python: Path, epochs: int, settings: dict[str, Any]) -> Trial:
        folder = self.folder / f"{name}, {epochs} epochs"
        folder.mkdir()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        environ = {**os.environ, **threads, "VOLSEG_NUM_WORKERS": "0", "CUDA_VISIBLE_DEVICES": ""}
        command: list[str | Path] = [python, RUN.absolute(), side, self.folder, folder, json.dumps(settings)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stdout[-4000:]}")
        facts = json.loads((folder / "facts.json").read_text())
        labels = np.load(folder / "labels.npy") + np.uint8(side == "peer")  # the peer counts classes from 0
        scores = score(LabelMap(labels, self.truth.grid, self.truth.classes), self.truth)
        return Trial(name, epochs, facts["cpu"], facts["wall"], scores)


def cube(side: int, seed: int) -> tuple[Volume, LabelMap]:
    """Simulate a cube that lies inside of the cylinder that a scanner sees, so that every voxel has a label."""
    image, truth = simulate.fibre_composite((side, side * 3 // 2, side * 3 // 2), rng=seed)
    inside = Box((0, side // 4, side // 4), (side, side // 4 + side, side // 4 + side))
    return inside.of_volume(image), inside.of_labels(truth)


def settings_of(changes: Mapping[str, Any], side: int, *, is_quick: bool) -> dict[str, Any]:
    """Return what one of the peers trains with."""
    settings = {**SHIPPED, **NEEDED, "image_size": side, **changes}
    return {**settings, "num_cyc_frozen": 0, "num_cyc_unfrozen": 1} if is_quick else settings


def longer_and_longer(bench: Bench, peers: list[Trial]) -> list[Trial]:
    """Train ours until a run has the best Dice of the peers and, but for less than a step, their CPU seconds."""
    dice, cpu = max(trial.dice for trial in peers), max(trial.cpu for trial in peers)
    trials: list[Trial] = []
    for epochs in EPOCHS:
        trials.append(bench.ours(epochs))
        if trials[-1].dice >= dice and trials[-1].cpu * STEP > cpu:
            break
    return trials


def verdict(peer: Trial, ours: list[Trial]) -> str:
    """Say when ours is as good as the peer, and how good it is when it has cost as much."""
    equal = next((trial for trial in ours if trial.dice >= peer.dice), None)
    within = [trial for trial in ours if trial.cpu <= peer.cpu]
    reached = "ours does not get there"
    if equal:
        reached = f"ours has {equal.dice:.4f} after {equal.cpu:.0f}, {peer.cpu / equal.cpu:.1f}× fewer"
    best = f"{within[-1].dice:.4f}" if within else "nothing yet"
    told = f"{peer.name}, {peer.epochs} epochs: {peer.dice:.4f} after {peer.cpu:.0f} CPU-s; {reached}."
    return f"{told} In the peer's time ours has {best}."


def main() -> None:
    """Train the peers, then ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="at most 64³ voxels, and one epoch of the peer")
    parser.add_argument("--side", type=int, default=96, help="of the cubes, in voxels, a multiple of 32 (96)")
    parser.add_argument("--same-network", action="store_true", help="ours with five stages, without its own branch")
    parser.add_argument("--threads", type=int, default=1, help="that each side computes with (1)")
    parser.add_argument("--environment", type=Path, default=CACHE, help=f"where the peer is, or goes to ({CACHE})")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    side = min(64, options.side) if options.quick else options.side
    python = environment(options.environment)
    with tempfile.TemporaryDirectory() as name:
        (image, labels), (unseen, truth) = cube(side, LEARNED), cube(side, UNSEEN)
        io.write_volume(Path(name, "image.tif"), image)
        io.write_labels(Path(name, "labels.tif"), labels)
        io.write_volume(Path(name, "unseen.tif"), unseen)
        network = SAME_NETWORK if options.same_network else {}
        bench = Bench(Path(name), truth, python, options.threads, network)
        chosen = PEERS[:2] if options.quick else PEERS
        peers = [bench.peer(each, settings_of(changes, side, is_quick=options.quick)) for each, changes in chosen]
        ours = longer_and_longer(bench, peers)
    told = "\n".join(f"- {verdict(peer, ours)}" for peer in peers)
    rows = table(HEADS, [trial.row() for trial in [*peers, *ours]])
    threads = f"{options.threads} thread" + "s" * (options.threads > 1)
    title = f"Training to equal Dice against {PEER}, {side}³, {threads}"
    conclude(
        title,
        f"The peer: {versions(python)}.\n\n{rows}\n\n{told}\n{REMARK} {NETWORKS[options.same_network]}",
        is_kept=options.write,
    )


if __name__ == "__main__":
    main()
