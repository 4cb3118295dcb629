"""Holes: what a class encloses becomes that class."""

from __future__ import annotations

import numpy as np

from ..classes import UNLABELLED
from .arrays import FACES, Labels, Mask, Objects, box_of, counted


def fill(labels: Labels, value: int, *, up_to: float = np.inf, along: int | None = None) -> tuple[Labels, int]:
    """Fill the holes of a class, whatever class lies in them; unlabelled voxels stay.

    A hole is a 6-connected part of the rest that does not reach the border of the volume.

    Args:
        labels: uint8 (Z, Y, X).
        value: The class.
        up_to: Voxels of the largest hole that is filled.
        along: An array axis: holes are then those of its slices, 4-connected, and have their size in a slice.
    """
    mask = labels == value
    box = box_of(mask)
    rest = Objects.of(~mask[box], _connected(along))
    holes = is_enclosed(rest, mask[box].shape, along) & (rest.sizes <= up_to)
    result = labels.copy()
    window = result[box][rest.box]
    window[rest.mask(holes) & (window != UNLABELLED)] = value
    return counted(labels, result)


def is_enclosed(rest: Objects, shape: tuple[int, ...], along: int | None = None) -> Mask:
    """Return for each part of the rest whether it touches no side of an array of this shape.

    Args:
        rest: The parts of what a class leaves of the smallest box around it.
        shape: The shape of that box.
        along: An array axis whose own two sides do not count.
    """
    enclosed = np.ones(len(rest) + 1, np.bool_)
    for axis in {0, 1, 2} - {along}:
        sides = np.moveaxis(rest.numbers, axis, 0)
        if rest.box[axis].start == 0:
            enclosed[np.unique(sides[:1])] = False
        if rest.box[axis].stop == shape[axis]:
            enclosed[np.unique(sides[-1:])] = False
    return enclosed[1:]


def _connected(along: int | None) -> Mask:
    """Return 6-connectivity, or 4-connectivity in the slices along an axis."""
    structure = FACES.copy()
    if along is not None:
        ends = np.moveaxis(structure, along, 0)
        ends[0] = ends[2] = False
    return structure
