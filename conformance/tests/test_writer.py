"""What a writing process finds out is a finding about the backend, not an error of the suite."""

from collections.abc import Generator
from typing import Any

import pluggy
import pytest

from aether.conformance.cases.driver_store import write
from aether.conformance.rules import all_cases
from aether.conformance.runner import Session
from aether.conformance.status import Status
from aether.conformance.wrappers import StoreWrapper
from aether.core import VersionConflict
from aether.core.hookspecs import PROJECT
from aether.core.registry import Registry
from aether.nats.testing import NatsHarness

CASE = all_cases()["store.feed.complete"]


class OccupiesAVersion(StoreWrapper):
    """Has an event of somebody else where the writing processes expect none."""

    async def open(self) -> None:
        await self.inner.open()
        try:
            await self.inner.append([write("a0", 1, 1)])
        except VersionConflict:  # of the handle that was opened before
            return


class Occupies:
    @pluggy.HookimplMarker(PROJECT)(wrapper=True)
    def aether_open_store(self) -> Generator[None, Any, Any]:
        return OccupiesAVersion((yield))


def test_writing_process_that_is_refused_fails_the_case() -> None:
    registry = Registry()
    registry.observe(Occupies())

    with Session(NatsHarness(), registry=registry) as session:
        result = session.run(CASE)

    assert result.status is Status.FAIL, result.text
    assert "VersionConflict" in result.text


def test_writing_process_that_cannot_run_is_an_error_of_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    with Session(NatsHarness()) as session:
        monkeypatch.setattr("sys.executable", "/bin/false")
        result = session.run(CASE)

    assert result.status is Status.SUITE_ERROR, result.text
