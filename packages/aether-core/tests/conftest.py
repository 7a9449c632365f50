"""A world in virtual time: machines with clocks of their own around one lease register behind a bad network."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aether.conformance.simulation import VirtualLoop, World
from aether.core import EventStore, Unavailable
from aether.core.spi import Page
from aether.memory import MemoryStore, NamespaceSpace


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def new_world() -> type[World]:
    return World


@pytest.fixture
def virtual() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine on a loop of its own, whose time passes only when there is nothing to do."""

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(work)

    return run


class StoreWithOutages(MemoryStore):
    """A store that can be down."""

    down = False

    async def feed(self, **kwargs: Any) -> Page:
        return await self._up(super().feed(**kwargs))

    async def load(self, *args: Any) -> Any:
        return await self._up(super().load(*args))

    async def _up(self, answer: Any) -> Any:
        if self.down:
            answer.close()
            raise Unavailable("store", reason="no server")
        return await answer


@pytest.fixture
def run(world):
    """Run a test in virtual time, with an open store, its space, and a machine's clock."""

    def run(body):
        async def main():
            driver = StoreWithOutages(NamespaceSpace())
            async with EventStore(driver, namespace="t", timeout=1.0) as store:
                store.driver = driver
                await body(store, world.machine().clock)

        world.run(main)

    return run
