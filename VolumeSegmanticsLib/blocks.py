"""How a prediction is divided so that it fits into the memory: all at once, or in slabs of whole slices.

A plan is made once, from sizes alone, and written down before the first slab: a run that is taken up again follows it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from . import memory
from .errors import ResourceError, TooLittleMemory
from .views import View

Voxels = tuple[int, int, int]

THICKEST = 64
"""Slices in a slab at most: more would only mean that more is lost when a run is killed."""

MARGIN = 128
"""Pixels around a tile that the network sees too; what a U-Net answers hardly depends on what lies further off."""

_SMALLEST_TILE = 128
_SMALLEST_BRICK = 32  # voxels along a side; smaller ones are read more slowly than larger ones that are cut
_MAX_BYTES = 3  # a voxel: uint8 class, uint16 probability
_AT_ONCE = 2  # slabs in memory: one is computed while the next is read and the last written
_NETWORK_SHARES = (0.5, 0.7, 0.85)  # of the memory, at most; slabs have the rest
_ENDLESS = 2**62  # bytes
_NO_VIEW = -1


@dataclass(frozen=True)
class Need:
    """What a network takes while it answers.

    Attributes:
        pixel: Bytes of memory for every pixel that is in the network.
        waiting: Bytes for every pixel of a batch before and after that.
        pixels: Pixels of a batch that suit the device.
        workers: Batches that are computed at the same time, at most.
        device_pixel: Bytes of the device's own memory for every pixel; 0 where it has none.
        device_memory: Bytes of the device's own memory that may be used.
    """

    pixel: float
    waiting: float
    pixels: int
    workers: int = 1
    device_pixel: float = 0.0
    device_memory: int = 0

    def pixels_within(self, budget: float) -> float:
        """Return how many pixels can be in the network at a time."""
        most = budget / (self.pixel + self.waiting)
        return min(most, self.device_memory / self.device_pixel) if self.device_pixel else most


@dataclass(frozen=True)
class Work:
    """What is to be predicted, in sizes.

    Attributes:
        shape: Of the volume.
        views: Along which the network sees it.
        image_bytes: Of one voxel, all channels.
        classes: How many there are.
        fusion: A name of ``fusion.FUSIONS``.
        neighbours: Slices on each side that the network sees too.
        scales: For slices of Z, Y and X how rows and columns are stretched for the network.
        batch: Slices in a batch; 0 = what suits the device.
        thickest: Slices in a slab at most.
    """

    shape: Voxels
    views: tuple[View, ...]
    image_bytes: int
    classes: int
    fusion: str = "max"
    neighbours: int = 0
    scales: tuple[tuple[float, float], ...] = ((1.0, 1.0),) * 3
    batch: int = 0
    thickest: int = THICKEST

    @property
    def voxels(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @property
    def axes(self) -> tuple[int, ...]:
        """Array axes that are looked along."""
        return tuple(sorted({view.axis for view in self.views}))

    def area(self, axis: int) -> int:
        """Return the voxels of a slice."""
        return self.voxels // self.shape[axis]

    def pixels(self, axis: int) -> int:
        """Return the pixels of a slice as the network gets it."""
        return math.ceil(self.area(axis) * math.prod(self.scales[axis]))

    def fused_bytes(self) -> int:
        """Return the bytes a voxel that fusion and its result take."""
        return {"max": _MAX_BYTES, "mean": 2 * self.classes + 1, "vote": self.classes + 1}[self.fusion]


AnyPlan = TypeVar("AnyPlan", bound="WrittenPlan")


class WrittenPlan:
    """A dataclass of plain values, which can be written down.

    Attributes:
        on_disk: False where everything is in memory.
        shape: Of the volume.
        peak_bytes: Memory that it takes.
        disk_bytes: Space on the disk, until the result is written.
    """

    on_disk: bool
    shape: Voxels
    peak_bytes: int
    disk_bytes: int

    def told(self) -> str:
        """Return it for people."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-able values."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @classmethod
    def from_dict(cls: type[AnyPlan], values: dict[str, Any]) -> AnyPlan:
        """Make a plan from what ``to_dict`` returned, also after a way through JSON."""
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


@dataclass(frozen=True)
class Plan(WrittenPlan):
    """How a volume is predicted slice by slice; plain values.

    Attributes:
        on_disk: False where everything is in memory.
        shape: Of the volume.
        thickness: Slices of a slab along (Z, Y, X).
        batch: Slices that go through the network together, for slices of Z, Y and X.
        tile: Side in pixels of what the network sees of a slice at a time, margins included; 0 = all of it.
        workers: Batches that are computed at the same time.
        copies: Whether the image is copied into bricks first: where slabs of Y or X are needed.
        peak_bytes: Memory that all this takes.
        disk_bytes: Space on the disk, until the result is written.
    """

    on_disk: bool
    shape: Voxels
    thickness: Voxels
    batch: Voxels
    tile: int
    workers: int
    copies: bool
    peak_bytes: int
    disk_bytes: int

    @property
    def brick(self) -> Voxels:
        """Voxels (Z, Y, X) that lie together on the disk: slabs consist of whole bricks, unless these were tiny."""
        return _brick(self.shape, self.thickness)

    def slabs(self, views: Sequence[View]) -> tuple[Slab, ...]:
        """Return all slabs in their order; the copying of the image comes first."""
        depth, thick = self.shape[0], self.thickness[0]
        starts = range(0, depth, thick) if self.copies else ()
        copying = (Slab.copy(start, min(start + thick, depth)) for start in starts)
        return (*copying, *(slab for n, view in enumerate(views) for slab in self._along(n, view.axis)))

    def told(self) -> str:
        """Return it for people."""
        if not self.on_disk:
            return "All in memory at once"
        z, y, x = self.thickness
        tiled = f", in tiles of {self.tile} pixels" if self.tile else ""
        return f"In slabs of {z} slices along Z, {y} along Y, {x} along X{tiled}"

    def _along(self, view: int, axis: int) -> Iterator[Slab]:
        for start in range(0, self.shape[axis], self.thickness[axis]):
            yield Slab(view, axis, start, min(start + self.thickness[axis], self.shape[axis]))


@dataclass(frozen=True)
class Slab:
    """Some neighbouring slices: what is done, and repeated after a mishap, as one.

    Attributes:
        view: The number of the view; -1 where the image is copied.
        axis: Array axis that the slices are perpendicular to.
        start: The first slice.
        stop: One beyond the last.
    """

    view: int
    axis: int
    start: int
    stop: int

    @classmethod
    def copy(cls, start: int, stop: int) -> Slab:
        """Return some slices of the image that are copied."""
        return cls(_NO_VIEW, 0, start, stop)

    @property
    def is_copy(self) -> bool:
        """True where the image is copied."""
        return self.view == _NO_VIEW

    def window(self, shape: Sequence[int], margin: int = 0) -> tuple[slice, slice, slice]:
        """Return what an array of a shape is cut with, with some slices more on both sides where there are any."""
        spans = [slice(0, n) for n in shape[:3]]
        spans[self.axis] = slice(max(0, self.start - margin), min(shape[self.axis], self.stop + margin))
        return spans[0], spans[1], spans[2]


def plan(work: Work, need: Need, budget: int) -> Plan:
    """Divide a prediction so that it fits into a budget of bytes.

    Raises:
        ResourceError: It cannot be made to fit; the hint says what would.
    """
    whole = _whole(work, need)
    if whole.peak_bytes <= budget:
        return whole
    if work.fusion != "max":
        raise TooLittleMemory(
            f'Fusion "{work.fusion}" takes {memory.told(whole.peak_bytes)} beside the program itself, '
            f"and there are {memory.told(budget)}.",
            "Use --fusion max, which works in slabs, or give it more memory.",
            needed=whole.peak_bytes, otherwise="use --fusion max, which works in slabs",
        )  # fmt: skip
    return in_slabs(work, need, budget)


def tiles(shape: tuple[int, int], tile: int, margin: int = MARGIN) -> list[tuple[Tile, Tile]]:
    """Return the tiles of a slice: what the network sees, and the part of it whose answer is taken.

    Args:
        shape: Rows and columns of the slice.
        tile: Side of what the network sees; 0 = all of it.
        margin: Pixels on each inner side whose answer is not taken.
    """
    rows, columns = (_cuts(n, tile, margin) for n in shape)
    return [
        ((row_seen, column_seen), (row_kept, column_kept))
        for (row_seen, row_kept), (column_seen, column_kept) in itertools.product(rows, columns)
    ]


Tile = tuple[slice, slice]


def _cuts(n: int, tile: int, margin: int) -> list[Tile]:
    """Return along one side what is seen and what is kept of it."""
    if not tile or n <= tile:
        return [(slice(0, n), slice(0, n))]
    count = math.ceil(n / (tile - 2 * margin))
    inner = [round(i * n / count) for i in range(count + 1)]
    return [
        (slice(max(0, low - margin), min(n, high + margin)), slice(low, high))
        for low, high in itertools.pairwise(inner)
    ]


def _whole(work: Work, need: Need) -> Plan:
    """Return the plan that keeps everything in memory."""
    batch = _batches(work, need, need.pixels_within(math.inf))
    running = max(batch[axis] * work.pixels(axis) for axis in work.axes) * (need.pixel + need.waiting)
    peak = work.voxels * (work.image_bytes + work.fused_bytes()) + running
    return Plan(False, work.shape, work.shape, batch, 0, 1, False, math.ceil(peak), 0)


def _batches(work: Work, need: Need, pixels: float) -> Voxels:
    """Return how many slices go together, for each axis, if no more than so many pixels can."""
    z, y, x = (
        int(max(1, min(work.batch or max(1, need.pixels // work.pixels(axis)), pixels // work.pixels(axis), n)))
        for axis, n in enumerate(work.shape)
    )
    return z, y, x


def in_slabs(work: Work, need: Need, budget: int) -> Plan:
    """Return the plan that goes slab by slab, with tiles only where one slice leaves no memory for a slab.

    Raises:
        ResourceError: It cannot be made to fit; the hint says what would.
    """
    if found := _fitting(work, need, budget):
        return found
    if not _fitting(work, need, _ENDLESS):
        raise ResourceError(
            f"The device has {memory.told(need.device_memory)} of memory left, too little for this network.",
            "Close other programs that use it, or choose --device cpu.",
        )
    enough = next(amount for amount in _growing(budget) if _fitting(work, need, amount))
    raise TooLittleMemory(
        f"The volume cannot be predicted in {memory.told(max(0, budget))} of memory beside the program itself.",
        f"Give it {memory.at_least(enough)} beside the program itself, or cut the volume.",
        needed=enough, otherwise="cut the volume",
    )  # fmt: skip


def _growing(amount: int) -> Iterator[int]:
    amount = max(amount, 10**6)
    while True:
        amount = math.ceil(amount * 1.01)
        yield amount


def _fitting(work: Work, need: Need, budget: int) -> Plan | None:
    """Return the first plan that fits, without tiles where there is one."""
    for is_tiled, share in itertools.product((False, True), _NETWORK_SHARES):
        pixels = need.pixels_within(budget * share)
        if found := _divided(work, need, budget, pixels, is_tiled=is_tiled):
            return found
    return None


def _divided(work: Work, need: Need, budget: int, pixels: float, *, is_tiled: bool) -> Plan | None:
    """Return the plan in which no more than so many pixels are in the network at a time; None where there is none."""
    largest = max(work.pixels(axis) for axis in work.axes)
    stretch = max(max(work.scales[axis]) for axis in work.axes)
    tile = int(math.sqrt(pixels) / stretch) if is_tiled else 0
    if (is_tiled and tile < _SMALLEST_TILE + 2 * MARGIN) or (not is_tiled and largest > pixels):
        return None
    batch = (1, 1, 1) if is_tiled else _batches(work, need, pixels)
    waiting = max(batch[axis] * work.pixels(axis) for axis in work.axes)
    together = min(waiting, (tile * stretch) ** 2) if is_tiled else waiting
    workers = max(1, min(need.workers, int(pixels / together)))
    left = budget - workers * (together * need.pixel + waiting * need.waiting)
    thickness = _thickness(work, batch, workers, left)
    if thickness is None:
        return None
    peak = budget - left + max(_slab_bytes(work, axis, n) for axis, n in enumerate(thickness))
    copies = any(axis != 0 for axis in work.axes)
    bricks = zip(work.shape, _brick(work.shape, thickness), strict=True)
    disk = math.prod(-(-n // side) * side for n, side in bricks) * (_MAX_BYTES + work.image_bytes * copies)
    return Plan(True, work.shape, thickness, batch, tile, workers, copies, math.ceil(peak), disk)


def _slab_bytes(work: Work, axis: int, thickness: int) -> int:
    slices = thickness * _MAX_BYTES + (thickness + 2 * work.neighbours) * work.image_bytes
    return _AT_ONCE * slices * work.area(axis)


def _thickness(work: Work, batch: Voxels, workers: int, left: float) -> Voxels | None:
    """Return how thick slabs may be: full rounds of batches where they can; None where not even one slice fits."""
    sides = []
    for axis, n in enumerate(work.shape):
        base, one = _slab_bytes(work, axis, 0), _slab_bytes(work, axis, 1) - _slab_bytes(work, axis, 0)
        thick = min(n, work.thickest, int((left - base) // one))
        round_ = batch[axis] * workers
        sides.append(thick - thick % round_ if thick >= round_ and thick < n else thick)
    return (sides[0], sides[1], sides[2]) if min(sides) > 0 else None


def _brick(shape: Voxels, thickness: Voxels) -> Voxels:
    z, y, x = (min(n, -(-_SMALLEST_BRICK // thick) * thick) for n, thick in zip(shape, thickness, strict=True))
    return z, y, x


__all__ = ["AnyPlan", "Need", "Plan", "Slab", "Work", "WrittenPlan", "in_slabs", "plan", "tiles"]
