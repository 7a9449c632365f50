"""Our store on Redis against redis-py doing the same shape of work."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from pairs import Row, Side, compare, compare_all, line
from redis.asyncio import Redis
from workload import DATA, events

from aether.core import Event, EventStore, open_store
from aether.core.encoding import encode_event
from aether.redis.servers import RedisServer

_names = itertools.count()
_FEED = 100_000  # events
_PAGE = 1000

_APPEND = """#!lua
-- What our script does for one event: the identity, the version, the position, the event, the list, the head.
local meta = redis.call('HMGET', KEYS[2], 'identity', 'head')
if meta[1] ~= ARGV[1] then return -1 end
if redis.call('LLEN', KEYS[3]) ~= tonumber(ARGV[2]) then return -2 end
local head = tonumber(meta[2]) + 1
redis.call('XADD', KEYS[1], head .. '-1', ARGV[3], ARGV[4])
redis.call('RPUSH', KEYS[3], head)
redis.call('HSET', KEYS[2], 'head', head)
return head
"""


class Raw:
    """redis-py as its manual has it, with a script of the same work, and events that were encoded before."""

    def __init__(self, port: int) -> None:
        self.client = Redis(port=port)
        self.sha = ""

    async def open(self) -> None:
        self.sha = await self.client.script_load(_APPEND)
        await self.client.hset("{raw}:meta", mapping={"identity": "raw", "head": 0})

    async def append(self, actor: str, encoded: list[bytes]) -> None:
        key = f"{{raw}}:{actor}"
        for version, data in enumerate(encoded):
            arguments = ("{raw}:events", "{raw}:meta", key, "raw", version, f"{version + 1} {actor}", data)
            assert await self.client.evalsha(self.sha, 3, *arguments) > 0

    async def replay(self, decode: Any) -> int:
        """By the client: it makes a dictionary of each entry."""
        after, found = 0, 0
        while True:
            page = await self.client.xrange("{raw}:feed", after + 1, "+", count=_PAGE)
            for _, fields in page:
                decode(next(iter(fields.values())))
            found += len(page)
            if len(page) < _PAGE:
                return found
            after = int(page[-1][0].partition(b"-")[0])

    async def replay_bare(self, decode: Any) -> int:
        """By one of its connections, with the server's answer as hiredis has it: the limit."""
        after, found = 0, 0
        connection = await self.client.connection_pool.get_connection()
        try:
            while True:
                await connection.send_command("XRANGE", "{raw}:feed", after + 1, "+", "COUNT", _PAGE)
                page = await connection.read_response()
                for _, fields in page:
                    decode(fields[1])
                found += len(page)
                if len(page) < _PAGE:
                    return found
                after = int(page[-1][0].partition(b"-")[0])
        finally:
            await self.client.connection_pool.release(connection)


class RedisBench:
    """All comparisons on one server."""

    def __init__(self, server: RedisServer, rounds: int) -> None:
        self.server = server
        self.rounds = rounds
        self.raw = Raw(server.port)
        self.rows: list[Row] = []

    async def run(self) -> list[Row]:
        await self.raw.open()
        async with open_store(self.server.url, namespace="bench") as store:
            await self.sequential(store)
            await self.concurrent(store)
        await self.replay()
        await self.latency()
        await self.memory()
        await self.raw.client.aclose()
        return self.rows

    async def append(self, store: EventStore, actor: str, count: int) -> None:
        for version in range(1, count + 1):
            await store.append(Event(type="ItemAdded", actor_id=actor, version=version, data=DATA))

    async def compare(self, *arguments: Any, **options: Any) -> None:
        self.rows.append(await compare(*arguments, **options, rounds=self.rounds))

    async def sequential(self, store: EventStore, count: int = 1000) -> None:
        async def ours() -> float:
            start = time.perf_counter()
            await self.append(store, f"a{next(_names)}", count)
            return count / (time.perf_counter() - start)

        async def raw() -> float:
            actor = f"a{next(_names)}"
            encoded = [encode_event(event) for event in events(actor, 1, count)]
            start = time.perf_counter()
            await self.raw.append(actor, encoded)
            return count / (time.perf_counter() - start)

        await self.compare("Redis append, one sequential appender", "EVALSHA of an equal script", ours, raw, bar=0.75)

    async def concurrent(self, store: EventStore, appenders: int = 64, each: int = 60) -> None:
        async def ours() -> float:
            start = time.perf_counter()
            await asyncio.gather(*(self.append(store, f"a{next(_names)}", each) for _ in range(appenders)))
            return appenders * each / (time.perf_counter() - start)

        async def raw() -> float:
            actors = [f"a{next(_names)}" for _ in range(appenders)]
            encoded = [encode_event(event) for event in events(actors[0], 1, each)]
            start = time.perf_counter()
            await asyncio.gather(*(self.raw.append(actor, encoded) for actor in actors))
            return appenders * each / (time.perf_counter() - start)

        await self.compare(
            f"Redis {appenders} appenders, distinct actors", "a script call for each", ours, raw, bar=3.0
        )

    async def replay(self) -> None:
        decode = msgspec.json.Decoder(Event).decode
        async with open_store(self.server.url, namespace="whole") as store:
            for first in range(1, _FEED, 1000):
                batch = events("order-4711", first, 1000)
                await store.append(*batch)
                pipeline = self.raw.client.pipeline(transaction=False)
                for event in batch:
                    pipeline.execute_command(
                        "XADD", "{raw}:feed", f"{event.version}-1", "1 order-4711", encode_event(event)
                    )
                await pipeline.execute()

            async def raw() -> float:
                start = time.perf_counter()
                assert await self.raw.replay(decode) == _FEED
                return _FEED / (time.perf_counter() - start)

            async def bare() -> float:
                start = time.perf_counter()
                assert await self.raw.replay_bare(decode) == _FEED
                return _FEED / (time.perf_counter() - start)

            async def feed() -> float:
                start = time.perf_counter()
                found = 0
                async for _ in store.feed():
                    found += 1
                assert found == _FEED
                return _FEED / (time.perf_counter() - start)

            async def actor() -> float:
                start = time.perf_counter()
                found = 0
                async for _ in store.read("order-4711"):
                    found += 1
                assert found == _FEED
                return _FEED / (time.perf_counter() - start)

            others: list[tuple[str, Side, float | None]] = [
                ("xrange and msgspec", raw, 0.6),
                ("XRANGE on a bare connection", bare, None),
            ]
            for work, ours in ((f"replay of an actor of {_FEED:,}", actor), (f"whole feed, {_FEED:,} events", feed)):
                self.rows += await compare_all(f"Redis {work}", ours, others, rounds=self.rounds)

    async def latency(self, count: int = 300) -> None:
        """Milliseconds from the call of append, or of XADD, until a subscriber has the event; both in this process."""
        rows = [
            Row(f"Redis append → live subscriber, {name}, above XREAD", "XREAD BLOCK", bar, "ms", at_most=True)
            for name, bar in (("p50", 1.0), ("p99", 3.0))
        ]
        async with open_store(self.server.url, namespace="live") as store, store.subscribe() as arriving:
            reader = Redis(port=self.server.port, socket_timeout=None)
            for number in range(self.rounds + 1):
                ours, theirs = [], []
                actor = f"a{next(_names)}"
                for version in range(1, count + 1):
                    ours.append(await self._ours(store, arriving, actor, version))
                    theirs.append(await self._theirs(reader, number * count + version))
                if number:  # the first one is a warm-up
                    for row, place in zip(rows, (49, 98), strict=True):
                        behind = [statistics.quantiles(side, n=100)[place] * 1000 for side in (ours, theirs)]
                        row.ours.append(behind[0])
                        row.theirs.append(behind[1])
            await reader.aclose()
        for row in rows:  # the bar is a difference, not a ratio
            row.ours = [ours - theirs for ours, theirs in zip(row.ours, row.theirs, strict=True)]
            row.theirs = [1.0] * len(row.ours)
            print(line(row), flush=True)
        self.rows += rows

    async def _ours(self, store: EventStore, arriving: Any, actor: str, version: int) -> float:
        waiting = asyncio.ensure_future(anext(arriving))
        await asyncio.sleep(0)
        start = time.perf_counter()
        appending = asyncio.ensure_future(
            store.append(Event(type="ItemAdded", actor_id=actor, version=version, data=DATA))
        )
        await waiting
        seconds = time.perf_counter() - start
        await appending
        return seconds

    async def _theirs(self, reader: Redis, position: int) -> float:
        command = ("XREAD", "BLOCK", 5000, "STREAMS", "{raw}:live", f"{position - 1}-1")
        waiting = asyncio.ensure_future(reader.execute_command(*command))
        await asyncio.sleep(0)
        start = time.perf_counter()
        sending = asyncio.ensure_future(
            self.raw.client.execute_command(
                "XADD", "{raw}:live", f"{position}-1", "e", encode_event(events("a", position, 1)[0])
            )
        )
        assert await waiting
        seconds = time.perf_counter() - start
        await sending
        return seconds

    async def memory(self, actors: int = 300, each: int = 100) -> None:
        """Bytes of the server per event of many actors, against 1.3 of the bytes of the event, and 100."""
        async with open_store(self.server.url, namespace="bytes") as store:
            before = await self._used()
            names = [f"order-{number:06}" for number in range(actors)]
            size = sum(len(encode_event(event)) for name in names for event in events(name, 1, each))
            for first in range(1, each + 1, 5):
                await asyncio.gather(*(store.append(*events(name, first, 5)) for name in names))
            used = await self._used() - before
        count = actors * each
        row = Row("Redis bytes per event", "1.3 of the payload + 100", 1.0, "bytes", at_most=True)
        row.ours, row.theirs = [used / count], [1.3 * size / count + 100]
        print(line(row), flush=True)
        self.rows.append(row)

    async def _used(self) -> int:
        return int((await self.raw.client.info("memory"))["used_memory"])


async def redis(rounds: int, directory: Path) -> tuple[str, list[Row]]:
    """The version of the server, and its comparisons."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        async with RedisServer(name, settings={"appendonly": "yes", "appendfsync": "everysec"}) as server:
            return server.version, await RedisBench(server, rounds).run()
