"""Views: a volume seen as slices along one axis, under one of the eight symmetries of the square.

A view is a numpy view, so what is written through it lands in the volume itself: its own exact inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .settings import AXIS_LETTERS, axis_letters


@dataclass(frozen=True)
class View:
    """An array axis that the slices are perpendicular to, and a symmetry of the slices.

    Attributes:
        axis: 0, 1, 2 for Z, Y, X.
        transposed: Rows and columns are exchanged; done first.
        flipped_rows, flipped_columns: The slice is mirrored; done after the exchange.
    """

    axis: int
    transposed: bool = False
    flipped_rows: bool = False
    flipped_columns: bool = False

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a volume (Z, Y, X[, C]) as slices (N, H, W[, C]) without copying.

        Slices of Z have the rows and columns (Y, X), those of Y (Z, X), those of X (Z, Y).
        """
        rows, columns = (axis for axis in range(3) if axis != self.axis)
        if self.transposed:
            rows, columns = columns, rows
        slices = np.transpose(array, (self.axis, rows, columns, *range(3, array.ndim)))
        return slices[:, :: -1 if self.flipped_rows else 1, :: -1 if self.flipped_columns else 1]

    def sides(self, values: tuple[float, float, float]) -> tuple[float, float, float]:
        """Return three values of (Z, Y, X), such as a spacing, in the order (N, H, W) of this view."""
        rows, columns = (axis for axis in range(3) if axis != self.axis)
        if self.transposed:
            rows, columns = columns, rows
        return values[self.axis], values[rows], values[columns]

    def __str__(self) -> str:
        turned = "".join(
            "TRC"[n] for n, on in enumerate((self.transposed, self.flipped_rows, self.flipped_columns)) if on
        )
        return AXIS_LETTERS[self.axis] + (f"-{turned}" if turned else "")


def views(quality: str, axes: str) -> tuple[View, ...]:
    """Return the views of a prediction.

    Args:
        quality: ``"low"``: the first axis; ``"medium"``: each axis once; ``"high"``: each axis under all eight
            symmetries of the square, every one of which shows the network other pictures.
        axes: Letters, see ``settings.axis_letters``.
    """
    numbers = [AXIS_LETTERS.index(letter) for letter in axis_letters(axes)]
    if quality == "low":
        return (View(numbers[0]),)
    if quality == "medium":
        return tuple(View(axis) for axis in numbers)
    both = (False, True)
    return tuple(View(axis, t, r, c) for axis in numbers for t in both for r in both for c in both)
