"""What stands in the places of a rule's usage, such as LENGTH: how its text is read, and what it means on a grid."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..classes import LabelClass
from ..errors import InputError
from .amounts import Amount
from .arrays import Spacing

AXES = "zyx"

Classes = Sequence[LabelClass]


@dataclass(frozen=True)
class Place:
    """A place in a usage.

    Attributes:
        read: Makes a value of a word; None where that cannot stand here.
        takes: What can, for users.
        meaning: Makes of the value what the rule's function takes.
    """

    read: Callable[[str], Any]
    takes: str
    meaning: Callable[[Any, Spacing, Classes], Any] = lambda value, spacing, classes: value


def value_of(name: str, classes: Classes) -> int:
    """Return the value of a class: by its name, by its name in other letters' cases, or by its value.

    Raises:
        InputError: There is no such class, or more than one.
    """
    for is_meant in (
        lambda c: c.name == name,
        lambda c: c.name.casefold() == name.casefold(),
        lambda c: str(c.value) == name,
    ):
        found = [c.value for c in classes if is_meant(c)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f'More than one class is called "{name}".', f"Say which by its value: {found}.")
    near = difflib.get_close_matches(name, [c.name for c in classes], n=1)
    there_are = ", ".join(f'"{c.name}" ({c.value})' for c in classes)
    hint = f'Did you mean "{near[0]}"? ' if near else ""
    raise InputError(f'There is no class "{name}".', f"{hint}There are: {there_are}.")


def _number(text: str) -> float | None:
    amount = Amount.of(text)
    return amount.number if amount and not amount.unit else None


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def _percent(text: str) -> float | None:
    number = _number(text.removesuffix("%"))
    return number if number and number <= 100 else None


def _length(text: str) -> Amount | None:
    amount = Amount.of(text)
    return amount if amount and not amount.is_cubic else None


def _size(text: str) -> Amount | None:
    amount = Amount.of(text)
    return amount if amount and amount.is_cubic == bool(amount.unit) else None


def _axis(text: str) -> str | None:
    return text.lower() if len(text) == 1 and text.lower() in AXES else None


_NAME = Place(
    lambda text: text or None,
    "the name of a class, in quotes where it has spaces, or its value",
    lambda value, spacing, classes: value_of(value, classes),
)

PLACES = {
    "CLASS": _NAME,
    "OTHER": _NAME,
    "STRENGTH": Place(_number, "a number above 0, such as 0.5"),
    "PERCENT": Place(_percent, "a number up to 100"),
    "COUNT": Place(_count, "a whole number above 0"),
    "LENGTH": Place(
        _length, "voxels, or a length in mm, um or nm, such as 2.5um", lambda value, spacing, classes: value.length()
    ),
    "SIZE": Place(
        _size,
        "voxels, or a volume in mm3, um3 or nm3, such as 8um3",
        lambda value, spacing, classes: value.voxels(spacing),
    ),
    "AXIS": Place(_axis, "z, y or x", lambda value, spacing, classes: AXES.index(value)),
}
