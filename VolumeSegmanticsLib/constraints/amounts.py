"""Numbers with units, as they stand in rules: ``50``, ``2.5um``, ``8 µm³``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .arrays import Spacing

UNITS = {"mm": 1.0, "um": 1e-3, "µm": 1e-3, "\u03bcm": 1e-3, "nm": 1e-6}
"""In the unit of grids, which is taken for millimetres; µ comes as a sign of its own and as a Greek letter."""

_AMOUNT = re.compile(rf"(?P<number>[0-9.eE+-]+)(?P<unit>{'|'.join(UNITS)})?(?P<cube>[3³])?", re.ASCII)


@dataclass(frozen=True)
class Amount:
    """A positive number of voxels, or with a unit a length or a volume.

    Attributes:
        number: How many.
        unit: A key of ``UNITS``; empty for voxels.
        is_cubic: Whether the unit is cubed.
    """

    number: float
    unit: str = ""
    is_cubic: bool = False

    @classmethod
    def of(cls, text: str) -> Amount | None:
        """Read an amount; None where the text is none."""
        found = _AMOUNT.fullmatch(text)
        if not found or (found["cube"] and not found["unit"]):
            return None
        try:
            number = float(found["number"])
        except ValueError:
            return None
        is_number = math.isfinite(number) and number > 0
        return cls(number, found["unit"] or "", bool(found["cube"])) if is_number else None

    def length(self) -> float:
        """Return a length in the unit of grids, or in voxels."""
        return self.number * UNITS.get(self.unit, 1.0)

    def voxels(self, spacing: Spacing) -> float:
        """Return how many voxels a volume is."""
        if not self.unit:
            return self.number
        return self.number * UNITS[self.unit] ** 3 / math.prod(spacing)

    def __str__(self) -> str:
        return f"{self.number:g}{self.unit}{'3' if self.is_cubic else ''}"
