"""Rules as text: ``min-size pores 50``, ``inside "open pores" matrix``, ``close fibre 2.5um``.

A rule is a word, then what it is about: classes by name (in quotes where the name has spaces) or by value, amounts, and
options ``name=value`` in any place. An amount without a unit is in voxels, one with mm, um (µm) or nm is a length, one
with mm3, um3 (µm³) or nm3 a volume. Semicolons or line ends stand between rules.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..classes import LabelClass
from ..errors import InputError, SettingsError
from ..volume import Grid
from .amounts import UNITS
from .arrays import Labels
from .kinds import BY_NAME, KINDS, Kind
from .places import PLACES, value_of

Given = tuple[str, Any]
"""A place of the usage, and the value that stands there."""


@dataclass(frozen=True)
class Rule:
    """A rule as it was read.

    Attributes:
        kind: What it does.
        given: What stands in the places of its usage, in their order.
        options: What stands in those of its options, by name.
    """

    kind: Kind
    given: tuple[Given, ...]
    options: tuple[tuple[str, Given], ...] = ()

    def __str__(self) -> str:
        words = [self.kind.name, *(_text(value) for _, value in self.given)]
        return shlex.join([*words, *(f"{name}={_text(value)}" for name, (_, value) in self.options)])

    def check(self, classes: Sequence[LabelClass]) -> None:
        """Make sure that every class of the rule is there, and none is named twice.

        Raises:
            InputError: It is not so.
        """
        values = [value_of(value, classes) for place, value in self.given if place in ("CLASS", "OTHER")]
        if len(set(values)) < len(values):
            raise InputError(f'The rule "{self}" names a class twice.', f"Write: {self.kind.usage}")

    def apply(self, labels: Labels, grid: Grid, classes: Sequence[LabelClass]) -> tuple[Labels, int]:
        """Return labels (Z, Y, X) that obey the rule, and how many voxels that changed.

        Raises:
            InputError: There is no such class.
        """
        in_voxels = any(place == "LENGTH" and not value.unit for place, value in self.given)
        spacing = (1.0, 1.0, 1.0) if in_voxels else grid.spacing
        meant = [_meaning(one, spacing, classes) for one in self.given]
        named = {name.replace("-", "_"): _meaning(one, spacing, classes) for name, one in self.options}
        if self.kind.is_metric:
            named["spacing"] = spacing
        return self.kind.function(labels, *meant, **named)


def parse(rules: str | Iterable[str | Rule]) -> tuple[Rule, ...]:
    """Read rules, and bring them into the order in which they are applied: that of ``KINDS``.

    Args:
        rules: One text, or several, each with one rule or more.

    Raises:
        SettingsError: A text is no rule; the hint says how to write it.
    """
    texts = [rules] if isinstance(rules, str) else rules
    read = [rule for text in texts for rule in ([text] if isinstance(text, Rule) else _rules_of(text))]
    return tuple(sorted(read, key=lambda rule: KINDS.index(rule.kind)))


def usages() -> str:
    """Return how all rules are written and what they do, one a line."""
    width = max(len(kind.usage) for kind in KINDS)
    return "\n".join(f"{kind.usage:<{width}}  {kind.does}" for kind in KINDS)


def _rules_of(text: str) -> list[Rule]:
    lexer = shlex.shlex(text.replace("\n", ";"), posix=True, punctuation_chars=";")
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:
        raise SettingsError(f"A quote in the rule {text} is not closed.", "Put names in a pair of quotes.") from None
    groups: list[list[str]] = [[]]
    for word in words:
        if set(word) == {";"}:
            groups.append([])
        elif word.rstrip("3³") in UNITS and groups[-1]:
            groups[-1][-1] += word  # "50 um" is "50um"
        else:
            groups[-1].append(word)
    return [_rule_of(group) for group in groups if group]


def _rule_of(words: list[str]) -> Rule:
    kind = _kind_of(words[0])
    text, options, others = shlex.join(words), [], []
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if equals and name in kind.options:
            options.append((name, _given(kind.options[name], value, text, kind)))
        else:
            others.append(word)
    places = _places_of(kind, len(others), text)
    return Rule(kind, tuple(_given(*one, text, kind) for one in zip(places, others, strict=True)), tuple(options))


def _kind_of(word: str) -> Kind:
    if word in BY_NAME:
        return BY_NAME[word]
    near = difflib.get_close_matches(word, BY_NAME, n=1)
    hint = f'Did you mean "{near[0]}"? ' if near else ""
    raise SettingsError(f'There is no rule "{word}".', f"{hint}The rules are:\n{usages()}")


def _places_of(kind: Kind, count: int, text: str) -> list[str]:
    """Return the places that so many words take; a last place with "…" takes as many as there are."""
    places = kind.places
    if places[-1].endswith("…"):
        last = places.pop().rstrip("…")
        fewest = len(places) + (0 if kind.usage.endswith("…]") else 1)
        places += [last] * (max(count, fewest) - len(places))
    if count != len(places):
        wrong = "lacks " + places[count] if count < len(places) else "has too many words"
        hint = f"Write: {kind.usage}, for instance: {kind.example}. Names with spaces stand in quotes."
        raise SettingsError(f'The rule "{text}" {wrong}.', hint)
    return places


def _given(place: str, word: str, text: str, kind: Kind) -> Given:
    value = PLACES[place].read(word)
    if value is None:
        hint = f"{place} is {PLACES[place].takes}. Write: {kind.usage}, for instance: {kind.example}."
        raise SettingsError(f'"{word}" in the rule "{text}" is no {place}.', hint)
    return place, value


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _meaning(given: Given, spacing: tuple[float, float, float], classes: Sequence[LabelClass]) -> Any:
    place, value = given
    return PLACES[place].meaning(value, spacing, classes)
