"""One measured training of ``peer_training.py``, each a process of its own, in either environment.

    python Benchmarks/peer_training_run.py SIDE DATA-FOLDER FOLDER SETTINGS

The data folder holds ``image.tif``, ``labels.tif`` and ``unseen.tif``; the settings are a JSON object of the side's own
names. Leaves the labels of the unseen image and ``facts.json`` in the other folder. Every import that a side needs is
done before the clock is started; reading, writing and validation are part of the training.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from peer_run import PEER_SETTINGS
from record import cpu_seconds

Steps = tuple[Callable[[], Any], Callable[[], Any]]
"""The training, and the prediction of the unseen image."""


def ours(data: Path, folder: Path, settings: dict[str, Any]) -> Steps:
    """Load our side."""
    import segmentation_models_pytorch  # noqa: F401

    from VolumeSegmanticsLib import predict, train

    model = folder / "model.safetensors"
    return (
        lambda: train(data / "image.tif", data / "labels.tif", output=model, device="cpu", **settings),
        lambda: predict(data / "unseen.tif", model, device="cpu").labels.array,
    )


def peer(data: Path, folder: Path, settings: dict[str, Any]) -> Steps:
    """Load volume-segmantics: what its command ``model-train-2d`` calls, with a settings file."""
    import pytorch_lightning  # noqa: F401
    from volume_segmantics.model import VolSeg2DPredictionManager
    from volume_segmantics.scripts import train_2d_model
    from volume_segmantics.utilities.base_data_utils import Quality, get_numpy_from_path

    file = folder / "volseg-settings" / "2d_model_train_settings.yaml"
    file.parent.mkdir()
    file.write_text(json.dumps(settings))  # which is YAML too
    sys.argv[1:] = ["--data", f"{data / 'image.tif'}", "--labels", f"{data / 'labels.tif'}", "--data_dir", f"{folder}"]
    wanted = SimpleNamespace(**{**PEER_SETTINGS, "clip_data": True, "quality": "medium"})  # as it is shipped

    def predict() -> Any:
        image, _ = get_numpy_from_path(data / "unseen.tif")
        predictor = VolSeg2DPredictionManager(str(next(folder.glob("*.pytorch"))), image, wanted)
        return predictor.predict_volume_to_path(None, Quality.MEDIUM)

    return train_2d_model.main, predict


SIDES: dict[str, Callable[[Path, Path, dict[str, Any]], Steps]] = {"ours": ours, "peer": peer}


def used() -> float:
    """Return the CPU seconds of this process and of those that it has started and seen end."""
    return cpu_seconds() + cpu_seconds(resource.RUSAGE_CHILDREN)


def main() -> None:
    """Train and predict once."""
    side, data, folder, settings = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
    os.chdir(folder)
    train, predict = SIDES[side](data, folder, settings)
    cpu, wall = used(), time.perf_counter()
    train()
    facts = {"cpu": used() - cpu, "wall": time.perf_counter() - wall}
    np.save(folder / "labels.npy", predict())
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
