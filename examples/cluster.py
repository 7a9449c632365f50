"""The cluster act of `make demo`, and a program of its own: nodes join, shards spread, one is killed, others answer.

    python examples/cluster.py                      # on a NATS server that it starts
    python examples/cluster.py nats://localhost     # or on any backend, by URL

Every node is a process. Accounts belong to whoever owns their shard; commands find the owner from anywhere.
"""

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from aether.core import Cluster, Connection, Event, Host, LeaderChanged, NodeDown, NodeSuspect, NodeUp, connect
from aether.core.state import Decider, NewEvent

NODES = ("north", "south", "east")
SHARDS = 48
LEASE = 2.0  # seconds
ACCOUNTS = [f"account-{number}" for number in range(1, 6)]
Say = Callable[[str, str, int], None]


# --- The domain ---


def evolve(balance: int, event: Event) -> int:
    return balance + int(event.data["amount"])


def decides(node: str) -> Callable[[int, Event], Iterable[NewEvent]]:
    def decide(balance: int, command: Event) -> Iterable[NewEvent]:
        if balance + command.data["amount"] < 0:
            raise ValueError("the account does not hold that much")
        return [NewEvent(type="Deposited", data={"amount": command.data["amount"], "by": node})]

    return decide


def deposit(amount: int) -> Event:
    return Event(type="Deposit", actor_id="-", version=1, data={"amount": amount})


def member(bank: Connection, node: str) -> Cluster:
    cluster = Cluster(bank, name="bank", node=node, shards=SHARDS, ttl=LEASE)
    cluster.host(Host(bank.store, Decider(int, evolve, decides(node))))
    return cluster


async def node(name: str, url: str) -> None:
    """The program of one node: it joins, and handles commands until its parent is gone."""
    async with connect(url, namespace="bank", holder=name) as bank, member(bank, name):
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


# --- What is shown ---


def shard_map(cluster: Cluster) -> str:
    """How many shards each node owns, one mark for four of them."""
    view = cluster.view()
    owned = "  ".join(f"{one.node} {'#' * (one.shards // 4)} {one.shards}" for one in view.members if one.shards)
    return f"{owned}  free {view.free}" if view.free else owned


async def follow(cluster: Cluster, say: Say) -> None:
    """Say what happens to the nodes."""
    async for event in cluster.events():
        match event:
            case LeaderChanged():
                say("cluster", f"{event.node} leads, with token {event.token}", 34)
            case NodeUp():
                say("cluster", f"{event.node} has joined", 34)
            case NodeSuspect():
                say("cluster", f"{event.node} has fallen silent", 34)
            case NodeDown():
                say("cluster", f"{event.node} is gone ({event.reason})", 34)


async def spread(cluster: Cluster, nodes: Iterable[str]) -> None:
    """Wait until exactly these nodes own all shards, evenly."""
    wanted = set(nodes)
    while True:
        owned = {one.node: one.shards for one in cluster.view().members if one.shards}
        if set(owned) == wanted and sum(owned.values()) == SHARDS and max(owned.values()) - min(owned.values()) <= 1:
            return
        await asyncio.sleep(0.01)


# --- The act ---


async def act(url: str, say: Say) -> list[tuple[str, bool]]:
    """Play it, and return what was promised, and whether it was kept."""
    processes = {name: await start(name, url) for name in NODES}
    try:
        async with connect(url, namespace="bank", holder="desk") as bank, member(bank, "desk") as desk:
            watching = asyncio.create_task(follow(desk, say))
            await spread(desk, [*NODES, "desk"])
            say("shards", shard_map(desk), 33)
            checks = await play(desk, bank, processes, say)
            watching.cancel()
        return checks
    finally:
        for process in processes.values():
            kill(process)
            await process.wait()


async def play(
    desk: Cluster, bank: Connection, processes: dict[str, asyncio.subprocess.Process], say: Say
) -> list[tuple[str, bool]]:
    answers = {account: await desk.ask(account, deposit(100)) for account in ACCOUNTS}
    by = {account: events[0].data["by"] for account, events in answers.items()}
    say("commands", "  ".join(f"{account[8:]}: {name}" for account, name in by.items()), 32)

    account = next(account for account, name in by.items() if name != "desk")
    repeated = deposit(50)
    first = await desk.ask(account, repeated)
    kill(processes[by[account]])
    say("cluster", f"{by[account]} is killed (SIGKILL), {account} is asked", 31)
    began = time.monotonic()
    (event,) = await desk.ask(account, deposit(1), timeout=10 * LEASE)
    say("commands", f"{account} answers from {event.data['by']}, {time.monotonic() - began:.1f} s later", 32)
    await spread(desk, [name for name in (*NODES, "desk") if name != by[account]])
    say("shards", shard_map(desk), 33)
    again = await desk.ask(account, repeated)
    say("commands", "a repeated command is answered from the log", 32)
    stored = [event.data["amount"] async for event in bank.store.read(account)]
    return [
        ("the killed node's actors answered elsewhere", event.data["by"] != by[account]),
        ("every command was executed once", again == first and stored == [100, 50, 1]),
    ]


async def start(name: str, url: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, __file__, "--node", name, url, stdin=pipe)


def kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


async def main(url: str | None) -> int:
    def say(who: str, what: str, _: int) -> None:
        print(f"{who:<10}  {what}", flush=True)

    if url is None:
        from aether.nats.server import NatsServer

        with tempfile.TemporaryDirectory(prefix="aether-cluster-") as directory:
            async with NatsServer(Path(directory)) as server:
                checks = await act(server.url, say)
    else:
        checks = await act(url, say)
    for promise, kept in checks:
        print(f"{'ok' if kept else 'BROKEN':<10}  {promise}")
    return 0 if all(kept for _, kept in checks) else 1


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["--node"]:
        asyncio.run(node(*arguments[1:]))
    else:
        sys.exit(asyncio.run(main(arguments[0] if arguments else None)))
