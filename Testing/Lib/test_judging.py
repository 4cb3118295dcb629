from __future__ import annotations

import numpy as np
import pytest

from VolumeSegmanticsLib.classes import LabelClass
from VolumeSegmanticsLib.judging import dice_of_planes, much_worse

CLASSES = (LabelClass(0, "Matrix"), LabelClass(1, "Fibre"), LabelClass(2, "Pore"))


def counted(confusion, _labels):
    return np.array(confusion)


def dice_of(**confusions) -> dict[str, float]:
    return dice_of_planes({k: [(each, None) for each in v] for k, v in confusions.items()}, counted, CLASSES)


RIGHT = [[900, 0, 0], [0, 90, 0], [0, 0, 60]]
HALF_RIGHT = [[450, 450, 0], [45, 45, 0], [0, 0, 60]]


def test_each_axis_gets_the_mean_dice_of_its_classes():
    dice = dice_of(z=[RIGHT], y=[HALF_RIGHT])
    assert dice["z"] == 1
    assert dice["y"] == pytest.approx((2 * 450 / (900 + 495) + 2 * 45 / (90 + 495) + 1) / 3)


def test_what_is_looked_at_is_counted_together():
    assert dice_of(z=[RIGHT, HALF_RIGHT])["z"] == pytest.approx(
        (2 * 1350 / (1800 + 1395) + 2 * 135 / (180 + 585) + 1) / 3
    )


def test_classes_that_one_axis_hardly_shows_do_not_count():
    few_pores = [[900, 0, 0], [0, 90, 0], [40, 0, 0]]
    dice = dice_of(z=[RIGHT], y=[few_pores])
    assert dice["z"] == 1
    assert dice["y"] == pytest.approx((2 * 900 / 1840 + 1) / 2)


def test_where_nothing_is_shown_often_enough_nothing_is_said():
    few = [[10, 0, 0], [0, 9, 0], [0, 0, 0]]
    assert dice_of(z=[RIGHT], y=[few]) == {}
    assert dice_of(z=[RIGHT], y=[]) == {}
    assert much_worse({}) == ""


@pytest.mark.parametrize(
    ("dice", "poor"),
    [
        ({"z": 0.95, "y": 0.93, "x": 0.9}, ""),
        ({"z": 0.95, "y": 0.5, "x": 0.9}, "y"),
        ({"z": 0.95, "y": 0.5, "x": 0.4}, "yx"),
        ({"z": 0.3, "y": 0.2}, ""),
    ],
)
def test_only_planes_that_are_told_far_worse_than_the_best_are_left_out(dice, poor):
    assert much_worse(dice) == poor
