"""The cases of drivers on a stopped server: a backend that keeps its time-out passes, broken ones die by them.

The model has no server that could be stopped, so its drivers are made to wait while the harness has "stopped" it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pluggy
import pytest

from aether.conformance.harness import Faults, Harness
from aether.conformance.rules import all_cases
from aether.conformance.runner import Session, Status
from aether.conformance.wrappers import BusWrapper, RegisterWrapper, StoreWrapper
from aether.core import OutcomeUnknown, Unavailable
from aether.core.event import new_id
from aether.core.hookspecs import PROJECT
from aether.core.registry import Registry

WRITES = {"append", "save", "cas"}
CASES = sorted(case_id for case_id in all_cases() if all_cases()[case_id].rule.endswith(".timeout"))


class StoppableHarness(Harness):
    multiprocess = False
    deadline = 1.0
    going: asyncio.Event

    async def start(self) -> str:
        self.going = asyncio.Event()
        self.going.set()
        return f"memory://{new_id()}"

    def faults(self) -> Faults:
        return Faults(pause=self._pause, resume=self._resume)

    async def _pause(self) -> None:
        self.going.clear()

    async def _resume(self) -> None:
        self.going.set()


class Sound:
    """Waits for the server until the time-out, and then says what is known."""

    def __init__(self, harness: StoppableHarness, timeout: float) -> None:
        self.harness = harness
        self.timeout = timeout

    async def call(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        try:
            async with asyncio.timeout(self.timeout):
                await self.harness.going.wait()
        except TimeoutError:
            raise self.error(name) from None
        return await work()

    def error(self, name: str) -> Exception:
        return OutcomeUnknown(name, reason="no answer") if name in WRITES else Unavailable(name, reason="no answer")


class TakesItsOwnTime(Sound):
    """Has a time-out of its own, which nobody can change."""

    def __init__(self, harness: StoppableHarness, timeout: float) -> None:
        super().__init__(harness, 2.0)


class LeaksItsClientsError(Sound):
    def error(self, name: str) -> Exception:
        return TimeoutError("the client library gave up")


class CallsItUnsent(Sound):
    """Says that nothing was sent, though it was, and will be stored."""

    def error(self, name: str) -> Exception:
        return Unavailable(name, reason="no answer")

    async def call(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        if name in WRITES and not self.harness.going.is_set():
            self.sent = asyncio.create_task(self._sent(work))
        return await super().call(name, work)

    async def _sent(self, work: Callable[[], Awaitable[Any]]) -> None:
        await self.harness.going.wait()
        await work()


def _registry(harness: StoppableHarness, kind: type[Sound]) -> Registry:
    wrapper = pluggy.HookimplMarker(PROJECT)(wrapper=True)

    class Stops:
        @wrapper
        def aether_open_store(self, scope: Any) -> Generator[None, Any, Any]:
            names = ("open", "append", "read", "version", "head", "feed", "load", "save")
            return _stopping(StoreWrapper, names, (yield), kind(harness, scope.timeout))

        @wrapper
        def aether_open_bus(self, scope: Any) -> Generator[None, Any, Any]:
            return _stopping(BusWrapper, ("open", "publish"), (yield), kind(harness, scope.timeout))

        @wrapper
        def aether_open_election(self, scope: Any) -> Generator[None, Any, Any]:
            names = ("open", "read", "cas", "scan")
            return _stopping(RegisterWrapper, names, (yield), kind(harness, scope.timeout))

    registry = Registry()
    registry.observe(Stops())
    return registry


def _stopping(base: type[Any], names: tuple[str, ...], driver: object, server: Sound) -> object:
    """The driver, with calls that go through the server."""

    def gated(name: str) -> Callable[..., Awaitable[Any]]:
        async def call(self: Any, *arguments: Any, **options: Any) -> Any:
            return await server.call(name, lambda: getattr(self.inner, name)(*arguments, **options))

        return call

    return type("Stopping", (base,), {name: gated(name) for name in names})(driver)


def _result(kind: type[Sound], case_id: str) -> Any:
    harness = StoppableHarness()
    with Session(harness, registry=_registry(harness, kind)) as session:
        return session.run(all_cases()[case_id])


@pytest.mark.parametrize("case_id", CASES)
def test_sound_backend_passes(case_id: str) -> None:
    result = _result(Sound, case_id)

    assert result.status is Status.PASS, result.text


@pytest.mark.parametrize("kind", [TakesItsOwnTime, LeaksItsClientsError])
@pytest.mark.parametrize("case_id", CASES)
def test_broken_backend_dies(case_id: str, kind: type[Sound], record_property: Any) -> None:
    assert _result(kind, case_id).status is Status.FAIL
    record_property("zoo", (kind.__name__, [case_id]))


@pytest.mark.parametrize("case_id", ["store.driver.timeout#write", "election.register.timeout#definite"])
def test_what_was_called_unsent_and_is_stored_is_found(case_id: str) -> None:
    assert _result(CallsItUnsent, case_id).status is Status.FAIL
