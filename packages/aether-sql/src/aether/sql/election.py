"""The lease register in a table: a compare-and-set is one UPDATE of one row, and no clock of the database is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from aether.core.kit import Bell, Poll
from aether.core.scope import Scope
from aether.core.spi import Entry, RevisionConflict, Watch
from aether.core.url import BackendURL
from aether.sql.database import Bells, Database
from aether.sql.opening import Opening, shared


class SqlRegister:
    """A `LeaseRegister` over one database."""

    push = False

    def __init__(self, url: BackendURL, scope: Scope) -> None:
        self.opening: Opening = partial(shared, url, scope)
        self._stack = AsyncExitStack()
        self._database: Database

    async def open(self) -> None:
        async with AsyncExitStack() as stack:
            self._database = await stack.enter_async_context(self.opening())
            self._stack = stack.pop_all()
        self.push = self._database.push

    async def close(self) -> None:
        await self._stack.aclose()

    async def read(self, name: str) -> Entry | None:
        statement = self._database.statements.lease
        rows = await self._database.fetch(f"lease {name!r}", statement, ns=self._database.home.ns, name=name)
        return Entry(name, rows[0][0], rows[0][1]) if rows else None

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        statements = self._database.statements
        changed = await self._database.change(
            f"lease {name!r}",
            statements.cas if expected else statements.cas_first,
            topic=Bells.LEASES,
            ns=self._database.home.ns,
            name=name,
            value=value,
            expected=expected,
        )
        if not changed:
            raise RevisionConflict
        return expected + 1

    async def scan(self, prefix: str) -> Sequence[Entry]:
        rows = await self._database.fetch(
            "leases", self._database.statements.scan, ns=self._database.home.ns, prefix=prefix
        )
        return [Entry(*row) for row in rows if row[0].startswith(prefix)]

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[Watch]:
        bell = Bell()
        self._database.listen(Bells.LEASES, bell)
        seen = {entry.name: entry.revision for entry in await self.scan(prefix)}
        yield _Watch(self, prefix, seen, Poll(bell, every=self._database.every))


class _Watch:
    """A `Watch` that compares revisions whenever the bell rings."""

    def __init__(self, register: SqlRegister, prefix: str, seen: dict[str, int], poll: Poll) -> None:
        self._register = register
        self._prefix = prefix
        self._seen = seen
        self._poll = poll
        self._changed: dict[str, Entry] = {}

    async def next(self) -> Entry:
        return await self._poll.until(self._look)

    async def _look(self) -> Entry | None:
        if not self._changed:
            for entry in await self._register.scan(self._prefix):
                if self._seen.get(entry.name) != entry.revision:
                    self._seen[entry.name] = entry.revision
                    self._changed[entry.name] = entry
        return self._changed.pop(next(iter(self._changed))) if self._changed else None
