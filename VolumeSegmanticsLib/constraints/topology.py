"""What a class is made of, whatever its shape: objects, cavities, tunnels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..classes import LabelClass
from ..volume import LabelMap
from .arrays import FACES, Mask, Objects, box_of
from .holes import is_enclosed

COLUMNS = ("voxels", "objects", "cavities", "tunnels", "euler")


@dataclass(frozen=True)
class Topology:
    """The topology of a class, 26-connected, in what is 6-connected.

    Attributes:
        label: The class.
        voxels: How many it has.
        objects: Its connected parts.
        cavities: Parts of the rest that it encloses.
        euler: The Euler number: objects − tunnels + cavities.
    """

    label: LabelClass
    voxels: int
    objects: int
    cavities: int
    euler: int

    @property
    def tunnels(self) -> int:
        """Ways through it, as one through a ring."""
        return self.objects + self.cavities - self.euler

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as what JSON holds."""
        figures = {name: getattr(self, name) for name in COLUMNS}
        return {"value": self.label.value, "name": self.label.name} | figures


def topology(labels: LabelMap) -> tuple[Topology, ...]:
    """Count objects, cavities and tunnels of every class; beyond the volume there is nothing."""
    return tuple(_of(labels.array == c.value, c) for c in labels.classes)


def _of(mask: Mask, label: LabelClass) -> Topology:
    box = box_of(mask)
    rest = Objects.of(~mask[box], FACES)
    cavities = np.count_nonzero(is_enclosed(rest, mask[box].shape))
    return Topology(label, int(np.count_nonzero(mask)), len(Objects.of(mask)), int(cavities), euler_number(mask[box]))


def euler_number(mask: Mask) -> int:
    """Return the Euler number of a mask (Z, Y, X), 26-connected.

    Voxels are closed cubes: corners − edges + faces − cubes of their union. Sorted by planes that is the flat Euler
    number between each two planes, of what either holds, less that of each plane.
    """
    nothing = np.zeros_like(mask[:1])
    number, above = 0, nothing[0] if len(mask) else nothing
    for plane in [*mask, *nothing]:
        number += _flat_euler_number(above | plane) - _flat_euler_number(plane)
        above = plane
    return number


def _flat_euler_number(plane: Mask) -> int:
    """Return corners − edges + faces of the union of closed squares."""
    square: NDArray[np.bool_] = np.pad(plane, 1)
    across, down = square[1:] | square[:-1], square[:, 1:] | square[:, :-1]
    corners = across[:, 1:] | across[:, :-1]
    counts = [int(np.count_nonzero(part)) for part in (corners, across, down, square)]
    return counts[0] - counts[1] - counts[2] + counts[3]
