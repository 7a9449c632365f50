"""Clusters on every backend of this repository: nodes join, share actors, answer for them, and leave."""

import asyncio
from collections.abc import Callable

import pytest

from aether.conformance.targets import find_harness
from aether.core import Cluster, Event, Host, connect
from aether.core.state import Decider, NewEvent

NODES = ("a", "b", "c")
BOUND = 60.0  # seconds


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not condition():
            await asyncio.sleep(0.01)


def evolve(total: int, event: Event) -> int:
    return total + event.data["n"]


def decide(total: int, command: Event) -> list[NewEvent]:
    return [NewEvent(type="Added", data={"n": command.data["n"], "total": total + command.data["n"]})]


async def live(url: str, name: str, joined: dict[str, Cluster], leave: asyncio.Event) -> None:
    async with (
        connect(url, namespace="clusters", holder=name) as there,
        Cluster(there, name="c", node=name, shards=64, ttl=20.0) as cluster,
    ):
        cluster.host(Host(there.store, Decider(int, evolve, decide)))
        joined[name] = cluster
        await leave.wait()


async def share(url: str) -> None:
    joined: dict[str, Cluster] = {}
    leave = {name: asyncio.Event() for name in NODES}
    async with asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(live(url, name, joined, leave[name])) for name in NODES}
        await until(lambda: sorted(len(one.shards) for one in joined.values()) == [21, 21, 22])
        for number in range(12):
            command = Event(type="Add", actor_id="-", version=1, data={"n": number})
            answers = [await joined[name].ask(f"actor-{number}", command, timeout=BOUND) for name in NODES]
            assert [event.data["total"] for event in answers[0]] == [number]
            assert answers[0] == answers[1] == answers[2]
        leave["a"].set()
        await tasks["a"]  # long before its lease would have run out
        del joined["a"]
        await until(lambda: sorted(len(one.shards) for one in joined.values()) == [32, 32])
        await until(lambda: joined["b"].members == {"b", "c"})
        (event,) = await joined["c"].ask("actor-1", Event(type="Add", actor_id="-", version=1, data={"n": 5}))
        assert event.data["total"] == 6
        for event in leave.values():
            event.set()


@pytest.mark.parametrize("target", ["memory", "nats", "sqlite", "postgresql"])
def test_nodes_share_actors(target: str) -> None:
    async def test() -> None:
        harness = find_harness(target)()
        url = await harness.start()
        try:
            await share(url)
        finally:
            await harness.stop()

    asyncio.run(test())
