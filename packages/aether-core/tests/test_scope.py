"""Sharing a connection: one for all, gone behind the last."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aether.core.scope import Scope


class Connections:
    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.opened = 0
        self.closed = 0

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[str]:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise OSError("no")
        self.opened += 1
        try:
            yield f"connection {self.opened}"
        finally:
            self.closed += 1


def test_all_share_one_and_the_last_closes_it() -> None:
    async def main() -> None:
        scope, connections = Scope("shop"), Connections()
        inside = asyncio.Barrier(3)

        async def use() -> str:
            async with scope.share("key", connections.connect) as connection:
                await inside.wait()
                assert connections.closed == 0
                return connection

        assert await asyncio.gather(use(), use(), use()) == ["connection 1"] * 3
        assert (connections.opened, connections.closed) == (1, 1)
        async with scope.share("key", connections.connect) as connection:
            assert connection == "connection 2"

    asyncio.run(main())


def test_a_failed_connect_is_tried_by_the_next() -> None:
    async def main() -> None:
        scope, connections = Scope("shop"), Connections(failures=1)

        async def use() -> str:
            async with scope.share("key", connections.connect) as connection:
                return connection

        outcomes = await asyncio.gather(use(), use(), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [OSError, str]
        assert connections.opened == connections.closed == 1

    asyncio.run(main())


def test_a_cancelled_connect_leaves_nothing() -> None:
    async def main() -> None:
        scope, connections = Scope("shop"), Connections()

        async def use() -> None:
            async with scope.share("key", connections.connect):
                await asyncio.Event().wait()

        task = asyncio.create_task(use())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert connections.opened == connections.closed
        assert not scope._held

    asyncio.run(main())
