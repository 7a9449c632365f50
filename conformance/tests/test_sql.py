"""The databases keep every rule, each on a server of its own. MariaDB is in no wheel: it is tested where it is."""

from aether.conformance import conformance
from aether.core.errors import BackendUnusable
from aether.sql.servers import find_mariadb
from aether.sql.testing import MariadbHarness, PostgresHarness, SqliteHarness

TestSqlite = conformance(SqliteHarness)
TestPostgres = conformance(PostgresHarness)

try:
    find_mariadb()
except BackendUnusable:
    pass
else:
    TestMariadb = conformance(MariadbHarness)
