"""Constraints: what is known about the shapes and the order of materials, made to hold in a segmentation.

All are optional; ``KINDS`` lists them in the fixed order in which they are applied: first noise, then shapes, then
objects, and last what must hold between classes. Each is a function of its own, from labels to labels and the number of
voxels that changed. Voxels that a class gives up take the class of what surrounds them. Unlabelled voxels stay so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ..events import Log, Progress, Report, ignore
from ..volume import LabelMap
from .kinds import KINDS
from .rules import Rule, parse, usages
from .topology import Topology, topology

__all__ = ["KINDS", "Constrained", "Rule", "Step", "Topology", "apply", "parse", "topology", "usages"]


@dataclass(frozen=True)
class Step:
    """What a rule did: how many voxels it changed."""

    rule: Rule
    changed: int


@dataclass(frozen=True)
class Constrained:
    """Labels that were constrained, and what that changed.

    Attributes:
        labels: On the same grid, with the same classes.
        steps: One a rule, in the order in which they were applied.
        before, after: Topology of every class; empty where it was not asked for.
    """

    labels: LabelMap
    steps: tuple[Step, ...]
    before: tuple[Topology, ...] = ()
    after: tuple[Topology, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as what JSON holds."""
        return {
            "steps": [{"rule": str(step.rule), "changed": step.changed} for step in self.steps],
            "before": [one.to_dict() for one in self.before],
            "after": [one.to_dict() for one in self.after],
        }

    def table(self) -> str:
        """Return the report as text: a line for each rule, then one for each class."""
        lines = [f"{step.changed:>12} voxels  {step.rule}" for step in self.steps]
        for before, after in zip(self.before, self.after, strict=True):
            figures = ((name, getattr(before, name), getattr(after, name)) for name in TOLD)
            told = ", ".join(f"{name} {a}" if a == b else f"{name} {a} → {b}" for name, a, b in figures)
            lines.append(f"{before.label.name}: {told}")
        return "\n".join(lines)


TOLD = ("voxels", "objects", "cavities", "tunnels", "euler")
"""What the table says of a class."""


def apply(
    labels: LabelMap, rules: str | Iterable[str | Rule], *, with_topology: bool = True, report: Report = ignore
) -> Constrained:
    """Make rules hold in labels.

    Args:
        labels: Usually a prediction; not changed.
        rules: Such as ``["min-size pores 50", "inside pores matrix"]``; applied in the order of ``KINDS``.
        with_topology: Whether objects, cavities and tunnels are counted before and after.
        report: Takes ``Progress`` and ``Log``; may raise ``Cancelled``.

    Raises:
        SettingsError: A text is no rule.
        InputError: A rule is about a class that the labels do not have.
    """
    parsed = parse(rules)
    for rule in parsed:
        rule.check(labels.classes)
    before = topology(labels) if with_topology else ()
    array, steps = labels.array, []
    for done, rule in enumerate(parsed):
        report(Progress("constrain", done, len(parsed)))
        array, changed = rule.apply(array, labels.grid, labels.classes)
        steps.append(Step(rule, changed))
        report(Log("info", f"{rule}: {changed} voxels changed."))
    report(Progress("constrain", len(parsed), len(parsed)))
    result = replace(labels, array=array)
    return Constrained(result, tuple(steps), before, topology(result) if with_topology else ())
