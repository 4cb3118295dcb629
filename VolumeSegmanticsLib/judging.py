"""Which planes a trained network tells badly: those would spoil the fused answer, and are left out of it.

Where slices of one axis are annotated, planes of the others hold few labels each, so that nothing but a look at them
says whether they were learned. What is looked at are wide crops, as large as what a prediction sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .classes import LabelClass
from .metrics import Scores

MUCH_WORSE = 0.15
"""Of Dice: planes that are told so much worse than the best ones are left out."""

_ENOUGH = 50  # labelled pixels of a class; with fewer, its Dice is chance

Looks = Iterable[tuple[Tensor, Tensor]]
"""Images (1, C, H, W) and their labels (1, H, W)."""


def dice_of_planes(
    looks: Mapping[str, Looks],
    confusion: Callable[[Tensor, Tensor], NDArray[np.int64]],
    classes: tuple[LabelClass, ...],
) -> dict[str, float]:
    """Return for the planes across each axis the mean Dice of their labelled pixels.

    Args:
        looks: For the letter of each axis what is looked at.
        confusion: Returns the counts (truth, prediction) over the labelled pixels of an image.
        classes: Of the model.

    Returns:
        One figure for each letter, over the classes of which every axis shows enough; none where that is no class.
    """
    nothing = np.zeros(len(classes), np.int64)
    start = np.zeros((len(classes), len(classes)), np.int64)
    scores = {
        letter: Scores(classes, sum((confusion(*each) for each in seen), start), nothing)
        for letter, seen in looks.items()
    }
    enough = np.all([each.true_voxels >= _ENOUGH for each in scores.values()], axis=0)
    return {letter: float(each.dice[enough].mean()) for letter, each in scores.items()} if enough.any() else {}


def much_worse(dice: dict[str, float]) -> str:
    """Return the letters of the axes whose planes are told much worse than the best ones."""
    best = max(dice.values(), default=0.0)
    return "".join(letter for letter, each in dice.items() if each < best - MUCH_WORSE)
