"""Which objects of a class stay: those that are large enough, or the largest."""

from __future__ import annotations

import numpy as np

from .arrays import Labels, Objects, Spacing, counted
from .surroundings import given_up


def min_size(labels: Labels, value: int, voxels: float, *, spacing: Spacing) -> tuple[Labels, int]:
    """Let objects of a class that are smaller than ``voxels`` take the class of their surroundings.

    Objects are 26-connected. The result is stable: a second time changes nothing.
    """
    objects = Objects.of(labels == value)
    small = objects.pieces(objects.sizes < voxels)
    return counted(labels, given_up(labels, small, [value], spacing))


def largest(labels: Labels, value: int, count: int, *, spacing: Spacing) -> tuple[Labels, int]:
    """Let all but the ``count`` largest objects of a class take the class of their surroundings.

    Objects are 26-connected; of equal ones, those with the lower indices stay.
    """
    objects = Objects.of(labels == value)
    others = np.ones(len(objects), np.bool_)
    others[np.argsort(-objects.sizes, kind="stable")[:count]] = False
    return counted(labels, given_up(labels, objects.pieces(others), [value], spacing))
