"""A wire: one connection over which questions go out at once, and come back answered in order, until it ends."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

from aether.redis.places import Command, error_text, part, send
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, AuthorizationError, BusyLoadingError, RedisError, ResponseError

_REPLIES = (ResponseError, AuthenticationError, AuthorizationError, BusyLoadingError)
"""Errors that are an answer; behind any other one of redis-py there is no connection any more."""


class Lost(Exception):
    """The connection ended before all answers were there."""


class _Pending:
    __slots__ = ("answer", "count", "deadline", "replies")

    def __init__(self, count: int, answer: asyncio.Future[list[Any]], deadline: float) -> None:
        self.count = count
        self.answer = answer
        self.deadline = deadline
        self.replies: list[Any] = []


class Wire:
    """A connection that many use. A question whose answer is late ends it: those behind it would be late, too."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._pending: deque[_Pending] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._retired = self._ended = False
        self.open = True
        """Whether questions may be asked."""

        receiving = asyncio.get_running_loop().create_task(self._receive())
        self._tasks = {receiving}
        receiving.add_done_callback(self._tasks.discard)

    def ask(self, commands: Sequence[Command], deadline: float) -> asyncio.Future[list[Any]]:
        """Send commands in one piece. Their replies, errors among them, are the result; or it fails with `Lost`."""
        loop = asyncio.get_running_loop()
        pending = _Pending(len(commands), loop.create_future(), deadline)
        self._pending.append(pending)
        if self._alarm is None:
            self._alarm = loop.call_at(deadline, self._check)
        send(self._connection, commands)
        return pending.answer

    def retire(self) -> None:
        """Ask nothing more. What was asked is still answered."""
        self._retired = True
        self.open = False
        if not self._pending:
            self.end("it leads to the wrong place")

    def end(self, reason: str) -> None:
        """Nothing more is expected of it: it is closed, in a task of its own.

        Not by its receiver: one that is cancelled before its first turn never runs.
        """
        if self._ended:
            return
        self._ended = True
        self.open = False
        for pending in self._pending:
            if not pending.answer.done():
                pending.answer.set_exception(Lost(reason))
        self._pending.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        closing = asyncio.get_running_loop().create_task(part(self._connection))
        self._tasks.add(closing)
        closing.add_done_callback(self._tasks.discard)

    @property
    def gone(self) -> bool:
        """Whether nothing is left of it."""
        return not self._tasks

    async def wait_gone(self) -> None:
        """Wait until its connection is closed."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- Answers ---

    async def _receive(self) -> None:
        """Hand replies to those who wait, in order, until the connection ends."""
        read = self._connection.read_response
        try:
            while not self._ended:
                try:
                    reply = await read(disable_decoding=True, timeout=math.inf, disconnect_on_error=False)
                except _REPLIES as error:
                    reply = error
                self._take(reply)
        except (RedisError, OSError) as error:
            self.end(error_text(error))
        finally:
            self.end("it is closed")

    def _take(self, reply: Any) -> None:
        if not self._pending:
            self.end("the server said something that nobody had asked for")
            return
        pending = self._pending[0]
        pending.replies.append(reply)
        if len(pending.replies) == pending.count:
            self._pending.popleft()
            if not pending.answer.done():
                pending.answer.set_result(pending.replies)
            if self._retired and not self._pending:
                self.end("it leads to the wrong place")

    def _check(self) -> None:
        """Drop the connection if the oldest question is late."""
        self._alarm = None
        if not self._pending:
            return
        loop = asyncio.get_running_loop()
        deadline = self._pending[0].deadline
        if deadline <= loop.time():
            self.end("no answer within the time-out")
        else:
            self._alarm = loop.call_at(deadline, self._check)
