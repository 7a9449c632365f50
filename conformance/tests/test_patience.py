"""A run ends when its failures take too long, and not before."""

from collections.abc import Iterable

import pytest

from aether.conformance.patience import Patience
from aether.conformance.rules import all_cases
from aether.conformance.status import Result, Status

CASE = next(iter(all_cases().values()))
BOUND = 60.0


def told(outcomes: Iterable[tuple[Status, float]]) -> int:
    """How many cases are run until patience ends."""
    patience = Patience(BOUND)
    for number, (status, seconds) in enumerate(outcomes):
        if patience.end:
            return number
        patience.note(Result(CASE, status), seconds)
    return -1


@pytest.mark.parametrize(
    ("outcomes", "ran"),
    [
        ([(Status.FAIL, 75.0)] * 300, 3),  # whatever is called hangs
        ([(Status.FAIL, 10.0)] * 300, 18),  # whatever is called times out
        ([(Status.FAIL, 60.0), (Status.PASS, 0.1)] * 150, 19),  # one of two hangs
        ([(Status.FAIL, 300.0), (Status.FAIL, 300.0), (Status.PASS, 0.0)], -1),  # machines take their time
        ([(Status.FAIL, 0.1)] * 300, -1),
        ([(Status.PASS, 60.0)] * 300, -1),
        ([(Status.FAIL, 60.0), (Status.NOT_CLAIMED, 0.0)] * 150, 5),  # what is not claimed renews nothing
    ],
)
def test_failures_that_take_long_end_a_run(outcomes: list[tuple[Status, float]], ran: int) -> None:
    assert told(outcomes) == ran
