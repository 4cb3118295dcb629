"""The materials that the user named: value, name, colour."""

from __future__ import annotations

import dataclasses
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
        if not 0 <= self.value < UNLABELLED:
            raise InputError(
                f'The class "{self.name}" has the value {self.value}.',
                f"Class values go from 0 to {UNLABELLED - 1}; {UNLABELLED} always means unlabelled.",
            )

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
