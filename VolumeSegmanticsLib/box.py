"""Boxes of voxels: a part of a volume, and what lies around it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InputError
from .volume import Grid, LabelMap, Volume

Voxel = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """Some voxels of a grid.

    Attributes:
        start: The first voxel (Z, Y, X).
        stop: One beyond the last.
    """

    start: Voxel
    stop: Voxel

    @classmethod
    def of(cls, spans: Any, shape: Sequence[int]) -> Box:
        """Make the box of three pairs of start and stop, (Z, Y, X), that lies in a volume of a shape.

        Raises:
            InputError: They are no such pairs, or reach beyond the volume.
        """
        try:
            (z0, z1), (y0, y1), (x0, x1) = ((int(start), int(stop)) for start, stop in spans)
        except (TypeError, ValueError):
            raise InputError(f"The box {spans} is none.", "A box is three pairs of start and stop: Z, Y, X.") from None
        box = cls((z0, y0, x0), (z1, y1, x1))
        if any(not 0 <= low < high <= n for low, high, n in zip(box.start, box.stop, shape, strict=True)):
            raise InputError(
                f"The box {box.spans} does not lie in a volume of {tuple(shape)} voxels.",
                "Start and stop count from 0, and stop is one beyond the last voxel.",
            )
        return box

    @property
    def spans(self) -> list[list[int]]:
        """Start and stop of (Z, Y, X), as JSON holds them."""
        return [[start, stop] for start, stop in zip(self.start, self.stop, strict=True)]

    @property
    def window(self) -> tuple[slice, slice, slice]:
        """What an array (Z, Y, X) is cut with."""
        z, y, x = (slice(start, stop) for start, stop in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def shape(self) -> Voxel:
        """Voxels along (Z, Y, X)."""
        z, y, x = (stop - start for start, stop in zip(self.start, self.stop, strict=True))
        return z, y, x

    def widened(self, margin: int, shape: Sequence[int]) -> Box:
        """Return the box with a margin of voxels on every side, as far as the volume reaches."""
        z0, y0, x0 = (max(0, start - margin) for start in self.start)
        z1, y1, x1 = (min(n, stop + margin) for stop, n in zip(self.stop, shape, strict=True))
        return Box((z0, y0, x0), (z1, y1, x1))

    def grown(self, margin: Sequence[int]) -> Box:
        """Return the box with some voxels more on both sides of (Z, Y, X), wherever that leads."""
        z0, y0, x0 = (start - m for start, m in zip(self.start, margin, strict=True))
        z1, y1, x1 = (stop + m for stop, m in zip(self.stop, margin, strict=True))
        return Box((z0, y0, x0), (z1, y1, x1))

    def common(self, other: Box) -> Box | None:
        """Return the voxels that two boxes share; None where there are none."""
        z0, y0, x0 = map(max, self.start, other.start)
        z1, y1, x1 = map(min, self.stop, other.stop)
        return Box((z0, y0, x0), (z1, y1, x1)) if z0 < z1 and y0 < y1 and x0 < x1 else None

    def tiles(self, side: int) -> list[Box]:
        """Return the box in parts of at most ``side`` voxels a side."""
        spans = [
            [(a, min(a + side, stop)) for a in range(start, stop, side)]
            for start, stop in zip(self.start, self.stop, strict=True)
        ]
        return [Box((z[0], y[0], x[0]), (z[1], y[1], x[1])) for z, y, x in itertools.product(*spans)]

    def seen_from(self, start: Voxel) -> Box:
        """Return the same voxels, counted from another first voxel."""
        z0, y0, x0 = (own - other for own, other in zip(self.start, start, strict=True))
        z1, y1, x1 = (own - other for own, other in zip(self.stop, start, strict=True))
        return Box((z0, y0, x0), (z1, y1, x1))

    def grid(self, whole: Grid) -> Grid:
        """Return the grid of these voxels of a volume's grid."""
        return whole.part(self.start, self.shape)

    def of_volume(self, volume: Volume) -> Volume:
        """Return these voxels of a volume, without a copy."""
        return Volume(volume.array[self.window], self.grid(volume.grid))

    def of_labels(self, labels: LabelMap) -> LabelMap:
        """Return these voxels of a label map, without a copy."""
        return LabelMap(labels.array[self.window], self.grid(labels.grid), labels.classes, labels.unpainted)
