"""MariaDB: what the suite cannot know of it. Where it is not installed, the header of the run says so."""

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncmy
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

import aether.sql
from aether.core import Event, OutcomeUnknown, Snapshot, Unavailable, VersionConflict, open_store
from aether.core.features import Durability
from aether.core.kit import Bell
from aether.core.scope import Scope
from aether.core.spi import Message, NewRecord, RevisionConflict, Write
from aether.core.url import BackendURL
from aether.sql.bus import SqlLog
from aether.sql.database import WrongConnection
from aether.sql.election import SqlRegister
from aether.sql.mysql import HOLE, Mysql
from aether.sql.mysql_connections import MysqlSession
from aether.sql.mysql_schema import durability_of
from aether.sql.schema import SchemaMissing, ddl
from aether.sql.servers import MariadbServer
from aether.sql.store import SqlStore

NAMES = ["a", "A", "a ", " a", "á", "a\u0301", "ａ", "ß", "ss", "ⅷ", "𝄞", "𝄢", "a\u200b", "%", "_", "\\", "'", "a\\'"]
"""Other names in every way but one: some collation takes two of them for the same."""

OPEN = """
import asyncio, sys
from aether.core import Event, open_store
async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    async with open_store(sys.argv[1], namespace=sys.argv[2]) as store:
        for version in range(1, 11):
            await store.append(Event(type="Opened", actor_id=sys.argv[3], version=version))
asyncio.run(main())
"""


@pytest.fixture
def url(mariadb_url):
    return mariadb_url


@asynccontextmanager
async def admin(url):
    """A function that runs a statement on a connection of its own, and returns the rows."""
    place = urlsplit(url)
    arguments = {"host": place.hostname, "port": place.port, "user": place.username, "db": place.path[1:]}
    connection = await asyncmy.connect(**arguments, autocommit=True)

    async def ask(sql):
        async with connection.cursor() as cursor:
            await cursor.execute(sql)
            return await cursor.fetchall()

    yield ask
    await connection.ensure_closed()


async def administer(url, *statements):
    async with admin(url) as ask:
        return [await ask(statement) for statement in statements]


def event(actor_id, version, **data):
    return Event(type="Done", actor_id=actor_id, version=version, data=data)


def write(actor_id, version, **changed):
    fields = {"version": version, "id": f"{actor_id[:99]}-{version}", "type": "Done", "data": b"{}", **changed}
    return Write(actor_id, version - 1, (NewRecord(**fields),))


async def again(call):
    """Repeat a call as the errors say, until it has its answer."""
    while True:
        try:
            return await call()
        except (Unavailable, OutcomeUnknown):
            await asyncio.sleep(0)


# --- Names and values ---


async def test_names_are_compared_byte_for_byte(url):
    store = SqlStore(BackendURL(url), Scope("shop"))
    register = SqlRegister(BackendURL(url), Scope("shop"))
    await store.open()
    await register.open()
    for name in NAMES:
        await store.append([write(name, 1)])
        assert await store.save("snapshot", name, name.encode(), expected=0) == 1
        assert await register.cas(name, name.encode(), expected=0) == 1
    for name in NAMES:
        page = await store.read(name, after=0, upto=None, limit=None, reverse=False)
        assert [one.actor_id for one in page.records] == [name]
        assert (await store.load("snapshot", name)).value == name.encode()
        assert (await register.read(name)).value == name.encode()
        with pytest.raises(RevisionConflict):
            await store.save("snapshot", name, b"", expected=0)
    assert sorted(entry.name for entry in await register.scan("")) == sorted(NAMES)
    assert {entry.name for entry in await register.scan("a")} == {name for name in NAMES if name.startswith("a")}
    await register.close()
    await store.close()


async def test_the_longest_names_have_room_in_the_keys(url):
    name = "\U0001f600" * 515
    store = SqlStore(BackendURL(url), Scope("shop"))
    await store.open()
    assert await store.save("k" * 32, name, b"1", expected=0) == 1
    assert (await store.load("k" * 32, name)).value == b"1"
    await store.append([write(name[:255], 1)])
    assert await store.version(name[:255]) == 1
    assert await store.version(name[:254]) == 0
    await store.close()


@pytest.mark.parametrize("value", [bytes(range(256)) * (1 << 14), b"'" * (4 << 20), b"\\" * (4 << 20)])
async def test_the_largest_values_have_room_in_a_packet_when_every_byte_is_escaped(url, value):
    store = SqlStore(BackendURL(url), Scope("shop"))
    await store.open()
    await store.save("snapshot", "large", value, expected=0)
    assert (await store.load("snapshot", "large")).value == value
    data = value[: 1 << 20] if value[0] else b'"' + b"\xc3\xa9" * (1 << 19)
    records = tuple(NewRecord(version, str(version), "Done", data) for version in range(1, 16))
    last = await store.append([Write("large", 0, records)])
    assert (await store.head()).position == last
    page = await store.read("large", after=10, upto=None, limit=None, reverse=False)
    assert [one.data for one in page.records] == [data] * 4  # four of a MiB are a page
    assert page.more
    back = await store.read("large", after=0, upto=None, limit=None, reverse=True)
    assert [one.version for one in back.records] == [15, 14, 13, 12]
    await store.close()


async def test_what_the_server_refuses_of_one_commit_fails_no_other(url):
    """Also where the server would shorten it, if it were asked by others."""
    await administer(url, "SET GLOBAL sql_mode = ''")
    database = Mysql(BackendURL(url), Scope("shop"))
    await database.open()
    commits = [[write(f"actor-{number}", 1, type="T" * (300 if number == 3 else 5))] for number in range(8)]
    answers = await asyncio.gather(
        *(database.append(commit, transaction=None) for commit in commits), return_exceptions=True
    )
    assert [type(one) for one in answers].count(int) == 7
    assert isinstance(answers[3], Unavailable)
    rows = await database.fetch("feed", database.statements.feed, ns=database.home.ns, after=0, upto=1 << 62, limit=100)
    assert {row[1] for row in rows} == {f"actor-{number}" for number in range(8)} - {"actor-3"}
    with pytest.raises(Unavailable):
        await database.change(
            "slot", database.statements.save_first, topic=None, ns=1, kind="k" * 33, name="a", value=b""
        )
    await database.close()
    await administer(url, "SET GLOBAL sql_mode = DEFAULT")


# --- The schema ---


async def test_processes_that_open_a_new_database_at_once_agree(url):
    command = [sys.executable, "-c", OPEN, url]
    started = [
        subprocess.Popen(
            [*command, "shop" if number % 2 else f"shop-{number}", f"process-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [await asyncio.to_thread(process.communicate) for process in started]
    assert [(process.returncode, *said) for process, said in zip(started, ended, strict=True)] == [(0, "", "")] * 8
    (rows,) = await administer(url, "SELECT ns, name FROM aether_namespaces ORDER BY ns")
    assert [row[0] for row in rows] == [1, 2, 3, 4, 5]
    assert sorted(row[1] for row in rows) == ["shop", "shop-0", "shop-2", "shop-4", "shop-6"]
    async with open_store(url, namespace="shop") as store:
        found = [one.actor_id async for _, one in store.feed()]
    assert sorted(found) == sorted(f"process-{number}" for number in (1, 3, 5, 7) for _ in range(10))


async def test_what_ddl_prints_makes_the_tables(url):
    with pytest.raises(SchemaMissing, match=r'ddl\("mariadb"'):
        async with open_store(url, namespace="shop", create="false"):
            pass
    await administer(url, *ddl("mariadb").split(";\n")[:-1])
    async with open_store(url, namespace="shop", create="false") as store:
        await store.append(event("a", 1))


@pytest.mark.parametrize("done", range(1, 9))
async def test_tables_of_somebody_who_was_killed_in_the_middle_are_completed(url, done):
    await administer(url, *ddl("mariadb").split(";\n")[:done])
    async with open_store(url, namespace="shop") as store:
        await store.append(event("a", 1))
        with pytest.raises(VersionConflict):
            await store.append(event("a", 1))


# --- Connections that end, and locks ---


async def connections(ask):
    return [row[0] for row in await ask("SELECT id FROM information_schema.processlist WHERE id <> connection_id()")]


async def test_connections_that_are_killed_are_made_again(url):
    async with admin(url) as ask, open_store(url, namespace="shop") as store:
        await store.append(event("a", 1))
        for number in await connections(ask):
            await ask(f"KILL {number}")
        while await connections(ask):
            await asyncio.sleep(0)
        assert await again(lambda: store.version("a")) == 1
        second = event("a", 2)
        await again(lambda: store.append(second))
        assert [one.id async for one in store.read("a", after=1)] == [second.id]


async def test_a_commit_whose_connection_is_killed_can_be_repeated(url):
    async with admin(url) as ask, open_store(url, namespace="shop") as store:
        await store.append(event("a", 1))
        await ask("BEGIN")
        await ask("SELECT head FROM aether_namespaces FOR UPDATE")
        second = event("a", 2)
        appending = asyncio.create_task(store.append(second))
        waiting = "SELECT id FROM information_schema.processlist WHERE info LIKE 'UPDATE %head%'"
        while not (found := await ask(waiting)):
            await asyncio.sleep(0)
        await ask(f"KILL {found[0][0]}")
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await appending
        await ask("ROLLBACK")
        await store.append(second)
        assert [one.id async for one in store.read("a", after=1)] == [second.id]


async def test_a_lock_that_nobody_gives_back_ends_with_a_definite_refusal(url):
    async with admin(url) as ask, open_store(url, namespace="shop", timeout=2) as store:
        await store.append(event("a", 1))
        await ask("BEGIN")
        await ask("SELECT head FROM aether_namespaces FOR UPDATE")
        with pytest.raises(Unavailable, match="Lock wait timeout"):
            await store.append(event("a", 2))
        await ask("ROLLBACK")
        assert await store.version("a") == 1
        await store.append(event("a", 2))


async def test_a_position_that_a_crash_may_have_taken_back_is_given_to_nothing_else(tmp_path):
    async with MariadbServer(tmp_path) as server, open_store(server.url, namespace="shop") as store:
        before = await store.append(event("a", 1))
        assert (await store.append(event("a", 2))).position.order == before.position.order + 1
        server.kill()
        await server.start()
        after = await again(lambda: store.append(event("b", 1)))
        assert after.position.order > before.position.order + HOLE


# --- The caller's transaction ---


@pytest.mark.parametrize("scheme", ["mysql", "mariadb"])
async def test_an_old_snapshot_of_the_caller_gives_no_wrong_verdict(url, scheme):
    engine = create_async_engine(url.replace("mariadb:", f"{scheme}+asyncmy:"), isolation_level="REPEATABLE READ")
    async with open_store(url, namespace="shop") as store:
        await store.append(event("a", 1))
        async with engine.begin() as connection:
            await connection.execute(text("SELECT count(*) FROM aether_events"))
            await store.append(event("a", 2), event("b", 1))
            with pytest.raises(VersionConflict) as conflict:
                await store.append(event("a", 2), connection=connection)
            assert conflict.value.current == 2
            joined = await store.append(event("a", 3), event("b", 2), event("c", 1), connection=connection)
            assert await store.version("a") == 2
        assert (await store.head()) == joined.position
        after = await store.append(event("a", 4))
        assert after.position.order == joined.position.order + 1
        assert [one.actor_id async for _, one in store.feed(after=joined.position)] == ["a"]
    await engine.dispose()


async def test_a_slot_that_is_taken_leaves_the_callers_transaction_as_it_is(url):
    store = SqlStore(BackendURL(url), Scope("shop"))
    await store.open()
    engine = create_async_engine(url.replace("mariadb:", "mariadb+asyncmy:"))
    async with engine.begin() as connection:
        await connection.execute(text("SELECT count(*) FROM aether_slots"))
        await store.save("checkpoint", "taken", b"1", expected=0)
        with pytest.raises(RevisionConflict):
            await store.save("checkpoint", "taken", b"2", expected=0, transaction=connection)
        assert await store.save("checkpoint", "taken", b"3", expected=1, transaction=connection) == 2
        assert await store.save("checkpoint", "free", b"4", expected=0, transaction=connection) == 1
    assert (await store.load("checkpoint", "taken")).value == b"3"
    assert (await store.load("checkpoint", "free")).value == b"4"
    await engine.dispose()
    await store.close()


async def test_snapshots_and_events_are_found_by_another_scheme(url):
    async with open_store(url, namespace="shop") as store:
        await store.append(event("a", 1))
        await store.save_snapshot(Snapshot(actor_id="a", version=1, schema="s", state={"n": 1}))
    async with open_store(url.replace("mariadb:", "mysql:"), namespace="shop") as store:
        assert (await store.snapshot("a", schema="s")).state == {"n": 1}


# --- An engine of one's own ---


@pytest.mark.parametrize("scheme", ["mysql", "mariadb"])
async def test_an_engine_makes_the_connections(url, scheme):
    engine = create_async_engine(url.replace("mariadb:", f"{scheme}+asyncmy:"))
    async with aether.sql.open_store(engine, namespace="shop") as store:
        await store.append(event("a", 1))
        await store.append(event("a", 2))
        assert [one.version async for one in store.read("a")] == [1, 2]
        async with engine.begin() as connection:
            await store.append(event("a", 3), connection=connection)
        assert await store.version("a") == 3
        assert engine.pool.checkedout() == 0
    await engine.dispose()


async def test_an_engine_that_speaks_another_character_set_is_refused(url):
    engine = create_async_engine(url.replace("mariadb:", "mariadb+asyncmy:"), connect_args={"charset": "latin1"})
    with pytest.raises(WrongConnection, match="utf8mb4"):
        async with aether.sql.open_store(engine, namespace="shop"):
            pass
    await engine.dispose()


# --- Durability ---


@pytest.mark.parametrize(
    ("settings", "durability"),
    [
        ((1, "ON", 0, 0), Durability.HOST),
        ((3, 1, 0, 0), Durability.HOST),
        ((1, "ON", 1, 1), Durability.HOST),
        ((1, "DETECT_AND_RECOVER", 1, 1), Durability.HOST),
        ((1, "ON", 1, 0), Durability.PROCESS),
        ((1, "ON", 1, 100), Durability.PROCESS),
        ((1, "OFF", 0, 0), Durability.PROCESS),
        ((1, 0, 0, 0), Durability.PROCESS),
        ((1, "DETECT_ONLY", 0, 0), Durability.PROCESS),
        ((2, "ON", 0, 0), Durability.PROCESS),
        ((0, "ON", 0, 0), Durability.NONE),
    ],
)
def test_durability_is_the_least_that_the_settings_promise(settings, durability):
    assert durability_of(*settings) is durability


async def test_durability_is_read_from_the_server(url):
    found = []
    for level in (0, 2, 1):
        await administer(url, f"SET GLOBAL innodb_flush_log_at_trx_commit = {level}")
        async with open_store(url, namespace="shop") as store:
            found.append(store.durability)
    assert found == [Durability.NONE, Durability.PROCESS, Durability.HOST]


@pytest.mark.parametrize("missed", [0, 1, 2])
async def test_what_a_query_has_missed_is_found_by_the_next_one(url, monkeypatch, missed):
    """MariaDB collects what a query may see while transactions end: it can miss one, and see the one behind it."""
    ask, misses = MysqlSession.ask, 0

    async def miss(session, *arguments):
        nonlocal misses
        found = await ask(session, *arguments)
        if misses and len(found[0].rows) == 4:
            misses -= 1
            rows = list(found[0].rows)
            del rows[missed]
            return (found[0]._replace(rows=tuple(rows)), *found[1:])
        return found

    monkeypatch.setattr(MysqlSession, "ask", miss)
    store, log = SqlStore(BackendURL(url), Scope("shop")), SqlLog(BackendURL(url), Scope("shop"), Bell())
    await store.open()
    await log.open()
    await store.append([write("a", 1)])
    for version in (2, 3, 4):
        await store.append([write("a", version)])
        await log.put(Message("shop", "Done", "a", b"{}"))
    await log.put(Message("shop", "Done", "a", b"{}"))
    first = (await store.head()).position - 4
    for page in (
        lambda: store.feed(after=first, upto=first + 4, limit=100),
        lambda: store.read("a", after=0, upto=None, limit=None, reverse=False),
        lambda: store.read("a", after=0, upto=None, limit=None, reverse=True),
    ):
        misses = 1
        whole = (await page()).records
        assert sorted(one.version for one in whole) == [1, 2, 3, 4] or (missed == 0 and whole[0].version == 3)
    misses = 1
    assert [one.position for one in await log.after(0, 100)] == [1, 2, 3, 4]
    await log.close()
    await store.close()


async def test_a_hole_that_stays_is_passed(url, monkeypatch):
    """The first commit of a connection leaves one."""
    asked = []
    ask = MysqlSession.ask

    async def count(session, *arguments):
        asked.append(arguments)
        return await ask(session, *arguments)

    for version in (1, 2):
        store = SqlStore(BackendURL(url), Scope("shop"))
        await store.open()
        await store.append([write("a", version)])
        await store.close()
    await store.open()
    monkeypatch.setattr(MysqlSession, "ask", count)
    page = await store.feed(after=0, upto=1 << 60, limit=100)
    assert [one.version for one in page.records] == [1, 2]
    assert len(asked) == 2
    asked.clear()
    again = await store.feed(after=page.records[0].position, upto=1 << 60, limit=100)
    assert (await store.read("a", after=1, upto=None, limit=1, reverse=True)).records == again.records
    await store.close()
