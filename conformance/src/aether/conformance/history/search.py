"""An exhaustive search for linearizability (Wing and Gong), as the oracle of the checkers.

It takes any object, and exponential time: small histories only.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple


class Operation(NamedTuple):
    """One call: when it was made, when it had ended, and what it does to a state; None where that cannot be.

    One that `may` have happened has no end: it may take effect at any time behind its beginning, or never.
    """

    begin: float
    end: float
    step: Callable[[Hashable], Hashable | None]
    may: bool = False


def linearizable(operations: Sequence[Operation], initial: Hashable) -> bool:
    """Whether there is an order of the operations that agrees with real time, in which each of them can be."""
    failed: set[tuple[frozenset[int], Hashable]] = set()

    def search(left: frozenset[int], state: Hashable) -> bool:
        must = [number for number in left if not operations[number].may]
        if not must:
            return True
        if (left, state) in failed:
            return False
        bound = min(operations[number].end for number in must)
        for number in left:
            if operations[number].begin <= bound:
                after = operations[number].step(state)
                if after is not None and search(left - {number}, after):
                    return True
        failed.add((left, state))
        return False

    return search(frozenset(range(len(operations))), initial)
