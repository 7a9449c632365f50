"""Runs cases against one server and says what came out, case by case."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from aether.conformance.context import Context, Server
from aether.conformance.harness import Harness
from aether.conformance.rules import Case
from aether.conformance.violations import SuiteError, Violation
from aether.core.event import new_id
from aether.core.features import Durability
from aether.core.registry import Registry, default_registry

_CASE_DEADLINES = 6
"""No case needs as many of the harness's deadlines on a sound backend; one that hangs ends there as FAIL."""

_WATCHDOG_GRACE = 15.0  # seconds that a case has to clean up behind its bound

_STRAGGLER_SECONDS = 2.0
"""How long tasks may take to end after everything was closed."""


class Stuck(Exception):
    """The event loop is blocked."""


class Status(StrEnum):
    """What came of a case; the worst one of a rule counts."""

    PASS = "pass"  # noqa: S105  (not a password)
    NOT_CLAIMED = "not-claimed"
    NOT_TESTABLE = "not-testable"
    FAIL = "FAIL"
    SUITE_ERROR = "suite-error"


@dataclass(frozen=True)
class Result:
    """One case, run or not, and why."""

    case: Case
    status: Status
    text: str = ""
    seconds: float = 0.0


class Session:
    """A server that runs from entering to leaving, and the event loop that all cases share."""

    def __init__(self, harness: Harness, *, time_factor: float = 1.0, registry: Registry | None = None) -> None:
        self._harness = harness
        self._time_factor = time_factor
        self._registry = registry or default_registry()
        self._runner = asyncio.Runner()
        self._server: Server | None = None
        self._complaints: list[str] = []

    def __enter__(self) -> Self:
        self._runner.__enter__()
        try:
            self._server = self._runner.run(self._start())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    async def _start(self) -> Server:
        asyncio.get_running_loop().set_exception_handler(self._complain)
        try:
            url = await self._harness.start()
            server = Server(self._harness, url, self._registry, self._time_factor)
            await server.probe(_fresh_namespace())
        except Exception as error:
            raise SuiteError(f"the harness {self._harness.target} did not start: {_described(error)}") from error
        return server

    def _stop(self) -> None:
        try:
            self._runner.run(self._harness.stop())
        finally:
            self._runner.close()

    def _complain(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._complaints.append(context["message"] + (f" ({_described(error)})" if error else ""))

    # --- Running ---

    def run(self, case: Case) -> Result:
        """Run one case in a fresh namespace."""
        if self._server is None:
            raise SuiteError("the session is not entered; use it with `with`")
        if reason := _not_run(case, self._server):
            return Result(case, *reason)
        begin = time.monotonic()
        with _watchdog(self._case_seconds + _WATCHDOG_GRACE):
            status, text = self._runner.run(self._judge(case, self._server))
        return Result(case, status, text, time.monotonic() - begin)

    @property
    def _case_seconds(self) -> float:
        return _CASE_DEADLINES * self._harness.deadline * self._time_factor

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
            if isinstance(error, TimeoutError) and bound.expired():
                return Status.FAIL, self._failure(case, f"the case to end within {seconds:g} s", "it hangs")
            return Status.FAIL, self._failure(case, "no error", _described(error), _frames(error))
        finally:
            await _end(asyncio.all_tasks() - before)
        return Status.PASS, ""

    async def _check_leftovers(self, before: set[asyncio.Task[Any]]) -> None:
        left = asyncio.all_tasks() - before
        if left:
            _, left = await asyncio.wait(left, timeout=_STRAGGLER_SECONDS * self._time_factor)
        if left:
            found = ", ".join(sorted(repr(task.get_coro()) for task in left))
            raise Violation(expected="no task to be left when everything is closed", found=found)
        if self._complaints:
            raise Violation(expected="no complaint of the event loop", found="; ".join(self._complaints))

    def _failure(self, case: Case, expected: str, found: str, frames: str = "") -> str:
        again = f"aether-conformance run {self._harness.target} -k '{case.id}'"
        rows = [("rule", case.sentence), ("expected", expected), ("found", found), ("again", again)]
        if frames:
            rows.append(("where", frames))
        return "\n".join([case.id, *(f"  {name:<9} {_indented(text)}" for name, text in rows)])


def _not_run(case: Case, server: Server) -> tuple[Status, str] | None:
    """Why a case says nothing about this server: it claims less, or the harness cannot do what it takes."""
    if missing := case.needs - server.features:
        return Status.NOT_CLAIMED, f"no {', '.join(sorted(missing))}"
    if case.lacks in server.features:
        return Status.NOT_CLAIMED, f"{case.lacks} is claimed: there is nothing to refuse"
    if case.durability > server.durability:
        return Status.NOT_CLAIMED, f"durability is {server.durability.name}"
    # What lives in one process claims nothing beyond it: there is no server that could be lost or shared.
    absent = Status.NOT_CLAIMED if server.durability == Durability.NONE else Status.NOT_TESTABLE
    if case.processes and not server.harness.multiprocess:
        return absent, "other processes cannot reach it"
    if missing_faults := case.faults - server.faults.names():
        return absent, f"the harness has no {', '.join(sorted(missing_faults))}()"
    return None


def _fresh_namespace() -> str:
    return f"c-{new_id().replace('-', '')[-16:]}"


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


# --- A whole run ---


def summary(results: Sequence[Result], *, deselected: int = 0) -> str:
    """One line with counts, then what was not run, by name."""
    counts = {status: sum(result.status == status for result in results) for status in Status}
    shown = [f"{count} {status}" for status, count in counts.items() if count or status in (Status.PASS, Status.FAIL)]
    if deselected:
        shown.append(f"{deselected} deselected")
    lines = [" · ".join(shown)]
    for status in (Status.NOT_CLAIMED, Status.NOT_TESTABLE):
        lines += [f"{status}: {result.case.id} ({result.text})" for result in results if result.status == status]
    return "\n".join(lines)


def exit_code(results: Sequence[Result], *, deselected: int = 0) -> int:
    """0 conformant, 1 violations, 3 the suite or its harness failed, 4 partial: something was not checked."""
    found = {result.status for result in results}
    if Status.SUITE_ERROR in found:
        return 3
    if Status.FAIL in found:
        return 1
    return 4 if deselected or Status.NOT_TESTABLE in found else 0


def interrupt_on_sigterm() -> None:
    """End a run that is told to terminate as one that is interrupted: the server is stopped."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it otherwise
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


@contextmanager
def _watchdog(seconds: float) -> Iterator[None]:
    """Raise `Stuck` in whatever runs then: a loop that never yields cannot be timed out from the event loop."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def bark(*_: object) -> None:
        raise Stuck(f"nothing else came to run for {seconds:g} s: something never yields to the event loop")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
