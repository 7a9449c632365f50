"""A TCP link in front of a server, which breaks in the ways in which networks break.

It runs in a thread and an event loop of its own, so a case that hangs cannot hold it up. No byte is ever lost out of
the middle of a connection, for TCP does not do that either: a black hole keeps what comes, and passes it on when it is
healed, or loses it together with the connection.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from aether.conformance.faults.line import Address, Line, Traffic, Way, reset
from aether.conformance.violations import SuiteError

ResultT = TypeVar("ResultT")

_HOST = "127.0.0.1"
_ANSWER_SECONDS = 10.0  # the thread only ever moves bytes: it answers at once, or it is broken
_HOSTS = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://([^/?#]*@)?)(?P<hosts>[^/?#@]*)(?P<behind>.*)", re.DOTALL)


class Connection:
    """One connection through a link; breaking it leaves the others alone."""

    def __init__(self, link: Link, line: Line) -> None:
        self._link = link
        self._line = line

    def cut(self) -> None:
        """End it in order, as a server does that goes down; what is held is lost."""
        self._link._do(self._line.end)

    def reset(self) -> None:
        """End it with RST; what is held is lost."""
        self._link._do(self._line.reset)

    def blackhole(self, *ways: Way) -> None:
        """Let nothing through any more, or nothing in one direction; the connection stays."""
        self._link._do(partial(self._line.hold, ways or tuple(Way), 0.0))

    def heal(self) -> None:
        """Pass on what was held, and everything that comes."""
        self._link._do(partial(self._line.hold, (), 0.0))


class Link:
    """Links to some addresses, which break together. Use it with `with`, or call `open()` and `close()`.

    All methods return when it is done, and may be called from every thread.
    """

    def __init__(self, targets: Sequence[Address]) -> None:
        self.traffic = {way: Traffic() for way in Way}
        """The bytes of each direction, over all connections."""

        self.accepted = 0
        """How many connections have been let through since it was opened."""

        self._targets = tuple(targets)
        self._ports: dict[Address, int] = {}
        self._lines: dict[Line, asyncio.Task[None]] = {}
        self._held: Collection[Way] = ()
        self._delay = 0.0
        self._refusing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def to(cls, url: str) -> Self:
        """A link to all hosts of a URL, which has to name their ports."""
        return cls([_address(host) for host in _hosts(url)])

    # --- Life ---

    def open(self) -> None:
        """Listen on a free port for each of the targets."""
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="aether-link", daemon=True)
        self._thread.start()
        ready.result(_ANSWER_SECONDS)

    def close(self) -> None:
        """Reset all connections; no thread and no socket is left. May be called twice."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._do(self._over.set)
            thread.join(_ANSWER_SECONDS)
            self._loop = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether it listens."""
        return self._loop is not None

    def port(self, target: Address) -> int:
        """The port on 127.0.0.1 that leads to a target."""
        return self._ports[target]

    def through(self, url: str) -> str:
        """The same URL with every host replaced by the link to it."""
        match = _HOSTS.fullmatch(url)
        hosts = ",".join(f"{_HOST}:{self._ports[_address(host)]}" for host in _hosts(url))
        return f"{match['before']}{hosts}{match['behind']}" if match else url

    # --- Breaking ---

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The connections that there are now, the oldest first."""
        return tuple(Connection(self, line) for line in self._do(lambda: list(self._lines)))

    def cut(self) -> None:
        """End all connections in order; what is held is lost. New ones are let through."""
        self._each(Line.end)

    def reset(self) -> None:
        """End all connections with RST; what is held is lost. New ones are let through."""
        self._each(Line.reset)

    def reset_after(self, way: Way, count: int) -> None:
        """Let `count` more bytes through in one direction, then reset the connection that the last of them took.

        That may be in the middle of a message. Those bytes reach their receiver. It happens once.
        """
        self._do(partial(setattr, self.traffic[way], "left", count))

    def blackhole(self, *ways: Way) -> None:
        """Let nothing through any more, or nothing in one direction; connections stay, and new ones are the same."""
        self._set(ways or tuple(Way), self._delay)

    def delay(self, seconds: float) -> None:
        """Pass everything on so much later, at least."""
        self._set(self._held, seconds)

    def refuse(self) -> None:
        """Turn down new connections, with RST; those that there are stay."""
        self._do(partial(setattr, self, "_refusing", True))

    def heal(self) -> None:
        """Take everything back: what was held is passed on, and new connections are let through."""
        self._set((), 0.0)

    # --- In the thread ---

    def _do(self, work: Callable[[], ResultT]) -> ResultT:
        async def run() -> ResultT:
            return work()

        return self._run(run())

    def _run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        if self._loop is None:
            work.close()
            raise SuiteError("the link is not open")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_SECONDS)

    def _each(self, breaks: Callable[[Line], None]) -> None:
        async def run() -> None:
            lines = dict(self._lines)
            for line in lines:
                breaks(line)
            if lines:
                await asyncio.wait(lines.values())
            await asyncio.sleep(0)  # and what is called when they are done has been called

        self._run(run())

    def _set(self, held: Collection[Way], delay: float) -> None:
        def change() -> None:
            self._held, self._delay = held, delay
            if not held and not delay:
                self._refusing = False
                for traffic in self.traffic.values():
                    traffic.left = None
            for line in self._lines:
                line.hold(held, delay)

        self._do(change)

    def _serve(self, ready: Future[None]) -> None:
        try:
            asyncio.run(self._listen(ready))
        except Exception as error:  # whoever opens it gets to know
            if ready.done():
                raise
            ready.set_exception(error)

    async def _listen(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            for target in self._targets:
                listener = stack.enter_context(socket.create_server((_HOST, 0)))
                listener.setblocking(False)
                self._ports[target] = listener.getsockname()[1]
                # asyncio's own server would leave behind what it is accepting when it ends.
                self._loop.add_reader(listener, self._accept, listener, target)
                stack.callback(self._loop.remove_reader, listener)
            ready.set_result(None)
            await self._over.wait()
        tasks = dict(self._lines)
        for line in tasks:
            line.reset()
        if tasks:
            await asyncio.wait(tasks.values())

    def _accept(self, listener: socket.socket, target: Address) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the client is gone already
        if self._refusing:
            reset(connection)
            return
        self.accepted += 1
        line = Line(self.traffic, self._held, self._delay)
        task = self._lines[line] = asyncio.create_task(line.run(connection, target))
        task.add_done_callback(lambda _: self._lines.pop(line))


def _hosts(url: str) -> list[str]:
    match = _HOSTS.fullmatch(url)
    return [host for host in match["hosts"].split(",") if host] if match else []


def _address(host: str) -> Address:
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal():
        raise SuiteError(f"a link needs the port of {host!r}; let the harness's URL name it")
    return name.strip("[]"), int(port)
