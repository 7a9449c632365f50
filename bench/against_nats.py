"""Our store on JetStream against raw nats-py doing the same durable work on the same server."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable

import nats
from delay import delayed
from nats.aio.client import Client
from nats.js.client import JetStreamContext
from pairs import Row, compare, line
from workload import events

from aether.core import Event, EventStore, open_store
from aether.core.encoding import encode_event
from aether.core.spi import NewRecord, Write
from aether.nats.commits import encode_commit

_names = itertools.count()
_LINK = 0.04  # seconds for a round trip
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
STREAM = {
    "name": "RAW",
    "subjects": ["raw.*"],
    "storage": "file",
    "retention": "limits",
    "num_replicas": 1,
    "allow_direct": True,
    "allow_atomic": True,
    "deny_delete": True,
    "deny_purge": True,
}


def body(actor_id: str, count: int) -> bytes:
    """The very bytes that our store sends for a commit of `count` events."""
    records = tuple(NewRecord(e.version, e.id, e.type, encode_event(e)) for e in events(actor_id, 1, count))
    return encode_commit(Write(actor_id, 0, records), previous=0)


class NatsBench:
    """All comparisons on one server."""

    def __init__(self, url: str, rounds: int) -> None:
        self.url = url
        self.rounds = rounds

    async def run(self) -> list[Row]:
        self.client: Client = await nats.connect(self.url)
        self.js: JetStreamContext = self.client.jetstream()
        await self.client.request("$JS.API.STREAM.CREATE.RAW", json.dumps(STREAM).encode())
        try:
            async with open_store(self.url, namespace="bench") as store:
                rows = [
                    await self.sequential(store),
                    *await self.commits(store),
                    await self.concurrent(store),
                    await self.one_actor(store),
                ]
            return [*rows, await self.replay(), await self.opening()]
        finally:
            await self.client.close()

    async def sequential(self, store: EventStore, count: int = 1500) -> Row:
        async def ours() -> float:
            actor = f"a{next(_names)}"
            todo = events(actor, 1, count)
            start = time.perf_counter()
            for event in todo:
                await store.append(event)
            return count / (time.perf_counter() - start)

        async def theirs() -> float:
            subject = f"raw.a{next(_names)}"
            payload = body("a1", 1)
            last = 0
            start = time.perf_counter()
            for _ in range(count):
                last = (await self.js.publish(subject, payload, headers={EXPECTED: str(last)})).seq
            return count / (time.perf_counter() - start)

        return await self.compare(
            "NATS append, one event, one after the other", "js.publish, expected seq", ours, theirs, 0.85
        )

    async def commits(self, store: EventStore, count: int = 200, size: int = 100) -> list[Row]:
        async def ours() -> float:
            actor = f"a{next(_names)}"
            todo = [events(actor, 1 + size * i, size) for i in range(count)]
            start = time.perf_counter()
            for commit in todo:
                await store.append(*commit)
            return count * size / (time.perf_counter() - start)

        async def one_message() -> float:
            subject = f"raw.a{next(_names)}"
            payload = body("a1", size)
            last = 0
            start = time.perf_counter()
            for _ in range(count):
                last = (await self.js.publish(subject, payload, headers={EXPECTED: str(last)})).seq
            return count * size / (time.perf_counter() - start)

        async def atomic_batch(commits: int = 20) -> float:
            subject = f"raw.a{next(_names)}"
            payload = encode_event(events("a1", 1, 1)[0])
            last = 0
            start = time.perf_counter()
            for _ in range(commits):
                batch = f"b{next(_names)}"
                for number in range(1, size):
                    headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
                    if number == 1:
                        headers[EXPECTED] = str(last)
                    await self.client.publish(subject, payload, headers=headers)
                headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(size), "Nats-Batch-Commit": "1"}
                last = json.loads((await self.client.request(subject, payload, headers=headers, timeout=5)).data)["seq"]
            return commits * size / (time.perf_counter() - start)

        return [
            await self.compare("NATS commits of 100 events", "one message of the same bytes", ours, one_message, 0.75),
            await self.compare(
                "NATS commits of 100 events", "the server's atomic batch of 100", ours, atomic_batch, 5.0
            ),
        ]

    async def concurrent(self, store: EventStore, appenders: int = 64, each: int = 100) -> Row:
        async def append(todo: list[Event]) -> None:
            for event in todo:
                await store.append(event)

        async def ours() -> float:
            todo = [events(f"a{next(_names)}", 1, each) for _ in range(appenders)]
            start = time.perf_counter()
            await asyncio.gather(*map(append, todo))
            return appenders * each / (time.perf_counter() - start)

        async def publish() -> None:
            subject = f"raw.a{next(_names)}"
            payload = body("a1", 1)
            last = 0
            for _ in range(each):
                last = (await self.js.publish(subject, payload, headers={EXPECTED: str(last)})).seq

        async def theirs() -> float:
            start = time.perf_counter()
            await asyncio.gather(*(publish() for _ in range(appenders)))
            return appenders * each / (time.perf_counter() - start)

        return await self.compare("NATS 64 appenders, distinct actors", "64 tasks, js.publish", ours, theirs, 0.8)

    async def one_actor(self, store: EventStore, count: int = 100) -> Row:
        actor = f"a{next(_names)}"
        for event in events(actor, 1, count):
            await store.append(event)
        raw = RawReader(self.client, "aether-bench")
        await raw.open()

        async def ours() -> float:
            start = time.perf_counter()
            for _ in range(20):
                found = [event async for event in store.read(actor)]
                assert len(found) == count
            return 20 * count / (time.perf_counter() - start)

        async def theirs() -> float:
            start = time.perf_counter()
            for _ in range(20):
                assert len(await raw.read(1, 1000, f"aether.e.bench.{actor}")) == count
            return 20 * count / (time.perf_counter() - start)

        return await self.compare(
            "NATS replay of one actor, 100 commits", "direct get, no headers, undecoded", ours, theirs, None
        )

    async def replay(self, count: int = 100_000) -> Row:
        async with open_store(self.url, namespace="replay") as store:
            await fill(store, count)
            raw = RawReader(self.client, "aether-replay")
            await raw.open()

            async def ours() -> float:
                start = time.perf_counter()
                found = 0
                async for _, _event in store.feed():
                    found += 1
                assert found == count
                return count / (time.perf_counter() - start)

            async def theirs() -> float:
                start = time.perf_counter()
                found = 0
                while found < count:
                    found += len(await raw.read(found + 1, raw.fastest))
                return count / (time.perf_counter() - start)

            rates = {}
            for raw.fastest in (1_000, 10_000):
                await theirs()
                rates[raw.fastest] = max([await theirs() for _ in range(3)])
            raw.fastest = max(rates, key=rates.__getitem__)
            what = f"direct get, no headers, {raw.fastest:,} a batch"
            return await self.compare("NATS replay of 100,000 to Event objects", what, ours, theirs, 0.6)

    async def opening(self) -> Row:
        """Round trips from nothing to an acknowledged append, on a stream that exists, over a link of 40 ms."""
        row = Row("NATS open and first append, round trips more", "nats.connect, js.publish", 3.0, "", at_most=True)
        host, port = self.url.removeprefix("nats://").split(":")
        async with delayed(host, int(port), _LINK / 2) as near:
            url = f"nats://127.0.0.1:{near}"
            for _ in range(self.rounds):
                start = time.perf_counter()
                async with open_store(url, namespace="bench") as store:
                    await store.append(events(f"a{next(_names)}", 1, 1)[0])
                    ours = time.perf_counter() - start
                start = time.perf_counter()
                raw = await nats.connect(url)
                await raw.jetstream().publish(f"raw.a{next(_names)}", body("a1", 1), headers={EXPECTED: "0"})
                theirs = time.perf_counter() - start
                await raw.close()
                row.ours.append((ours - theirs) / _LINK)
                row.theirs.append(1.0)
        print(line(row), flush=True)
        return row

    async def compare(
        self,
        work: str,
        against: str,
        ours: Callable[[], Awaitable[float]],
        theirs: Callable[[], Awaitable[float]],
        bar: float | None,
    ) -> Row:
        return await compare(work, against, ours, theirs, bar=bar, rounds=self.rounds)


class RawReader:
    """Batched direct gets without headers and a callback: the fastest way to read that nats-py has."""

    def __init__(self, client: Client, stream: str) -> None:
        self.client = client
        self.subject = f"$JS.API.DIRECT.GET.{stream}"
        self.fastest = 1000

    async def open(self) -> None:
        self.inbox = self.client.new_inbox()
        await self.client.subscribe(self.inbox, cb=self.take, pending_msgs_limit=0, pending_bytes_limit=0)

    async def take(self, message: nats.aio.msg.Msg) -> None:
        if message.headers is None:
            self.found.append(message.data)
        else:
            self.done.set_result(None)

    async def read(self, sequence: int, batch: int, subject: str | None = None) -> list[bytes]:
        self.found: list[bytes] = []
        self.done = asyncio.get_running_loop().create_future()
        request = {"seq": sequence, "batch": batch, "no_hdr": True, "max_bytes": 64 << 20}
        if subject:
            request["next_by_subj"] = subject
        await self.client.publish(self.subject, json.dumps(request).encode(), reply=self.inbox)
        await self.done
        return self.found


async def fill(store: EventStore, count: int, actors: int = 1000) -> None:
    """Single-event commits of many actors, many at a time."""
    each = count // actors

    async def write(actor: str) -> None:
        for event in events(actor, 1, each):
            await store.append(event)

    for start in range(0, actors, 100):
        await asyncio.gather(*(write(f"actor-{n}") for n in range(start, start + 100)))
