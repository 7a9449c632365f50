"""What the functions over the store cost: `execute` against a plain append, a projection against the plain feed."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from against_nats import fill
from pairs import Row, compare
from workload import DATA, events

from aether.core import Event, EventStore, open_store
from aether.core.projection import STOP, project
from aether.core.state import Decider, NewEvent, Snapshots, execute
from aether.nats.server import NatsServer
from aether.sql.servers import PostgresServer

_names = itertools.count()


@dataclass(frozen=True)
class Order:
    """A state of a usual size."""

    items: int = 0
    total: float = 0.0
    last: dict[str, Any] | None = None


def evolve(order: Order, event: Event) -> Order:
    return Order(order.items + 1, order.total + event.data["price"], event.data)


def decide(_order: Order, data: dict[str, Any]) -> list[NewEvent]:
    return [NewEvent(type="ItemAdded", data=data)]


ORDER: Decider[Order, dict[str, Any], Event] = Decider(Order, evolve, decide)
SNAPSHOTS = Snapshots("order", Order, every=100)
WARM = Snapshots("order", Order, every=100, keep=1000)


@asynccontextmanager
async def _servers(only: Sequence[str]) -> AsyncIterator[dict[str, str]]:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        async with NatsServer(folder / "nats", sync_always=False) as nats, PostgresServer(folder / "pg") as postgres:
            urls = {
                "memory": "memory://bench-state",
                "NATS": nats.url,
                "SQLite": f"sqlite:///{folder}/events.db",
                "PostgreSQL": postgres.url,
            }
            yield {name: url for name, url in urls.items() if not only or name in only}


async def run(rounds: int, only: Sequence[str] = ()) -> list[Row]:
    """All rows, on servers of their own."""
    rows = []
    async with _servers(only) as urls:
        for name, url in urls.items():
            async with open_store(url, namespace="bench") as store:
                rows.append(await executed(name, store, rounds, "kept in memory", WARM))
                rows.append(await executed(name, store, rounds, "not kept", SNAPSHOTS, bar=None))
        for name, url in urls.items():
            if name == "NATS":
                async with open_store(url, namespace="feed") as store:
                    rows.append(await projected(name, store, rounds))
    return rows


async def executed(
    name: str,
    store: EventStore,
    rounds: int,
    how: str,
    snapshots: Snapshots[Order],
    *,
    count: int = 100,
    bar: float | None = 1 / 3,
) -> Row:
    """A hundred commands on an actor of 1,000 events and more: one of them saves a snapshot."""
    warm = f"a{next(_names)}"
    for first in range(1, 1000, 100):
        await store.append(*events(warm, first, 100))
    await execute(store, ORDER, warm, DATA, snapshots=Snapshots("order", Order, every=1))
    appended = f"a{next(_names)}"
    version = 0

    async def ours() -> float:
        start = time.perf_counter()
        for _ in range(count):
            await execute(store, ORDER, warm, DATA, snapshots=snapshots)
        return count / (time.perf_counter() - start)

    async def theirs() -> float:
        nonlocal version
        todo = events(appended, version + 1, count)
        version += count
        start = time.perf_counter()
        for event in todo:
            await store.append(event)
        return count / (time.perf_counter() - start)

    work = f"{name} execute at 1,000 events, {how}"
    return await compare(work, "one append", ours, theirs, bar=bar, rounds=rounds, unit="commands/s")


async def projected(name: str, store: EventStore, rounds: int, count: int = 100_000) -> Row:
    """Every event through a handler, with a checkpoint every 500, against a loop over the feed."""
    await fill(store, count)
    head = await store.head()

    async def ours() -> float:
        seen = 0
        done = asyncio.Event()

        async def handler(_event: Event) -> None:
            nonlocal seen
            seen += 1
            if seen == count:
                done.set()

        start = time.perf_counter()
        async with project(store, f"p{next(_names)}", handler, on_error=STOP, batch=500) as running:
            await done.wait()
            await running.wait(head, timeout=600)
        return count / (time.perf_counter() - start)

    async def theirs() -> float:
        seen = 0
        start = time.perf_counter()
        async for _, event in store.feed():
            seen += not event.actor_id.startswith("aether/")
        assert seen == count
        return count / (time.perf_counter() - start)

    work = f"{name} projection over 100,000 events"
    return await compare(work, "store.feed", ours, theirs, bar=0.7, rounds=rounds)
