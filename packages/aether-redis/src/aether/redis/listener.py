"""Hearing what is published: one connection for all subscriptions to one place, made again when it is lost."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from aether.core.errors import AetherError, Unavailable
from aether.redis.places import Greet, Place, error_text, part, send
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

_log = logging.getLogger("aether.redis")

_KEEP_ALIVE = 2.0  # seconds between two questions whether the server is there
_SILENCE = 6.0  # seconds without an answer, after which it is not
_LEAVE_SECONDS = 1.0
_BACK_OFF = (0.02, 0.5)  # seconds before it connects again, doubled up to the second

ASLEEP = 30.0
"""Seconds without a sign of the server, or of this process, after which what waits in the connection is too old."""

Heard = Callable[[bytes, bytes], None]


class Ear:
    """One subscription: to exact channels, or to a pattern."""

    def __init__(
        self, channels: Iterable[bytes], pattern: bytes | None, heard: Heard, interrupted: Callable[[], None]
    ) -> None:
        """`heard` is called with channel and payload, in the order of publishing.

        It raises `ValueError` for what it cannot read, which is left out, and nothing else.
        """
        self.channels = tuple(channels)
        self.pattern = pattern
        self.heard = heard
        self.interrupted = interrupted
        self.ready = asyncio.Event()


class Listener:
    """All ears at one place. The connection is there while somebody listens."""

    def __init__(self, place: Place, greet: Greet, *, timeout: float) -> None:
        self._place = place
        self._greet = greet
        self._timeout = timeout
        self._ears: list[Ear] = []
        self._by_channel: dict[bytes, list[Ear]] = {}
        self._by_pattern: dict[bytes, list[Ear]] = {}
        self._connection: AbstractConnection | None = None
        self._asked: deque[Sequence[Ear]] = deque()
        """For each question under way, the ears that are subscribed when it is answered."""

        self._task: asyncio.Task[None] | None = None
        self._failure = "no server answers"
        self._sign = 0.0
        self._closed = False

    # --- Subscriptions ---

    @asynccontextmanager
    async def listening(self, ear: Ear) -> AsyncIterator[None]:
        """Within it, the ear hears everything that is published. Raises `Unavailable`."""
        if self._closed:
            raise Unavailable("subscribe", reason="it is closed")
        self._add(ear)
        try:
            try:
                async with asyncio.timeout(self._timeout):
                    await ear.ready.wait()
            except TimeoutError:
                raise Unavailable("subscribe", reason=self._failure) from None
            yield
        finally:
            try:
                await self._leave(ear)
            finally:
                if not self._ears:
                    await self._rest()

    async def _leave(self, ear: Ear) -> None:
        """Stop listening, and wait until the server knows, or publishers would go on counting it."""
        gone = self._remove(ear)
        if gone and self._connection is not None:
            ear.ready.clear()
            self._asked.append((ear,))
            self._write(*gone, ("PING", b""))
            with suppress(TimeoutError):
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await ear.ready.wait()

    def _add(self, ear: Ear) -> None:
        self._ears.append(ear)
        for channel in ear.channels:
            self._by_channel.setdefault(channel, []).append(ear)
        if ear.pattern is not None:
            self._by_pattern.setdefault(ear.pattern, []).append(ear)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        elif self._connection is not None:
            self._subscribe((ear,))

    def _remove(self, ear: Ear) -> list[tuple[Any, ...]]:
        """Forget an ear, and return what unsubscribes from what nobody else wants."""
        if ear in self._ears:
            self._ears.remove(ear)
        gone = _forget(self._by_channel, ear, ear.channels, "UNSUBSCRIBE")
        return gone + _forget(self._by_pattern, ear, () if ear.pattern is None else (ear.pattern,), "PUNSUBSCRIBE")

    async def _rest(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def close(self) -> None:
        """End. May be called twice."""
        self._closed = True
        self._ears.clear()
        await self._rest()

    # --- The connection ---

    async def _run(self) -> None:
        pause = _BACK_OFF[0]
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    connection = await self._place.connect(self._greet)
                pause = _BACK_OFF[0]
                await self._listen(connection)
            except (RedisError, OSError, AetherError) as error:
                self._failure = error_text(error)
                _log.debug("a listener is cut off: %s", self._failure)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _BACK_OFF[1])

    async def _listen(self, connection: AbstractConnection) -> None:
        """Subscribe everybody, and hand out what comes until the connection is lost."""
        loop = asyncio.get_running_loop()
        self._connection, self._sign = connection, loop.time()
        self._asked.clear()
        pulse = asyncio.create_task(self._keep_alive(connection))
        try:
            self._subscribe(tuple(self._ears))
            while True:
                reply = await connection.read_response(
                    disable_decoding=True, timeout=math.inf, disconnect_on_error=False
                )
                now = loop.time()
                if now - self._sign > ASLEEP:
                    raise ConnectionError("this process has slept, and what is in the connection is too old")
                self._sign = now
                self._hear(reply)
        finally:
            self._connection = None
            for ears in self._asked:
                for ear in ears:
                    if ear not in self._ears:
                        ear.ready.set()  # the server will find out by itself
            pulse.cancel()
            await part(connection)

    async def _keep_alive(self, connection: AbstractConnection) -> None:
        """Ask now and then; a connection that was cut off without a word is dropped, and made again."""
        clock = asyncio.get_running_loop().time
        while clock() - self._sign < _SILENCE:
            await asyncio.sleep(_KEEP_ALIVE)
            self._subscribe(())
        await part(connection)

    def _hear(self, reply: Any) -> None:
        kind = reply[0] if isinstance(reply, list) else b"pong"
        if kind == b"message":
            _tell(self._by_channel.get(reply[1], ()), reply[1], reply[2])
        elif kind == b"pmessage":
            _tell(self._by_pattern.get(reply[1], ()), reply[2], reply[3])
        elif kind == b"pong" and self._asked:
            for ear in self._asked.popleft():
                if ear.ready.is_set():
                    ear.interrupted()  # it was ready before, on a connection that was lost
                else:
                    ear.ready.set()

    def _subscribe(self, ears: Sequence[Ear]) -> None:
        """Subscribe, and have it answered behind that: the answers to subscriptions come one per name."""
        channels = dict.fromkeys(channel for ear in ears for channel in ear.channels)
        patterns = dict.fromkeys(ear.pattern for ear in ears if ear.pattern is not None)
        commands: list[tuple[Any, ...]] = [("PING", b"")]
        if patterns:
            commands.insert(0, ("PSUBSCRIBE", *patterns))
        if channels:
            commands.insert(0, ("SUBSCRIBE", *channels))
        self._asked.append(ears)
        self._write(*commands)

    def _write(self, *commands: tuple[Any, ...]) -> None:
        if self._connection is not None:
            send(self._connection, commands)


def _tell(ears: Iterable[Ear], channel: bytes, payload: bytes) -> None:
    for ear in tuple(ears):
        try:
            ear.heard(channel, payload)
        except ValueError:  # everybody may publish anything; the others still want to hear what is ours
            _log.warning("a message on %r is none of ours, and is left out", channel)


def _forget(known: dict[bytes, list[Ear]], ear: Ear, names: Iterable[bytes], verb: str) -> list[tuple[Any, ...]]:
    """Take an ear off its names, and return what unsubscribes from those that nobody wants any more."""
    gone: list[tuple[Any, ...]] = []
    for name in names:
        ears = known.get(name, [])
        if ear in ears:
            ears.remove(ear)
            if not ears:
                del known[name]
                gone.append((verb, name))
    return gone
