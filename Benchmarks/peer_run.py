"""One measured prediction of ``peer.py``, each a process of its own, in either environment.

    python Benchmarks/peer_run.py SIDE QUALITY FOLDER

The folder holds ``image.npy`` and the same network twice, as ``model.safetensors`` and ``model.pytorch``. Prints a JSON
object and leaves the labels in the folder. Every import of a side is done before its memory is first looked at, and
its network loaded before the clock is started.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from record import cpu_seconds, peak_bytes, resident_bytes

Loaded = tuple[int, Callable[[], Any]]
"""Resident bytes after the imports, and the prediction."""

PEER_SETTINGS = {
    "clip_data": False, "st_dev_factor": 2.575, "minmax_norm": False, "use_imagenet_norm": True, "downsample": False,
    "prediction_axis": "Z", "one_hot": False, "output_probs": False, "output_entropy": False, "cuda_device": 0,
    "data_hdf5_path": "/data", "use_2_5d_prediction": False,
}  # fmt: skip


def ours(folder: Path, quality: str, precision: str) -> Loaded:
    """Load our side.

    The axes Y and Z change places, as views: our planes of X have the rows Z, the peer's the rows Y, and so exchanged
    the network sees the very pictures that the peer shows it.
    """
    import segmentation_models_pytorch  # noqa: F401

    from VolumeSegmanticsLib.models import Model
    from VolumeSegmanticsLib.prediction import predict_volume
    from VolumeSegmanticsLib.settings import PredictSettings
    from VolumeSegmanticsLib.volume import Volume

    baseline = resident_bytes()
    model, image = Model.load(folder / "model.safetensors"), Volume.of(np.load(folder / "image.npy").swapaxes(0, 1))
    axes = {"low": "y", "medium": "all"}[quality]
    settings = PredictSettings(quality=quality, axes=axes, precision=precision, device="cpu")
    return baseline, lambda: predict_volume(image, model, settings).labels.array.swapaxes(0, 1)


def peer(folder: Path, quality: str) -> Loaded:
    """Load volume-segmantics."""
    from volume_segmantics.model import VolSeg2DPredictionManager
    from volume_segmantics.utilities.base_data_utils import Quality

    baseline = resident_bytes()
    settings = SimpleNamespace(**PEER_SETTINGS, quality=quality)
    predictor = VolSeg2DPredictionManager(str(folder / "model.pytorch"), np.load(folder / "image.npy"), settings)
    return baseline, lambda: predictor.predict_volume_to_path(None, Quality[quality.upper()])


SIDES: dict[str, Callable[[Path, str], Loaded]] = {
    "peer": peer,
    "ours, float32": partial(ours, precision="float32"),
    "ours, bfloat16": partial(ours, precision="bfloat16"),
}


def main() -> None:
    """Predict once."""
    side, quality, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    baseline, predict = SIDES[side](folder, quality)
    loaded, cpu, wall = resident_bytes(), cpu_seconds(), time.perf_counter()
    labels = predict()
    facts = {"cpu": cpu_seconds() - cpu, "wall": time.perf_counter() - wall, "loaded": loaded - baseline}
    facts["peak"] = peak_bytes() - baseline
    np.save(folder / f"{side} {quality}.npy", labels)
    sys.stdout.write(json.dumps(facts))


if __name__ == "__main__":
    main()
