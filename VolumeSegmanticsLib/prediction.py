"""Prediction: slices of every view through the network, fused in place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from . import devices, memory
from .blocks import tiles
from .dataset import plane_scale
from .errors import ModelError, ResourceError
from .events import Log, Progress, Report, ignore
from .fusion import FULL, FUSIONS, Answer, Target
from .intensity import Intensity
from .models import Model, neighbours, standardised
from .models.folding import an_example, folded
from .settings import MIRRORING, PredictSettings, augmentations
from .slicing import planes
from .threads import shared_fairly
from .views import views
from .volume import LabelMap, Volume

BATCH_PIXELS = {"cpu": 2**17, "mps": 2**20, "cuda": 2**22}
"""Pixels in one batch, if nobody says otherwise: on a CPU few, so that what a layer leaves stays in the cache."""


@dataclass(frozen=True)
class Prediction:
    """What a model says about a volume.

    Attributes:
        labels: Class values on the volume's grid.
        confidence: uint8 (Z, Y, X), percent; None unless asked for.
    """

    labels: LabelMap
    confidence: NDArray[np.uint8] | None = None


class Predictor:
    """A model made ready to answer: on its device, batch norm folded, in the arithmetic of the settings.

    Args:
        model: As loaded or trained; not changed, unless it was loaded to answer.
        settings: The user's choice.
    """

    def __init__(self, model: Model, settings: PredictSettings) -> None:
        self.card = model.card
        self.intensity = Intensity.from_dict(model.card.intensity)
        self.neighbours = neighbours(model.card)
        self.multiple, self.smallest = model.multiple, model.smallest
        self.device = devices.choose(settings.device)
        self.dtype = devices.dtype(settings.precision, self.device)
        with memory.without_gaps():
            if model.made_of:
                network = model.network
            else:
                network = folded(model.network.cpu().float().eval(), an_example(model.input_channels))
            self.network = network.to(self.device, self.dtype, memory_format=torch.channels_last).eval()

    def answer(self, slices: NDArray[np.float32], scale: tuple[float, float], *, every: bool) -> Answer:
        """Return what the network says about slices (N, H, W, C) with values 0 … 1.

        Args:
            slices: At the scale of the volume.
            scale: By how much rows and columns are stretched for the network, see ``dataset.plane_scale``.
            every: Also return the probabilities of every class.
        """
        shape = slices.shape[1:3]
        with torch.inference_mode():
            images = torch.from_numpy(slices).to(self.device).movedim(3, 1)
            logits = self._logits(images, scale)[..., : shape[0], : shape[1]]
            return _as_answer(logits.float().softmax(dim=1), every=every)

    def _logits(self, images: Tensor, scale: tuple[float, float]) -> Tensor:
        """Run the network; the logits cover at least the images, at their scale."""
        shape = tuple(images.shape[-2:])
        if scale != (1.0, 1.0):
            stretched = tuple(max(1, round(n * s)) for n, s in zip(shape, scale, strict=True))
            logits = self._run(functional.interpolate(images, stretched, mode="bilinear", align_corners=False))
            logits = logits[..., : stretched[0], : stretched[1]].float()
            return functional.interpolate(logits, shape, mode="bilinear", align_corners=False)
        return self._run(images)

    def _taken(self, side: int) -> int:
        """Return the next larger side that the network takes."""
        side = max(side, self.smallest)
        return side + -side % self.multiple

    def _run(self, images: Tensor) -> Tensor:
        """Standardise, pad to what the network takes by mirroring, and run."""
        padding = [self._taken(side) - side for side in images.shape[-2:]]
        images = _padded(standardised(images, self.intensity), padding)
        images = images.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return self.network(images)  # type: ignore[no-any-return]


def warn_of_views(model: Model, settings: PredictSettings, report: Report) -> None:
    """Tell where a model shall look at mirrored slices and has never seen any."""
    learned = augmentations(model.card.settings.get("augment", "all"))
    if settings.quality == "high" and not set(MIRRORING) <= set(learned):
        report(Log("warning", "The model has not learned mirrored and turned slices, and quality high looks at such."))


def predict_volume(
    image: Volume,
    model: Model,
    settings: PredictSettings | None = None,
    *,
    confidence: bool = False,
    report: Report = ignore,
) -> Prediction:
    """Segment a volume with a model.

    Args:
        image: Any volume with the model's number of channels.
        model: The model.
        settings: Quality, axes, fusion, …
        confidence: Also return how sure the answer is.
        report: Takes ``Progress`` and ``Log``; may raise ``Cancelled``.

    Raises:
        ModelError: The model takes another number of channels.
        ResourceError: The device is not there, or its memory does not hold one slice.
    """
    settings = settings or PredictSettings()
    check(image, model)
    if remark := Intensity.from_dict(model.card.intensity).remark_on(image):
        report(Log("warning", remark))
    seen = views(settings.quality, seen_axes(image, model, settings))
    predictor = Predictor(model, settings)
    fusion = FUSIONS[settings.fusion](image.grid.shape, len(model.card.classes), len(seen))
    total = sum(image.grid.shape[view.axis] for view in seen)
    steps = Steps(total, report)
    with shared_fairly(predictor.device) as adapt_threads, memory.reused():
        for view in seen:
            adapt_threads()
            slices = view.of(image.array)
            scale = plane_scale(view, image.grid.spacing)
            size = settings.batch_size or batch_size(slices.shape, scale, predictor)
            for count in answer_slices(
                slices, fusion.seen_through(view), slice(0, len(slices)), predictor, scale=scale, size=size,
                every=fusion.needs_all,
            ):  # fmt: skip
                steps.done(count)
    sure = fusion.confidence() if confidence else None
    return Prediction(_as_label_map(fusion.labels(), image, model), sure)


def answer_slices(
    slices: NDArray[Any],
    target: Target,
    span: slice,
    predictor: Predictor,
    *,
    scale: tuple[float, float],
    size: int,
    tile: int = 0,
    every: bool = False,
) -> Iterator[int]:
    """Send slices through the network and into a fusion, in batches that are halved when memory runs out.

    Args:
        slices: (N, H, W[, C]), with the neighbours that the network sees.
        target: Takes the answers; it begins with the first slice of the span.
        span: Which slices.
        predictor: Answers.
        scale: As ``Predictor.answer`` takes it.
        size: Slices in a batch.
        tile: Pixels of a slice, along each side, that the network sees at a time; 0 = all of them.
        every: Also ask for the probabilities of every class.

    Yields:
        After every batch how many slices it held.
    """
    start = span.start
    while start < span.stop:
        batch = slice(start, min(start + size, span.stop))
        try:
            answer = _answer(_gather(slices, batch, predictor), predictor, scale, tile, every=every)
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
            size = _halved(size, slices.shape, predictor)
            continue
        target.add(slice(batch.start - span.start, batch.stop - span.start), answer)
        start = batch.stop
        yield batch.stop - batch.start


def _answer(
    slices: NDArray[np.float32], predictor: Predictor, scale: tuple[float, float], tile: int, *, every: bool
) -> Answer:
    """Return the answer for some slices, put together from tiles where they are too large for the memory."""
    if not tile:
        return predictor.answer(slices, scale, every=every)
    best, probability = np.empty(slices.shape[:3], np.uint8), np.empty(slices.shape[:3], np.uint16)
    for seen, kept in tiles(slices.shape[1:3], tile):
        part = predictor.answer(np.ascontiguousarray(slices[(slice(None), *seen)]), scale, every=False)
        inner = (slice(None), *(slice(k.start - s.start, k.stop - s.start) for s, k in zip(seen, kept, strict=True)))
        best[(slice(None), *kept)] = part.best[inner]
        probability[(slice(None), *kept)] = part.probability[inner]
    return Answer(best, probability)


def _gather(slices: NDArray[Any], batch: slice, predictor: Predictor) -> NDArray[np.float32]:
    """Return a batch of slices with their neighbours, (N, H, W, C), with values 0 … 1."""
    around = np.arange(batch.start - predictor.neighbours, batch.stop + predictor.neighbours)
    clipped = np.clip(around, 0, len(slices) - 1)
    wanted = np.ascontiguousarray(slices[clipped[0] : clipped[-1] + 1])
    scaled = predictor.intensity.scale(wanted)
    scaled = scaled.reshape(*scaled.shape[:3], -1)
    if predictor.neighbours == 0:
        return scaled
    scaled = scaled[clipped - clipped[0]]
    count, sides = batch.stop - batch.start, 2 * predictor.neighbours + 1
    return np.concatenate([scaled[n : n + count] for n in range(sides)], axis=3)


def batch_size(shape: tuple[int, ...], scale: tuple[float, float], predictor: Predictor) -> int:
    """Return how many slices go into one batch, if nobody says otherwise; ``shape`` is that of the slices (N, H, W)."""
    pixels = shape[1] * scale[0] * shape[2] * scale[1]
    return int(np.clip(BATCH_PIXELS[predictor.device.type] // pixels, 1, shape[0]))


def _halved(size: int, shape: tuple[int, ...], predictor: Predictor) -> int:
    if size == 1:
        raise ResourceError(
            f"The memory of {predictor.device} does not hold one slice of {shape[1]} × {shape[2]} pixels.",
            "Close other programs, choose another device, or cut the volume.",
        )
    if predictor.device.type == "cuda":
        torch.cuda.empty_cache()
    return size // 2


def _padded(images: Tensor, padding: list[int]) -> Tensor:
    """Pad rows and columns at their end by mirroring, the edge included, as often as it takes."""
    for dim, missing in zip((2, 3), padding, strict=True):
        if missing:
            side = images.shape[dim]
            index = torch.arange(side + missing, device=images.device) % (2 * side)
            index = torch.where(index < side, index, 2 * side - 1 - index)
            images = images.index_select(dim, index)
    return images


def _as_answer(probabilities: Tensor, *, every: bool) -> Answer:
    sure, best = probabilities.max(dim=1)
    return Answer(best.to(torch.uint8).cpu().numpy(), _as_uint16(sure), _as_uint16(probabilities) if every else None)


def _as_uint16(probabilities: Tensor) -> NDArray[np.uint16]:
    return (probabilities * FULL + 0.5).to(torch.int32).cpu().numpy().astype(np.uint16)


def _as_label_map(indices: NDArray[np.uint8], image: Volume, model: Model) -> LabelMap:
    """Turn class indices into class values, in place plane by plane."""
    values = class_values(model)
    for plane in indices:
        plane[...] = values[plane]
    return LabelMap(indices, image.grid, model.card.classes)


def class_values(model: Model) -> NDArray[np.uint8]:
    """Return a table (256,): index of a class to its value."""
    values = np.zeros(256, np.uint8)
    values[: len(model.card.classes)] = [c.value for c in model.card.classes]
    return values


def check(image: Volume, model: Model) -> None:
    """Check that a model takes an image.

    Raises:
        ModelError: It takes another number of channels.
    """
    if image.channels != model.card.channels:
        raise ModelError(
            f"The image has {image.channels} channels, the model was trained on {model.card.channels}.",
            "Read the image as grey values, or choose a model that was trained on such images.",
        )


def seen_axes(image: Volume, model: Model, settings: PredictSettings) -> str:
    """Return the letters of the axes that are looked along."""
    if settings.axes != "auto":
        return planes(image.grid, settings.axes)
    learned = "".join(a for a in planes(image.grid, "all") if a in model.card.axes)
    return learned or model.card.axes[:1]


class Steps:
    """Counts slices, or voxels, and tells how long the rest will take; ``before`` are done by an earlier run."""

    def __init__(self, total: int, report: Report, *, before: int = 0) -> None:
        self._total, self._done, self._before, self._report = total, before, before, report
        self._start = time.monotonic()
        report(Progress("predict", before, total))

    def done(self, count: int) -> None:
        """Tell that so many more are done."""
        self._done += count
        seconds = time.monotonic() - self._start
        own = self._done - self._before
        rest = seconds / own * (self._total - self._done) if own else None
        self._report(Progress("predict", self._done, self._total, rest))


__all__ = ["Prediction", "Predictor", "predict_volume"]
