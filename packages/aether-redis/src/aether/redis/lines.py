"""A line: one connection that many tasks use at once. Calls are sent when they are made, and answered in order.

Nobody waits for a connection, and a caller who is cancelled leaves nothing undone: the answer still comes, and nobody
takes it. A call whose answer is late takes the connection with it, because the answers behind it would be late, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from aether.core.errors import AetherError, OutcomeUnknown, Unavailable
from aether.redis.places import Command, Greet, Place, Word, code_of, error_text
from aether.redis.scripts import Script
from aether.redis.wires import Lost, Wire
from redis.exceptions import MovedError, NoScriptError, RedisError

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


class Line:
    """One connection to one place, made when it is needed first, and again when it was lost."""

    def __init__(self, place: Place, greet: Greet, *, timeout: float) -> None:
        self._place = place
        self._greet = greet
        self._timeout = timeout
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._wires: set[Wire] = set()
        """All that are not gone yet: one that leads to the wrong place still answers what it was asked."""

        self._ran: set[Script] = set()
        """What the server knows, unless it has forgotten it."""

        self._closed = False

    # --- Calls ---

    async def call(self, what: str, *commands: Command, writes: bool, timeout: float | None = None) -> list[Any]:
        """Send commands in one piece, and return their replies. Raises the errors of the interface.

        All of them concern one slot. A reply that is an error raises; only `NOSCRIPT` is returned, for `run`.
        A write is surely not done if the first command was refused, whatever became of those behind it.
        A read whose connection was lost is asked again, once: an idle one may have been cut off long ago.
        """
        replies = await self._exchange(what, commands, writes=writes, timeout=timeout or self._timeout)
        if isinstance(replies[0], NoScriptError):
            return replies
        for number, reply in enumerate(replies):
            if isinstance(reply, Exception):
                raise self._refused(what, reply, writes=writes, done=number > 0)
        return replies

    async def each(self, what: str, *commands: Command) -> list[Any]:
        """Send writes that do not depend on each other in one piece; in the place of a reply may be its own error."""
        replies = await self._exchange(what, commands, writes=True, timeout=self._timeout)
        return [self._refused(what, one, writes=True) if isinstance(one, Exception) else one for one in replies]

    async def run(
        self, what: str, script: Script, keys: Sequence[Word], arguments: Sequence[Word], *behind: Command, writes: bool
    ) -> list[Any]:
        """Run a script, and commands behind it. A server that does not know it by its name gets its text.

        At once, where something follows it: that may take long, also behind a script that was not found.
        """
        words = (len(keys), *keys, *arguments)
        if not behind or script in self._ran:
            replies = await self.call(what, ("EVALSHA", script.sha, *words), *behind, writes=writes)
            if not isinstance(replies[0], NoScriptError):
                return replies
        replies = await self.call(what, ("EVAL", script.text, *words), *behind, writes=writes)
        self._ran.add(script)
        return replies

    async def _exchange(self, what: str, commands: Sequence[Command], *, writes: bool, timeout: float) -> list[Any]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        hops, again = 0, not writes
        while True:
            wire = self._wire
            if wire is None or not wire.open:
                await self._connect(what)
                wire = self._wire
                if wire is None or not wire.open:  # it was lost before this task had its turn
                    if loop.time() < deadline:
                        continue
                    raise Unavailable(what, reason="connections are lost as soon as they are made")
            try:
                replies = await wire.ask(commands, deadline)
            except Lost as error:
                if again and not self._closed and loop.time() < deadline - timeout / 2:
                    again = False
                    continue
                raise self._unanswered(what, str(error), writes=writes) from None
            self._learn(wire, replies)
            if not (isinstance(replies[0], MovedError) and hops < _MOST_HOPS):
                return replies
            hops += 1

    def _learn(self, wire: Wire, replies: Sequence[Any]) -> None:
        """From replies that say that the wire leads to the wrong place. Those who hear it later change nothing."""
        if not wire.open:
            return
        for reply in replies:
            if isinstance(reply, MovedError):
                self._place.moved(reply)
                wire.retire()
                return
            if isinstance(reply, Exception) and code_of(reply) in _ELSEWHERE:
                wire.retire()

    def _refused(self, what: str, error: Exception, *, writes: bool, done: bool = False) -> AetherError:
        """What an error is to the caller; `done` if something in front of it was done."""
        code, text = code_of(error), error_text(error)
        hint = _HINTS.get(code)
        if writes and (done or code not in _REFUSALS):
            return OutcomeUnknown(what, reason=f"the server answered {text}" + (f"; {hint}" if hint else ""))
        return Unavailable(what, reason=text, hint=hint or "try again later")

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

    async def _establish(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._place.connect(self._greet)
        finally:
            self._connecting = None
        self._wires = {wire for wire in self._wires if not wire.gone}
        self._ran.clear()
        self._wire = Wire(connection)
        self._wires.add(self._wire)

    async def close(self) -> None:
        """Drop the connection; calls that wait end with an error. May be called twice."""
        self._closed = True
        connecting = self._connecting
        if connecting is not None:
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([connecting])
        for wire in self._wires:
            wire.end("it was closed meanwhile")
        for wire in tuple(self._wires):
            await wire.wait_gone()


def _seen(task: asyncio.Task[Any]) -> None:
    """Nobody may be left to hear of its error."""
    if not task.cancelled():
        task.exception()
