"""Kill the process of a projection again and again while events are appended, and check what became of each event.

    python scripts/kill_projection.py sqlite postgresql nats relay --kills 50

* `sqlite`, `postgresql`: the view is in the store's database. Every effect must be there exactly once, in the order of
  its actor.
* `nats`: effects are lines of a file, outside of the store. None may be missing, and an actor's may come again from a
  checkpoint on, but never skip one.
* `relay`: the effects are messages of a bus. The same holds for them.

Two processes run the projection with an election, one active, one standing by; the one that is killed (SIGKILL, at a
random time while it works) is one of the two at random, and is started again. Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aether.core import START, Connection, Event, Position, connect
from aether.core.projection import STOP, Consumer, project
from aether.core.relay import relay
from aether.core.state import NewEvent, record

ACTORS = 4
TTL = 0.8
NAMESPACE = "killed"
TABLE = "CREATE TABLE effects (number {serial} PRIMARY KEY, actor_id TEXT, version INTEGER)"
SERIAL = {"sqlite": "INTEGER", "postgresql": "SERIAL"}
BOUND = 60.0

Effect = tuple[str, int]


# --- The process that is killed ---


def _engine(url: str) -> Any:
    from sqlalchemy.ext.asyncio import create_async_engine

    driver = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}[url.partition(":")[0]]
    return create_async_engine(f"{driver}:{url.partition(':')[2]}")


async def _into_table(url: str, opened: Connection) -> None:
    from sqlalchemy import text

    insert = text("INSERT INTO effects (actor_id, version) VALUES (:actor_id, :version)")
    engine = _engine(url)

    async def handler(event: Event, connection: Any) -> None:
        await connection.execute(insert, {"actor_id": event.actor_id, "version": event.version})

    await project(
        opened.store,
        "list",
        handler,
        on_error=STOP,
        transaction=engine.begin,
        election=opened.election,
        ttl=TTL,
        batch=50,
    ).run()


async def _into_file(file: str, opened: Connection) -> None:
    out = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def handler(event: Event) -> None:
        os.write(out, f"{event.actor_id} {event.version}\n".encode())

    await project(opened.store, "list", handler, on_error=STOP, election=opened.election, ttl=TTL, batch=50).run()


async def _onto_bus(opened: Connection) -> None:
    await relay(opened.store, opened.bus, election=opened.election, ttl=TTL, batch=50).run()


async def child(kind: str, url: str, file: str) -> None:
    """Run the projection until killed."""
    async with connect(url, namespace=NAMESPACE) as opened:
        if kind == "relay":
            await _onto_bus(opened)
        elif kind == "nats":
            await _into_file(file, opened)
        else:
            await _into_table(url, opened)


def run_child(kind: str, url: str, file: str) -> None:
    """What the process does."""
    asyncio.run(child(kind, url, file))


# --- The parent ---


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["__main__", "aether.nats", "aether.sql.sqlite", "aiosqlite", "sqlalchemy.ext.asyncio"])


class Killed:
    """A process of the projection: started, awaited, killed."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: Any = None

    def start(self) -> None:
        """Start it, as a fork of a process that has imported everything already."""
        self._process = FORKS.Process(target=run_child, args=self._arguments, daemon=True)
        self._process.start()

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self._process.kill()
        self._process.join()
        if self._process.exitcode != -signal.SIGKILL:
            raise SystemExit(f"a process of the projection ended by itself, with {self._process.exitcode}")


async def _append(opened: Connection, actor_id: str, stopped: asyncio.Event) -> int:
    """Append to an actor until stopped; how many events it has then."""
    count = 0
    while not stopped.is_set():
        size = random.choice((1, 1, 1, 3))
        await record(opened.store, actor_id, *[NewEvent(type="Counted") for _ in range(size)])
        count += size
        await asyncio.sleep(random.uniform(0, 0.2))
    return count


@asynccontextmanager
async def _server(kind: str, folder: Path) -> AsyncIterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder}/events.db"
    elif kind == "postgresql":
        from aether.sql.servers import PostgresServer

        async with PostgresServer(folder) as postgres:
            yield postgres.url
    else:
        from aether.nats.server import NatsServer

        async with NatsServer(folder, sync_always=False) as nats:
            yield nats.url


async def _received(opened: Connection, into: list[Effect]) -> None:
    async with opened.bus.subscribe(buffer=1_000_000) as events:
        async for event in events:
            into.append((event.actor_id, event.version))  # noqa: PERF401  (it never ends)


async def one(kind: str, kills: int, seed: int) -> list[str]:
    """Kill a projection of one kind so many times; what is wrong."""
    random.seed(seed)
    with tempfile.TemporaryDirectory(prefix="aether-killed-") as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(_server(kind, folder / "server"))
            (folder / "server").mkdir(exist_ok=True)
            opened = await stack.enter_async_context(connect(url, namespace=NAMESPACE))
            return await _torture(kind, kills, url, folder, opened, stack)


async def _torture(
    kind: str, kills: int, url: str, folder: Path, opened: Connection, stack: AsyncExitStack
) -> list[str]:
    received: list[Effect] = []
    if kind in SERIAL:
        await _make_table(url)
    if kind == "relay":
        listening = asyncio.create_task(_received(opened, received))
        stack.callback(listening.cancel)
    file = folder / "effects"
    nodes = [Killed(kind, url, str(file)) for _ in range(2)]
    for node in nodes:
        node.start()
        stack.callback(node.kill)
    stopped = asyncio.Event()
    writers = [asyncio.create_task(_append(opened, f"a{number}", stopped)) for number in range(ACTORS)]
    consumer = Consumer(opened.store, "relay" if kind == "relay" else "list", kind=_kind(kind))
    before = START
    for _ in range(kills):
        before = await _works(consumer, before)
        await asyncio.sleep(random.uniform(0, 0.3))
        node = random.choice(nodes)
        node.kill()
        node.start()
    stopped.set()
    counts = {f"a{number}": await writer for number, writer in enumerate(writers)}
    await consumer.caught_up(timeout=BOUND)
    if kind in SERIAL:
        return exactly_once(await _rows(url), counts)
    if kind == "nats":
        lines = [line.split() for line in file.read_text().splitlines()]
        return at_least_once([(actor_id, int(version)) for actor_id, version in lines], counts)
    deadline = time.monotonic() + BOUND
    while problems := at_least_once(received, counts):
        if time.monotonic() > deadline:
            return problems
        await asyncio.sleep(0.05)
    return []


def _kind(kind: str) -> Any:
    return "reactor" if kind == "relay" else "projection"


async def _works(consumer: Consumer, before: Position) -> Position:
    """Wait until something new was applied: somebody is active again, under load. Returns where it is."""
    while (head := await consumer.store.head()) <= before:  # noqa: ASYNC110  (others append)
        await asyncio.sleep(0.01)
    await consumer.wait(head, timeout=BOUND)
    return head


async def _make_table(url: str) -> None:
    from sqlalchemy import text

    engine = _engine(url)
    async with engine.begin() as connection:
        await connection.execute(text(TABLE.format(serial=SERIAL[url.partition(":")[0]])))
    await engine.dispose()


async def _rows(url: str) -> list[Effect]:
    from sqlalchemy import text

    engine = _engine(url)
    async with engine.connect() as connection:
        rows = (await connection.execute(text("SELECT actor_id, version FROM effects ORDER BY number"))).all()
    await engine.dispose()
    return [(row[0], row[1]) for row in rows]


# --- The checks ---


def exactly_once(effects: Iterable[Effect], counts: dict[str, int]) -> list[str]:
    """Every event of every actor, once and in order."""
    found = defaultdict(list)
    for actor_id, version in effects:
        found[actor_id].append(version)
    return [
        f"{actor_id}: {_differs(found[actor_id], count)}"
        for actor_id, count in counts.items()
        if found[actor_id] != list(range(1, count + 1))
    ]


def _differs(versions: list[int], count: int) -> str:
    times = Counter(versions)
    missing = [version for version in range(1, count + 1) if version not in times]
    more = [version for version, number in times.items() if number > 1]
    return f"missing {missing[:5]}, more than once {more[:5]}, {len(versions)} effects of {count} events"


def at_least_once(effects: Iterable[Effect], counts: dict[str, int]) -> list[str]:
    """Every event of every actor; from any of them on the next is the one behind it, or one that came before."""
    problems = []
    highest: dict[str, int] = dict.fromkeys(counts, 0)
    last: dict[str, int] = dict.fromkeys(counts, 0)
    for actor_id, version in effects:
        if version > last[actor_id] + 1:
            problems.append(f"{actor_id}: {version} came behind {last[actor_id]}")
        last[actor_id] = version
        highest[actor_id] = max(highest[actor_id], version)
    missing = [one for one in counts if highest[one] != counts[one] or last[one] != counts[one]]
    return problems + [f"{one}: ended at {last[one]}, highest {highest[one]} of {counts[one]}" for one in missing]


def main() -> int:
    """Torture each kind, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kinds", nargs="+", choices=["sqlite", "postgresql", "nats", "relay"])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    wrong = 0
    for kind, seed in zip(arguments.kinds, itertools.count(arguments.seed), strict=False):
        begin = time.monotonic()
        problems = asyncio.run(one(kind, arguments.kills, seed))
        wrong += len(problems)
        what = "nothing missing, in order" + (", exactly once" if kind in SERIAL else "")
        told = "; ".join(problems[:5]) or what
        print(f"{kind}: {arguments.kills} kills in {time.monotonic() - begin:.0f} s, seed {seed}: {told}", flush=True)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
