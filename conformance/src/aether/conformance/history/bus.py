"""Checks what a bus has delivered: at most once, in order, and with gaps only where they were reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from aether.conformance.history.findings import Disproved, Finding, first


@dataclass
class Published:
    """What one publisher has tried to publish: the numbers 1, 2, 3 … in this order."""

    accepted: set[int] = field(default_factory=set)
    unsent: set[int] = field(default_factory=set)
    """Those that were `Unavailable`: they were not, and will not be sent."""


@dataclass(frozen=True)
class Received:
    """One delivery, and how many interruptions had been reported by then."""

    publisher: str
    number: int
    interrupted: int


def check_bus(published: dict[str, Published], received: Sequence[Received], *, lossy: bool = False) -> None:
    """Nothing twice, nothing out of order, nothing that was not sent; no gap without a report.

    With `lossy` the publishers were broken as well: what they had sent may be lost without anybody knowing.
    """
    findings = first(_findings(published, received, lossy))
    if findings:
        raise Disproved(
            "deliveries at most once, in order, and without silent gaps",
            findings,
            total=f"{len(received)} deliveries",
            dump=None,
        )


def _findings(published: dict[str, Published], received: Sequence[Received], lossy: bool) -> list[Finding]:
    found: list[Finding] = []
    latest: dict[str, Received] = {}
    for one in received:
        sent, before = published[one.publisher], latest.get(one.publisher)
        if one.number in sent.unsent:
            found.append(Finding("an event was delivered whose publisher was told that it will not be sent", [one]))
        if before is not None and one.number <= before.number:
            found.append(Finding("an event was delivered twice, or behind a later one", [before, one]))
        elif before is not None and not lossy and one.interrupted == before.interrupted:
            missing = [number for number in range(before.number + 1, one.number) if number in sent.accepted]
            if missing:
                found.append(Finding(f"events {missing[:5]} are missing, without an interruption", [before, one]))
        latest[one.publisher] = one
    return found
