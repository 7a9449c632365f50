"""The tables, and the statements that make them.

The metadata is public: `tables().metadata` can be given to a tool that compares schemas, and `ddl()` prints what a
database administrator runs where programs must not. Every table begins with the namespace's number, so one database
holds many namespaces, and none reads another's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect
from sqlalchemy.schema import CreateIndex, CreateTable

from aether.core.errors import AetherError

VERSION = 1
"""The version of the schema that this package reads and writes."""

PREFIX = "aether_"
"""What the names of the tables begin with, unless `prefix=` says otherwise."""

_DIALECTS: dict[str, Callable[[], sa.Dialect]] = {
    "sqlite": sqlite.dialect,
    "postgresql": postgresql.dialect,
    "mysql": mysql.dialect,
    "mariadb": MariaDBDialect,
}


def _name(length: int) -> sa.types.TypeEngine[str]:
    """A text that is compared byte for byte: no case folding, no padding, no normalisation."""
    return (
        sa.Text()
        .with_variant(postgresql.TEXT(collation="C"), "postgresql")
        .with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mariadb")
        .with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_0900_bin"), "mysql")
    )


def _document() -> sa.types.TypeEngine[Any]:
    """JSON as it was given: PostgreSQL's `jsonb` and MySQL's `json` would change it."""
    long = mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_bin")
    return sa.Text().with_variant(postgresql.JSON(), "postgresql").with_variant(long, "mysql", "mariadb")


def _bytes() -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def _integer() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # of eight bytes there, too


class Tables:
    """The tables under one prefix, in one schema of the database."""

    def __init__(self, prefix: str = PREFIX, schema: str | None = None) -> None:
        self.prefix = prefix
        self.metadata = sa.MetaData(schema=schema)
        self.settings = self._table("schema", sa.Column("name", _name(64)), sa.Column("value", _name(255)), key=1)
        self.namespaces = self._table(
            "namespaces",
            sa.Column("ns", sa.Integer().with_variant(sa.Integer(), "sqlite"), autoincrement=False),
            sa.Column("name", _name(255), unique=True),
            sa.Column("identity", _name(64)),
            sa.Column("head", _integer(), server_default="0", comment="of the feed, where no sequence counts it"),
            key=1,
        )
        self.events = self._table(
            "events",
            sa.Column("ns", sa.Integer(), autoincrement=False),
            sa.Column("position", _integer(), autoincrement=False),
            sa.Column("actor_id", _name(255)),
            sa.Column("version", _integer()),
            sa.Column("id", _name(255)),
            sa.Column("type", _name(255)),
            sa.Column("event", _document(), comment="the whole event, as it was given"),
            key=2,
        )
        self.actors = sa.Index(
            f"{prefix}actors", self.events.c.ns, self.events.c.actor_id, self.events.c.version, unique=True
        )
        self.slots = self._table(
            "slots",
            sa.Column("ns", sa.Integer(), autoincrement=False),
            sa.Column("kind", _name(32)),
            sa.Column("name", _name(515)),
            sa.Column("revision", _integer()),
            sa.Column("value", _bytes()),
            key=3,
        )
        self.leases = self._table(
            "leases",
            sa.Column("ns", sa.Integer(), autoincrement=False),
            sa.Column("name", _name(515)),
            sa.Column("revision", _integer()),
            sa.Column("value", _bytes()),
            key=2,
        )
        self.messages = self._table(
            "messages",
            sa.Column("position", _integer(), autoincrement=False),
            sa.Column("namespace", _name(255)),
            sa.Column("type", _name(255)),
            sa.Column("actor_id", _name(255)),
            sa.Column("event", _bytes()),
            key=1,
        )
        self.claims = self._table(
            "claims",
            sa.Column("position", _integer(), autoincrement=False),
            sa.Column("queue", _name(515)),
            key=2,
        )
        self.sequence = sa.Sequence(f"{prefix}position", data_type=sa.BigInteger(), cache=1, schema=schema)

    def _table(self, name: str, *columns: sa.Column[Any], key: int) -> sa.Table:
        for column in columns:
            column.nullable = False
        keys = sa.PrimaryKeyConstraint(*(column.name for column in columns[:key]))  # MySQL has no name for it
        table = sa.Table(f"{self.prefix}{name}", self.metadata, *columns, keys)
        table.dialect_options["sqlite"]["with_rowid"] = False
        for dialect in ("mysql", "mariadb"):  # other row formats have no room for keys of this length
            table.dialect_options[dialect].update(engine="InnoDB", row_format="DYNAMIC")
        return table

    def name(self, table: sa.Table, dialect: sa.Dialect) -> str:
        """A table's name as it stands in a statement, quoted where that is needed."""
        return dialect.identifier_preparer.format_table(table)


@cache
def tables(prefix: str = PREFIX, schema: str | None = None) -> Tables:
    """The tables; the same object for the same arguments."""
    return Tables(prefix, schema)


def migrations(known: Tables, dialect: sa.Dialect, since: int) -> Sequence[str]:
    """The statements that bring a schema of version `since` to `VERSION`; all of them from 0."""
    return [statement for step in _STEPS[since:] for statement in step(known, dialect)]


def ddl(dialect: str, *, prefix: str = PREFIX, schema: str | None = None, since: int = 0) -> str:
    """The SQL that makes the tables, or that brings those of version `since` up to date.

    For databases where programs must not: run it, and open stores with `create=false`. `dialect` is sqlite,
    postgresql, mysql or mariadb.
    """
    if dialect not in _DIALECTS:
        raise ValueError(f"no dialect {dialect!r}; known are {', '.join(_DIALECTS)}")
    known = tables(prefix, schema)
    made = _DIALECTS[dialect]()
    statements = [*migrations(known, made, since), record_version(known, made)]
    return "".join(f"{statement.strip()};\n" for statement in statements)


def record_version(known: Tables, dialect: sa.Dialect) -> str:
    """The statement that says which version a schema has now."""
    name = known.name(known.settings, dialect)
    row = f"INSERT INTO {name} (name, value) VALUES ('version', '{VERSION}')"
    if dialect.name in ("mysql", "mariadb"):
        return f"{row} ON DUPLICATE KEY UPDATE value = '{VERSION}'"
    return f"{row} ON CONFLICT (name) DO UPDATE SET value = '{VERSION}'"


def check_version(found: str) -> int:
    """The version of a schema that was found. Raises `SchemaTooNew`."""
    if int(found) > VERSION:
        raise SchemaTooNew(int(found))
    return int(found)


class SchemaTooNew(AetherError):
    """The tables were made by a newer release, which may keep them in another way."""

    def __init__(self, found: int) -> None:
        self.found = found
        super().__init__(
            f"the tables have schema version {found}, this release of aether-sql knows {VERSION}; upgrade aether-sql"
        )


class SchemaMissing(AetherError):
    """The tables are not there, or are older than this release needs, and must not be made here."""

    def __init__(self, dialect: str, *, found: int) -> None:
        self.found = found
        super().__init__(
            f"the tables have schema version {found}, {VERSION} is needed, and create=false forbids to make them; "
            f'run what aether.sql.ddl("{dialect}", since={found}) prints, or open without create=false'
        )


def _first(known: Tables, dialect: sa.Dialect) -> list[str]:
    statements = [str(CreateTable(table).compile(dialect=dialect)) for table in known.metadata.sorted_tables]
    statements.append(str(CreateIndex(known.actors).compile(dialect=dialect)))
    if dialect.name == "postgresql":
        statements.append(str(sa.schema.CreateSequence(known.sequence).compile(dialect=dialect)))
        forgetful = (known.messages, known.claims)  # by contract, so they cost no write-ahead log
        statements += [f"ALTER TABLE {known.name(table, dialect)} SET UNLOGGED" for table in forgetful]
    return statements


_STEPS: Sequence[Callable[[Tables, sa.Dialect], list[str]]] = (_first,)
