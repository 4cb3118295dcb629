"""How a prediction with a local model is divided so that it fits into the memory: boxes, a few at a time.

A plan is made once, from sizes alone, and written down before the first box: a run that is taken up again follows it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from . import memory
from .blocks import Slab, WrittenPlan
from .box import Box
from .errors import TooLittleMemory

Voxels = tuple[int, int, int]

SIDES = (128, 64, 32)
"""Voxels along a side of a box: larger ones have relatively less margin, but leave the processor's cache."""

_RESULT_BYTES = 1  # a voxel, of labels and of confidence each
_LAYERS_BYTES = 4  # a voxel of the slices that are read and written together when the result is written
_COPIES = 2  # of slices that are copied: as they are read, and in bricks
_COPIED_SHARE = 0.25  # of the memory, for slices that are copied together


@dataclass(frozen=True)
class BoxWork:
    """What is to be predicted, in sizes.

    Attributes:
        shape: Of the volume.
        image_bytes: Of one voxel, all channels.
        multiple: What origins and sides of boxes are multiples of.
        margin: Voxels around a box that are looked at.
        confidence: Whether the confidence is wanted too.
        copies: Whether the image has to be copied into bricks first, since reading a box of it reads much more.
    """

    shape: Voxels
    image_bytes: int
    multiple: Voxels
    margin: Voxels
    confidence: bool
    copies: bool

    @property
    def voxels(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @property
    def area(self) -> int:
        """Voxels of a slice."""
        return self.voxels // self.shape[0]

    @property
    def results(self) -> int:
        """How many arrays are made."""
        return 1 + self.confidence

    def box(self, side: int) -> Voxels:
        """Return the sides of boxes about so long: on multiples, and no longer than the volume."""
        z, y, x = (-(-min(side, n) // m) * m for n, m in zip(self.shape, self.multiple, strict=True))
        return z, y, x

    def count(self, box: Voxels) -> int:
        """Return how many boxes there are of such sides."""
        return math.prod(-(-n // side) for n, side in zip(self.shape, box, strict=True))

    def gain(self, box: Voxels) -> float:
        """Return which part of what is looked at for a box lies in it."""
        return math.prod(n / (n + 2 * m) for n, m in zip(box, self.margin, strict=True))


@dataclass(frozen=True)
class BoxNeed:
    """What boxes take while they are computed.

    Attributes:
        bytes_of: Bytes of memory for one box, by its sides; those of larger boxes may be missing.
        workers: Boxes that are computed at the same time, at most.
    """

    bytes_of: dict[Voxels, float]
    workers: int = 1


@dataclass(frozen=True)
class BoxPlan(WrittenPlan):
    """How a volume is predicted box by box; plain values.

    Attributes:
        on_disk: False where image and result are in memory.
        shape: Of the volume.
        box: Sides of a box, without what is looked at around it.
        multiple: What origins of boxes are multiples of.
        workers: Boxes that are computed at the same time.
        copied: Slices that are copied into bricks together; 0 where the image is read from where it is.
        peak_bytes: Memory that all this takes.
        disk_bytes: Space on the disk, until the result is written.
    """

    on_disk: bool
    shape: Voxels
    box: Voxels
    multiple: Voxels
    workers: int
    copied: int
    peak_bytes: int
    disk_bytes: int

    @property
    def brick(self) -> Voxels:
        """Voxels (Z, Y, X) that lie together on the disk: few slices of a box, so that slices are read at once."""
        return self.multiple[0], self.box[1], self.box[2]

    def told(self) -> str:
        """Return it for people."""
        return f"In boxes of {' × '.join(map(str, self.box))} voxels" if self.on_disk else "All in memory at once"

    def copies(self) -> tuple[Slab, ...]:
        """Return the slabs of the image that are copied first."""
        if not self.copied:
            return ()
        depth = self.shape[0]
        return tuple(Slab.copy(start, min(start + self.copied, depth)) for start in range(0, depth, self.copied))

    def boxes(self) -> tuple[Box, ...]:
        """Return all boxes, along X first: what they read lies closest together in a file."""
        spans = [
            [(start, min(start + side, n)) for start in range(0, n, side)]
            for n, side in zip(self.shape, self.box, strict=True)
        ]
        return tuple(Box((z[0], y[0], x[0]), (z[1], y[1], x[1])) for z, y, x in itertools.product(*spans))


def plan_boxes(work: BoxWork, need: BoxNeed, budget: int) -> BoxPlan:
    """Divide a prediction so that it fits into a budget of bytes: what lets most voxels be computed at a time.

    Raises:
        ResourceError: It cannot be made to fit; the hint says what would.
    """
    fitting = [(min(need.workers, int(budget / taken)), box) for box, taken in need.bytes_of.items() if taken <= budget]
    layer, copied_slice = _layer_bytes(work), _COPIES * work.area * work.image_bytes * work.copies
    enough = max(layer, copied_slice, min(need.bytes_of.values()))
    if enough > budget:
        raise TooLittleMemory(
            f"The volume cannot be predicted in {memory.told(max(0, budget))} of memory beside the program itself.",
            f"Give it {memory.at_least(enough)} beside the program itself.",
            needed=enough,
        )
    workers, box = max(fitting, key=lambda each: each[0] * work.gain(each[1]))
    copied = _copied(work, budget) if work.copies else 0
    peak = max(workers * need.bytes_of[box], layer, copied * copied_slice)
    brick = (work.multiple[0], box[1], box[2])
    stored = math.prod(-(-n // side) * side for n, side in zip(work.shape, brick, strict=True))
    disk = stored * (work.results * _RESULT_BYTES + work.image_bytes * work.copies)
    return BoxPlan(True, work.shape, box, work.multiple, workers, copied, math.ceil(peak), disk)


def plan_in_memory(work: BoxWork, box: Voxels, workers: int, box_bytes: float) -> BoxPlan:
    """Return the plan that keeps everything in memory."""
    peak = work.voxels * (work.image_bytes + work.results * _RESULT_BYTES) + workers * box_bytes
    return BoxPlan(False, work.shape, box, work.multiple, workers, 0, math.ceil(peak), 0)


def _layer_bytes(work: BoxWork) -> int:
    """Return what the slices take that are read together in the end."""
    return work.multiple[0] * work.area * work.results * _LAYERS_BYTES


def _copied(work: BoxWork, budget: int) -> int:
    """Return how many slices are copied together: whole bricks where that fits."""
    slice_bytes = work.area * work.image_bytes
    many = min(max(SIDES), work.shape[0], max(1, int(budget * _COPIED_SHARE / (_COPIES * slice_bytes))))
    return many - many % work.multiple[0] if many >= work.multiple[0] else many


__all__ = ["SIDES", "BoxNeed", "BoxPlan", "BoxWork", "plan_boxes", "plan_in_memory"]
