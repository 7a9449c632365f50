"""Our memory store against the `eventsourcing` library on its fastest in-memory recorder."""

from __future__ import annotations

import itertools
import time

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from pairs import Row, compare
from workload import DATA, events

from aether.core import EventStore
from aether.memory import MemoryStore, NamespaceSpace

_names = itertools.count()


class Order(Aggregate):
    """An aggregate as the library's documentation writes it."""

    @event("Started")
    def __init__(self) -> None:
        self.items = 0

    @event("ItemAdded")
    def add(
        self,
        order_id: str,
        sku: str,
        quantity: int,
        price: float,
        note: str,
        tags: list[str],
        paid: bool,
        customer: str,
    ) -> None:
        self.items += 1


async def run(rounds: int, count: int = 2000) -> list[Row]:
    """Append one event per call, and replay one actor into its state."""
    shop = Application({"PERSISTENCE_MODULE": "eventsourcing.popo"})
    async with EventStore(MemoryStore(NamespaceSpace()), namespace="bench", backend="aether-memory") as store:

        async def append() -> float:
            actor = f"a{next(_names)}"
            start = time.perf_counter()
            for new in events(actor, 1, count):
                await store.append(new)
            return count / (time.perf_counter() - start)

        async def save() -> float:
            order = Order()
            shop.save(order)
            start = time.perf_counter()
            for _ in range(count):
                order.add(**DATA)
                shop.save(order)
            return count / (time.perf_counter() - start)

        actor = f"a{next(_names)}"
        await store.append(*events(actor, 1, 1000))
        order = Order()
        for _ in range(1000):
            order.add(**DATA)
        shop.save(order)

        async def read() -> float:
            items = 0
            start = time.perf_counter()
            async for _ in store.read(actor):
                items += 1
            assert items == 1000
            return 1000 / (time.perf_counter() - start)

        async def get() -> float:
            start = time.perf_counter()
            found = shop.repository.get(order.id)
            assert found.items == 1000
            return 1000 / (time.perf_counter() - start)

        peer = "eventsourcing 9.5.6, popo"
        return [
            await compare("memory append, one event", peer, append, save, bar=5.0, rounds=rounds),
            await compare("memory replay of 1,000 events", peer, read, get, bar=5.0, rounds=rounds),
        ]
