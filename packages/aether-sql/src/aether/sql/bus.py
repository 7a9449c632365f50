"""The bus over a table of messages that all processes of a database read; trimmed to the last ten thousand.

At most once and live only, as every bus: what must not be lost is read with `store.subscribe`. One row is written per
message, so it carries thousands of messages a second, not tens of thousands.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from functools import partial

from aether.core.errors import Unavailable
from aether.core.kit import Bell, Logged, PollingBus
from aether.core.scope import Scope
from aether.core.spi import Message
from aether.core.url import BackendURL
from aether.sql.database import LIMITS, Bells, Database
from aether.sql.opening import Opening, pace, shared


class SqlBus(PollingBus):
    """A `BusDriver` over one database."""

    def __init__(self, url: BackendURL, scope: Scope) -> None:
        bell = Bell()
        self._of_database = SqlLog(url, scope, bell)
        super().__init__(self._of_database, bell=bell, every=pace(url))

    @property
    def opening(self) -> Opening:
        return self._of_database.opening

    @opening.setter
    def opening(self, opening: Opening) -> None:
        self._of_database.opening = opening


class SqlLog:
    """A `BusLog` over one table."""

    max_message_bytes = LIMITS.max_event_bytes

    def __init__(self, url: BackendURL, scope: Scope, bell: Bell) -> None:
        self._bell = bell
        self._losses = 0
        self.opening: Opening = partial(shared, url, scope)
        self._stack = AsyncExitStack()
        self._database: Database

    async def open(self) -> None:
        async with AsyncExitStack() as stack:
            self._database = await stack.enter_async_context(self.opening())
            self._stack = stack.pop_all()
        self._losses = self._database.losses
        self._database.listen(Bells.MESSAGES, self._bell)

    async def close(self) -> None:
        await self._stack.aclose()

    async def put(self, message: Message) -> int:
        return await self._database.publish(message)

    async def end(self) -> int:
        return await self._database.published()

    async def after(self, position: int, limit: int) -> Sequence[Logged]:
        if self._database.losses != self._losses:  # what was notified meanwhile may have been trimmed, or never told
            self._losses = self._database.losses
            raise Unavailable("receive", reason="the connection was lost")
        rows = await self._database.fetch("receive", self._database.statements.received, after=position, limit=limit)
        return [Logged(row[0], Message(*row[1:])) for row in rows]

    async def claim(self, queue: str, positions: Sequence[int]) -> Collection[int]:
        return await self._database.claim(queue, positions)

    async def trim(self, upto: int) -> None:
        await self._database.forget(upto)
