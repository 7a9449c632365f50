"""Checks what a bus has delivered: at most once, in order, and with gaps only where they were reported."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from aether.conformance.history.findings import Disproved, Finding, first


@dataclass
class Published:
    """What one publisher has tried to publish: the numbers 1, 2, 3 … in this order."""

    accepted: set[int] = field(default_factory=set)
    unsent: set[int] = field(default_factory=set)
    """Those that were `Unavailable`: they were not, and will not be sent."""

    unknown: set[int] = field(default_factory=set)
    """Those whose answer is lost: they may be delivered, or not."""


@dataclass(frozen=True)
class Received:
    """One delivery."""

    publisher: str
    number: int


def check_bus(published: dict[str, Published], received: Sequence[Received], *, gaps: int | None = None) -> None:
    """Nothing twice, nothing out of order, nothing that was not sent; no more gaps than interruptions were reported.

    Without `gaps` the publishers were broken as well: what they had sent may be lost without anybody knowing.
    """
    findings = first(_findings(published, received, gaps))
    if findings:
        raise Disproved(
            "deliveries at most once, in order, and without silent gaps",
            findings,
            total=f"{len(received)} deliveries",
            dump=None,
        )


def _findings(published: dict[str, Published], received: Sequence[Received], gaps: int | None) -> list[Finding]:
    found: list[Finding] = []
    latest: dict[str, Received] = {}
    missed: dict[str, int] = defaultdict(int)
    for one in received:
        sent, before = published[one.publisher], latest.get(one.publisher)
        if one.number in sent.unsent:
            found.append(Finding("an event was delivered whose publisher was told that it will not be sent", [one]))
        if before is not None and one.number <= before.number:
            found.append(Finding("an event was delivered twice, or behind a later one", [before, one]))
        elif before is not None and sent.accepted & set(range(before.number + 1, one.number)):
            missed[one.publisher] += 1
            if gaps is not None and missed[one.publisher] > gaps:
                found.append(Finding(f"events are missing, more often than the {gaps} interruptions", [before, one]))
        latest[one.publisher] = one
    return found
