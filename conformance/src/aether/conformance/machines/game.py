"""One series of calls: each is put to every party, and the answers are compared as texts that a person can read."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from hypothesis.stateful import RuleBasedStateMachine

from aether.conformance.context import Server
from aether.conformance.machines.bench import Disagreed, Enough, Lost, Match
from aether.conformance.violations import SuiteError, Violation
from aether.conformance.watchdog import Stuck
from aether.core.errors import AetherError, StaleToken, VersionConflict
from aether.core.event import new_id
from aether.core.spi import RevisionConflict

_SHOWN = 400


@dataclass(frozen=True)
class Answer:
    """What a party made of a call. Two of them are the same if their texts are."""

    text: str
    detail: str = field(default="", compare=False)
    sound: bool = field(default=True, compare=False)
    """Whether it is one that a reference may give."""

    def __str__(self) -> str:
        text = self.text
        if len(text) > _SHOWN:
            text = f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}"
        return f"{text} ({self.detail})" if self.detail else text


class Party:
    """One of those who are asked the same, with fresh namespaces of its own."""

    def __init__(self, name: str, server: Server, namespace: str) -> None:
        self.name = name
        self.server = server
        self.namespace = namespace
        self.stack = AsyncExitStack()


PartyT = TypeVar("PartyT", bound=Party)

Call = Callable[[PartyT], Coroutine[Any, Any, str]]


class Game(RuleBasedStateMachine, Generic[PartyT]):
    """What all machines have in common. A subclass has the rules."""

    candidate: PartyT
    party_class: type[PartyT]

    def __init__(self, match: Match) -> None:
        super().__init__()
        self._match = match
        self._transcript = match.begin()
        self._asked = ""
        self._watched = ExitStack()
        self._watched.enter_context(match.bench.watched())
        namespace = f"m-{new_id().replace('-', '')[-16:]}"  # never drawn: a game that is repeated needs a fresh one
        bench = match.bench
        self.references = [
            self.party_class(_name(server), server, f"{namespace}-{number}")
            for number, server in enumerate(bench.references)
        ]
        self.candidate = self.party_class("the candidate", bench.candidate, namespace)
        self.parties = [*self.references, self.candidate]

    def ask(self, what: str, call: Call[PartyT], *, quiet: bool = False) -> str:
        """Put a call to everybody and return the answer, which is the same from all of them.

        `quiet` calls are part of the transcript only if they end the game.
        """
        lines = self._transcript.lines
        try:
            answers: list[Answer] = self._match.bench.run(self._answers(call))
        except Stuck as stuck:
            hangs = Answer("nothing else came to run", str(stuck))
            raise Enough from self._lose(what, Answer("an answer"), hangs, by=self._asked)
        *others, found = answers
        for party, other in zip(self.references, others, strict=True):
            if not other.sound:
                raise self._lose(what, Answer("an answer"), other, by=party.name)
        for party, other in zip(self.references[1:], others[1:], strict=True):
            if other != others[0]:
                first = f"{self.references[0].name} -> {others[0]}"
                lines.append(f"{what} -> ?")
                self._end(SuiteError(self._disagreement(first, f"{party.name} -> {other}")))
                raise Disagreed
        if found != others[0]:
            raise self._lose(what, others[0], found, by=self.candidate.name)
        if not quiet:
            lines.append(f"{what} -> {replace(found, detail='')}")
        return found.text

    async def _answers(self, call: Call[PartyT]) -> list[Answer]:
        answers = []
        for party in self.parties:
            self._asked = party.name
            answers.append(await answered(call(party), self._patience(party)))
        return answers

    def _patience(self, party: PartyT) -> float:
        """How long a party may take. A reference is not hurried by a candidate that promises to be quick."""
        deadline = self._match.bench.deadline
        own = party.server.harness.deadline * party.server.time_factor
        return deadline if party is self.candidate else max(deadline, own)

    def _lose(self, what: str, expected: Answer, found: Answer, *, by: str) -> Lost:
        lines = self._transcript.lines
        lines.append(f"{what} -> {expected}")
        if by != self.candidate.name:
            self._end(SuiteError(f"{by} answers call {len(lines)} of this series with {found}:\n{self._series()}"))
            return Lost()
        names = " and ".join(party.name for party in self.references)
        self._end(
            Violation(
                expected=f"every call of this series to be answered as {names} answer it:\n{self._series()}",
                found=f"call {len(lines)} -> {found}",
            )
        )
        return Lost()

    def _disagreement(self, *answers: str) -> str:
        lines = self._transcript.lines
        return f"the references disagree about call {len(lines)}: {'; '.join(answers)}\n{self._series()}"

    def _series(self) -> str:
        return self._transcript.numbered()

    def _end(self, lost: Violation | SuiteError) -> None:
        self._transcript.lost = lost
        self._match.finish(self._transcript)

    # --- The end ---

    def look(self) -> None:
        """Look at everything once more, when no call was answered wrongly."""

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # neither lost nor given up by Hypothesis
                self.look()
                self.ask("close everything", lambda party: _closed(party.stack), quiet=True)
        finally:
            with self._watched:
                self._match.bench.run(self._close())

    async def _close(self) -> None:
        for party in self.parties:
            await answered(_closed(party.stack), self._match.bench.deadline)


def _name(server: Server) -> str:
    return server.backend_url().scheme


async def _closed(stack: AsyncExitStack) -> str:
    await stack.aclose()
    return "closed"


async def answered(call: Awaitable[str], deadline: float) -> Answer:
    """The answer to a call. An error is its class, with those of its fields that a healthy server knows exactly."""
    bound = asyncio.timeout(deadline)
    try:
        async with bound:
            return Answer(await call)
    except Stuck:
        raise
    except VersionConflict as error:
        return Answer(f"VersionConflict(current={error.current})")
    except StaleToken as error:
        return Answer(f"StaleToken(current={error.current})")
    except Exception as error:  # noqa: BLE001  (whatever a backend raises is its answer)
        if isinstance(error, TimeoutError) and bound.expired():
            return Answer(f"no answer within {deadline:g} s", sound=False)
        return Answer(type(error).__name__, str(error), sound=isinstance(error, AetherError | RevisionConflict))
