"""Our stores on SQLite and PostgreSQL against their drivers doing the same shape of work, and against a peer."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pairs import Row, Side, compare_all, line
from sql_processes import Worker, fill
from sql_sides import Peer, Raw, RawPostgres, RawSqlite, postgres_settings, sqlite_settings
from workload import DATA, events

from aether.core import Event, EventStore, open_store
from aether.sql.servers import PostgresServer

_names = itertools.count()
_FEED = 30_000  # events
_MILLION = 1_000_000

Bars = tuple[float | None, float | None]
"""What the ratio to the driver and the ratio to the peer should reach."""


@dataclass
class Bench:
    """All comparisons on one database."""

    name: str
    url: str
    raw: Raw
    peer: Peer
    rounds: int
    bars: dict[str, Bars]
    rows: list[Row] = field(default_factory=list)

    async def run(self) -> list[Row]:
        async with open_store(self.url, namespace="bench") as store:
            await self.sequential(store)
            await self.commits(store, 10, 60)
            await self.commits(store, 100, 30)
            await self.concurrent(store, 8, 50, 20)
            await self.concurrent(store, 64, 40, 6)
            for size, times in ((10, 100), (100, 40), (1000, 8)):
                await self.replay(store, size, times)
        await self.whole()
        await self.latency()
        return self.rows

    def actor(self) -> str:
        return f"a{next(_names)}"

    async def compare(self, work: str, ours: Side, raw: Side, raw_name: str, peer: Callable[[], float]) -> None:
        async def theirs() -> float:
            return peer()

        to_raw, to_peer = self.bars.get(work, (None, None))
        others = [(f"{self.raw.name}, {raw_name}", raw, to_raw), (self.peer.name, theirs, to_peer)]
        self.rows += await compare_all(f"{self.name} {work}", ours, others, rounds=self.rounds)

    # --- Appending: our events are made within the time that is measured, as the peer's are; the driver's are not ---

    async def sequential(self, store: EventStore, count: int = 300) -> None:
        async def ours() -> float:
            return await self.append(store, count, 1)

        async def raw() -> float:
            return await self.raw.append([self.actor()], commits=count, size=1)

        await self.compare(
            "append, one sequential appender", ours, raw, "bare insert", lambda: self.peer.append(commits=count, size=1)
        )

    async def commits(self, store: EventStore, size: int, count: int) -> None:
        async def ours() -> float:
            return await self.append(store, count, size)

        async def raw() -> float:
            return await self.raw.append([self.actor()], commits=count, size=size)

        await self.compare(
            f"commits of {size} events", ours, raw, "bare insert", lambda: self.peer.append(commits=count, size=size)
        )

    async def append(self, store: EventStore, commits: int, size: int) -> float:
        actor = self.actor()
        start = time.perf_counter()
        for number in range(commits):
            await store.append(*events(actor, 1 + size * number, size))
        seconds = time.perf_counter() - start
        assert await store.version(actor) == commits * size
        return commits * size / seconds

    async def concurrent(self, store: EventStore, appenders: int, each: int, peer_each: int) -> None:
        async def one(actor: str) -> None:
            for version in range(1, each + 1):
                await store.append(Event(type="ItemAdded", actor_id=actor, version=version, data=DATA))

        async def ours() -> float:
            actors = [self.actor() for _ in range(appenders)]
            start = time.perf_counter()
            await asyncio.gather(*map(one, actors))
            seconds = time.perf_counter() - start
            for actor in actors:
                assert await store.version(actor) == each
            return appenders * each / seconds

        async def raw() -> float:
            return await self.raw.append([self.actor() for _ in range(appenders)], commits=each, size=1)

        await self.compare(
            f"{appenders} appenders, distinct actors",
            ours,
            raw,
            f"{appenders} rows a commit",
            lambda: self.peer.append_in_threads(appenders, peer_each),
        )

    # --- Reading: everything is decoded on our side, and nothing by the driver ---

    async def replay(self, store: EventStore, size: int, times: int) -> None:
        actors = [self.actor() for _ in range(times)]
        aggregates = []
        for actor in actors:
            await store.append(*events(actor, 1, size))
            aggregates.append(self.peer.fill(size))
        await self.raw.plan_reads()

        async def ours() -> float:
            start = time.perf_counter()
            for actor in actors:
                found = 0
                async for _ in store.read(actor):
                    found += 1
                assert found == size
            return times * size / (time.perf_counter() - start)

        async def raw() -> float:
            start = time.perf_counter()
            for actor in actors:
                assert await self.raw.read(1, actor) == size
            return times * size / (time.perf_counter() - start)

        def peer() -> float:
            start = time.perf_counter()
            for aggregate in aggregates:
                self.peer.read(aggregate, size)
            return times * size / (time.perf_counter() - start)

        await self.compare(f"replay of an actor of {size:,}", ours, raw, "rows undecoded", peer)

    async def whole(self) -> None:
        self.peer.fill_whole(_FEED)
        async with open_store(self.url, namespace="whole") as store:
            await self.scatter(store)
            await self.raw.plan_reads()

            async def ours() -> float:
                start = time.perf_counter()
                found = 0
                async for _, _event in store.feed():
                    found += 1
                assert found == _FEED
                return _FEED / (time.perf_counter() - start)

            async def raw() -> float:
                start = time.perf_counter()
                assert await self.raw.feed(2) == _FEED
                return _FEED / (time.perf_counter() - start)

            def peer() -> float:
                start = time.perf_counter()
                assert self.peer.feed() == _FEED
                return _FEED / (time.perf_counter() - start)

            await self.compare(f"whole feed, {_FEED:,} events", ours, raw, "rows undecoded", peer)

    async def scatter(self, store: EventStore) -> None:
        """Events of 300 actors, as a hundred at a time append them."""

        async def one(actor: str) -> None:
            for event in events(actor, 1, 100):
                await store.append(event)

        for _ in range(3):
            await asyncio.gather(*(one(self.actor()) for _ in range(_FEED // 300)))

    # --- Several processes ---

    async def latency(self, count: int = 150) -> None:
        """Milliseconds until a subscriber in this process has what another process commits."""
        rows = [
            Row(f"{self.name} commit → other process, p50", "ms", self.bars["p50"][0], "ms", at_most=True),
            Row(f"{self.name} commit → other process, p99", "ms", self.bars["p99"][0], "ms", at_most=True),
            Row(f"{self.name} call → other process, p50", "ms", None, "ms"),
        ]
        async with (
            Worker.start("commit", self.url) as worker,
            open_store(self.url, namespace="processes") as store,
            store.subscribe(after=await store.head()) as arriving,
        ):
            for number in range(self.rounds + 1):
                worker.tell(str(count))
                called, arrived = [], []
                async for _, event in arriving:
                    called.append(event.data["sent"])
                    arrived.append(time.monotonic_ns())
                    if len(arrived) == count:
                        break
                stored = [int(part) for part in (await worker.answer()).split()]
                behind_commit = [(then - at) / 1e6 for at, then in zip(stored, arrived, strict=True)]
                behind_call = [(then - at) / 1e6 for at, then in zip(called, arrived, strict=True)]
                if number:  # the first one is a warm-up
                    rows[0].ours.append(statistics.median(behind_commit))
                    rows[1].ours.append(statistics.quantiles(behind_commit, n=100)[98])
                    rows[2].ours.append(statistics.median(behind_call))
        for row in rows:
            row.theirs = [1.0] * len(row.ours)
            print(line(row), flush=True)
        self.rows += rows

    async def processes(self, workers: int = 4, appenders: int = 32, each: int = 60, peer_each: int = 6) -> None:
        """Several processes of ours against one, and against as many of the peer's."""
        async with AsyncExitStack() as stack:
            ours = [await stack.enter_async_context(Worker.start("append", self.url)) for _ in range(workers)]
            peers = [await stack.enter_async_context(Worker.start("peer", self.url)) for _ in range(workers)]

            def side(some: list[Worker], each: int) -> Callable[[], Awaitable[float]]:
                async def run() -> float:
                    start = time.perf_counter()
                    for worker in some:
                        worker.tell(f"{appenders} {each}")
                    for worker in some:
                        assert await worker.answer() == "done"
                    return len(some) * appenders * each / (time.perf_counter() - start)

                return run

            others = [("one process of 32", side(ours[:1], each), 1.2), (self.peer.name, side(peers, peer_each), 25.0)]
            work = f"{self.name} {workers} processes of {appenders} appenders"
            self.rows += await compare_all(work, side(ours, each), others, rounds=self.rounds)

    async def memory(self) -> None:
        """MiB above idle at the most, while a process reads a million events."""
        await fill(self.url, _MILLION)
        row = Row(f"{self.name} replay of 1,000,000, above idle", "MiB", 60.0, "MiB", at_most=True)
        for _ in range(3):
            async with Worker.start("replay", self.url) as worker:
                worker.tell(str(_MILLION))
                idle, most = map(int, (await worker.answer()).split())
                row.ours.append((most - idle) / 2**20)
                row.theirs.append(1.0)
        print(line(row), flush=True)
        self.rows.append(row)


SQLITE_BARS: dict[str, Bars] = {
    "append, one sequential appender": (0.6, 1.0),
    "commits of 100 events": (0.5, 2.0),
    "8 appenders, distinct actors": (0.45, 5.0),
    "64 appenders, distinct actors": (0.4, 15.0),
    "replay of an actor of 10": (0.15, 2.5),
    "replay of an actor of 100": (0.25, 4.0),
    "replay of an actor of 1,000": (0.2, 3.0),
    f"whole feed, {_FEED:,} events": (0.2, 1.5),
    "p50": (1.0, None),
    "p99": (15.0, None),
}
POSTGRES_BARS: dict[str, Bars] = {
    "append, one sequential appender": (0.7, 3.0),
    "commits of 10 events": (0.7, 2.5),
    "commits of 100 events": (0.6, 3.0),
    "8 appenders, distinct actors": (0.5, 7.0),
    "64 appenders, distinct actors": (0.4, 25.0),
    "replay of an actor of 10": (0.8, 2.5),
    "replay of an actor of 100": (0.6, 5.0),
    "replay of an actor of 1,000": (0.5, 5.0),
    f"whole feed, {_FEED:,} events": (0.55, 2.5),
    "p50": (3.0, None),
    "p99": (15.0, None),
}


async def sqlite(rounds: int, directory: Path, *, million: bool) -> tuple[str, list[Row]]:
    """The version of SQLite, and its comparisons."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        place = Path(name)
        url = f"sqlite:///{place}/events.db"
        raw, peer = RawSqlite(place), Peer(sqlite_settings(place / "shop.db"), sqlite_settings(place / "whole.db"))
        bench = Bench("SQLite", url, raw, peer, rounds, SQLITE_BARS)
        try:
            await bench.run()
            if million:
                await bench.memory()
        finally:
            await raw.close()
            peer.close()
    return f"SQLite {sqlite3.sqlite_version}", bench.rows


async def postgresql(rounds: int, directory: Path, *, million: bool) -> tuple[str, list[Row]]:
    """The version of PostgreSQL, and its comparisons."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        server = PostgresServer(name)
        await server.start()
        try:
            raw = RawPostgres(server.url)
            await raw.open()
            peer = Peer(postgres_settings(server.url))
            bench = Bench("PostgreSQL", server.url, raw, peer, rounds, POSTGRES_BARS)
            try:
                await bench.run()
                await bench.processes()
                if million:
                    await bench.memory()
            finally:
                await raw.close()
                peer.close()
        finally:
            await server.stop()
    return server.version, bench.rows
