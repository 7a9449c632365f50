"""The databases keep every rule, each on a server of its own."""

from aether.conformance import conformance
from aether.sql.testing import PostgresHarness, SqliteHarness

TestSqlite = conformance(SqliteHarness)
TestPostgres = conformance(PostgresHarness)
