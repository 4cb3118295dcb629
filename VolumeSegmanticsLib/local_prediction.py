"""Prediction with the local model: box by box, each with the margin that its features need; one pass, no fusion.

Boxes begin on multiples of what the octaves halve, so that they say together what one box of the whole volume would.
"""

from __future__ import annotations

import copy
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
import torch
from torch import Tensor

from . import devices
from .box import Box
from .events import Log, Report, ignore
from .features import Axes, cropped, local_variance, smoothed
from .intensity import Intensity
from .models import Model
from .models.local import LocalNetwork
from .neighbourhoods import cut, features_on
from .prediction import Prediction, Steps, check
from .settings import PredictSettings
from .volume import LabelMap, Volume

BOX_SIDE = 128
"""Voxels, where memory allows; larger boxes have relatively less margin, but leave the processor's cache."""

ROUND_REACH = 4
"""Voxels that a round of smoothing looks at on each side: it smooths twice, over two voxels."""

_FEATURE_BYTES = 1_000_000_000  # what the features of all boxes that are worked on may take together
_CHUNK = 4096  # voxels that go through the networks together: what a layer leaves stays in the cache
_FULL = 100  # percent


def predict_locally(
    image: Volume,
    model: Model,
    settings: PredictSettings | None = None,
    *,
    confidence: bool = False,
    report: Report = ignore,
) -> Prediction:
    """Segment a volume with a local model.

    Args:
        image: Any volume with the model's number of channels.
        model: The model.
        settings: Only the device is chosen here.
        confidence: Also return how sure the answer is.
        report: Takes ``Progress`` and ``Log``; may raise ``Cancelled``.

    Raises:
        ModelError: The model takes another number of channels.
        SettingsError: Something was chosen that a local model does not have.
        ResourceError: The device is not there.
    """
    settings = settings or PredictSettings()
    check(image, model)
    settings.check_for(model.card.model)
    if remark := Intensity.from_dict(model.card.intensity).remark_on(image):
        report(Log("warning", remark))
    predictor = LocalPredictor(model, image, devices.choose(settings.device))
    labels = np.zeros(image.grid.shape, np.uint8)
    sure = np.zeros(image.grid.shape, np.uint8) if confidence else None

    def answer(box: Box) -> int:
        best, probability = predictor.answer(box)
        labels[box.window] = best
        if sure is not None:
            sure[box.window] = probability
        return best.size

    steps = Steps(labels.size, report)
    for voxels in _all_done(answer, predictor.boxes(), predictor.threads):
        steps.done(voxels)
    return Prediction(LabelMap(labels, image.grid, model.card.classes), sure)


class LocalPredictor:
    """A local model made ready to answer about boxes of one image; several threads may ask at once.

    Args:
        model: As loaded or trained; not changed.
        image: The image.
        device: Where it is computed.
    """

    def __init__(self, model: Model, image: Volume, device: torch.device) -> None:
        settings = model.card.settings
        self.image, self.device = image, device
        self.features = features_on(image.grid, settings["octaves"])
        self.intensity = Intensity.from_dict(model.card.intensity)
        self.network: LocalNetwork = copy.deepcopy(model.network).to(device).eval().requires_grad_(False)  # type: ignore[assignment]
        self.classes = model.card.classes
        self.values = np.array([c.value for c in model.card.classes], np.uint8)
        self.fine, self.edge = self.features.fine, float(self.network.edge)
        self.rounds = settings["smoothing"]
        self.reach = tuple(ROUND_REACH * self.rounds * fine for fine in self.fine)
        self.threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._rooms = threading.local()

    def boxes(self) -> list[Box]:
        """Return the boxes that the image is made of, each on multiples of what the octaves halve."""
        voxels = _FEATURE_BYTES / self.threads / (4 * len(self.network.mean))
        longest, spans = min(BOX_SIDE, int(voxels ** (1 / 3))), []
        for side, multiple in zip(self.image.grid.shape, self.features.multiple, strict=True):
            count = math.ceil(side / longest)
            step = math.ceil(side / count / multiple) * multiple
            spans.append([(start, min(start + step, side)) for start in range(0, side, step)])
        return [Box((z[0], y[0], x[0]), (z[1], y[1], x[1])) for z, y, x in itertools.product(*spans)]

    def answer(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Return class values and their probabilities in percent, uint8 (Z, Y, X) both."""
        with torch.inference_mode():
            probabilities = self.probabilities(box)
            sure, best = probabilities[0].clone(), torch.zeros_like(probabilities[0], dtype=torch.uint8)
            for index, each in enumerate(probabilities[1:], 1):
                best = torch.maximum(best, (each > sure).to(torch.uint8).mul_(index))
                torch.maximum(sure, each, out=sure)
            percent = sure.clamp_(0, 1).mul_(_FULL).round_().to(torch.uint8)
            return self.values.take(best.cpu().numpy()), percent.cpu().numpy()

    def probabilities(self, box: Box) -> Tensor:
        """Return the probability of every class, float32 (classes, Z, Y, X)."""
        ring = [-(-r // multiple) * multiple for r, multiple in zip(self.reach, self.features.multiple, strict=True)]
        whole = [-(-n // multiple) * multiple for n, multiple in zip(box.shape, self.features.multiple, strict=True)]
        z, y, x = ((start - r, start + n + r) for start, n, r in zip(box.start, whole, ring, strict=True))
        wide = Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))
        block = cut(self.image, wide, self.features.margin, self.intensity).to(self.device)
        features = self.features.of(block, self._room((len(self.network.mean), *wide.shape), block))
        guide = cropped(block, self.features.margin).mean(dim=0, keepdim=True)
        surplus = tuple(r - needed for r, needed in zip(ring, self.reach, strict=True))
        probabilities = self.along_edges(cropped(self.told(features), surplus), cropped(guide, surplus))
        return probabilities[:, : box.shape[0], : box.shape[1], : box.shape[2]]

    def _room(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return memory for the features of a box, the same for every box of a thread as long as they are alike."""
        room: Tensor | None = getattr(self._rooms, "last", None)
        if room is None or room.shape != shape:
            self._rooms.last = None  # before there are two
            room = self._rooms.last = like.new_empty(shape)
        return room

    def along_edges(self, probabilities: Tensor, guide: Tensor) -> Tensor:
        """Return probabilities (classes, Z, Y, X) smoothed along the edges of the image, without ``reach`` voxels.

        Args:
            probabilities: Of a box.
            guide: Its grey values 0 … 1, (1, Z, Y, X).
        """
        for _ in range(self.rounds):
            probabilities, guide = _guided(probabilities, guide, self.fine, self.edge)
        return probabilities

    def told(self, features: Tensor) -> Tensor:
        """Return what the networks say about features (features, Z, Y, X), float32 (classes, Z, Y, X)."""
        flat, tell = features.flatten(1), self.network.ready()
        told = flat.new_empty(len(self.values), flat.shape[1])
        for start in range(0, flat.shape[1], _CHUNK):
            told[:, start : start + _CHUNK] = tell(flat[:, start : start + _CHUNK])
        return told.view(-1, *features.shape[1:])


def _guided(probabilities: Tensor, guide: Tensor, fine: Axes, edge: float) -> tuple[Tensor, Tensor]:
    """Smooth probabilities, but not across the edges of the image, and bring their edges to those of the image.

    In every neighbourhood the probabilities are taken for a linear function of the grey values, so that between two
    materials the border comes to lie half-way between their greys (K. He, J. Sun and X. Tang, "Guided image
    filtering", ECCV 2010; Gaussian windows in place of square ones). Where grey values vary less than ``edge``, their
    variance, there is none. Four voxels are lost on each side.

    Returns:
        The probabilities, whose sum stays 1, and the guide, cropped like them.
    """
    mean, variance = local_variance(guide, fine)
    variance.add_(edge)
    inner = cropped(guide, tuple(4 * f for f in fine))
    out = probabilities.new_empty(len(probabilities), *inner.shape[1:])
    for index in range(len(out) - 1):
        each = probabilities[index : index + 1]
        level = smoothed(each, fine)
        slope = smoothed(each * guide, fine).addcmul_(mean, level, value=-1).div_(variance)
        level.addcmul_(slope, mean, value=-1)
        torch.addcmul(smoothed(level, fine), smoothed(slope, fine), inner, out=out[index : index + 1])
    out[-1] = 1 - out[:-1].sum(dim=0)
    return out, inner


def _all_done(answer: Callable[[Box], int], boxes: list[Box], threads: int) -> Iterator[int]:
    """Yield what ``answer`` returns for all boxes, asked by some threads that keep to one core each."""
    if threads == 1:
        yield from map(answer, boxes)
        return
    before = torch.get_num_threads()
    workers = ThreadPoolExecutor(threads, "boxes", lambda: torch.set_num_threads(1))
    try:
        yield from (each.result() for each in as_completed([workers.submit(answer, box) for box in boxes]))
    finally:
        workers.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


__all__ = ["LocalPredictor", "predict_locally"]
