"""Recorded histories and their checkers.

Checking linearizability is a search in general. Here every accepted write names the revision that it replaced, so the
order of writes is given, and checking is a sort (Gibbons and Korach, "Testing shared memories").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from aether.conformance.violations import expect, expect_equal


@dataclass(frozen=True)
class RegisterCall:
    """One call on a record of a lease register, with the moments of its beginning and its end."""

    kind: Literal["written", "refused", "read"]
    value: bytes
    expected: int
    revision: int
    begin: float
    end: float


def check_register(calls: Sequence[RegisterCall], *, final: tuple[int, bytes]) -> None:
    """Writes form one chain that agrees with real time; reads show written values; refused values never show."""
    chain = sorted((call for call in calls if call.kind == "written"), key=lambda call: call.revision)
    before, latest_begin = 0, float("-inf")
    for call in chain:
        expect(call.revision > before, f"a revision above {before}", found=call)
        expect_equal(call.expected, before, f"what revision {call.revision} replaced")
        expect(call.end >= latest_begin, "no write to be ordered behind one that began after its end", found=call)
        before, latest_begin = call.revision, max(latest_begin, call.begin)
    written = {call.revision: call.value for call in chain}
    for call in calls:
        if call.kind == "read" and call.revision:
            expect_equal(call.value, written.get(call.revision), f"the value read at revision {call.revision}")
    refused = {call.value for call in calls if call.kind == "refused"}
    expect(not refused & set(written.values()), "no refused value to be stored", found=refused & set(written.values()))
    last = (chain[-1].revision, chain[-1].value) if chain else (0, b"")
    expect_equal(final, last, "the last revision and value")


@dataclass(frozen=True)
class Tenure:
    """One term, as its holder saw it: it led at least from `begin` to `end`."""

    token: int
    holder: str
    begin: float
    end: float


def check_tenures(tenures: Sequence[Tenure]) -> None:
    """No two terms overlap or share a token, and tokens increase with time."""
    ordered = sorted(tenures, key=lambda tenure: tenure.begin)
    for earlier, later in pairwise(ordered):
        expect(earlier.end <= later.begin, "no two terms at once", found=(earlier, later))
        expect(earlier.token < later.token, "a token above that of the term before", found=(earlier, later))
