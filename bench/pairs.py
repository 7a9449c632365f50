"""Paired measurements: both sides in every round, in turn, so that a machine whose speed drifts does not matter."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
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
    (row,) = await compare_all(work, ours, [(against, theirs, bar)], rounds=rounds, unit=unit)
    return row


async def compare_all(
    work: str, ours: Side, others: Sequence[tuple[str, Side, float | None]], *, rounds: int, unit: str = "events/s"
) -> list[Row]:
    """One row per other side, each with its bar: all sides in every round, in turn, after one warm-up of each."""
    rows = [Row(work, against, bar, unit) for against, _, bar in others]
    sides = [ours, *(side for _, side, _ in others)]
    for side in sides:
        await side()
    for number in range(rounds):
        turns = list(range(len(sides)))
        rates = {turn: await sides[turn]() for turn in (turns[::-1] if number % 2 else turns)}
        for turn, row in enumerate(rows, 1):
            row.ours.append(rates[0])
            row.theirs.append(rates[turn])
    for row in rows:
        print(line(row), flush=True)
    return rows


def line(row: Row) -> str:
    """A row of the table."""
    bar = "" if row.bar is None else f"{'<=' if row.at_most else '>='} {row.bar:g} {'ok' if row.reached else 'MISSED'}"
    ours, theirs = statistics.median(row.ours), statistics.median(row.theirs)
    spread = f"{min(row.ratios):.2f} to {max(row.ratios):.2f}"
    return f"{row.work:<42} {row.against:<34} {ours:>11,.1f} {theirs:>11,.1f} {row.ratio:>6.2f} ({spread}) {bar}"
