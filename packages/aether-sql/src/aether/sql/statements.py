"""The statements that all databases share, compiled once per dialect and run on the driver's own connection.

Compiling is what SQLAlchemy is best at; executing through it costs more than the database takes for a small statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from aether.sql.schema import Tables

PAGE_BYTES = 4 << 20
"""A page ends with the event that reaches this size."""

PAGE_EVENTS = 1000
READ_EVENTS = 250
"""Of one actor, in a page: the next one is on its way while they are decoded."""

SMALL = PAGE_BYTES // PAGE_EVENTS
"""The bytes of a document that needs no care, because a page of them is no larger than a page may be."""


class Counted(NamedTuple):
    """A column whose numbers follow one another."""

    column: int
    backwards: bool = False


_POSITIONS, _VERSIONS, _VERSIONS_BACK = Counted(0), Counted(1), Counted(1, backwards=True)


class Statement:
    """SQL text with the names of its parameters in the order in which the driver wants their values."""

    quick: Statement | None = None
    """The same page for half of the price, in which larger documents than `SMALL` are left out: they are NULL."""

    counted: Counted | None = None
    """Of a page: what goes on by one from row to row, but for holes that stay."""

    def __init__(self, statement: sa.ClauseElement, dialect: sa.Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, sa.sql.compiler.SQLCompiler)
        self.sql = str(compiled)
        names = compiled.positiontup or []
        assert not any(compiled.params[name] is not None for name in names), "every value is given with the call"
        self._pick: Callable[[dict[str, Any]], Any] = (
            itemgetter(*names) if len(names) > 1 else lambda values: tuple(values[name] for name in names)
        )

    def values(self, **values: Any) -> tuple[Any, ...]:
        """The values of one call."""
        row: tuple[Any, ...] = self._pick(values)
        return row


class Statements:
    """Every statement of one dialect over one set of tables.

    `windowed`: a page is cut at `PAGE_BYTES` by the database, because the driver fetches all of an answer at once.
    """

    def __init__(self, known: Tables, dialect: sa.Dialect, *, windowed: bool) -> None:
        self._known = known
        self._dialect = dialect
        self._windowed = windowed
        events, slots, leases = known.events.c, known.slots.c, known.leases.c
        ns, actor = events.ns == _given("ns"), events.actor_id == _given("actor_id")
        self.version = self._made(sa.select(sa.func.max(events.version)).where(ns, actor))
        newest = sa.select(*self._columns(known.events)).where(ns).order_by(events.position.desc())
        self.head = self._made(self._limited(newest, sa.literal_column("1")))
        within = (events.position > _given("after"), events.position <= _given("upto"))
        self.feed = self._page(known.events, [ns, *within], events.position, counted=_POSITIONS)
        between = (events.version > _given("after"), events.version <= _given("upto"))
        self.read = self._page(known.events, [ns, actor, *between], events.version, counted=_VERSIONS)
        self.read_back = self._page(known.events, [ns, actor, *between], events.version.desc(), counted=_VERSIONS_BACK)

        slot = (slots.ns == _given("ns"), slots.kind == _given("kind"), slots.name == _given("name"))
        self.load = self._made(sa.select(slots.revision, slots.value).where(*slot))
        self.save = self._made(self._replacing(known.slots, slot))
        self.save_first = self._made(self._first(known.slots))
        lease = (leases.ns == _given("ns"), leases.name == _given("name"))
        self.lease = self._made(sa.select(leases.revision, leases.value).where(*lease))
        self.cas = self._made(self._replacing(known.leases, lease))
        self.cas_first = self._made(self._first(known.leases))
        self.scan = self._made(
            sa.select(leases.name, leases.revision, leases.value).where(
                leases.ns == _given("ns"), leases.name >= _given("prefix")
            )
        )

        namespaces, settings, messages = known.namespaces.c, known.settings.c, known.messages.c
        named = namespaces.name == _given("name")
        self.namespace = self._made(sa.select(namespaces.ns, namespaces.identity).where(named))
        self.setting = self._made(sa.select(settings.value).where(settings.name == _given("name")))
        behind = messages.position > _given("after")
        self.received = self._page(known.messages, [behind], messages.position, counted=_POSITIONS)

    def _made(self, statement: sa.ClauseElement) -> Statement:
        return Statement(statement, self._dialect)

    def _columns(self, table: sa.Table, *, of_actor: bool = False) -> list[sa.ColumnElement[Any]]:
        """What a page has of each row, the document at the end. Of one actor the reader knows the name."""
        columns = table.c
        if table is not self._known.events:
            return list(columns)
        key = [columns.position, columns.version] if of_actor else [columns.position, columns.actor_id, columns.version]
        return [*key, self._raw(columns.event)]

    def _limited(self, statement: sa.Select[Any], limit: sa.ColumnElement[Any]) -> sa.Select[Any]:
        limited = statement.limit(limit)
        # SQLite is always given an OFFSET, and would be given a value for it with each call.
        return limited.offset(sa.literal_column("0")) if self._dialect.name == "sqlite" else limited

    def _page(
        self,
        table: sa.Table,
        wanted: Sequence[sa.ColumnElement[bool]],
        order: sa.ColumnElement[Any],
        *,
        counted: Counted,
    ) -> Statement:
        columns = self._columns(table, of_actor=counted is not _POSITIONS)
        page = self._cut_page(table, columns, wanted, order)
        page.counted = counted
        return page

    def _cut_page(
        self,
        table: sa.Table,
        columns: Sequence[sa.ColumnElement[Any]],
        wanted: Sequence[sa.ColumnElement[bool]],
        order: sa.ColumnElement[Any],
    ) -> Statement:
        if self._dialect.name in ("mysql", "mariadb"):
            return self._narrow_page(table, columns, wanted, order)
        page = self._limited(sa.select(*columns).where(*wanted).order_by(order), _given("limit"))
        if not self._windowed:
            return self._made(page)
        json = isinstance(table.c.event.type, sa.Text)
        size = sa.func.octet_length(sa.cast(table.c.event, sa.Text) if json else table.c.event)
        so_far = (sa.func.sum(size).over(order_by=order, rows=(None, 0)) - size).label("so_far")
        inner = page.add_columns(so_far).subquery()
        backwards = order.modifier is not None if isinstance(order, sa.UnaryExpression) else False
        key = inner.c[next(iter(order.get_children())).name if backwards else order.name]  # type: ignore[attr-defined]
        cut = sa.select(*(column for column in inner.c if column.name != "so_far")).where(
            inner.c.so_far < sa.literal_column(str(PAGE_BYTES))
        )
        statement = self._made(cut.order_by(key.desc() if backwards else key))
        if table is self._known.events:
            statement.quick = self._small_page(columns, wanted, order)
        return statement

    def _small_page(
        self,
        columns: Sequence[sa.ColumnElement[Any]],
        wanted: Iterable[sa.ColumnElement[bool]],
        order: sa.ColumnElement[Any],
    ) -> Statement:
        """A page without a window. The sizes that it asks for are those in the row: nothing is fetched or unpacked."""
        events = self._known.events.c
        small = sa.func.pg_column_size(events.event) <= sa.literal_column(str(SMALL))
        plain = sa.func.pg_column_compression(events.event).is_(sa.null())
        event = sa.case((sa.and_(plain, small), sa.type_coerce(events.event, sa.LargeBinary))).label("event")
        page = sa.select(*columns[:-1], event).where(*wanted).order_by(order)
        return self._made(page.limit(_given("limit")))

    def _narrow_page(
        self,
        table: sa.Table,
        columns: Sequence[sa.ColumnElement[Any]],
        wanted: Iterable[sa.ColumnElement[bool]],
        order: sa.ColumnElement[Any],
    ) -> Statement:
        """A page cut where all rows that a window function is asked about are copied first: only their sizes are."""
        rows, key = table.c, table.primary_key.columns.keys()
        size = sa.func.octet_length(rows.event).label("size")
        short = [column for column in rows if column.name in (*key, "version")]
        sizes = sa.select(*short, size).where(*wanted).order_by(order).limit(_given("limit")).subquery("sizes")
        backwards = isinstance(order, sa.UnaryExpression)
        along = sizes.c.version.desc() if backwards else sizes.c.position  # an actor's versions are in this order, too
        so_far = (sa.func.sum(sizes.c.size).over(order_by=along, rows=(None, 0)) - sizes.c.size).label("so_far")
        cut = sa.select(*(sizes.c[name] for name in key), so_far).subquery("cut")
        page = sa.select(*columns).join(cut, sa.and_(*(rows[name] == cut.c[name] for name in key)))
        page = page.where(cut.c.so_far < sa.literal_column(str(PAGE_BYTES)))
        return self._made(page.order_by(rows.position.desc() if backwards else rows.position))

    def _raw(self, document: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """The bytes of an event as they stand there: a driver would decode JSON, or text only for us to encode it."""
        if self._dialect.name == "postgresql":
            return sa.type_coerce(document, sa.LargeBinary).label("event")
        return sa.cast(document, sa.LargeBinary).label("event")

    def _replacing(self, table: sa.Table, key: Iterable[sa.ColumnElement[bool]]) -> sa.Update:
        changed = {"revision": table.c.revision + sa.literal_column("1"), "value": _given("value")}
        return sa.update(table).where(*key, table.c.revision == _given("expected")).values(changed)

    def _first(self, table: sa.Table) -> sa.ClauseElement:
        """Insert a row; none if its key is taken."""
        row: dict[str, sa.ColumnElement[Any]] = {column.name: _given(column.name) for column in table.columns}
        row["revision"] = sa.literal_column("1")
        if self._dialect.name == "sqlite":
            return sqlite.insert(table).values(row).on_conflict_do_nothing()
        if self._dialect.name == "postgresql":
            return postgresql.insert(table).values(row).on_conflict_do_nothing()
        return sa.insert(table).values(row)  # a key that is taken is an error; IGNORE would hide other ones, too


def _given(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name)
