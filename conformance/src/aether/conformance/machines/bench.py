"""Where a machine plays: what it compares, how long it may take, and how Hypothesis is told about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from aether.conformance.context import Server
from aether.conformance.violations import SuiteError, Violation
from aether.conformance.watchdog import Stuck


class Run(Protocol):
    """Runs a coroutine on the event loop of the session, to its end."""

    def __call__(self, work: Coroutine[Any, Any, Any], /) -> Any: ...


@dataclass(frozen=True)
class Bench:
    """One machine's surroundings."""

    run: Run
    candidate: Server
    references: tuple[Server, ...]
    """All that have to agree; the first answers without waiting, so it also says what there is to wait for."""

    deadline: float
    """Seconds that one call may take; then it hangs."""

    games: int
    """How many series of calls to play."""

    watched: Callable[[], AbstractContextManager[None]] = nullcontext
    """Guards one game against what never gives up its turn."""

    steps: int = 20
    """The most rules of a series. A rule may be several calls."""

    seed: int | None = None
    """Other games than the usual ones."""

    seconds: float = 300.0
    """After so many the machine ends, whatever it has found out."""

    shrink_seconds: float = 15.0
    """How long to look for a shorter series that shows the same. 0: not at all."""


@dataclass
class Transcript:
    """One series of calls with the answers, and what is wrong with the last one."""

    lines: list[str] = field(default_factory=list)
    lost: Violation | SuiteError | None = None

    def numbered(self) -> str:
        """The lines, as a person reads them."""
        return "\n".join(f"{number}. {line}" for number, line in enumerate(self.lines, start=1))


class Lost(Exception):
    """The candidate's answer differs: this game is over."""


class Disagreed(Exception):
    """The references differ: this game is over and says nothing about the candidate."""


class Enough(BaseException):
    """Ends the match: nothing that could be found would be worth the time. No `Exception`, or Hypothesis goes on."""


class Match:
    """All games of one machine on one bench."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.games = 0
        self._end = time.monotonic() + bench.seconds
        self._out_of_time = False
        self.last = Transcript()
        self._worst: Transcript | None = None

    def begin(self) -> Transcript:
        """Begin a game, or end the match if its time is over."""
        if time.monotonic() > self._end:
            self._out_of_time = True
            raise Enough
        self.games += 1
        self.last = Transcript()
        return self.last

    def finish(self, transcript: Transcript) -> None:
        """Note a game that was lost. From the first one on there is only so much time to find a shorter one."""
        if self._worst is None:
            self._end = min(self._end, time.monotonic() + self.bench.shrink_seconds)
        if self._worst is None or len(transcript.lines) <= len(self._worst.lines):
            self._worst = transcript

    def verdict(self, error: BaseException) -> Violation | SuiteError:
        """What has come of it, when it did not end well."""
        worst = self._worst
        if worst is None or worst.lost is None:
            bench = self.bench
            expected = f"{bench.games} series of up to {bench.steps} calls to be answered within {bench.seconds:g} s"
            return Violation(expected=expected, found=f"it was busy with number {self.games} then ({error!r})")
        # What Hypothesis could not repeat because its time was over is not known to be different.
        if not isinstance(error, Flaky) or self._out_of_time:
            return worst.lost
        both = f"{worst.numbered()}\nand then:\n{self.last.numbered()}"
        if isinstance(worst.lost, SuiteError):
            return SuiteError(f"the references disagree, but not each time: {worst.lost}\nand then:\n{both}")
        return Violation(expected=f"the same answers to the same calls:\n{both}", found=_FLAKY)


_FLAKY = "answers differ between two identical runs"


def play(bench: Bench, game: Callable[[Match], RuleBasedStateMachine]) -> int:
    """Play until a game is lost or all are played; return how many were.

    Raises `Violation` with the shortest series of calls that the candidate answers otherwise than the references do,
    and `SuiteError` if those do not agree.
    """
    match = Match(bench)
    factory: Any = seed(bench.seed or 0)(lambda: game(match))  # annotated as a type there, documented as any function
    try:
        run_state_machine_as_test(factory, settings=_settings(bench))
    except (Lost, Disagreed, Enough, Flaky) as error:
        raise match.verdict(error) from error
    except Stuck:
        raise
    except Exception as error:
        raise SuiteError(f"the machine failed: {type(error).__name__}: {error}") from error
    return match.games


def _settings(bench: Bench) -> settings:
    every_check: Any = list(HealthCheck)  # its metaclass leaves out what is deprecated; type checkers do not see it
    return settings(
        max_examples=bench.games,
        stateful_step_count=bench.steps,
        phases=(Phase.generate, Phase.shrink) if bench.shrink_seconds else (Phase.generate,),
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=every_check,
        verbosity=Verbosity.quiet,
    )
