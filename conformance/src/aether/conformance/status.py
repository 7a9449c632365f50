"""What comes of a case."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from aether.conformance.rules import Case


class Status(StrEnum):
    """What came of a case, from the best to the worst; the worst one of a rule counts."""

    PASS = "pass"  # noqa: S105  (not a password)
    NOT_CLAIMED = "not-claimed"
    NOT_TESTABLE = "not-testable"
    NOT_RUN = "not-run"
    FAIL = "FAIL"
    SUITE_ERROR = "suite-error"


@dataclass(frozen=True)
class Result:
    """One case, run or not, and why."""

    case: Case
    status: Status
    text: str = ""
    seconds: float = 0.0
