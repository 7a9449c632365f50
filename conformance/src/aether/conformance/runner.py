"""Runs cases against one server and says what came out, case by case."""

from __future__ import annotations

import asyncio
import math
import shlex
import time
import traceback
from collections.abc import Iterable
from contextlib import AbstractContextManager, AsyncExitStack, suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from aether.conformance.context import Context, Server
from aether.conformance.harness import Harness
from aether.conformance.patience import Patience
from aether.conformance.redaction import printable, without_secrets
from aether.conformance.rules import PARTS, Case, Play
from aether.conformance.status import Result, Status
from aether.conformance.violations import SuiteError, Violation
from aether.conformance.watchdog import GRACE, Stuck, watchdog
from aether.core.event import new_id
from aether.core.features import Durability, Feature
from aether.core.registry import Registry, default_registry

if TYPE_CHECKING:
    from aether.conformance.machines.bench import Bench

_CASE_DEADLINES = 6
"""No case needs as many of the harness's deadlines on a sound backend; one that hangs ends there as FAIL."""

_START_SECONDS = 60.0  # that a server may take to start or to stop

_GAMES = 40
_DEEP_GAMES = 400
"""How many games a machine plays: the same ones each time, or those of a seed. A server whose answers may take longer
than usual plays fewer of them, so that they take about as long."""

_MACHINE_DEADLINES = 30
"""A machine ends after so many of the harness's deadlines, ten times as many if it plays ten times as long."""

_SHRINK_SECONDS = 15.0
_SHRINK_DEADLINES = 1.5
"""How long a machine may look for a shorter series of calls that shows the same."""

_STRAGGLER_SECONDS = 2.0
"""How long tasks may take to end after everything was closed."""


class Session:
    """A server that runs from entering to leaving, and the event loop that all cases share."""

    def __init__(
        self,
        harness: Harness,
        *,
        time_factor: float = 1.0,
        seed: int | None = None,
        registry: Registry | None = None,
        last_words: TextIO | None = None,
    ) -> None:
        """`seed` makes the machines play other games than the usual ones; `last_words` is for the watchdog."""
        self._harness = harness
        self._time_factor = time_factor
        self._seed = seed
        self._registry = registry or default_registry()
        self._last_words = last_words
        self._runner = asyncio.Runner()
        self._beside = AsyncExitStack()
        self._references: tuple[Server, ...] = ()
        self._server: Server | None = None
        self._complaints: list[str] = []
        self._patience = Patience(self._case_seconds)

    def __enter__(self) -> Self:
        self._runner.__enter__()
        try:
            with self._watched(self._start_seconds + self._case_seconds):
                self._server = self._runner.run(self._start())
        except BaseException as error:
            with suppress(SuiteError):  # why it did not start says more
                self._stop()
            if isinstance(error, (Stuck, SystemExit)):
                raise SuiteError(self._told(f"did not start: {_described(error)}")) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def server(self) -> Server:
        """The server under test."""
        if self._server is None:
            raise SuiteError("the session is not entered; use it with `with`")
        return self._server

    async def _start(self) -> Server:
        asyncio.get_running_loop().set_exception_handler(self._complain)
        url, doing, bound = "", "start", asyncio.timeout(self._start_seconds)
        try:
            async with bound:
                url = await self._harness.start()
            server = Server(self._harness, url, self._registry, self._time_factor)
            doing, bound = "answer", asyncio.timeout(self._case_seconds)
            async with bound:
                await server.probe(_fresh_namespace())
        except Exception as error:
            reason = "it hangs" if isinstance(error, TimeoutError) and bound.expired() else _described(error)
            raise SuiteError(without_secrets(self._told(f"did not {doing}: {reason}"), url)) from error
        return server

    def _stop(self) -> None:
        """Stop the server, and end the event loop whatever a backend has left in it."""
        try:
            with self._watched(self._start_seconds):
                self._runner.run(self._stop_servers())
        except (Stuck, SystemExit) as error:
            raise SuiteError(self._told(f"did not stop: {_described(error)}")) from error
        finally:
            with suppress(Stuck), self._watched(0.0, grace=_STRAGGLER_SECONDS):
                self._runner.close()

    async def _stop_servers(self) -> None:
        bound = asyncio.timeout(self._start_seconds)
        try:
            async with bound, AsyncExitStack() as last:
                last.push_async_callback(self._harness.stop)
                await self._beside.aclose()
        except Exception as error:
            reason = "it hangs" if isinstance(error, TimeoutError) and bound.expired() else _described(error)
            raise SuiteError(self._told(f"did not stop: {reason}")) from error

    def _told(self, text: str) -> str:
        """A sentence on the harness that may be shown."""
        url = self._server.url if self._server else ""
        return without_secrets(printable(f"the harness {self._harness.target} {text}"), url)

    def _complain(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._complaints.append(context["message"] + (f" ({_described(error)})" if error else ""))

    def _watched(self, seconds: float, *, grace: float = GRACE) -> AbstractContextManager[None]:
        """A watchdog that sleeps for so many seconds, and then for its grace, before it barks."""
        grace *= self._time_factor
        return watchdog(seconds + grace, grace=grace, last_words=self._last_words)

    @property
    def _start_seconds(self) -> float:
        return _START_SECONDS * self._time_factor

    def facts(self) -> dict[str, Any]:
        """What the server is and claims, for a report, as plain values and without secrets."""
        server = self.server
        url = server.backend_url()
        backend = self._registry.backend(url.scheme)
        return {
            "target": self._harness.target,
            "scheme": url.scheme,
            "distribution": backend.info.name,
            "source": backend.source,
            "server": without_secrets(printable(str(self._harness.server)), server.url),
            "offers": sorted(server.offers, key=PARTS.index),
            "features": sorted(str(feature) for feature in server.features),
            "durability": server.durability.name,
            "faults": sorted(server.faults.names()),
            "deadline": float(self._harness.deadline),
            "lease": float(self._harness.lease),
            "time_factor": self._time_factor,
            "seed": self._seed,
        }

    # --- Running ---

    def run(self, case: Case) -> Result:
        """Run one case in a fresh namespace."""
        if reason := _not_run(case, self.server):
            return Result(case, *reason)
        begin = time.monotonic()
        try:
            if case.play is not None:
                status, text = self._judge_machine(case, case.play)
            else:
                with self._watched(self._case_seconds):
                    status, text = self._runner.run(self._judge(case, self.server))
        except Stuck as error:
            found = "it hangs, and cannot be cancelled either"
            text = self._failure(case, f"the case to end within {self._case_seconds:g} s", found, _frames(error))
            status = Status.FAIL
        except (SystemExit, asyncio.CancelledError) as error:
            status, text = Status.FAIL, self._failure(case, "no error", _described(error), _frames(error))
        return Result(case, status, text, time.monotonic() - begin)

    def settle(self, case: Case) -> Result:
        """Run a case, and once more if it fails at once, to say whether the answers differ. It fails all the same.

        No case is run any more when those that failed have taken too long.
        """
        if (end := self._patience.end) and not _not_run(case, self.server):
            return Result(case, Status.NOT_RUN, end)
        begin = time.monotonic()
        result = self._repeated(case)
        self._patience.note(result, time.monotonic() - begin)
        return result

    def _repeated(self, case: Case) -> Result:
        result = self.run(case)
        if result.status is not Status.FAIL or result.seconds > self._harness.deadline * self._time_factor:
            return result
        if self.run(case).status is not Status.PASS:
            return result
        told = "it passed when it was repeated: the answers differ between two runs of the same calls"
        return replace(result, text=f"{result.text}\n  {'remark':<9} {told}")

    @property
    def _case_seconds(self) -> float:
        return _CASE_DEADLINES * self._harness.deadline * self._time_factor

    def _judge_machine(self, case: Case, play: Play) -> tuple[Status, str]:
        self._complaints.clear()
        try:
            bench = self._bench()
            with self._watched(self._case_seconds):
                before = self._runner.run(_tasks())
            play(bench)
            with self._watched(self._case_seconds):
                self._runner.run(self._check_leftovers(before))
        except Violation as violation:
            return Status.FAIL, self._failure(case, violation.expected, violation.found)
        except SuiteError as error:
            return Status.SUITE_ERROR, self._failure(case, "the suite and its references to work", str(error))
        return Status.PASS, ""

    def _bench(self) -> Bench:
        """What a machine plays on. Each of its games has a watchdog, as a case has."""
        from aether.conformance.machines.bench import Bench

        if not self._references:
            with self._watched(self._start_seconds + self._case_seconds):
                self._references = self._runner.run(self._start_references())
        share = min(1.0, Harness.deadline / self._harness.deadline)
        games = math.ceil(share * (_GAMES if self._seed is None else _DEEP_GAMES))
        return Bench(
            run=self._runner.run,
            watched=lambda: self._watched(self._case_seconds),
            candidate=self.server,
            references=self._references,
            deadline=self._harness.deadline * self._time_factor,
            games=games,
            seed=self._seed,
            seconds=_MACHINE_DEADLINES * self._harness.deadline * self._time_factor * max(1.0, games / _GAMES),
            shrink_seconds=min(_SHRINK_SECONDS, _SHRINK_DEADLINES * self._harness.deadline) * self._time_factor,
        )

    async def _start_references(self) -> tuple[Server, ...]:
        from aether.conformance.reference import references

        try:
            return await self._beside.enter_async_context(references(self._time_factor))
        except Exception as error:
            raise SuiteError(f"the references did not start: {_described(error)}") from error

    async def _judge(self, case: Case, server: Server) -> tuple[Status, str]:
        seconds = self._case_seconds
        self._complaints.clear()
        before = asyncio.all_tasks()
        bound = asyncio.timeout(seconds)
        try:
            async with bound, AsyncExitStack() as stack:
                await case.body(Context(server, _fresh_namespace(), stack))
            await self._check_leftovers(before)
        except Violation as violation:
            return Status.FAIL, self._failure(case, violation.expected, violation.found)
        except SuiteError as error:
            return Status.SUITE_ERROR, self._failure(case, "the suite and its harness to work", str(error))
        except Exception as error:  # noqa: BLE001  (whatever a backend raises is a finding)
            ends = f"the case to end within {seconds:g} s"
            if isinstance(error, TimeoutError) and bound.expired():
                return Status.FAIL, self._failure(case, ends, "it hangs")
            if isinstance(error, Stuck):
                return Status.FAIL, self._failure(case, ends, "it blocks the event loop", _frames(error))
            return Status.FAIL, self._failure(case, "no error", _described(error), _frames(error))
        finally:
            await _end(asyncio.all_tasks() - before)
        return Status.PASS, ""

    async def _check_leftovers(self, before: set[asyncio.Task[Any]]) -> None:
        left = await _tasks() - before
        if left:
            _, left = await asyncio.wait(left, timeout=_STRAGGLER_SECONDS * self._time_factor)
        if left:
            found = ", ".join(sorted(repr(task.get_coro()) for task in left))
            raise Violation(expected="no task to be left when everything is closed", found=found)
        if self._complaints:
            raise Violation(expected="no complaint of the event loop", found="; ".join(self._complaints))

    def _failure(self, case: Case, expected: str, found: str, frames: str = "") -> str:
        again = f"aether-conformance run {shlex.quote(self._harness.target)} -k '{case.id}'"
        if case.machine and self._seed is not None:
            again += f" --seed {self._seed}"
        if self._time_factor != 1:
            again += f" --time-factor {self._time_factor:g}"
        rows = [("rule", case.sentence), ("expected", expected), ("found", found), ("again", again)]
        if frames:
            rows.append(("where", frames))
        told = "\n".join([case.id, *(f"  {name:<9} {_indented(text)}" for name, text in rows)])
        return without_secrets(printable(told), self.server.url)


def _not_run(case: Case, server: Server) -> tuple[Status, str] | None:
    """Why a case says nothing about this server: it claims less, or the harness cannot do what it takes."""
    if absent_parts := case.opens - server.offers:
        return Status.NOT_CLAIMED, f"the backend has no {', '.join(sorted(absent_parts))}"
    if missing := case.needs - server.features:
        return Status.NOT_CLAIMED, f"no {', '.join(sorted(missing))}"
    if case.lacks in server.features:
        return Status.NOT_CLAIMED, f"{case.lacks} is claimed: there is nothing to refuse"
    # Durability is a store's to claim. Where there is none, the harness's faults say what can be tried.
    if "store" in server.offers and case.durability > server.durability:
        return Status.NOT_CLAIMED, f"durability is {server.durability.name}"
    # What lives in one process claims nothing beyond it: there is no server that could be lost or shared.
    alone = server.durability == Durability.NONE and not server.harness.multiprocess
    absent = Status.NOT_CLAIMED if alone else Status.NOT_TESTABLE
    if case.processes and not server.harness.multiprocess:
        return absent, "other processes cannot reach it"
    if Feature.CALLER_TRANSACTION in case.needs and not server.harness.transactional:
        return Status.NOT_TESTABLE, "the harness has no transaction()"
    if missing_faults := case.faults - server.faults.names():
        return absent, f"the harness has no {', '.join(sorted(missing_faults))}()"
    return None


def _fresh_namespace() -> str:
    return f"c-{new_id().replace('-', '')[-16:]}"


async def _tasks() -> set[asyncio.Task[Any]]:
    """All tasks but the one that asks."""
    own = asyncio.current_task()
    return {task for task in asyncio.all_tasks() if task is not own}


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _described(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_described(each) for each in error.exceptions)
    return f"{type(error).__name__}: {error}"


def _frames(error: BaseException) -> str:
    return "".join(traceback.format_tb(error.__traceback__)[-4:]).rstrip()


def _indented(text: str) -> str:
    return text.strip().replace("\n", "\n            ")
