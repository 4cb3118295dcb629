"""The kinds of rules: one row of ``KINDS`` is all that grammar, help and documentation know of a rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .arrays import Labels
from .holes import fill
from .morphology import closed, opened
from .objects import largest, min_size
from .relations import apart, inside, layers
from .smoothing import smooth


@dataclass(frozen=True)
class Kind:
    """A kind of rule.

    Attributes:
        function: Takes labels, then what the words of the usage give, in their order; options by name. It returns
            labels and how many voxels it changed.
        usage: How it is written; in capitals what takes the place of something, ``…`` where more may follow.
        example: One that works.
        does: What it does, for users.
        is_metric: Whether the function wants the spacing.
    """

    function: Callable[..., tuple[Labels, int]]
    usage: str
    example: str
    does: str
    is_metric: bool = True

    @property
    def name(self) -> str:
        """The word that it begins with."""
        return self.usage.split()[0]

    @property
    def places(self) -> list[str]:
        """What follows the word, without options."""
        return [word.strip("[]") for word in self.usage.split()[1:] if "=" not in word]

    @property
    def options(self) -> dict[str, str]:
        """The options, and what takes the place of their values."""
        return dict(re.findall(r"\[([\w-]+)=(\w+)\]", self.usage))


KINDS = (
    Kind(smooth, "smooth STRENGTH [CLASS…]", "smooth 0.5", "Smooths borders; all classes, or the named ones only."),
    Kind(opened, "open CLASS LENGTH", "open fibre 1.5", "Takes away what is thinner than a ball of this radius."),
    Kind(closed, "close CLASS LENGTH", "close fibre 3um", "Closes gaps that a ball of this radius does not reach."),
    Kind(min_size, "min-size CLASS SIZE", "min-size pores 50", "Takes away objects that are smaller."),
    Kind(largest, "largest CLASS COUNT", "largest bone 1", "Keeps so many objects, the largest."),
    Kind(
        fill, "fill CLASS [up-to=SIZE] [along=AXIS]", "fill matrix up-to=20",
        "Fills holes, whatever lies in them; along an axis the holes of each slice.", is_metric=False,
    ),
    Kind(
        inside, "inside CLASS OTHER… [share=PERCENT]", "inside pores matrix",
        "Takes away objects that touch anything but the others; share says how much of their surface must lie there.",
    ),
    Kind(
        layers, "layers AXIS CLASS OTHER…", "layers z skin fat muscle",
        "Brings classes into this order along an axis, with as few changes as possible.", is_metric=False,
    ),
    Kind(apart, "apart CLASS OTHER LENGTH", "apart pores fibre 2", "The first class keeps off the other by so much."),
)  # fmt: skip
"""In the order in which they are applied: noise, shapes, objects, and last what must hold between classes."""

BY_NAME = {kind.name: kind for kind in KINDS}
