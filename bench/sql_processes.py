"""Programs that run in processes of their own beside the one that measures: `python sql_processes.py TASK URL`."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from workload import DATA, events

from aether.core import Event, EventStore, open_store

_names = (f"p{os.getpid()}-{number}" for number in itertools.count())


class Worker:
    """A child process that does what a line says, and answers with one."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def start(cls, task: str, url: str) -> AsyncIterator[Self]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, task, url, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        worker = cls(process)
        try:
            assert await worker.answer() == "ready"
            yield worker
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def answer(self) -> str:
        assert self._process.stdout is not None
        answer = (await self._process.stdout.readline()).decode().strip()
        assert answer, "the process has died"
        return answer


async def append(store: EventStore, appenders: int, each: int) -> None:
    """Append with many tasks, each to an actor of its own, one event after the other."""

    async def one(actor: str) -> None:
        for version in range(1, each + 1):
            await store.append(Event(type="ItemAdded", actor_id=actor, version=version, data=DATA))

    actors = [next(_names) for _ in range(appenders)]
    await asyncio.gather(*map(one, actors))
    for actor in actors:
        assert await store.version(actor) == each


async def commit(store: EventStore, count: int) -> list[int]:
    """Append single events some milliseconds apart, each with the time of the call; the times when they were stored."""
    actor = next(_names)
    stored = []
    for version in range(1, count + 1):
        await asyncio.sleep(random.uniform(0.004, 0.012))
        data = {**DATA, "sent": time.monotonic_ns()}
        await store.append(Event(type="ItemAdded", actor_id=actor, version=version, data=data))
        stored.append(time.monotonic_ns())
    return stored


async def replay(store: EventStore, count: int) -> tuple[int, int]:
    """Read the whole feed; bytes of memory before and at the most."""
    idle = _resident()
    most = found = 0
    async for _ in store.feed():
        found += 1
        if found % 1000 == 0:
            most = max(most, _resident())
    assert found == count
    return idle, most


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * resource.getpagesize()


async def fill(url: str, count: int, size: int = 1000) -> None:
    """Actors of `size` events each, one commit for each."""
    async with open_store(url, namespace="million") as store:
        for _ in range(count // size):
            await store.append(*events(next(_names), 1, size))


async def _serve(task: str, url: str) -> None:
    async with open_store(url, namespace="million" if task == "replay" else "processes") as store:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            numbers = [int(part) for part in line.split()]
            if task == "append":
                await append(store, *numbers)
                print("done", flush=True)
            elif task == "commit":
                print(*await commit(store, *numbers), flush=True)
            else:
                print(*await replay(store, *numbers), flush=True)


def _serve_peer(url: str) -> None:
    from sql_sides import Peer, postgres_settings

    peer = Peer(postgres_settings(url))
    print("ready", flush=True)
    for line in sys.stdin:
        threads, each = (int(part) for part in line.split())
        peer.append_in_threads(threads, each)
        print("done", flush=True)
    peer.close()


if __name__ == "__main__":
    if sys.argv[1] == "peer":
        _serve_peer(sys.argv[2])
    else:
        asyncio.run(_serve(*sys.argv[1:]))
