"""How long a run goes on when its cases fail slowly: a backend that hangs everywhere would take hours otherwise."""

from __future__ import annotations

from aether.conformance.status import Result, Status

_IN_A_ROW = 3
_ALTOGETHER = 10
"""After so many times the bound of a case, spent on cases that failed, the run ends. Few cases come near their bound
when they fail, so a backend with a hundred quick failures is checked to the end.
"""


class Patience:
    """Adds up what failures take. Cases that pass renew it, but not for ever."""

    def __init__(self, case_seconds: float) -> None:
        """`case_seconds` is the bound of one case."""
        self._case_seconds = case_seconds
        self._in_a_row = 0.0
        self._altogether = 0.0

    def note(self, result: Result, seconds: float) -> None:
        """Hear what came of a case, and how long it took, with its repetition. A machine counts as a case does."""
        if result.status is Status.PASS:
            self._in_a_row = 0.0
        elif result.status is Status.FAIL:
            spent = min(seconds, self._case_seconds)
            self._in_a_row += spent
            self._altogether += spent

    @property
    def end(self) -> str:
        """Why the run is over; empty while it is not."""
        if self._in_a_row >= _IN_A_ROW * self._case_seconds:
            return f"given up: cases failed for {self._in_a_row:.0f} s, and none passed in between"
        if self._altogether >= _ALTOGETHER * self._case_seconds:
            return f"given up: cases that failed took {self._altogether:.0f} s"
        return ""
