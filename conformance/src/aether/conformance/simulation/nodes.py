"""One cluster in virtual time, whose nodes a test starts, breaks and looks at one by one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aether.conformance.simulation.world import Machine, World
from aether.core import Cluster, Event, Host
from aether.core.cluster.duties import Rules
from aether.core.state import Decider, NewEvent

TTL = 10.0
HOP = 0.05
"""Seconds; more than a message takes there and back."""

SHARDS = 16
ACTOR = "aether/cluster/c"


def decide(_state: int, command: Event) -> list[NewEvent]:
    """`Refuse` raises, `Nothing` causes nothing, everything else is added."""
    if command.type == "Refuse":
        raise ValueError("no")
    if command.type == "Nothing":
        return []
    return [NewEvent(type="Added", data={"n": command.data.get("n", 1)})]


def evolve(state: int, event: Event) -> int:
    """The sum."""
    return state + int(event.data["n"])


def command(kind: str = "Add", **data: Any) -> Event:
    """A command with an id of its own."""
    return Event(type=kind, actor_id="x", version=1, data=data)


class Nodes:
    """The nodes of one world, each on a machine of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.machines: dict[str, Machine] = {}
        self.clusters: dict[str, Cluster] = {}
        world.loop.passing.append(self.look)
        self.overlap: list[str] = []

    def look(self) -> None:
        """Keep what two nodes own at once."""
        owned = [shard for cluster in self.clusters.values() for shard in cluster.shards]
        if len(owned) != len(set(owned)):
            self.overlap.append(f"at {self.world.time}: {[(c.node, sorted(c.shards)) for c in self.clusters.values()]}")

    async def up(self, name: str, *, key: str | None = None, **settings: Any) -> Cluster:
        """Start a node, and wait until it is a member."""
        machine = self.machines[key or name] = self.world.machine(name)
        facades = await machine.facades(timeout=TTL / 2)
        settings = {"ttl": TTL, "shards": SHARDS, "rules": Rules(debounce=0.01), **settings}
        cluster = Cluster(facades, name="c", node=name, **settings)
        cluster.host(Host(facades.store, Decider(int, evolve, decide)))
        self.clusters[key or name] = cluster
        opened = machine.start(cluster.open())
        await opened
        return cluster

    async def all_up(self, names: str) -> list[Cluster]:
        """Start one node for each letter, and wait until the shards are spread."""
        nodes = [await self.up(name) for name in names]
        await self.until(lambda: self.even(names))
        return nodes

    def even(self, names: str) -> bool:
        """Whether these nodes own everything, as evenly as they can."""
        held = [len(self.clusters[name].shards) for name in names]
        return sum(held) == SHARDS and max(held) - min(held) <= 1

    async def until(self, condition: Callable[[], bool], *, within: float = 3 * TTL) -> float:
        """The seconds until it is true."""
        began = self.world.time
        while not condition():
            assert self.world.time - began < within, "it did not come true in time"
            await asyncio.sleep(HOP / 10)
        return self.world.time - began

    def log(self) -> list[dict[str, Any]]:
        """The membership as it is stored."""
        return [json.loads(stored.data) for stored in self.world.namespace.actors.get(ACTOR, [])]


def play(nodes: Nodes, test: Callable[[], Awaitable[Any]]) -> None:
    """Run a test; no shard may have had two owners meanwhile."""
    nodes.world.run(test)
    assert nodes.overlap == []
