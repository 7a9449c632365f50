"""Asking again: for what may be repeated, while a server restarts or a cluster elects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aether.core.errors import Closed, Unavailable
from aether.nats.connection import Connection, NoReply

_SHORTEST_ATTEMPT = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25  # seconds; the pause doubles in between

Answer = TypeVar("Answer")


class Patience:
    """How long one caller waits for answers: `timeout` seconds in all, `attempt` for each time that it asks."""

    def __init__(self, connection: Connection, *, timeout: float) -> None:
        self.timeout = timeout
        self.attempt = min(timeout, max(_SHORTEST_ATTEMPT, timeout / 5))
        self._connection = connection

    async def __call__(self, what: str, ask: Callable[[float], Awaitable[Answer]]) -> Answer:
        """The answer of `ask(attempt)`, asked again while there is none, until the time-out. Raises `Unavailable`.

        Only for reads, and for writes that cannot have happened when they raise `Unavailable` and let nothing else
        through. A server that restarts comes back; but a stream whose leader has just died answers nobody, not even
        later, and one that was just made may have no leader yet.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.timeout
        pause = _FIRST_PAUSE
        while True:
            try:
                return await ask(self.attempt)
            except (NoReply, Unavailable) as error:
                if self._connection.closed:
                    raise Closed("the connection") from error
                left = deadline - clock()
                if left <= pause:
                    if isinstance(error, NoReply):
                        raise Unavailable(what, reason=str(error)) from error
                    raise
                await self._connection.wait_connected(left)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
