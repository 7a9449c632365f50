"""Checks the histories of lease registers and of terms.

Every accepted write names the revision that it replaced, so the order of writes is given, and checking is a sort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from aether.conformance.violations import expect, expect_equal


@dataclass(frozen=True)
class RegisterCall:
    """One call on a record of a lease register, with the moments of its beginning and its end.

    `refused` says that certainly nothing was written; `unknown`, that it may have been, or may still be.
    """

    kind: Literal["written", "refused", "read", "unknown"]
    value: bytes
    expected: int
    revision: int
    begin: float
    end: float


def check_register(calls: Sequence[RegisterCall], *, final: tuple[int, bytes]) -> None:
    """Writes form one chain that agrees with real time; reads show written values; refused values never show.

    All values are different, and whoever writes has read, or written, what it replaces.
    """
    values = _values(calls, final)
    unknown = {call.value: call for call in calls if call.kind == "unknown"}
    written = {call.revision: call for call in calls if call.kind == "written"}
    before, latest_begin = 0, float("-inf")
    begins = {0: latest_begin}
    for revision, value in sorted(values.items()):
        call = written.get(revision) or unknown.get(value)
        expect(call is not None, f"revision {revision} to be what somebody wrote", found=value)
        assert call is not None
        expect_equal(call.expected, before, f"what revision {revision} replaced")
        if call.kind == "written":
            expect(call.end >= latest_begin, "no write to be ordered behind one that began after its end", found=call)
        before, latest_begin = revision, max(latest_begin, call.begin)
        begins[revision] = latest_begin
    for call in calls:
        if call.kind == "read":
            expect(call.end >= begins[call.revision], "no read of what is written later", found=call)
    last = max(values, default=0)
    expect_equal(final, (last, values.get(last, b"")), "the last revision and value")


def _values(calls: Sequence[RegisterCall], final: tuple[int, bytes]) -> dict[int, bytes]:
    """What is known to have been stored, by revision."""
    values: dict[int, bytes] = {}
    told = [(call.revision, call.value) for call in calls if call.kind in ("written", "read") and call.revision]
    for revision, value in (*told, *([final] if final[0] else ())):
        expect_equal(values.setdefault(revision, value), value, f"the value of revision {revision}")
    refused = {call.value for call in calls if call.kind == "refused"}
    stored = refused & set(values.values())
    expect(not stored, "no refused value to be stored", found=stored)
    return values


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


@dataclass(frozen=True)
class FencedWrite:
    """A write of a term to what it governs, as it stands there in the end."""

    token: int
    what: str


def check_fence(writes: Sequence[FencedWrite]) -> None:
    """Nothing of an older term stands behind what a younger one has written. `writes` are in the order of storing."""
    for earlier, later in pairwise(writes):
        text = f"token {later.token} ({later.what}) not to stand behind token {earlier.token}"
        expect(earlier.token <= later.token, text, found=(earlier, later))
