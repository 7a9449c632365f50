"""The event store in tables.

**URL** `sqlite:///file.db` (relative), `sqlite:////absolute/file.db`, `sqlite://` or
`sqlite:///:memory:` (in memory), `postgresql://user:password@host/database`, `mysql://` and `mariadb://` likewise.
Options: `prefix`, `schema`, `create`; `synchronous` for SQLite.

**Guarantees** All rules, and the features MULTI_ACTOR and CALLER_TRANSACTION. Durability is read from the database.

**Limits** 1 MiB per event, 16 MiB and 10,000 events per commit, 4 MiB per snapshot. One order per namespace means one
commit at a time per namespace; what comes together is committed together, so that costs little.

**Under the hood** One table of events, `PRIMARY KEY (ns, position)` and `UNIQUE (ns, actor_id, version)`. Appends of
one process that come together are one transaction (`aether.core.kit.Batcher`). See the module of each database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from aether.core.features import Durability, Feature
from aether.core.kit import Bell, PollingTail, Questions
from aether.core.scope import Scope
from aether.core.spi import Page, RevisionConflict, Slot, Stored, Tail, Write
from aether.core.url import BackendURL
from aether.sql.database import LAST, LIMITS, Bells, Database, Row
from aether.sql.opening import Opening, shared
from aether.sql.statements import PAGE_BYTES, PAGE_EVENTS, READ_EVENTS, Statement


class SqlStore:
    """A `StoreDriver` over one database."""

    features = frozenset({Feature.MULTI_ACTOR, Feature.CALLER_TRANSACTION})
    limits = LIMITS
    durability = Durability.NONE
    identity = ""

    def __init__(self, url: BackendURL, scope: Scope) -> None:
        self.opening: Opening = partial(shared, url, scope)
        self._stack = AsyncExitStack()
        self._bell = Bell()
        self._questions = Questions(self._bell)
        self._database: Database

    async def open(self) -> None:
        async with AsyncExitStack() as stack:
            self._database = await stack.enter_async_context(self.opening())
            self._stack = stack.pop_all()
        self.identity, self.durability = self._database.home.identity, self._database.durability

    async def close(self) -> None:
        await self._questions.close()
        await self._stack.aclose()

    # --- Events ---

    def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> Coroutine[Any, Any, int]:
        return self._database.append(writes, transaction=transaction)

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        database = self._database
        size = READ_EVENTS if limit is None else min(limit, READ_EVENTS)
        rows = await database.fetch(
            f"read of {actor_id!r}",
            database.statements.read_back if reverse else database.statements.read,
            ns=database.home.ns,
            actor_id=actor_id,
            after=after,
            upto=LAST if upto is None else upto,
            limit=size,
        )
        return Page([Stored(position, actor_id, version, data) for position, version, data in rows], _more(rows, size))

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        size = min(limit, PAGE_EVENTS)
        rows = await self._fetch("feed", self._database.statements.feed, after=after, upto=upto, limit=size)
        return Page(_stored(rows), _more(rows, size))

    def _fetch(self, what: str, statement: Statement, **values: object) -> Coroutine[Any, Any, Sequence[Row]]:
        return self._database.fetch(what, statement, ns=self._database.home.ns, **values)

    async def version(self, actor_id: str) -> int:
        statement = self._database.statements.version
        rows = await self._database.fetch(
            f"version of {actor_id!r}", statement, ns=self._database.home.ns, actor_id=actor_id
        )
        return int(rows[0][0] or 0)

    async def head(self) -> Stored | None:
        rows = await self._fetch("head", self._database.statements.head)
        return _stored(rows)[0] if rows else None

    @asynccontextmanager
    async def tail(self, *, after: int) -> AsyncIterator[Tail]:
        self._database.listen(Bells.EVENTS, self._bell)
        every = self._database.every
        yield PollingTail(self, after=after, bell=self._bell, every=every, questions=self._questions)

    # --- Slots ---

    async def load(self, kind: str, name: str) -> Slot | None:
        statement = self._database.statements.load
        rows = await self._database.fetch(
            f"{kind} {name!r}", statement, ns=self._database.home.ns, kind=kind, name=name
        )
        return Slot(rows[0][0], rows[0][1]) if rows else None

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        statements = self._database.statements
        changed = await self._database.change(
            f"{kind} {name!r}",
            statements.save if expected else statements.save_first,
            topic=None,
            transaction=transaction,
            ns=self._database.home.ns,
            kind=kind,
            name=name,
            value=value,
            expected=expected,
        )
        if not changed:
            raise RevisionConflict
        return expected + 1


def _stored(rows: Iterable[Row]) -> list[Stored]:
    return [Stored(*row) for row in rows]


def _more(rows: Sequence[Row], size: int) -> bool:
    """Whether a page may have been cut where it is, in number or in bytes."""
    return len(rows) == size or sum([len(row[-1]) for row in rows]) >= PAGE_BYTES
