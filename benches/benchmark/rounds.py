"""What the comparisons have in common: turns, and the counting of what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .measure import Failed, Measure, Part


@dataclass
class Scale:
    """How much is measured, and how often."""

    rows: int
    rounds: int
    quick: bool
    skip: frozenset[str]


@dataclass
class Rows:
    """What is in the store."""

    due: int
    young: int
    held: int
    """Of the due ones, those that the hold list covers."""


def order(contenders: dict[str, Callable[[], Measure]], number: int, skip: frozenset[str]) -> list[str]:
    """Those of one round, another one first each time."""
    names = [name for name in contenders if name not in skip]
    return names[number % len(names):] + names[:number % len(names)]


def verified(part: Part, name: str, measure: Measure, before: Rows, after: Rows) -> None:
    """Takes the measurement down if exactly the due rows are gone; expunged spares those that are held."""
    spared = before.held if name.startswith("expunged") else 0
    if (after.due, after.young) != (spared, before.young):
        raise Failed(f"{part.title}: {name} left {after.due} due records and {after.young} young ones; "
                     f"{spared} and {before.young} were to stay")
    gone = before.due - after.due
    if measure.rows not in (0, gone):
        raise Failed(f"{part.title}: {name} said that it took {measure.rows} records, and {gone} are gone")
    measure.rows = gone
    part.add(name, measure)
