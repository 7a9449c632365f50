"""Harnesses of backends that are broken as a whole, for `test_robust.py`, which names them on a command line."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from aether.conformance import Faults, Harness
from aether.conformance.wrappers import StoreWrapper
from aether.core.event import new_id
from aether.core.registry import default_registry
from aether.core.spi import SPI_VERSION, BackendInfo, Write
from aether.core.url import BackendURL
from aether.memory import plugin as memory

FOR_EVER = 10_000.0
_STDERR = os.dup(2)  # before pytest captures it


class Broken(StoreWrapper):
    """A store over one in memory. It asks its URL what is broken."""

    broken = ""
    used = False

    async def open(self) -> None:
        if self.broken == "open":
            await asyncio.Event().wait()
        await super().open()

    async def close(self) -> None:
        if self.broken == "close" and self.used:
            await asyncio.Event().wait()
        await super().close()

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        self.used = True
        match self.broken:
            case "call":
                await asyncio.Event().wait()
            case "told":
                os.write(_STDERR, b"hangs now\n")
                await asyncio.Event().wait()
            case "block":
                threading.Event().wait(FOR_EVER)
            case "stubborn":
                await _stubborn()
            case "exit":
                sys.exit("I give up")
            case "die":
                os._exit(0)
            case "thread":
                await asyncio.to_thread(time.sleep, FOR_EVER)
            case "moody" if next(_MOODS) == 0:
                raise RuntimeError("not today")
            case "binary":
                raise RuntimeError("no file \udcff \x1b[31mhere")
            case "secret":
                raise RuntimeError("cannot reach broken://me:hunter2@there")
        return await super().append(writes, transaction=transaction)


_MOODS = count()


async def _stubborn() -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


def _inner(url: BackendURL) -> BackendURL:
    return BackendURL(f"memory://{url.hosts[0]}")


class Plugin:
    def aether_backend(self) -> BackendInfo:
        return BackendInfo("aether-broken", spi=SPI_VERSION, features=memory.aether_backend().features)

    def aether_open_store(self, url: Any, scope: Any) -> Any:
        store = Broken(memory.aether_open_store(_inner(url), scope))
        store.broken = url.path.strip("/")
        return store

    def aether_open_bus(self, url: Any, scope: Any) -> Any:
        return memory.aether_open_bus(_inner(url), scope)

    def aether_open_election(self, url: Any, scope: Any) -> Any:
        return memory.aether_open_election(_inner(url), scope)


def _hooks() -> Any:
    from aether.core.hookspecs import hookimpl

    for name in ("aether_backend", "aether_open_store", "aether_open_bus", "aether_open_election"):
        hookimpl(getattr(Plugin, name))
    return Plugin()


default_registry().register("broken", _hooks(), source="aether-broken 0.1")


def _part(kind: str) -> Any:
    """A plugin that has a store, a bus or an election, and nothing else."""
    from aether.core.hookspecs import hookimpl

    class Part:
        @hookimpl
        def aether_backend(self) -> BackendInfo:
            features = memory.aether_backend().features if kind != "election" else frozenset()
            return BackendInfo(f"aether-only-{kind}", spi=SPI_VERSION, features=features)

    name = f"aether_open_{kind}"

    def opens(self: object, url: Any, scope: Any) -> Any:
        return getattr(memory, name)(_inner(url), scope)

    setattr(Part, name, hookimpl(opens, specname=name))
    return Part()


for _kind in ("store", "bus", "election"):
    default_registry().register(f"only{_kind}", _part(_kind), source=f"aether-only-{_kind} 0.1")


class OnlyAStore(Harness):
    """No bus and no election: they are not claimed, and break no rule."""

    kind = "store"
    lease = 0.3
    multiprocess = False

    async def start(self) -> str:
        return f"only{self.kind}://{new_id()}"


class OnlyABus(OnlyAStore):
    kind = "bus"


class OnlyAnElection(OnlyAStore):
    kind = "election"


class OnlyAStoreThatOthersReach(OnlyAStore):
    """A server without durability, and without a way to break it."""

    multiprocess = True


class BrokenHarness(Harness):
    """Each subclass says what is broken."""

    broken = "nothing"
    lease = 0.3
    deadline = 5.0
    multiprocess = False

    async def start(self) -> str:
        return f"broken://me:hunter2@{new_id()}/{self.broken}"


class HangsInOpen(BrokenHarness):
    broken = "open"


class HangsInClose(BrokenHarness):
    broken = "close"


class HangsInACall(BrokenHarness):
    broken = "call"


class BlocksTheLoop(BrokenHarness):
    broken = "block"


class SwallowsCancellation(BrokenHarness):
    broken = "stubborn"


class Exits(BrokenHarness):
    broken = "exit"


class KillsTheProcess(BrokenHarness):
    broken = "die"


class LeavesAThread(BrokenHarness):
    broken = "thread"


class Moody(BrokenHarness):
    broken = "moody"


class TellsItsPassword(BrokenHarness):
    broken = "secret"


class SaysWhatNoFileCanHold(BrokenHarness):
    broken = "binary"
    server: Any = b"\xff"


class TellsItsPasswordInStart(BrokenHarness):
    async def start(self) -> str:
        raise RuntimeError("cannot start broken://me:hunter2@there")


class TellsItsPasswordInStop(BrokenHarness):
    async def stop(self) -> None:
        raise RuntimeError("cannot stop broken://me:hunter2@there")


class CannotBeMade(BrokenHarness):
    def __init__(self) -> None:
        raise RuntimeError("no licence")


class DoesNotStart(BrokenHarness):
    async def start(self) -> str:
        raise RuntimeError("no such server")


class HangsInStart(BrokenHarness):
    async def start(self) -> str:
        await asyncio.Event().wait()
        return ""


class BlocksInStart(BrokenHarness):
    async def start(self) -> str:
        threading.Event().wait(FOR_EVER)
        return ""


class ExitsInStart(BrokenHarness):
    async def start(self) -> str:
        sys.exit("bad configuration")


class DiesInStart(BrokenHarness):
    async def start(self) -> str:
        os._exit(7)


class DiesInStop(BrokenHarness):
    async def stop(self) -> None:
        os._exit(0)


class DoesNotStop(BrokenHarness):
    async def stop(self) -> None:
        raise RuntimeError("it will not go")


class HangsInStop(BrokenHarness):
    async def stop(self) -> None:
        await asyncio.Event().wait()


class BlocksInStop(BrokenHarness):
    async def stop(self) -> None:
        threading.Event().wait(FOR_EVER)


class CannotBreakIt(BrokenHarness):
    """Says that it can restart the server, and cannot."""

    def faults(self) -> Faults:
        return Faults(restart=self._restart)

    async def _restart(self) -> None:
        raise RuntimeError("no permission")


class LeavesItsServer(BrokenHarness):
    """Never stops the process that it starts, and says where that is."""

    daemon = False

    async def start(self) -> str:
        program = [sys.executable, "-c", "import threading; threading.Event().wait()"]
        server = subprocess.Popen(program, start_new_session=self.daemon)
        Path(os.environ["BROKEN_PID"]).write_text(str(server.pid))
        return await super().start()


class LeavesADaemon(LeavesItsServer):
    """One that has left the process group and the session of the run."""

    daemon = True


class LeavesItsServerAndDies(LeavesItsServer):
    broken = "die"


class LeavesItsServerAndHangs(LeavesItsServer):
    broken = "told"
    deadline = FOR_EVER
