"""Torture of a cluster: processes on a server of any harness, a nemesis, and the checks at its end."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from contextlib import AsyncExitStack, suppress
from typing import Any

import msgspec

from aether.conformance.faults import Link
from aether.conformance.harness import Harness
from aether.conformance.torture import checks
from aether.conformance.torture.node import CLUSTER, NAMESPACE
from aether.core import Event, open_store
from aether.core.cluster.membership import actor_of

SHARDS = 64
_QUIET = 25  # faults behind which the nemesis rests, until everything is owned again
_START = 30.0  # seconds that processes may take to start on a busy machine


class Node:
    """The process of one node, started again whenever it ends.

    It talks to the server through a link of its own once that is open. Links are threads of this process: where
    milliseconds are measured they would be most of what is measured, so leave them closed.
    """

    def __init__(self, name: str, url: str, *, ttl: float, shards: int = SHARDS) -> None:
        self.name = name
        self._shards = shards
        self._url = url
        self._ttl = ttl
        self.link = Link.to(url)
        self._belief: set[int] = set()
        self.histories: list[list[checks.Line]] = []
        self.process: asyncio.subprocess.Process | None = None
        self.stopped = False
        self._reading: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start a process."""
        self.stopped = False
        self._belief = set()
        url = self.link.through(self._url) if self.link.is_open else self._url
        arguments = (url, self.name, str(self._ttl), str(self._shards))
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "aether.conformance.torture.node",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        history: list[checks.Line] = []
        self.histories.append(history)
        self._reading.append(asyncio.create_task(self._read(self.process, history)))

    async def _read(self, process: asyncio.subprocess.Process, history: list[checks.Line]) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            with suppress(msgspec.DecodeError):  # killed in the middle of a line
                history.append(msgspec.json.decode(line))
                if history[-1]["what"] == "owns":
                    self._belief = set(history[-1]["shards"])
        await process.wait()

    @property
    def shards(self) -> set[int]:
        """What the running process owns, by what it said last."""
        alive = self.process is not None and self.process.returncode is None and not self.stopped
        return self._belief if alive else set()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await asyncio.gather(*self._reading)
        self._reading.clear()

    async def leave(self) -> None:
        """Let it leave in order; what takes too long is killed."""
        process = self.process
        if process is not None and process.stdin is not None:
            with suppress(ConnectionError):
                process.stdin.write(b"leave\n")
                await process.stdin.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(10 * self._ttl):
                    await asyncio.gather(*(asyncio.shield(reading) for reading in self._reading))
        await self.kill()


class Result(msgspec.Struct):
    """What a torture has come to."""

    faults: dict[str, int]
    terms: int
    incarnations: int
    intervals: int
    answered: int
    unanswered: int
    overlaps: list[str]
    duplicate_tokens: list[str]
    wrong_commands: list[str]
    unowned: list[str]
    """When not every shard was owned again within the bound."""

    slowest: float
    """Seconds from the last fault of a round until everything was owned again, at most."""

    @property
    def sound(self) -> bool:
        """Whether every promise was kept."""
        return not (self.overlaps or self.duplicate_tokens or self.wrong_commands or self.unowned)


class Torture:
    """Nodes on the server of a harness, and faults upon them. `run` it once."""

    def __init__(
        self, harness: Harness, *, nodes: int, ttl: float, seed: int, bound: float, server_faults: bool = True
    ) -> None:
        self._harness = harness
        self._ttl = ttl
        self._random = random.Random(seed)
        self._bound = bound
        self._count = nodes
        self._nodes: list[Node] = []
        self._faults: Counter[str] = Counter()
        self._unowned: list[str] = []
        self._slowest = 0.0
        self._pending: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._server = harness.faults() if server_faults else None
        self._kinds = ["kill", "kill", "stop", "stop", "leave", "blackhole", "reset", "two"]
        if self._server is not None:
            self._kinds += ["server pause", "server kill"]

    async def run(self, *, faults: int) -> Result:
        """Commit so many faults, and judge."""
        url = await self._harness.start()
        try:
            async with AsyncExitStack() as stack:
                for number in range(self._count):
                    node = Node(f"node-{number}", url, ttl=self._ttl)
                    stack.enter_context(node.link)
                    stack.push_async_callback(node.kill)
                    self._nodes.append(node)
                    await node.start()
                await self._all_owned(_START)
                while sum(self._faults.values()) < faults:
                    await self._round(min(_QUIET, faults - sum(self._faults.values())))
                self._over.set()
                await asyncio.gather(*(node.leave() for node in self._nodes))
            return await self._judge(url)
        finally:
            await self._harness.stop()

    async def _round(self, faults: int) -> None:
        for _ in range(faults):
            await self._strike(self._random.choice(self._kinds))
            await self._pause(0.1, 0.8)
        while self._pending:
            await asyncio.wait(self._pending)
        await self._all_owned(self._bound)

    async def _all_owned(self, bound: float) -> None:
        """Wait until every shard has one owner; the bound counts from when nothing is broken any more."""
        clock = asyncio.get_running_loop().time
        began = clock()
        while not self._whole():
            if clock() - began > bound:
                held = {node.name: len(node.shards) for node in self._nodes}
                self._unowned.append(f"behind {sum(self._faults.values())} faults, after {bound:g} s: {held}")
                return
            await asyncio.sleep(0.01)
        self._slowest = max(self._slowest, clock() - began)

    def _whole(self) -> bool:
        owned = [shard for node in self._nodes for shard in node.shards]
        return len(owned) == len(set(owned)) == SHARDS and all(node.shards for node in self._nodes)

    # --- The nemesis ---

    async def _strike(self, kind: str) -> None:
        if kind == "two":
            for node in self._random.sample(self._nodes, 2):
                self._begin(self._random.choice(("kill", "stop")), node)
        elif kind.startswith("server"):
            if not any(task.get_name() == "server" for task in self._pending):
                self._spawn(self._strike_server(kind), "server")
                self._faults[kind] += 1
        else:
            self._begin(kind, self._random.choice(self._nodes))

    def _begin(self, kind: str, node: Node) -> None:
        if any(task.get_name() == node.name for task in self._pending):
            return  # it has its share already
        self._faults[kind] += 1
        self._spawn(getattr(self, f"_{kind}")(node), node.name)

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _kill(self, node: Node) -> None:
        await node.kill()
        await self._while()
        await node.start()

    async def _stop(self, node: Node) -> None:
        node.signal(signal.SIGSTOP)
        node.stopped = True
        await self._while()
        node.stopped = False
        node.signal(signal.SIGCONT)

    async def _leave(self, node: Node) -> None:
        await node.leave()
        await node.start()

    async def _blackhole(self, node: Node) -> None:
        node.link.blackhole()
        await self._while()
        node.link.heal()

    async def _reset(self, node: Node) -> None:
        node.link.reset()

    async def _strike_server(self, kind: str) -> None:
        server = self._server
        assert server is not None
        if kind == "server pause" and server.pause is not None and server.resume is not None:
            await server.pause()
            await self._while()
            await server.resume()
        elif server.kill is not None and server.start is not None:
            await server.kill()
            await self._while()
            await server.start()

    async def _while(self) -> None:
        await self._pause(0.1, 2.0)

    async def _pause(self, least: float, most: float) -> None:
        """Some time, in parts of the ttl."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._random.uniform(least, most) * self._ttl):
                await self._over.wait()

    # --- In the end ---

    async def _judge(self, url: str) -> Result:
        membership: list[Event] = []
        others: list[Event] = []
        async with open_store(url, namespace=NAMESPACE) as store:
            async for _, event in store.feed():
                (membership if event.actor_id == actor_of(CLUSTER) else others).append(event)
        _, terms, incarnations = checks.replay(membership)
        histories = [history for node in self._nodes for history in node.histories]
        lines = Counter(line["what"] for history in histories for line in history)
        failed = [line["error"] for history in histories for line in history if line["what"] == "failed"]
        return Result(
            faults=dict(self._faults),
            terms=terms,
            incarnations=incarnations,
            intervals=sum(len(checks.intervals(history)) for history in histories),
            answered=lines["answered"],
            unanswered=lines["unanswered"],
            overlaps=[str(pair) for pair in checks.overlaps(histories)],
            duplicate_tokens=checks.duplicate_tokens(histories),
            wrong_commands=checks.commands(histories, others),
            unowned=self._unowned + failed,
            slowest=round(self._slowest, 3),
        )
