"""Nothing in memory waits, and yet nobody is kept from running."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from aether.core import Event, connect


def event(version: int) -> Event:
    return Event(type="T", actor_id="a", version=version)


@pytest.mark.parametrize("call", ["append", "version", "read", "publish"])
def test_a_busy_loop_lets_others_run(call: str) -> None:
    async def main() -> None:
        async with connect("memory://turns", namespace=call) as connection:
            store, version = connection.store, 0
            done = asyncio.Event()

            async def other() -> None:
                done.set()

            async def append() -> None:
                nonlocal version
                version += 1
                await store.append(event(version))

            async def read() -> None:
                async for _ in store.read("a"):
                    pass

            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "append": append,
                "read": read,
                "version": lambda: store.version("a"),
                "publish": lambda: connection.bus.publish(event(1)),
            }
            task = asyncio.create_task(other())
            for _ in range(1000):
                await calls[call]()
                if done.is_set():
                    break
            assert done.is_set()
            await task

    asyncio.run(main())


def test_a_member_that_joins_a_queue_late_gets_its_share_not_all() -> None:
    async def main() -> None:
        async with connect("memory://queues", namespace="shop") as connection:
            bus = connection.bus
            async with bus.subscribe(queue="q") as old:
                await bus.publish(*(event(version) for version in range(1, 101)))
                async with bus.subscribe(queue="q") as new:
                    await bus.publish(*(event(version) for version in range(101, 201)))
                    shares = [len(one._waiting) for one in (old, new)]
                    assert shares == [150, 50]

    asyncio.run(main())
