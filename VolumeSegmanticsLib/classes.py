"""The materials that the user named: value, name, colour."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import InputError

UNLABELLED = 255
"""The label value that always means "nobody looked at this voxel"."""

BACKGROUND_NAME = "Background"

_PALETTE = (
    (0.90, 0.62, 0.00), (0.34, 0.71, 0.91), (0.00, 0.62, 0.45), (0.94, 0.89, 0.26),
    (0.00, 0.45, 0.70), (0.84, 0.37, 0.00), (0.80, 0.47, 0.65), (0.60, 0.60, 0.60),
)  # fmt: skip  # Okabe and Ito's colours, told apart by colour-blind readers too


@dataclass(frozen=True)
class LabelClass:
    """One material.

    Attributes:
        value: Its value in label arrays, 0 to 254.
        name: As the user typed it.
        color: (red, green, blue), each 0 to 1.
        terminology: 3D Slicer's terminology entry as one string; empty where there is none.
    """

    value: int
    name: str
    color: tuple[float, float, float] = (0.5, 0.5, 0.5)
    terminology: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "color", tuple(float(part) for part in self.color))
        if not (hasattr(self.value, "__index__") and 0 <= self.value < UNLABELLED):
            raise InputError(
                f'The class "{self.name}" has the value {self.value}.',
                f"Class values go from 0 to {UNLABELLED - 1}; {UNLABELLED} always means unlabelled.",
            )
        object.__setattr__(self, "value", operator.index(self.value))

    @classmethod
    def plain(cls, value: int) -> LabelClass:
        """Make the class of a value that has no name of its own: "Background" for 0, "Class 3" for 3."""
        if value == 0:
            return cls(0, BACKGROUND_NAME, (0.0, 0.0, 0.0))
        return cls(value, f"Class {value}", _PALETTE[(value - 1) % len(_PALETTE)])

    @property
    def is_plain(self) -> bool:
        """True where the name says no more than the value."""
        return self.name == LabelClass.plain(self.value).name

    def to_dict(self) -> dict[str, Any]:
        """Return the class as JSON-able values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LabelClass:
        """Make the class from what ``to_dict`` returned."""
        return cls(**{**values, "color": tuple(values.get("color", (0.5, 0.5, 0.5)))})


def merge_classes(*groups: tuple[LabelClass, ...]) -> tuple[tuple[LabelClass, ...], list[dict[int, int]]]:
    """Make one list of classes out of several, so that the same material is the same class everywhere.

    Classes are the same where their names are; a class without a name of its own ("Class 3") is the same as the class
    of its value, unless that one was met by name, and takes over its name. The first group keeps its values; a class
    of a later group keeps its value where that is still free.

    Returns:
        The classes in ascending order of value, and for each group a dictionary from its values to theirs.

    Raises:
        InputError: No value is free for a class.
    """
    merged: dict[int, LabelClass] = {}
    changes = []
    for group in groups:
        change = _matches(group, merged)
        new = sorted(c.value for c in group if c.value not in change)
        for value in new:
            change[value] = value if value not in merged else _free_value({*merged, *new, *change.values()})
        for label_class in group:
            value = change[label_class.value]
            if value not in merged or (merged[value].is_plain and not label_class.is_plain):
                merged[value] = dataclasses.replace(label_class, value=value)
        changes.append(change)
    return tuple(merged[value] for value in sorted(merged)), changes


_SAME: tuple[Callable[[LabelClass, LabelClass], bool], ...] = (
    lambda one, other: one.name == other.name and one.value == other.value,
    lambda one, other: one.name == other.name,
    lambda one, other: one.value == other.value and (one.is_plain or other.is_plain),
)  # each is for what those before it have left over


def _matches(group: tuple[LabelClass, ...], known: dict[int, LabelClass]) -> dict[int, int]:
    """Return for the values of a group that mean a known class the value it is known by; no class is met twice."""
    change: dict[int, int] = {}
    for is_same in _SAME:
        for wanted in sorted(group, key=lambda c: c.value):
            free = [known[value] for value in sorted(known) if value not in change.values()]
            met = next((c for c in free if is_same(c, wanted)), None)
            if met and wanted.value not in change:
                change[wanted.value] = met.value
    return change


def _free_value(taken: set[int]) -> int:
    free = [value for value in range(1, UNLABELLED) if value not in taken]
    if not free:
        raise InputError("There are more than 254 classes.", "Merge some of them.")
    return free[0]
