"""Paired measurements: both sides in every round, in turn, so that a machine whose speed drifts does not matter."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Side = Callable[[], Awaitable[float]]
"""Does a piece of work once and returns its rate (more is better)."""


@dataclass
class Row:
    """One comparison: ours against theirs, and the bar that the ratio should reach."""

    work: str
    against: str
    bar: float | None
    unit: str = "events/s"
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    at_most: bool = False
    """Whether the bar is a maximum."""

    @property
    def ratios(self) -> list[float]:
        return [one / other for one, other in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def reached(self) -> bool | None:
        if self.bar is None:
            return None
        return self.ratio <= self.bar if self.at_most else self.ratio >= self.bar

    def as_json(self) -> dict[str, object]:
        return {
            "work": self.work,
            "against": self.against,
            "unit": self.unit,
            "ours": statistics.median(self.ours),
            "theirs": statistics.median(self.theirs),
            "ratio": self.ratio,
            "ratio_min": min(self.ratios),
            "ratio_max": max(self.ratios),
            "bar": self.bar,
            "reached": self.reached,
            "rounds": len(self.ours),
        }


async def compare(
    work: str, against: str, ours: Side, theirs: Side, *, bar: float | None, rounds: int, unit: str = "events/s"
) -> Row:
    """Run both sides `rounds` times, the first one alternating, after one warm-up of each."""
    row = Row(work, against, bar, unit)
    await ours()
    await theirs()
    for number in range(rounds):
        if number % 2:
            other, one = await theirs(), await ours()
        else:
            one, other = await ours(), await theirs()
        row.ours.append(one)
        row.theirs.append(other)
    print(line(row), flush=True)
    return row


def line(row: Row) -> str:
    """A row of the table."""
    bar = "" if row.bar is None else f"{'<=' if row.at_most else '>='} {row.bar:g} {'ok' if row.reached else 'MISSED'}"
    ours, theirs = statistics.median(row.ours), statistics.median(row.theirs)
    spread = f"{min(row.ratios):.2f} to {max(row.ratios):.2f}"
    return f"{row.work:<42} {row.against:<34} {ours:>11,.1f} {theirs:>11,.1f} {row.ratio:>6.2f} ({spread}) {bar}"
