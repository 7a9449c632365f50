"""`make demo`: event sourcing on a real NATS JetStream server, to watch. It needs aether-nats[embedded].

Five clerks work on the same few orders, so they meet in version conflicts. A projection follows live. One of two
dispatcher processes leads and ships what is paid. Half-way the server is killed and started again; then the leading
dispatcher is killed. Another namespace looks on and sees nothing. Then a cluster of processes shares accounts among
its nodes, one of which is killed (`cluster.py`). At the end everything is counted and compared.
"""

import asyncio
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cluster

from aether.core import (
    AetherError,
    Event,
    EventStore,
    OutcomeUnknown,
    Term,
    Unavailable,
    VersionConflict,
    connect,
    open_store,
)
from aether.nats.server import NatsServer

CLERKS = ("Ada", "Ben", "Cleo", "Dan", "Eva")
DISPATCHERS = ("north", "south")
ORDERS = {f"order-{number}": 10 + 4 * number for number in range(1, 9)}  # how many items each one gets
EVENTS = sum(1 + items + 2 for items in ORDERS.values())  # placed, its items, paid and shipped
LEASE = 2.0  # seconds
DOWN = 1.0  # seconds
RETRY = 0.1  # seconds
GIVE_UP = 60.0  # seconds


# --- The domain: state is a function over events ---------------------------------------------------------------------


class Order(NamedTuple):
    version: int = 0
    items: int = 0
    paid: bool = False
    shipped: bool = False


def evolve(order: Order, event: Event) -> Order:
    match event.type:
        case "ItemAdded":
            order = order._replace(items=order.items + 1)
        case "OrderPaid":
            order = order._replace(paid=True)
        case "OrderShipped":
            order = order._replace(shipped=True)
    return order._replace(version=event.version)


def decide(order_id: str, order: Order, clerk: str) -> Event | None:
    """What a clerk does next with an order, None if nothing is left to do."""
    if order.paid:
        return None
    kind = "OrderPlaced" if order.version == 0 else "ItemAdded" if order.items < ORDERS[order_id] else "OrderPaid"
    return Event(type=kind, actor_id=order_id, version=order.version + 1, data={"by": clerk})


async def load(store: EventStore, order_id: str) -> Order:
    order = Order()
    async for event in store.read(order_id):
        order = evolve(order, event)
    return order


# --- What is counted and shown ---------------------------------------------------------------------------------------


@dataclass
class Tally:
    acknowledged: set[str] = field(default_factory=set)
    conflicts: int = 0
    retried: int = 0
    replayed: int = 0
    delivered: list[str] = field(default_factory=list)
    shipped: list[str] = field(default_factory=list)
    leaders: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true of what was counted; who counts sets `changed`."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()


class Screen:
    """Lines of progress: when, who, what."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def say(self, who: str, what: str, colour: int = 36) -> None:
        name = f"\033[{colour}m{who:<10}\033[0m" if self._colours else f"{who:<10}"
        print(f"{time.monotonic() - self._start:5.1f} s  {name}  {what}", flush=True)


# --- Clerks: several writers, and conflicts between them -------------------------------------------------------------


async def clerk(name: str, store: EventStore, tally: Tally) -> None:
    """Work on random orders until all are paid."""
    left = list(ORDERS)
    while left:
        order_id = random.choice(left)
        if not await change(store, order_id, name, tally):
            left.remove(order_id)


async def change(store: EventStore, order_id: str, name: str, tally: Tally) -> bool:
    """Load, decide, append; after a conflict again from the start. False if nothing is left to do."""
    conflicts = 0
    while True:
        try:
            event = decide(order_id, await load(store, order_id), name)
            if event is None:
                return False
            await asyncio.sleep(random.uniform(0, 0.15))  # clerks think; meanwhile somebody else may be faster
            await append(store, event, tally)
        except VersionConflict:
            conflicts += 1
            tally.conflicts += 1
        except Unavailable:  # a read found no server, or certainly nothing was stored
            await asyncio.sleep(0.1)
        else:
            tally.retried += conflicts > 0
            return True


async def append(store: EventStore, event: Event, tally: Tally) -> None:
    """Append until the outcome is known: the same event again, under the same id, is never stored twice."""
    while True:
        with suppress(OutcomeUnknown):
            appended = await store.append(event)
            tally.replayed += appended.replayed
            tally.acknowledged.add(event.id)
            tally.changed.set()
            return


# --- The projection: follows live, through the crash of the server ---------------------------------------------------


async def project(store: EventStore, tally: Tally, screen: Screen) -> None:
    board = {order_id: Order() for order_id in ORDERS}
    async with store.subscribe() as events:
        while True:
            with suppress(Unavailable):  # it may simply be iterated again
                async for _, event in events:
                    tally.delivered.append(event.id)
                    tally.changed.set()
                    board[event.actor_id] = evolve(board[event.actor_id], event)
                    if len(tally.delivered) % 50 == 0:
                        report(board, tally, screen)


def report(board: dict[str, Order], tally: Tally, screen: Screen) -> None:
    paid = sum(order.paid for order in board.values())
    shipped = sum(order.shipped for order in board.values())
    count = len(tally.delivered)
    screen.say("projection", f"{count:3} of {EVENTS} events, {paid} orders paid, {shipped} shipped", 32)


# --- Dispatchers: processes of which one leads -----------------------------------------------------------------------


async def dispatcher(name: str, url: str) -> None:
    """The program of one dispatcher process: it tells its parent on stdout what it does."""
    while True:
        with suppress(Unavailable, OutcomeUnknown):  # also when the server is down while this process starts
            async with connect(url, namespace="shop", holder=name) as shop:
                await shop.election.run("dispatch", partial(lead, shop.store), ttl=LEASE)
        await asyncio.sleep(RETRY)


async def lead(store: EventStore, term: Term) -> None:
    print("elected", term.token, flush=True)
    # From the beginning: what an earlier leader shipped is found under the same id and not shipped again.
    async with store.subscribe(types={"OrderPaid"}) as paid:
        async for _, event in paid:
            await ship(store, event, term)


async def ship(store: EventStore, paid: Event, term: Term) -> None:
    term.check()
    order_id = paid.actor_id
    shipped = Event(
        id=f"{order_id}-shipped",
        type="OrderShipped",
        actor_id=order_id,
        version=paid.version + 1,
        data={"token": term.token},
    )
    appended = await store.append(shipped)
    print("replayed" if appended.replayed else "shipped", shipped.id, flush=True)


class Dispatchers:
    """The dispatcher processes, as their parent sees them."""

    def __init__(self, url: str, tally: Tally, screen: Screen) -> None:
        self._url = url
        self._tally = tally
        self._screen = screen
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def run(self, name: str) -> None:
        """Start one, and listen to it until it ends."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--dispatcher", name, self._url, stdout=asyncio.subprocess.PIPE
        )
        self._processes[name] = process
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                self._heard(name, *line.decode().split())
        except asyncio.CancelledError:
            _kill(process)
            raise
        finally:
            await process.wait()

    def _heard(self, name: str, verb: str, what: str) -> None:
        self._tally.changed.set()
        if verb == "elected":
            self._tally.leaders.append(name)
            self._screen.say("dispatcher", f"{name} is elected, with token {what}", 35)
            return
        self._tally.acknowledged.add(what)
        if verb == "replayed":
            self._tally.replayed += 1
        else:
            self._tally.shipped.append(what)
            self._screen.say("dispatcher", f"{name}: {what}", 35)

    def kill_leader(self) -> None:
        """SIGKILL: it can tell nobody."""
        name = self._tally.leaders[-1]
        _kill(self._processes[name])
        self._screen.say("dispatcher", f"{name}, the leader, is killed (SIGKILL)", 31)


def _kill(process: asyncio.subprocess.Process) -> None:
    # Not process.kill(): it reaps a process that has just ended, and asyncio's own watcher then misses it.
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)


# --- The story -------------------------------------------------------------------------------------------------------


async def crash(server: NatsServer, tally: Tally, screen: Screen) -> None:
    """Kill the server in the middle of the work, and start it again."""
    await tally.until(lambda: len(tally.acknowledged) > EVENTS // 3)
    server.kill()
    screen.say("server", f"killed (SIGKILL) after {len(tally.acknowledged)} acknowledged events", 31)
    await asyncio.sleep(DOWN)
    await server.start()
    screen.say("server", "started again; nobody had to be told", 36)


async def succession(dispatchers: Dispatchers, tally: Tally) -> None:
    """Kill the leader when it has begun to ship, and wait for another one."""
    await tally.until(lambda: len(tally.shipped) >= 2)
    killed = tally.leaders[-1]
    dispatchers.kill_leader()
    await tally.until(lambda: tally.leaders[-1] != killed)


async def look_from_elsewhere(url: str, screen: Screen) -> bool:
    """Whether another namespace holds nothing but what was written there, under the same actor id."""
    async with open_store(url, namespace="warehouse") as warehouse:
        await warehouse.append(Event(type="ShelfCounted", actor_id="order-1", version=1))
        seen = [event.type async for _, event in warehouse.feed()]
    screen.say("warehouse", f"the other namespace holds {len(seen)} event, its own", 33)
    return seen == ["ShelfCounted"]


async def story(server: NatsServer, tally: Tally, screen: Screen) -> list[tuple[str, bool]]:
    async with open_store(server.url, namespace="shop") as store, asyncio.TaskGroup() as background:
        dispatchers = Dispatchers(server.url, tally, screen)
        running = [dispatchers.run(name) for name in DISPATCHERS]
        tasks = [background.create_task(job) for job in (project(store, tally, screen), *running)]
        async with asyncio.TaskGroup() as work:
            work.create_task(crash(server, tally, screen))
            work.create_task(succession(dispatchers, tally))
            for name in CLERKS:
                work.create_task(clerk(name, store, tally))
        screen.say("clerks", "all orders are paid")
        await tally.until(lambda: len(tally.acknowledged) >= EVENTS and len(tally.delivered) >= EVENTS)
        apart = await look_from_elsewhere(server.url, screen)
        checks = [*await compare(store, tally), ("the other namespace saw nothing", apart)]
        for task in tasks:
            task.cancel()
    return checks


async def compare(store: EventStore, tally: Tally) -> list[tuple[str, bool]]:
    """Read everything once more, and compare."""
    stored = [event.id async for _, event in store.feed()]
    orders = [await load(store, order_id) for order_id in ORDERS]
    return [
        ("nothing acknowledged was lost", tally.acknowledged <= set(stored)),
        ("nothing was stored twice", len(stored) == len(set(stored)) == EVENTS),
        ("the projection saw the same, in the same order", tally.delivered == stored),
        ("every order was shipped, once", all(order.shipped for order in orders)),
    ]


def table(tally: Tally, checks: list[tuple[str, bool]]) -> None:
    rows = [
        ("appended", len(tally.acknowledged), "events that the store has acknowledged"),
        ("conflicted", tally.conflicts, "appends that came second, and stored nothing"),
        ("retried", tally.retried, "changes that were decided again, and then stored"),
        ("replayed", tally.replayed, "appends that were repeated, and found stored already"),
        ("delivered", len(tally.delivered), "events to the live projection"),
        ("elections", len(tally.leaders), f"leaders: {', '.join(tally.leaders)}"),
    ]
    print()
    for name, number, meaning in rows:
        print(f"  {name:<11} {number:>5}  {meaning}")
    print()
    for promise, kept in checks:
        print(f"  {'ok    ' if kept else 'BROKEN'}  {promise}")


async def main() -> int:
    tally = Tally()
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="aether-demo-") as directory:
        async with NatsServer(Path(directory)) as server, asyncio.timeout(GIVE_UP):
            screen.say("server", f"NATS JetStream on port {server.port}; it syncs every event to disk")
            screen.say("clerks", f"{', '.join(CLERKS)} work on the same {len(ORDERS)} orders")
            checks = await story(server, tally, screen)
            checks += await cluster.act(server.url, screen.say)
    table(tally, checks)
    return 0 if all(kept for _, kept in checks) else 1


if __name__ == "__main__":
    logging.getLogger("aether.nats").setLevel(logging.CRITICAL)  # lost connections are the point here
    program = dispatcher(*sys.argv[2:]) if sys.argv[1:2] == ["--dispatcher"] else main()
    try:
        sys.exit(asyncio.run(program))
    except (AetherError, TimeoutError) as error:
        sys.exit(f"the demo did not come to its end: {error!r}")
    except KeyboardInterrupt:
        sys.exit(130)
