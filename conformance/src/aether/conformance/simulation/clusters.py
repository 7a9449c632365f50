"""Whole clusters in virtual time, under every fault at once, and what must be true of them all the same.

Looked at each time before virtual time passes, so nothing can be true for a while without being seen: no two nodes own
a shard, whether they are alive, stopped or dead, going by their own clocks. At the end the membership is replayed, the
commands are counted, and behind the last fault every shard is owned again, and every command answered, within a bound.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import Random
from typing import Any, NamedTuple

from aether.conformance.simulation.world import Machine, World
from aether.core import AetherError, Cluster, Event, Host, TimedOut, Unavailable
from aether.core.cluster.duties import Rules
from aether.core.cluster.membership import (
    EMPTY,
    ClusterState,
    MemberJoined,
    ShardsMoved,
    TermStarted,
    change_of,
    evolve,
)
from aether.core.encoding import decode_event
from aether.core.state import Decider, NewEvent

TTL = 1.0
SHARDS = 16
ACTORS = 12
RECOVERY = 8.0
"""Times the ttl, behind the last fault: an outage's grace, two leases that run out one behind the other, the brake."""

ACTOR = "aether/cluster/test"

FAULTS = ("cut", "kill", "stop", "deaf", "outage", "late", "unanswered", "leave", "behind")
LOSSES = ("wipe",)


class Outcome(NamedTuple):
    """What a run has come to."""

    elections: int
    """Terms of leaders and incarnations of nodes."""

    moves: int
    """Shards that one living node has handed over to another, both phases."""

    deaths: int
    commands: int
    trace: tuple[tuple[float, str], ...]
    """Everything that happened, to the last one."""


class Broken(AssertionError):
    """A promise that was not kept; the text has the seed."""


class ClusterSimulation:
    """Nodes, a client on each of them, and a nemesis that breaks whatever can break."""

    def __init__(self, seed: int, *, nodes: int = 4, skew: float = 0.05, losses: bool = False) -> None:
        self.world = World(seed)
        self.random = Random(f"cluster nemesis {seed}")
        # Each seed draws its own mix: rare faults meet in some run, instead of drowning in all of them.
        self.faults = [fault for fault in (*FAULTS, *(LOSSES if losses else ())) if self.random.random() < 0.6]
        self.skew = skew
        self.nodes: dict[str, _Node] = {f"n{number}": _Node(self, f"n{number}") for number in range(nodes)}
        self.everybody: list[_Witness] = []
        self.trace: list[tuple[float, str]] = []
        self.commands: dict[str, list[tuple[str, int]]] = {}
        self.world.loop.passing.append(self.look)
        self._story: asyncio.Task[Outcome]
        self._wrong: Broken | None = None

    @property
    def seed(self) -> int:
        """What everything was drawn from."""
        return self.world.seed

    def note(self, what: str) -> None:
        """Keep what happened, and when."""
        self.trace.append((self.world.time, what))

    def fail(self, what: str) -> Broken:
        """A promise that was not kept."""
        last = "\n".join(f"  {time:10.4f}  {what}" for time, what in self.trace[-60:])
        return Broken(f"seed {self.seed}, at {self.world.time:.4f}: {what}\n{last}")

    def run(self, *, seconds: float) -> Outcome:
        """Run it for so many virtual seconds of faults, and the time to recover from them."""
        outcome: Outcome = self.world.run(lambda: self._run(seconds), limit=1e6)
        return outcome

    async def _run(self, seconds: float) -> Outcome:
        self._story = asyncio.create_task(self._tell(seconds))
        try:
            return await self._story
        except asyncio.CancelledError:
            if self._wrong is None:
                raise
            raise self._wrong from None

    async def _tell(self, seconds: float) -> Outcome:
        for node in self.nodes.values():
            node.start()
        while self.world.time < seconds:
            await asyncio.sleep(self.random.uniform(0.1, 1.2) * TTL)
            if self.faults:
                self._strike(self.random.choice(self.faults))
            self._alive()
        self.note("the last fault")
        for node in self.nodes.values():
            node.mend()
        await self._recover()
        return self._judge()

    # --- While it runs ---

    def look(self) -> None:
        """No shard is owned by two nodes, by their own clocks. Stopped and dead ones count."""
        owned: list[tuple[str, frozenset[int]]] = []
        for node in self.everybody:
            presence = node.cluster._presence
            if presence._mine and presence.term is not None and presence.term.valid():
                owned.append((node.name, presence._mine))
        if sum(len(shards) for _, shards in owned) > len(frozenset().union(*(shards for _, shards in owned))):
            self.world.loop.passing.remove(self.look)
            self._wrong = self.fail(f"a shard is owned by two nodes: {owned}")
            self._story.cancel()

    def _strike(self, fault: str) -> None:
        node = self.random.choice(list(self.nodes.values()))
        self.note(f"{fault} {node.name}")
        if node.machine.link.dead:  # it was killed, and will be started again
            return
        if fault == "kill":
            node.kill()
            self._later(node.start_again)
        elif fault == "leave":
            node.leave()
        elif fault == "stop":
            node.machine.process.stopped = True
            self._later(node.go_on(node.machine))
        elif fault == "wipe":
            self.world.space.registers.clear()
        else:
            self._trouble(fault, node)

    def _trouble(self, fault: str, node: _Node) -> None:
        link = node.machine.link
        if fault in ("cut", "outage"):
            links = [one.machine.link for one in self.nodes.values()] if fault == "outage" else [link]
            for one in links:
                one.cut = True

            def heal() -> None:
                for one in links:
                    one.cut = False

            self._later(heal)
        elif fault == "deaf":
            link.deaf = True
            self._later(lambda: setattr(link, "deaf", False))
        elif fault == "late":
            link.fates.append(self.random.uniform(0.0, 2.0) * TTL)
        elif fault == "unanswered":
            link.fates.extend(["unanswered"] * self.random.randint(1, 4))
        elif fault == "behind":
            link.behind = len(self.world.namespace.actors.get(ACTOR, ()))
            self._later(lambda: setattr(link, "behind", None))

    def _later(self, mend: Any) -> None:
        asyncio.get_running_loop().call_later(self.random.uniform(0.0, 2.5) * TTL, mend)

    # --- In the end ---

    def _alive(self) -> None:
        for node in self.everybody:
            failure = node.cluster._crew.failure
            if failure is not None:
                raise self.fail(f"{node.name} cannot go on: {failure!r}") from failure

    async def _recover(self) -> None:
        """Behind the last fault every shard is owned, by members in step, within the bound."""
        deadline = self.world.time + RECOVERY * TTL
        while not self._whole():
            self._alive()
            if self.world.time > deadline:
                views = "\n".join(str(node.cluster.view()) for node in self.nodes.values() if node.cluster)
                raise self.fail(f"not every shard is owned {RECOVERY:g} ttl behind the last fault:\n{views}")
            await asyncio.sleep(0.05 * TTL)
        for node in self.nodes.values():
            node.machine.link.lossy = 0.0  # three losses in a row are longer than any bound
        for node in self.nodes.values():
            if node.cluster is not None:
                await self._command(node, f"a{self.random.randrange(ACTORS)}", must=True)

    def _whole(self) -> bool:
        owned = [len(node.cluster.shards) for node in self.nodes.values() if node.cluster is not None]
        return len(owned) == len(self.nodes) and sum(owned) == SHARDS and max(owned) - min(owned) <= 1

    def _judge(self) -> Outcome:
        elections = moves = 0
        state: ClusterState = EMPTY
        for stored in self.world.namespace.actors.get(ACTOR, ()):
            event = decode_event(stored)
            state = evolve(state, event)  # refuses what no sound leader can have written
            change = change_of(event)
            elections += isinstance(change, TermStarted | MemberJoined)
            if isinstance(change, ShardsMoved):
                moves += sum(map(len, change.release.values()))
        commands = self._count()
        deaths = sum(fault == "kill" for _, what in self.trace for fault in [what.split()[0]])
        return Outcome(elections, moves, deaths, commands, tuple(self.trace))

    def _count(self) -> int:
        """Each command has caused its events once, and what was answered is what is stored."""
        stored: dict[str, list[tuple[str, int]]] = {}
        for record in self.world.namespace.feed:
            if record.actor_id != ACTOR:
                event = decode_event(record)
                stored.setdefault(event.metadata["causationid"], []).append((event.actor_id, event.version))
        for command, events in stored.items():
            if len(events) != 2 or events[0][0] != events[1][0]:
                raise self.fail(f"command {command} has caused {events}, not two events of one actor")
        for command, answered in self.commands.items():
            if stored.get(command) != answered:
                raise self.fail(f"command {command} was answered with {answered}, stored is {stored.get(command)}")
        return len(self.commands)

    # --- Commands ---

    async def client(self, node: _Node) -> None:
        """Ask for something now and then, from one node."""
        while True:
            await asyncio.sleep(node.machine.random.uniform(0.05, 0.8) * TTL)
            await self._command(node, f"a{node.machine.random.randrange(ACTORS)}", must=False)

    async def _command(self, node: _Node, actor_id: str, *, must: bool) -> None:
        cluster = node.cluster
        if cluster is None:
            return
        command_id = f"{node.machine.random.getrandbits(64):016x}"
        command = Event(id=command_id, type="Add", actor_id="x", version=1)
        try:
            events = await cluster.ask(actor_id, command, timeout=(4 if must else 2) * TTL)
        except AetherError as error:
            if must:
                raise self.fail(f"{node.name} asks {actor_id}: {error}") from error
            return
        self.commands[command.id] = [(event.actor_id, event.version) for event in events]
        self.note(f"{node.name} {actor_id} {[event.version for event in events]}")


class _Node:
    """A node that is started again whenever it was killed, each time on a machine of its own."""

    def __init__(self, simulation: ClusterSimulation, name: str) -> None:
        self._simulation = simulation
        self.name = name
        self.machine: Machine
        self.cluster: Cluster | None = None
        self._leave = asyncio.Event()

    def start(self) -> None:
        """Start the node's process."""
        world, random = self._simulation.world, self._simulation.random
        rate = 1 + random.choice([-1, -1, 0, 1, 1]) * self._simulation.skew
        self.machine = world.machine(self.name, rate=rate, offset=random.uniform(-1e3, 1e3))
        self.machine.link.lossy = 0.01
        self.cluster = None
        self._leave = asyncio.Event()
        self._simulation.note(f"start {self.name}")
        self.machine.start(self._live(self.machine))

    def start_again(self) -> None:
        """Start it if it is still dead."""
        if self.machine.link.dead:
            self.start()

    async def _live(self, machine: Machine) -> None:
        simulation = self._simulation
        facades = await machine.facades(timeout=TTL)
        while True:
            cluster = Cluster(facades, name="test", node=self.name, ttl=TTL, shards=SHARDS, rules=Rules(debounce=0.05))
            cluster.host(Host(facades.store, Decider(int, _evolve, _decide)))
            witness = _Witness(self.name, cluster)
            simulation.everybody.append(witness)
            with suppress(TimedOut, Unavailable):
                async with cluster:
                    simulation.note(f"joined {self.name}")
                    self.cluster = cluster
                    client = asyncio.create_task(simulation.client(self))
                    await self._leave.wait()
                    self.cluster = None
                    client.cancel()
                simulation.note(f"left {self.name}")
            self._leave.clear()
            simulation.everybody.remove(witness)

    def leave(self) -> None:
        """Let it leave, and come back."""
        self._leave.set()

    def kill(self) -> None:
        """SIGKILL."""
        self.machine.kill()
        self.cluster = None

    def go_on(self, machine: Machine) -> Any:
        """What continues the machine, unless it was killed meanwhile."""

        def go_on() -> None:
            if not machine.link.dead:
                machine.process.go_on()

        return go_on

    def mend(self) -> None:
        """No fault that is still there stays."""
        link = self.machine.link
        link.cut = link.deaf = False
        link.behind = None
        link.fates.clear()
        if link.dead:
            self.start_again()
        elif self.machine.process.stopped:
            self.machine.process.go_on()


class _Witness(NamedTuple):
    name: str
    cluster: Cluster


def _evolve(state: int, _event: Event) -> int:
    return state + 1


def _decide(state: int, _command: Event) -> list[NewEvent]:
    return [NewEvent(type="Added", data={"state": state}), NewEvent(type="Counted", data={"state": state + 1})]
