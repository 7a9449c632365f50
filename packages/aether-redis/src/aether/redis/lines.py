"""A line: one connection that many tasks use at once. Calls are sent when they are made, and answered in order.

Nobody waits for a connection, and a caller who is cancelled leaves nothing undone: the answer still comes, and nobody
takes it. A call whose answer is late takes the connection with it, because the answers behind it would be late, too.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from aether.core.errors import AetherError, OutcomeUnknown, Unavailable
from aether.redis.places import Command, Greet, Place, Word, part, send
from aether.redis.scripts import Script
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    MovedError,
    NoScriptError,
    RedisError,
    ResponseError,
)

_MOST_HOPS = 5

_REFUSALS = frozenset(
    {
        "ASK",
        "BUSY",
        "CLUSTERDOWN",
        "CROSSSLOT",
        "EXECABORT",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "MOVED",
        "NOAUTH",
        "NOPERM",
        "NOREPLICAS",
        "NOSCRIPT",
        "OOM",
        "READONLY",
        "TRYAGAIN",
        "WRONGPASS",
    }
)
"""What a server answers before it does anything. Any other error may come in the middle."""

_ELSEWHERE = frozenset({"LOADING", "MASTERDOWN", "READONLY", "UNBLOCKED", "CLUSTERDOWN"})
"""What says that this server is not, or no longer, the one that takes writes: look for it anew."""

_HINTS = {
    "MISCONF": "the server cannot write to its disk; make room there",
    "NOAUTH": "give a user and a password",
    "NOPERM": "give the user the commands and keys that the backend's README lists",
    "OOM": "the server has reached maxmemory; give it more",
    "READONLY": "this server is a replica; connect to the primary one, or by sentinels",
    "WRONGPASS": "check user and password",
}


_REPLIES = (ResponseError, AuthenticationError, AuthorizationError, BusyLoadingError)
"""Errors that are an answer; behind any other one of redis-py there is no connection any more."""


class _Lost(Exception):
    """The connection ended before all answers were there."""


class _Pending:
    __slots__ = ("answer", "count", "deadline", "replies")

    def __init__(self, count: int, answer: asyncio.Future[list[Any]], deadline: float) -> None:
        self.count = count
        self.answer = answer
        self.deadline = deadline
        self.replies: list[Any] = []


class Line:
    """One connection to one place, made when it is needed first, and again when it was lost."""

    def __init__(self, place: Place, greet: Greet, *, timeout: float) -> None:
        self._place = place
        self._greet = greet
        self._timeout = timeout
        self._connection: AbstractConnection | None = None
        self._connecting: asyncio.Task[AbstractConnection] | None = None
        self._pending: deque[_Pending] = deque()
        self._receiving: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False

    # --- Calls ---

    async def call(self, what: str, *commands: Command, writes: bool, timeout: float | None = None) -> list[Any]:
        """Send commands in one piece, and return their replies. Raises the errors of the interface.

        All of them concern one slot. A reply that is an error raises; only `NOSCRIPT` is returned, for `run`.
        A read whose connection was lost is asked again, once: an idle one may have been cut off long ago.
        """
        replies = await self._exchange(what, commands, writes=writes, timeout=timeout or self._timeout)
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, NoScriptError):
                raise self._refused(what, reply, writes=writes)
        return replies

    async def run(
        self, what: str, script: Script, keys: Sequence[Word], arguments: Sequence[Word], *behind: Command, writes: bool
    ) -> list[Any]:
        """Run a script, and commands behind it. A server that does not know it by its name gets its text."""
        words = (len(keys), *keys, *arguments)
        replies = await self.call(what, ("EVALSHA", script.sha, *words), *behind, writes=writes)
        if isinstance(replies[0], NoScriptError):
            replies = await self.call(what, ("EVAL", script.text, *words), *behind, writes=writes)
        return replies

    async def _exchange(self, what: str, commands: Sequence[Command], *, writes: bool, timeout: float) -> list[Any]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        hops, again = 0, not writes
        while True:
            if self._connection is None:
                await self._connect(what)
                if self._connection is None:  # it was lost before this task had its turn
                    if loop.time() < deadline:
                        continue
                    raise Unavailable(what, reason="connections are lost as soon as they are made")
            connection = self._connection
            pending = _Pending(len(commands), loop.create_future(), deadline)
            self._send(connection, commands, pending)
            try:
                replies = await pending.answer
            except _Lost as error:
                if again and not self._closed and loop.time() < deadline - timeout / 2:
                    again = False
                    continue
                raise self._unanswered(what, str(error), writes=writes) from None
            if any(isinstance(reply, Exception) and code_of(reply) in _ELSEWHERE for reply in replies):
                self._lose(connection, "this server takes no writes, or not any more")
            if not (isinstance(replies[0], MovedError) and hops < _MOST_HOPS):
                return replies
            hops += 1
            self._place.moved(replies[0])
            self._lose(connection, "the slot is elsewhere")

    def _send(self, connection: AbstractConnection, commands: Sequence[Command], pending: _Pending) -> None:
        self._pending.append(pending)
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_at(pending.deadline, self._check)
        send(connection, commands)

    def _refused(self, what: str, error: Exception, *, writes: bool) -> AetherError:
        code = code_of(error)
        if writes and code not in _REFUSALS:
            return OutcomeUnknown(what, reason=f"the server answered {error_text(error)}")
        return Unavailable(what, reason=error_text(error), hint=_HINTS.get(code, "try again later"))

    def _unanswered(self, what: str, reason: str, *, writes: bool) -> AetherError:
        return OutcomeUnknown(what, reason=reason) if writes else Unavailable(what, reason=reason)

    # --- The connection ---

    async def _connect(self, what: str) -> None:
        if self._closed:
            raise Unavailable(what, reason="it is closed")
        connecting = self._connecting
        if connecting is None:
            connecting = self._connecting = asyncio.get_running_loop().create_task(self._establish())
            connecting.add_done_callback(_seen)
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if connecting.cancelled() and task is not None and not task.cancelling():
                raise Unavailable(what, reason="it was closed meanwhile") from None
            raise
        except (RedisError, OSError) as error:
            code = code_of(error)
            raise Unavailable(what, reason=error_text(error), hint=_HINTS.get(code, "try again later")) from error

    async def _establish(self) -> AbstractConnection:
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._place.connect(self._greet)
        finally:
            self._connecting = None
        self._connection = connection
        receiving = asyncio.get_running_loop().create_task(self._receive(connection))
        self._receiving.add(receiving)
        receiving.add_done_callback(self._receiving.discard)
        return connection

    async def _receive(self, connection: AbstractConnection) -> None:
        """Hand replies to those who wait, in order, until the connection ends."""
        read = connection.read_response
        try:
            while self._connection is connection:
                try:
                    reply = await read(disable_decoding=True, timeout=math.inf, disconnect_on_error=False)
                except _REPLIES as error:
                    reply = error
                self._take(connection, reply)
        except (RedisError, OSError) as error:
            self._lose(connection, error_text(error))
        finally:
            self._lose(connection, "it is closed")

    def _take(self, connection: AbstractConnection, reply: Any) -> None:
        if self._connection is not connection:
            return
        if not self._pending:
            self._lose(connection, "the server said something that nobody had asked for")
            return
        pending = self._pending[0]
        pending.replies.append(reply)
        if len(pending.replies) == pending.count:
            self._pending.popleft()
            if not pending.answer.done():
                pending.answer.set_result(pending.replies)

    def _check(self) -> None:
        """Drop the connection if the oldest call is late."""
        self._alarm = None
        if not self._pending:
            return
        loop = asyncio.get_running_loop()
        deadline = self._pending[0].deadline
        if deadline <= loop.time() and self._connection is not None:
            self._lose(self._connection, "no answer within the time-out")
        else:
            self._alarm = loop.call_at(deadline, self._check)

    def _lose(self, connection: AbstractConnection, reason: str) -> None:
        """Nothing more is expected of a connection: it is closed, in a task of its own.

        Not by its receiver: one that is cancelled before its first turn never runs.
        """
        if self._connection is not connection:
            return
        self._connection = None
        pending, self._pending = self._pending, deque()
        for one in pending:
            if not one.answer.done():
                one.answer.set_exception(_Lost(reason))
        for task in self._receiving:
            if task is not asyncio.current_task():
                task.cancel()
        closing = asyncio.get_running_loop().create_task(part(connection))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Drop the connection; calls that wait end with an error. May be called twice."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        connecting = self._connecting
        if connecting is not None:
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([connecting])
        if self._connection is not None:
            self._lose(self._connection, "it was closed meanwhile")
        while tasks := self._receiving | self._closing:
            await asyncio.wait(tasks)


def code_of(error: BaseException) -> str:
    """The word that an error of the server begins with, like `READONLY`; `ERR` for the rest."""
    known = getattr(error, "status_code", None)
    if known:
        return str(known)
    word = str(error).partition(" ")[0]
    return word if word.isupper() else "ERR"


def error_text(error: BaseException) -> str:
    """What an error says, with the word in front that redis-py takes off."""
    if isinstance(error, TimeoutError):
        return "no answer within the time-out"
    text = str(error) or type(error).__name__
    code = getattr(error, "status_code", None)
    return f"{code} {text}" if code and not text.startswith(str(code)) else text


def _seen(task: asyncio.Task[Any]) -> None:
    """Nobody may be left to hear of its error."""
    if not task.cancelled():
        task.exception()
