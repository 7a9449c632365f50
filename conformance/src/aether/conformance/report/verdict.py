"""From what came of cases to verdicts and exit codes. The worst one wins, always."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from aether.conformance.status import Status


class Verdict(StrEnum):
    """What may be said of a backend, from the least to the worst."""

    NOT_CLAIMED = "not claimed"
    """The backend promises nothing of a profile."""

    CONFORMANT = "conformant"
    PARTIAL = "partial"
    """Nothing failed, but not everything was checked."""

    NOT_CONFORMANT = "not conformant"
    NONE = "no verdict"
    """The suite, its references or the harness failed: nothing is said about the backend."""


_EXIT_CODES = {Verdict.CONFORMANT: 0, Verdict.NOT_CONFORMANT: 1, Verdict.NONE: 3}
_PARTIAL = 4

_OF_STATUS = {
    Status.SUITE_ERROR: Verdict.NONE,
    Status.FAIL: Verdict.NOT_CONFORMANT,
    Status.NOT_RUN: Verdict.PARTIAL,
    Status.NOT_TESTABLE: Verdict.PARTIAL,
    Status.NOT_CLAIMED: Verdict.NOT_CLAIMED,
    Status.PASS: Verdict.CONFORMANT,
}


def worst_status(statuses: Iterable[Status]) -> Status:
    """The one that counts."""
    return max(statuses, key=list(Status).index)


def worst_verdict(verdicts: Iterable[Verdict]) -> Verdict:
    """The one that counts; without any there is none."""
    return max(verdicts, key=list(Verdict).index, default=Verdict.NONE)


def verdict_of(statuses: Iterable[Status]) -> Verdict:
    """The verdict on the part that these cases make up; a part without cases is not claimed."""
    return worst_verdict([Verdict.NOT_CLAIMED, *(_OF_STATUS[status] for status in statuses)])


def exit_code(verdict: Verdict) -> int:
    """What the command answers: 0 conformant, 1 violations, 3 the suite or its harness failed, 4 partial."""
    return _EXIT_CODES.get(verdict, _PARTIAL)
