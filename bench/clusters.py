"""Clusters of processes on JetStream: fail-over, hand-over, and routed commands against unrouted ones.

    python bench/clusters.py                 # all of it, about three minutes
    python bench/clusters.py --only routed

Prints one line per figure, with its bar. Alone on its machine, please: processes that start slowly count as slow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import accumulate
from pathlib import Path

from aether.conformance.torture.checks import intervals
from aether.conformance.torture.clusters import Node
from aether.core import Cluster, Event, EventStore, Host, VersionConflict, connect, open_store
from aether.core.clock import SYSTEM_CLOCK
from aether.core.state import Decider, NewEvent
from aether.nats.server import NatsServer

SHARDS = 1024
TTL = 2.0
ACTORS, LANES, WORKERS, COMMANDS = 1000, 8, 4, 1000  # commands of each worker


@asynccontextmanager
async def server() -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        async with NatsServer(Path(directory), sync_always=False) as running:
            yield running.url


def show(figure: str, value: str, bar: str) -> None:
    print(f"{figure:<62} {value:<34} bar {bar}", flush=True)


# --- Fail-over and hand-over ---


async def spread(nodes: list[Node]) -> None:
    while True:
        held = [len(node.shards) for node in nodes]
        if sum(held) == SHARDS and max(held) - min(held) <= 1:
            return
        await asyncio.sleep(0.002)


def dark(before: Node, others: list[Node], since: float) -> list[float]:
    """For how long nobody owned each of the shards that went from one node to others."""
    ends = {one.shard: one.end for one in intervals(before.histories[-1]) if one.end >= since}
    begins: dict[int, float] = {}
    for node in others:
        for one in intervals(node.histories[-1]):
            if one.begin >= since and one.shard in ends:
                begins[one.shard] = min(begins.get(one.shard, one.begin), one.begin)
    return [begins[shard] - ends[shard] for shard in begins]


async def moves(rounds: int) -> None:
    """Join and leave in order, then SIGKILL, round after round."""
    joins, leaves, darks, kills = [], [], [], []
    async with server() as url, AsyncExitStack() as stack:
        nodes = [Node(f"n{number}", url, ttl=TTL, shards=SHARDS) for number in range(4)]
        for node in nodes:
            stack.push_async_callback(node.kill)
        three, fourth = nodes[:3], nodes[3]
        for node in three:
            await node.start()
        await spread(three)
        for _ in range(rounds):
            await fourth.start()
            began = SYSTEM_CLOCK.now()
            await spread(nodes)
            leased = next(line["at"] for line in fourth.histories[-1] if line["what"] == "owns" and line["token"])
            joins.append(SYSTEM_CLOCK.now() - leased)
            for node in three:
                darks += dark(node, [fourth], began)
            began = SYSTEM_CLOCK.now()
            await fourth.leave()
            await spread(three)
            leaves.append(SYSTEM_CLOCK.now() - began)
            darks += dark(fourth, three, began)
            await fourth.start()
            await spread(nodes)
            began = SYSTEM_CLOCK.now()
            await fourth.kill()
            await spread(three)
            kills.append((SYSTEM_CLOCK.now() - began) / TTL)
    ordered = sorted(kills)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    milliseconds = [1000 * seconds for seconds in darks]
    show(
        f"fail-over after SIGKILL, parts of a ttl of {TTL:g} s ({len(kills)} kills)",
        f"p50 {statistics.median(kills):.2f}, p95 {p95:.2f}",
        "p95 <= 1.1",
    )
    show(
        f"dark time of a shard that is handed over ({len(darks)} shards)",
        f"p50 {statistics.median(milliseconds):.1f} ms, max {max(milliseconds):.0f} ms",
        "p50 < 20 ms",
    )
    show("join 3 -> 4, from the lease to the last move", f"p50 {statistics.median(joins):.3f} s", "< 0.5 s")
    show("leave 4 -> 3, with the end of the process", f"p50 {statistics.median(leaves):.3f} s", "-")


# --- Commands ---


def zipf(seed: str) -> Iterator[str]:
    """Names of actors, a few of them far more often than the others."""
    sums = list(accumulate(1 / rank for rank in range(1, ACTORS + 1)))
    draw = random.Random(seed)
    while True:
        yield f"actor-{bisect_left(sums, draw.random() * sums[-1])}"


def decide(state: int, _command: Event) -> list[NewEvent]:
    return [NewEvent(type="Counted", data={"n": state})]


def evolve(state: int, _event: Event) -> int:
    return state + 1


class Unrouted:
    """What one does without a cluster: load, decide, append, and again after a conflict."""

    def __init__(self, store: EventStore, *, cached: bool) -> None:
        self._store = store
        self._cached = cached
        self._states: dict[str, int] = defaultdict(int)
        self.conflicts = 0

    async def do(self, actor_id: str) -> None:
        state = self._states[actor_id] if self._cached else 0
        fresh = self._cached
        while True:
            if not fresh or state == 0:
                async for _ in self._store.read(actor_id, after=state):
                    state += 1
            try:
                await self._store.append(Event(type="Counted", actor_id=actor_id, version=state + 1, data={"n": state}))
            except VersionConflict:
                self.conflicts += 1
                fresh = False
            else:
                self._states[actor_id] = max(self._states[actor_id], state + 1)
                return


async def lanes(do, name: str) -> float:
    """Run all commands of a worker, and return how long that took."""

    async def lane(number: int) -> None:
        names = zipf(f"{name}/{number}")
        for _ in range(COMMANDS // LANES):
            await do(next(names))

    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    began = time.perf_counter()
    await asyncio.gather(*(lane(number) for number in range(LANES)))
    return time.perf_counter() - began


async def worker(mode: str, url: str, name: str) -> None:
    async with connect(url, namespace="bench", holder=name) as there:
        if mode == "routed":
            host = Host(there.store, Decider(int, evolve, decide))
            async with Cluster(there, name="bench", node=name, ttl=5.0) as cluster:
                cluster.host(host)
                while [one.shards for one in cluster.view().members] != [SHARDS // WORKERS] * WORKERS:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

                async def ask(actor_id: str) -> None:
                    await cluster.ask(actor_id, Event(type="Count", actor_id="-", version=1))

                seconds = await lanes(ask, name)
                print(json.dumps([seconds, host.conflicts]), flush=True)
                await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        else:
            unrouted = Unrouted(there.store, cached=mode == "cached")
            seconds = await lanes(unrouted.do, name)
            print(json.dumps([seconds, unrouted.conflicts]), flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def commands(mode: str) -> tuple[float, int]:
    """Commands per second of all workers, and their conflicts, on a server of their own."""
    pipe = asyncio.subprocess.PIPE
    async with server() as url:
        workers = [
            await asyncio.create_subprocess_exec(
                sys.executable, __file__, "--worker", mode, url, f"w{number}", stdin=pipe, stdout=pipe
            )
            for number in range(WORKERS)
        ]
        for one in workers:
            assert (await one.stdout.readline()) == b"ready\n"
        began = time.perf_counter()
        for one in workers:
            one.stdin.write(b"go\n")
        answers = [json.loads(await one.stdout.readline()) for one in workers]
        seconds = time.perf_counter() - began
        for one in workers:
            one.stdin.write(b"end\n")
        await asyncio.gather(*(one.wait() for one in workers))
        async with open_store(url, namespace="bench") as store:
            stored = [event async for _, event in store.feed(types={"Counted"})]
        assert len(stored) == WORKERS * (COMMANDS // LANES) * LANES, len(stored)
    return len(stored) / seconds, sum(conflicts for _, conflicts in answers)


async def routed(rounds: int) -> None:
    rates: dict[str, list[float]] = defaultdict(list)
    conflicts: dict[str, int] = defaultdict(int)
    for number in range(rounds):
        modes = ["routed", "reload", "cached"]
        for mode in modes if number % 2 else modes[::-1]:
            rate, some = await commands(mode)
            rates[mode].append(rate)
            conflicts[mode] += some
    for mode, some in rates.items():
        show(
            f"{mode}: zipf, {ACTORS} actors, {WORKERS} x {LANES}",
            f"{statistics.median(some):,.0f} commands/s, {conflicts[mode]} conflicts",
            "0 conflicts routed",
        )
    for mode in ("reload", "cached"):
        ratio = statistics.median(one / other for one, other in zip(rates["routed"], rates[mode], strict=True))
        show(f"routed against unrouted ({mode})", f"{ratio:.2f} x", ">= 3")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["moves", "routed"])
    parser.add_argument("--rounds", type=int)
    arguments = parser.parse_args()
    if arguments.only != "routed":
        await moves(arguments.rounds or 10)
    if arguments.only != "moves":
        await routed(arguments.rounds or 3)


if __name__ == "__main__":
    asyncio.run(worker(*sys.argv[2:]) if sys.argv[1:2] == ["--worker"] else main())
