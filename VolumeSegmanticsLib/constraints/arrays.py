"""What all rules share: boxes, connected objects, and the count of what has changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..classes import UNLABELLED

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]
Box = tuple[slice, ...]

ALL_NEIGHBOURS: Mask = ndimage.generate_binary_structure(3, 3)
"""26-connectivity: voxels of one class that share a face, an edge or a corner belong together."""
FACES: Mask = ndimage.generate_binary_structure(3, 1)
"""6-connectivity: what lies between the objects of a class is connected through faces only."""

_COUNTED_VOXELS = 2**22
"""Voxels whose numbers are counted at once: bincount takes eight bytes for each."""


@dataclass(frozen=True)
class Piece:
    """Some voxels: the box around them, and which of its voxels they are."""

    box: Box
    mask: Mask

    def within(self, crop: Box) -> Mask:
        """Return the piece as a mask of a larger box."""
        mask = np.zeros([part.stop - part.start for part in crop], np.bool_)
        mask[tuple(_moved(own, -part.start) for own, part in zip(self.box, crop, strict=True))] = self.mask
        return mask


@dataclass(frozen=True)
class Objects:
    """The connected parts of a mask.

    Attributes:
        box: Where the array of numbers lies in the volume.
        numbers: int32, of the box's shape; 1, 2, … in the parts, 0 elsewhere.
        sizes: Voxels of each part; the first is part 1.
    """

    box: Box
    numbers: NDArray[np.int32]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, mask: Mask, structure: Mask = ALL_NEIGHBOURS) -> Objects:
        """Find the parts of a mask (Z, Y, X)."""
        box = box_of(mask)
        numbers, count = ndimage.label(mask[box], structure)
        sizes = np.zeros(count + 1, np.int64)
        step = max(1, _COUNTED_VOXELS // max(1, numbers[:1].size))
        for start in range(0, len(numbers), step):
            sizes += np.bincount(numbers[start : start + step].ravel(), minlength=count + 1)
        return cls(box, numbers, sizes[1:])

    def __len__(self) -> int:
        return len(self.sizes)

    def pieces(self, chosen: Mask) -> Iterator[Piece]:
        """Yield the chosen parts; ``chosen`` is one bool a part."""
        places = ndimage.find_objects(self.numbers) if len(self) else []
        for number, place in enumerate(places, 1):
            if chosen[number - 1]:
                box = tuple(_moved(part, whole.start) for part, whole in zip(place, self.box, strict=True))
                yield Piece(box, self.numbers[place] == number)

    def mask(self, chosen: Mask) -> Mask:
        """Return the chosen parts as a mask of the box."""
        return np.concatenate([[False], chosen])[self.numbers]


def box_of(mask: Mask) -> Box:
    """Return the smallest box that holds a mask; an empty one where it is empty."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, 0))
    return tuple(box)


def grown(box: Box, voxels: Sequence[int], shape: Sequence[int]) -> Box:
    """Return a box made larger on every side, as far as the volume goes."""
    sides = zip(box, voxels, shape, strict=True)
    return tuple(slice(max(0, part.start - more), min(size, part.stop + more)) for part, more, size in sides)


def reach(length: float, spacing: Spacing) -> tuple[int, ...]:
    """Return how many voxels along each axis a length reaches at most."""
    return tuple(int(np.ceil(length / step)) for step in spacing)


def table_of(values: Iterable[int]) -> Mask:
    """Return for each of the 256 label values whether it is one of these."""
    table = np.zeros(256, np.bool_)
    table[list(values)] = True
    return table


def labelled(values: Iterable[int]) -> Mask:
    """Return for each of the 256 label values whether it is a class that is none of these."""
    return ~table_of([*values, UNLABELLED])


def counted(before: Labels, after: Labels) -> tuple[Labels, int]:
    """Return what a rule made, and how many voxels it changed."""
    return after, sum(int(np.count_nonzero(a != b)) for a, b in zip(before, after, strict=True))


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)
