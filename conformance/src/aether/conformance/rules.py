"""The registry of rules and cases.

A case is a coroutine function that takes a `Context`; its docstring is the rule, one sentence with MUST. A rule may
have several cases: `store.append.conflict#below` and `store.append.conflict#commit` check `store.append.conflict`.
Cases are listed here and nowhere else: no author of a backend can leave one out by not inheriting it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from aether.conformance.profiles import Profile
from aether.conformance.violations import SuiteError
from aether.core.features import Durability, Feature

if TYPE_CHECKING:
    from aether.conformance.context import Context
    from aether.conformance.machines.bench import Bench

Body = Callable[["Context"], Awaitable[None]]
Play = Callable[["Bench"], object]

PARTS = ("store", "bus", "election")
"""What a backend may offer. The first word of a rule says which of them it is about."""

_ORDERED = (
    "store.feed.",
    "store.subscribe.",
    "store.checkpoint.",
    "store.identity",
    "store.driver.feed",
    "store.driver.tail",
)


@dataclass(frozen=True)
class Case:
    """One check of one rule, and what it takes to run it."""

    id: str
    sentence: str
    body: Body
    needs: frozenset[Feature] = frozenset()
    """The features without which the rule does not hold."""

    lacks: Feature | None = None
    """The feature that must not be claimed: the case checks that it is refused."""

    faults: frozenset[str] = frozenset()
    durability: Durability = Durability.NONE
    """The least durability that a store must claim for the rule to hold."""

    processes: bool = False
    """Whether other processes must be able to reach the server."""

    play: Play | None = None
    """What a machine does instead of the body: it compares long series of calls with the references."""

    beside: frozenset[str] = frozenset()
    """What is opened beside what the rule is about: a store, for some rules of the election."""

    since: str = "1.0"
    """The version of the suite that brought the case."""

    provisional: bool = False
    """Reported, but not counted: new cases of required profiles are, for one minor version."""

    @property
    def rule(self) -> str:
        """The id of the rule that the case checks."""
        return self.id.partition("#")[0]

    @property
    def opens(self) -> frozenset[str]:
        """What a backend has to offer for the rule to hold: store, bus or election."""
        return self.beside | {self.rule.partition(".")[0]}

    @property
    def machine(self) -> bool:
        """Whether it is played by a machine."""
        return self.play is not None

    @property
    def conditions(self) -> str:
        """What it takes to run the case, in words; empty if nothing."""
        parts = [f"needs {feature}" for feature in sorted(self.needs)]
        parts += [f"without {self.lacks}"] if self.lacks else []
        parts += [f"durability {self.durability.name} and above"] if self.durability else []
        parts += [f"fault: {fault}" for fault in sorted(self.faults)]
        parts += ["several processes"] if self.processes else []
        return ", ".join(parts)

    @property
    def profile(self) -> Profile:
        """What the case counts for."""
        if self.rule.startswith("election."):
            return Profile.COORDINATION
        if self.faults or self.durability > Durability.NONE:
            return Profile.DURABLE
        return Profile.ORDERED if self.rule.startswith(_ORDERED) else Profile.CORE


_CASES: dict[str, Case] = {}

ELSEWHERE = {
    "store.feed.parallel": (
        "16 concurrent appenders on distinct actors MUST be at least 3 times as fast as one. "
        "A figure, not a case: `bench/` measures it."
    )
}
"""Rules without a case, and where they are checked."""


def case(
    case_id: str,
    *,
    needs: Iterable[Feature] = (),
    faults: Iterable[str] = (),
    durability: Durability = Durability.NONE,
    processes: bool = False,
    beside: Iterable[str] = (),
    since: str = "1.0",
    provisional: bool = False,
) -> Callable[[Body], Body]:
    """Register a case under its rule's id."""

    def register(body: Body) -> Body:
        _add(
            Case(
                case_id,
                _sentence(case_id, body),
                body,
                needs=frozenset(needs),
                faults=frozenset(faults),
                durability=durability,
                processes=processes,
                beside=frozenset(beside),
                since=since,
                provisional=provisional,
            )
        )
        return body

    return register


def refusal(feature: Feature, case_id: str) -> Callable[[Body], Body]:
    """Register a case for backends that do not claim a feature: half of a feature is a violation."""

    def register(body: Body) -> Body:
        _add(Case(case_id, _sentence(case_id, body), body, lacks=feature))
        return body

    return register


def machine(case_id: str) -> Callable[[Play], Play]:
    """Register a machine."""

    def register(play: Play) -> Play:
        _add(Case(case_id, _sentence(case_id, play), _no_body, play=play))
        return play

    return register


async def _no_body(_: Context) -> None:
    raise SuiteError("a machine is played on a bench; the runner makes one")


@cache
def all_cases() -> dict[str, Case]:
    """Every case of the suite, by id, in the order of the rules."""
    import_module("aether.conformance.cases")  # importing them registers them
    return dict(_CASES)


def _sentence(case_id: str, body: Body | Play) -> str:
    text = inspect.cleandoc(body.__doc__ or "").partition("\n\n")[0]
    if not text:
        raise ValueError(f"case {case_id} has no docstring; write its rule there, one sentence with MUST")
    return " ".join(text.split())


def _add(new: Case) -> None:
    if new.id in _CASES:
        raise ValueError(f"case {new.id} is there already; ids never repeat")
    _CASES[new.id] = new
