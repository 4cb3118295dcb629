"""From label positions to batches: crops around labelled voxels, at the scale of prediction.

What to fetch is a value (``CropPlace``), how to fetch it a function of the volume (``cut``).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .augment import Augmentation
from .box import Box
from .intensity import Intensity
from .settings import AXIS_LETTERS
from .slicing import HoldOut, LabelledVoxels, are_strokes, axis_shares, planes, seen
from .views import View
from .volume import UNLABELLED, Volume

VALIDATION_CROPS = 36
ADVISED = 128
"""Labels from here on are advice: the index of the class is less by this."""

_BALANCED = 0.5  # part of the crops whose class is drawn evenly, where whole slices or regions are labelled
_SAME_SCALE = 1.02  # pixels this close to square are taken as they are
_AHEAD = 4  # batches prepared while the network works
_WIDER = (2.0, 2.5)  # times the side of other crops
_WIDER_PART = 0.25  # of the batches
_FEWEST = 2  # crops of a batch
_LOOKS = 8  # at the planes across an axis
LOOK_SIZE = 384
"""Side of the crops, in pixels, by which planes are judged after the training."""

_WHOLE = slice(0, None)


@dataclass(frozen=True)
class Advice:
    """Labels of lower weight beside those of the user.

    Attributes:
        box: Where they lie.
        labels: uint8 (Z, Y, X) of the box: indices of classes, or ``UNLABELLED``.
    """

    box: Box
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class Example:
    """A volume with its labels, both ready for training, and what of these is to be seen; nothing is copied for it.

    Attributes:
        image: As it was read.
        labels: uint8 (Z, Y, X): index of the class among those of the model, or ``UNLABELLED``.
        axes: Letters of the planes to learn.
        hidden: Boxes whose labels are not seen.
        advice: Is seen where no label is, its values greater by ``ADVISED``.
    """

    image: Volume
    labels: NDArray[np.uint8]
    axes: str
    hidden: tuple[Box, ...] = ()
    advice: Advice | None = None

    def seen(self, box: Box) -> NDArray[np.uint8]:
        """Return what is seen of the labels in a box, a copy."""
        labels = seen(self.labels, box, self.hidden)
        common = box.common(self.advice.box) if self.advice else None
        if self.advice and common:
            own = labels[common.seen_from(box.start).window]
            advised = self.advice.labels[common.seen_from(self.advice.box.start).window]
            free = (own == UNLABELLED) & (advised != UNLABELLED)
            own[free] = advised[free] + np.uint8(ADVISED)
        return labels


Advisor = Callable[[Sequence[Example]], Sequence[Advice | None]]
"""Takes what may be learned, and says more about each volume."""


@dataclass(frozen=True)
class CropPlace:
    """Which crop: the example, the axis that its plane is perpendicular to, the voxel (z, y, x) it is drawn around."""

    example: int
    axis: int
    voxel: tuple[int, int, int]


@dataclass(frozen=True)
class CropShape:
    """What every crop looks like.

    Attributes:
        size: Side in pixels, after pixels were made square.
        neighbours: Slices on each side that come along as channels.
    """

    size: int
    neighbours: int = 0


def plane_scale(view: View, spacing: tuple[float, float, float]) -> tuple[float, float]:
    """Return by how much rows and columns of a view are stretched so that its pixels are square; 1 for the finer."""
    _, rows, columns = view.sides(spacing)
    finest = min(rows, columns)
    scale = (rows / finest, columns / finest)
    return scale if max(scale) > _SAME_SCALE else (1.0, 1.0)


def neighbours_of(slices: NDArray[Any], index: int, neighbours: int) -> NDArray[Any]:
    """Return the slices around ``index`` as (H, W, C): outer ones are repeated at the ends of the volume."""
    indices = np.clip(np.arange(index - neighbours, index + neighbours + 1), 0, len(slices) - 1)
    stacked = np.stack([slices[i] for i in indices], axis=2)
    return stacked.reshape(*stacked.shape[:2], -1)


def cut(
    example: Example, place: CropPlace, shape: CropShape, intensity: Intensity, *, shift: tuple[float, float] = (0, 0)
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Cut one crop around a voxel.

    Args:
        example, place, shape: From where, and what.
        intensity: Grey-value statistics that are applied.
        shift: How far the voxel lies from the middle, in crop sides (-0.5 … 0.5).

    Returns:
        Image (size, size, C) with values 0 … 1, and labels (size, size). Where the plane is smaller than the crop the
        image goes on mirrored, and the labels are ``UNLABELLED``.
    """
    view = View(place.axis)
    index, row, column = view.sides(place.voxel)
    scale = plane_scale(view, example.image.grid.spacing)
    native = [max(1, round(shape.size / s)) for s in scale]
    slices = view.of(example.image.array)
    window = tuple(
        _window(int(centre), moved * side, side, length)
        for centre, moved, side, length in zip((row, column), shift, native, slices.shape[1:], strict=False)
    )
    box = [(w.start, w.stop) for w in window]
    box.insert(place.axis, (int(index), int(index) + 1))
    labels = example.seen(Box.of(box, example.labels.shape)).squeeze(place.axis)
    slices = slices[(slice(None), *window)]
    image = intensity.scale(neighbours_of(slices, int(index), shape.neighbours).reshape(-1, example.image.channels))
    image = image.reshape(*(w.stop - w.start for w in window), -1)
    return _to_square(image, labels, native, shape.size)


def _window(centre: int, moved: float, side: int, length: int) -> slice:
    start = int(np.clip(int(centre + moved) - side // 2, centre - side + 1, centre))  # the voxel stays inside
    start = min(max(0, start), max(0, length - side))
    return slice(start, min(length, start + side))


def _to_square(
    image: NDArray[np.float32], labels: NDArray[np.uint8], native: list[int], size: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    missing = [(0, side - have) for side, have in zip(native, labels.shape, strict=True)]
    if any(after for _, after in missing):
        image = np.pad(image, (*missing, (0, 0)), mode="symmetric")
        labels = np.pad(labels, missing, constant_values=UNLABELLED)
    if native != [size, size]:
        image = stretch(image, (size, size))
        labels = labels[tuple(np.ix_(*(_nearest(have, size) for have in native)))]
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def stretch(image: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return an image (H, W, C) at another size, linearly interpolated between pixel centres."""
    wanted = torch.from_numpy(np.ascontiguousarray(image)).movedim(2, 0)[None]
    resized = torch.nn.functional.interpolate(wanted, shape, mode="bilinear", align_corners=False)
    return resized[0].movedim(0, 2).numpy()


def _nearest(have: int, wanted: int) -> NDArray[np.intp]:
    return np.minimum(((np.arange(wanted) + 0.5) * have / wanted).astype(np.intp), have - 1)


def crop_size(examples: Sequence[Example], wanted: int, multiple: int) -> int:
    """Return the side of the crops: as wanted, but no larger than the largest plane, and a multiple of ``multiple``."""
    largest = 1.0
    for example in examples:
        for letter in example.axes:
            view = View(AXIS_LETTERS.index(letter))
            sides = view.sides(tuple(map(float, example.image.grid.shape)))[1:]  # type: ignore[arg-type]
            scale = plane_scale(view, example.image.grid.spacing)
            largest = max(largest, *(side * s for side, s in zip(sides, scale, strict=True)))
    return max(multiple, int(np.ceil(min(wanted, largest) / multiple)) * multiple)


def wider_sizes(examples: Sequence[Example], size: int, multiple: int) -> tuple[int, ...]:
    """Return the sides of the wider crops that some batches have, see ``CropSource``; none where planes are small."""
    return tuple(sorted({crop_size(examples, round(times * size), multiple) for times in _WIDER} - {size}))


@dataclass
class CropSource:
    """Draws crops around labelled voxels of several examples; the held-out labels are not among them.

    Some batches have fewer, wider crops. For the network the image ends at the border of a crop, and no pixel of a
    small one is far from it: if it sees no others it may come to need that border, and fail in the middle of slices,
    first of all in planes across the annotated ones. Strokes lie in planes of all axes alike, and do without.

    Args:
        examples: Volumes and labels.
        held_out: What validates.
        intensity: Grey-value statistics that are applied to every crop.
        shape: What a crop looks like.
        seed: The same seed gives the same crops.
        advisor: Says more than the labels do, given these.
        wider: Sides of the wider crops, in pixels.
        widest: Side of the crops by which planes are judged; 0 = the usual one.
    """

    examples: Sequence[Example]
    held_out: HoldOut | None
    intensity: Intensity
    shape: CropShape
    seed: int = 0
    advisor: Advisor | None = None
    wider: tuple[int, ...] = ()
    widest: int = 0
    _shown: list[Example] = field(init=False)
    _voxels: list[LabelledVoxels] = field(init=False)
    _shares: list[NDArray[np.float64]] = field(init=False)

    def __post_init__(self) -> None:
        self._show([self._without_slab(n) for n in range(len(self.examples))])

    def release_held_out(self) -> None:
        """Let the held-out labels join the training."""
        self._show(list(self.examples))

    def take_advice(self) -> None:
        """Ask for labels beside those of the user; in batches they are greater by ``ADVISED``."""
        if self.advisor:
            self._shown = _without_advice(self._shown)
            pairs = zip(self._shown, self.advisor(self._shown), strict=True)
            self._shown = [replace(example, advice=advice) for example, advice in pairs]

    def _show(self, examples: list[Example]) -> None:
        self._shown = examples
        self._voxels = [LabelledVoxels.of(e.labels, np.random.default_rng(self.seed), e.hidden) for e in examples]
        self._shares = [axis_shares(e.labels, e.axes, e.hidden) for e in examples]

    @cached_property
    def has_strokes_only(self) -> bool:
        """True where no volume has annotated slices or regions.

        Strokes seldom touch edges, so nothing but how often a class was painted says where between two strokes the
        edge lies: crops are then drawn as painted, lest rare classes grow fat.
        """
        return all(are_strokes(example.labels) for example in self.examples)

    @property
    def _balanced(self) -> float:
        return 0.0 if self.has_strokes_only else _BALANCED

    def _without_slab(self, n: int) -> Example:
        example = self.examples[n]
        slab = self.held_out.slabs[n] if self.held_out else None
        return replace(example, hidden=(slab.box(example.labels.shape),)) if slab else example

    def voxel_counts(self, classes: int) -> list[int]:
        """Return how many labelled voxels of each class index training has."""
        return [sum(voxels.counts.get(index, 0) for voxels in self._voxels) for index in range(classes)]

    def batches(
        self, count: int, batch_size: int, augment: Augmentation, *, round: int, own: slice = _WHOLE
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``count`` batches: images float32 (N, C, H, W) with values 0 … 1, labels uint8 (N, H, W).

        They are prepared in a thread of their own while the network works. ``round`` makes every epoch another one,
        and a resumed epoch the same one. Of several processes each gets its ``own`` crops out of the same batches;
        chance changes them otherwise than in a single process.
        """
        rng = np.random.default_rng((self.seed, round))
        augment.seed(int(rng.integers(2**31)) + own.start)

        def make() -> tuple[Tensor, Tensor]:
            drawn = [(self._draw(rng), _shift(rng)) for _ in range(batch_size)][own]
            size, fitting = self._form(len(drawn), rng)
            return _as_tensors([augment(*self._crop(place, shift, size)) for place, shift in drawn[:fitting]])

        yield from _prepared(make, count)

    def _form(self, count: int, rng: np.random.Generator) -> tuple[int, int]:
        """Return side and number of the crops of a batch: as many pixels as ``count`` crops of the usual side."""
        chance, which = rng.random(), rng.random()
        forms = [(side, round(count * (self.shape.size / side) ** 2)) for side in self.wider]
        wider = [form for form in forms if form[1] >= _FEWEST and not self.has_strokes_only]
        return wider[int(which * len(wider))] if wider and chance < _WIDER_PART else (self.shape.size, count)

    def _draw(self, rng: np.random.Generator) -> CropPlace:
        classes = sorted({value for voxels in self._voxels for value in voxels.by_class})
        totals = np.array([[v.counts.get(c, 0) for c in classes] for v in self._voxels], float)
        per_class = totals.sum(axis=0)
        if rng.random() < self._balanced:
            per_class = (per_class > 0).astype(float)
        chosen = rng.choice(len(classes), p=per_class / per_class.sum())
        example = int(rng.choice(len(self._voxels), p=totals[:, chosen] / totals[:, chosen].sum()))
        voxels = self._voxels[example].by_class[classes[chosen]]
        axis = AXIS_LETTERS.index(str(rng.choice(list(self.examples[example].axes), p=self._shares[example])))
        return CropPlace(example, axis, tuple(voxels[rng.integers(len(voxels))]))

    def _crop(
        self, place: CropPlace, shift: tuple[float, float], size: int
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        shape = replace(self.shape, size=size)
        return cut(self._shown[place.example], place, shape, self.intensity, shift=shift)

    def validation_batches(self, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        """Return the fixed crops over the held-out slabs, in the form of ``batches``; empty without held-out labels."""
        crops = []
        rng = np.random.default_rng((self.seed, 2**31))
        for place, example in self._validation_places(rng):
            crops.append(cut(example, place, self.shape, self.intensity))
        return [_as_tensors(crops[n : n + batch_size]) for n in range(0, len(crops), batch_size)]

    def looks(self, letter: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield wide crops, each a batch of its own, around labelled voxels in planes across one axis."""
        rng = np.random.default_rng((self.seed, 2**31 + 1))
        having = [n for n, e in enumerate(self.examples) if letter in e.axes and self._voxels[n].by_class]
        shape = replace(self.shape, size=self.widest or self.shape.size)
        examples = _without_advice(self._shown)
        for _ in range(_LOOKS if having else 0):
            n = having[rng.integers(len(having))]
            by_class = self._voxels[n].by_class
            voxels = by_class[sorted(by_class)[rng.integers(len(by_class))]]
            place = CropPlace(n, AXIS_LETTERS.index(letter), tuple(voxels[rng.integers(len(voxels))]))
            yield _as_tensors([cut(examples[n], place, shape, self.intensity)])

    def _validation_places(self, rng: np.random.Generator) -> Iterator[tuple[CropPlace, Example]]:
        slabs = self.held_out.slabs if self.held_out else ()
        each = VALIDATION_CROPS // max(1, sum(slab is not None for slab in slabs))
        for n, slab in enumerate(slabs):
            if slab is None:
                continue
            example = self.examples[n]
            example = replace(example, hidden=slab.beyond(example.labels.shape))
            found = LabelledVoxels.of(example.labels, rng, example.hidden).by_class
            for m in range(each):
                voxels = found[sorted(found)[m % len(found)]]
                axis = AXIS_LETTERS.index(example.axes[(m // len(found)) % len(example.axes)])
                yield CropPlace(n, axis, tuple(voxels[rng.integers(len(voxels))])), example


def _shift(rng: np.random.Generator) -> tuple[float, float]:
    return float(rng.uniform(-0.4, 0.4)), float(rng.uniform(-0.4, 0.4))


def _without_advice(examples: Sequence[Example]) -> list[Example]:
    return [replace(example, advice=None) for example in examples]


def _as_tensors(crops: list[tuple[NDArray[np.float32], NDArray[np.uint8]]]) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(np.stack([image for image, _ in crops])).movedim(3, 1)
    return images.contiguous(memory_format=torch.channels_last), torch.from_numpy(np.stack([c[1] for c in crops]))


def _prepared(make: Any, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what ``make`` returns, made ahead in a thread; its errors are raised here, and it ends with the reader."""
    ready: queue.Queue[Any] = queue.Queue(_AHEAD)
    over = threading.Event()

    def work() -> None:
        for _ in range(count):
            try:
                made = make()
            except BaseException as error:  # told to the reader, who raises it
                made = error
            while not over.is_set():
                try:
                    ready.put(made, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if over.is_set() or isinstance(made, BaseException):
                return

    thread = threading.Thread(target=work, name="crops", daemon=True)
    thread.start()
    try:
        for _ in range(count):
            made = ready.get()
            if isinstance(made, BaseException):
                raise made
            yield made
    finally:
        over.set()
        thread.join()


def training_planes(image: Volume, axes: str) -> str:
    """Return the letters of the planes of an image to learn, see ``slicing.planes``."""
    return planes(image.grid, axes)
