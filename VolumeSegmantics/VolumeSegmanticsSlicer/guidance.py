"""What the user should paint next: how much each class has, and where the model is least sure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from VolumeSegmanticsLib.errors import InputError
from VolumeSegmanticsLib.settings import AXIS_LETTERS

from .nodes import Node, grid_of, to_world, volume_of
from .segmentations import Segment, layers_of, segments_of

FEW_VOXELS = 100
"""Of a class: with fewer, what is learned is a matter of luck. Training warns below the same number."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_BITS = 8
"""As many segments are looked at together, one bit of a byte each."""


@dataclass(frozen=True)
class Painted:
    """How much of a class is painted.

    Attributes:
        segment_id, name, color: The segment; the color is (red, green, blue), each 0 to 1.
        voxels: Painted voxels on the volume's grid.
        slices: The fewest parallel slices of the volume that hold all of them, along whichever axis that is.
        warning: A sentence where that is too little to learn from; empty where it is not.
    """

    segment_id: str
    name: str
    color: tuple[float, float, float]
    voxels: int
    slices: int
    warning: str


@dataclass(frozen=True)
class Counts:
    """What is painted in all.

    Attributes:
        classes: How much of each class, in the order of the segments.
        slices: For the axes ``"z"``, ``"y"`` and ``"x"`` those slices of the volume in which anything is painted.
    """

    classes: tuple[Painted, ...]
    slices: Mapping[str, frozenset[int]]


@dataclass(frozen=True)
class Slice:
    """A slice of a volume.

    Attributes:
        axis: ``"z"``, ``"y"`` or ``"x"``, which it is perpendicular to.
        index: Counted from 0.
        confidence: Mean of its voxels, percent.
        position_ras: Its centre in the world.
    """

    axis: str
    index: int
    confidence: float
    position_ras: tuple[float, float, float]


def painted(annotation: Node, volume: Node) -> tuple[Painted, ...]:
    """Return how much of each segment is painted, in their order.

    Args:
        annotation: The segmentation node with the strokes.
        volume: The volume node that they belong to.

    Raises:
        InputError: One of them cannot be used, see ``labels_of``.
    """
    return _counted(annotation, volume).classes


def painted_slices(annotation: Node, volume: Node, *, axis: str = "z") -> frozenset[int]:
    """Return the slices of the volume along an axis in which anything is painted; errors are those of ``painted``."""
    return _counted(annotation, volume).slices[axis]


def _counted(annotation: Node, volume: Node) -> Counts:
    *_, answer = counting(annotation, volume)
    assert answer is not None, "the last is the answer"
    return answer


def counting(annotation: Node, volume: Node) -> Iterator[Counts | None]:
    """Count slice by slice, for callers with little time: yields None after each, and last the answer.

    Nothing must be painted meanwhile: begin anew then.
    """
    segments = segments_of(annotation)
    tally = _Tally(grid_of(volume).shape, len(segments))
    for _ in tally.counting(annotation, volume, segments):
        yield None
    classes = tuple(_painted(s, int(tally.voxels[s.position]), tally.fewest_slices(s)) for s in segments)
    yield Counts(classes, {axis: tally.slices(n) for n, axis in enumerate(AXIS_LETTERS)})


def least_certain(confidence: Node, volume: Node, *, axis: str = "z", avoid: Collection[int] = ()) -> Slice:
    """Return the slice of a volume with the lowest mean confidence.

    Args:
        confidence: The volume node that a prediction has made; it may cover a box of the volume only.
        volume: The volume node that was segmented.
        axis: What the slice is perpendicular to.
        avoid: Slices that are left out, such as ``painted_slices``.

    Raises:
        InputError: The confidence does not lie on the volume's voxels, or no slice is left.
    """
    start = grid_of(volume).start_of(grid_of(confidence))
    if start is None:
        raise InputError(
            f'"{confidence.GetName()}" does not lie on the voxels of "{volume.GetName()}".', "Segment the volume again."
        )
    which = AXIS_LETTERS.index(axis)
    means = _slice_means(volume_of(confidence).array, which)
    for index in avoid:
        if 0 <= index - start[which] < len(means):
            means[index - start[which]] = np.inf
    if not np.isfinite(means).any():
        raise InputError("Every slice is painted already.", "Look at the result, and correct it where it is wrong.")
    best = int(np.argmin(means))
    index = best + start[which]
    return Slice(axis, index, float(means[best]), _centre_ras(volume, which, index))


class _Tally:
    """Counts painted voxels, and marks the slices of every axis that hold some, segment by segment.

    Attributes:
        voxels: By position, which counts from 1.
        used: For each axis, bool (slices, positions from 1 on, rounded up to whole bytes).
    """

    def __init__(self, shape: Sequence[int], segments: int) -> None:
        self.voxels = np.zeros(segments + 1, np.int64)
        self.used = [np.zeros((n, -(-segments // _BITS) * _BITS), np.uint8) for n in shape]

    def counting(self, annotation: Node, volume: Node, segments: Sequence[Segment]) -> Iterator[None]:
        """Count what a segmentation node holds on the grid of a volume node; yields after each slice."""
        for layer in layers_of(annotation, volume, segments):
            for z in range(layer.start[0], layer.start[0] + len(layer.voxels)):
                if found := layer.slice_at(z):
                    self._add(z, *found)
                yield

    def fewest_slices(self, segment: Segment) -> int:
        """Return the number of slices that hold a segment, along the axis with the fewest."""
        return min(int(used[:, segment.position - 1].sum()) for used in self.used)

    def slices(self, axis: int) -> frozenset[int]:
        """Return the slices along an axis that hold anything."""
        return frozenset(np.flatnonzero(self.used[axis].any(axis=1)).tolist())

    def _add(self, z: int, window: tuple[slice, slice], positions: NDArray[np.uint8]) -> None:
        """Add the part of a slice that a layer covers; segments are looked at eight at a time, as bits of a byte."""
        counts = np.bincount(positions.ravel(), minlength=len(self.voxels))
        self.voxels += counts
        for group in sorted({(position - 1) // _BITS for position in np.flatnonzero(counts[1:]) + 1}):
            columns = slice(group * _BITS, (group + 1) * _BITS)
            marked = _bits(group).take(positions)
            rows, line = (np.bitwise_or.reduce(marked, axis=axis) for axis in (1, 0))
            lines = (np.bitwise_or.reduce(rows)[None], rows, line)
            for used, place, present in zip(self.used, (slice(z, z + 1), *window), lines, strict=True):
                used[place, columns] |= np.unpackbits(present[:, None], axis=1, bitorder="little")


def _bits(group: int) -> NDArray[np.uint8]:
    """Return a table: position to its bit in a group of eight, 0 for those of other groups."""
    table = np.zeros(256, np.uint8)
    first = group * _BITS + 1
    table[first : first + _BITS] = (1 << np.arange(_BITS))[: 256 - first]
    return table


def _painted(segment: Segment, voxels: int, slices: int) -> Painted:
    warning = _warning(segment.name, voxels, slices)
    return Painted(segment.segment_id, segment.name, segment.node_segment.GetColor(), voxels, slices, warning)


def _warning(name: str, voxels: int, slices: int) -> str:
    if not voxels:
        return f'Nothing of "{name}" is painted yet.'
    if voxels < FEW_VOXELS:
        return f'Only {voxels} voxels of "{name}" are painted; paint {FEW_VOXELS} or more.'
    if slices == 1:
        return f'"{name}" is painted in one slice only; paint it in another one too.'
    return ""


def _slice_means(array: NDArray[np.uint8], axis: int) -> NDArray[np.float64]:
    """Return the mean of every slice (Z, Y, X) along an axis, plane by plane, as a sum of all takes 8 bytes a voxel."""
    if axis == 0:
        return np.array([plane.sum(dtype=np.uint32) / plane.size for plane in array])
    total = np.zeros(array.shape[axis])
    for plane in array:
        total += plane.sum(axis=2 - axis, dtype=np.uint32)
    return total * total.size / array.size


def _centre_ras(volume: Node, axis: int, index: int) -> tuple[float, float, float]:
    """Return the centre of a slice in the world, the volume's parent transform included."""
    middle = [(n - 1) / 2 for n in grid_of(volume).shape]
    middle[axis] = index
    x, y, z, _ = to_world(volume) @ _LPS_TO_RAS @ grid_of(volume).affine @ (*middle, 1.0)
    return float(x), float(y), float(z)
