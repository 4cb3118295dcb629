"""One measured prediction of ``peer.py``, each a process of its own, in either environment.

    python Benchmarks/peer_run.py SIDE QUALITY FOLDER

The folder holds ``image.npy`` and the same network twice, as ``model.safetensors`` and ``model.pytorch``. Prints a JSON
object and leaves the labels in the folder. Every import of a side is done before its memory is first looked at, and
the peer's network loaded before the clock is started.
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


def ours(folder: Path, quality: str, precision: str, limit: int = 0) -> Loaded:
    """Load our side; the model is loaded by the prediction itself, on its time.

    The axes Y and Z change places, as views: our planes of X have the rows Z, the peer's the rows Y, and so exchanged
    the network sees the very pictures that the peer shows it.

    Args:
        folder, quality, precision: Of the prediction.
        limit: Bytes over those of the imports that it is given; 0 = as many as it likes.
    """
    import segmentation_models_pytorch  # noqa: F401

    from VolumeSegmanticsLib import predict
    from VolumeSegmanticsLib.memory import share_one_heap
    from VolumeSegmanticsLib.volume import Volume

    baseline = resident_bytes()
    share_one_heap()  # as the command line does
    array = np.load(folder / "image.npy", mmap_mode="r" if limit else None)
    image, axes = Volume.of(array.swapaxes(0, 1)), {"low": "y", "medium": "all"}[quality]
    given = {"memory": f"{baseline + limit} B", "output": folder / "labels.nrrd"} if limit else {}

    def run() -> Any:
        model = folder / "model.safetensors"
        made = predict(image, model, quality=quality, axes=axes, precision=precision, device="cpu", **given)
        return np.asarray(made.labels.array).swapaxes(0, 1)

    return baseline, run


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
    "ours, float32, little memory": partial(ours, precision="float32", limit=260_000_000),
    "ours, bfloat16": partial(ours, precision="bfloat16"),
    "ours, bfloat16, little memory": partial(ours, precision="bfloat16", limit=205_000_000),
}


def main() -> None:
    """Predict once."""
    side, quality, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    baseline, predict = SIDES[side](folder, quality)
    cpu, wall = cpu_seconds(), time.perf_counter()
    labels = predict()
    facts = {"cpu": cpu_seconds() - cpu, "wall": time.perf_counter() - wall, "peak": peak_bytes() - baseline}
    np.save(folder / f"{side} {quality}.npy", labels)
    sys.stdout.write(json.dumps(facts))


if __name__ == "__main__":
    main()
