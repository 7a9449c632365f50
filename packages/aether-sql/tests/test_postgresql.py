"""What the suite cannot know of PostgreSQL: killed backends, locks, rights, and what others see in the tables."""

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

import aether.sql
from aether.core import (
    START,
    Durability,
    Event,
    EventStore,
    InvalidURL,
    OutcomeUnknown,
    StoreIdentityChanged,
    Unavailable,
    VersionConflict,
    open_store,
)
from aether.core.spi import NewRecord, Write
from aether.sql.connections import Connections
from aether.sql.postgresql import LOCK
from aether.sql.postgresql_connections import PgConnector, PgSession
from aether.sql.schema import SchemaMissing, SchemaTooNew
from aether.sql.servers import PostgresServer

KILL_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""

OPENER = """
import asyncio, sys
from aether.core import open_store
async def main():
    async with open_store(sys.argv[1], timeout=60) as store:
        print(store.identity)
asyncio.run(main())
"""


def event(version: int, actor: str = "a", **data: object) -> Event:
    return Event(type="Happened", actor_id=actor, version=version, data=data)


def commit(actor: str, expected: int, data: bytes = b"{}") -> list[Write]:
    return [Write(actor, expected, (NewRecord(expected + 1, actor, "Happened", data),))]


async def run(url: str, *statements: str):
    """Run statements as the owner of the database, and return the rows of the last one."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return [tuple(row) for row in await connection.fetch(statements[-1])]
    finally:
        await connection.close()


async def write(store: EventStore, actor: str, acknowledged: list[int], *, upto: int) -> None:
    """Append events, whatever others do, and note the versions that were acknowledged."""
    while not acknowledged or acknowledged[-1] < upto:
        try:
            version = await store.version(actor) + 1
            one = event(version, actor)
            while not await stored(store, one):
                pass
        except (VersionConflict, Unavailable):
            continue
        acknowledged.append(version)


async def stored(store: EventStore, one: Event) -> bool:
    try:
        await store.append(one)
    except OutcomeUnknown:
        return False
    return True


# --- Where it is ---


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("postgresql://one,two/db", "one host"),
        ("postgresql://host:port/db", "port is a number"),
        ("postgresql+psycopg://host/db", "asyncpg"),
        ("postgresql://host/db?schema=a-b", "letters"),
        ("postgresql://host/db?statement_cache_size=x", "number"),
    ],
)
def test_a_bad_url_says_what_is_wrong(bad, says):
    async def main():
        async with open_store(bad):
            pass

    with pytest.raises(InvalidURL, match=says):
        asyncio.run(main())


async def test_no_server_and_no_database_say_so_without_the_password(postgres_url):
    place = urlsplit(postgres_url)
    for url, says in (
        ("postgresql://user:sesame@127.0.0.1:1/db", "refused"),
        (f"postgresql://aether:sesame@{place.hostname}:{place.port}/missing", "create the database"),
    ):
        with pytest.raises(Unavailable, match=says) as caught:
            async with open_store(url):
                pass
        assert "sesame" not in f"{caught.value!r} {caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize(
    ("setting", "durability"),
    [("synchronous_commit = off", Durability.NONE), ("synchronous_commit = local", Durability.HOST)],
)
async def test_durability_is_what_the_server_is_set_to(postgres_url, setting, durability):
    name = postgres_url.rpartition("/")[2]
    await run(postgres_url, f"ALTER DATABASE {name} SET {setting}", "SELECT 1")
    async with open_store(postgres_url) as store:
        assert store.durability == durability


async def test_a_server_that_does_not_sync_is_not_durable(tmp_path):
    async with PostgresServer(tmp_path, settings={"fsync": "off"}) as server, open_store(server.url) as store:
        assert store.durability == Durability.PROCESS


async def test_an_engine_of_ones_own(postgres_url):
    engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"))
    async with aether.sql.open_store(engine, namespace="shop") as store:
        await store.append(event(1))
        async with store.subscribe() as events:
            assert (await anext(events))[1].version == 1
    async with aether.sql.open_bus(engine), aether.sql.open_election(engine):
        pass
    await engine.dispose()


# --- Faults ---


async def test_killed_connections_lose_and_double_nothing(postgres_url, until):
    acknowledged: list[list[int]] = [[] for _ in range(8)]
    async with open_store(postgres_url) as store:
        killer = await asyncpg.connect(postgres_url)
        writers = [write(store, f"a{number}", versions, upto=30) for number, versions in enumerate(acknowledged)]
        working = asyncio.gather(*writers)
        for kill in range(1, 9):
            await until(lambda kill=kill: working.done() or sum(map(len, acknowledged)) >= 20 * kill)
            await killer.fetch(KILL_OTHERS)
        await working
        await killer.close()
        for number, versions in enumerate(acknowledged):
            assert [one.version async for one in store.read(f"a{number}")] == versions == list(range(1, 31))
        orders = [position.order async for position, _ in store.feed()]
        assert orders == sorted(set(orders))


async def test_a_turn_that_is_not_given_stores_nothing(postgres_url):
    async with open_store(postgres_url, timeout=0.5) as store:
        await store.append(event(1))
        other = await asyncpg.connect(postgres_url)
        async with other.transaction():
            await other.execute("SELECT pg_advisory_xact_lock($1, 1)", LOCK)
            with pytest.raises(Unavailable, match="lock timeout"):
                await store.append(event(2))
            assert await store.version("a") == 1  # reading goes on
        await store.append(event(2))
        await other.close()


async def test_a_server_without_a_free_connection_says_so(tmp_path):
    settings = {"max_connections": "4", "superuser_reserved_connections": "1"}
    async with PostgresServer(tmp_path, settings=settings) as server:
        await run(server.url, "CREATE ROLE program LOGIN", "GRANT ALL ON SCHEMA public TO program", "SELECT 1")
        url = server.url.replace("//aether@", "//program@")
        async with open_store(url, timeout=1) as one, open_store(url, timeout=1) as two:
            await one.append(event(1))  # a second connection of the first store, and the last that is there
            with pytest.raises(Unavailable, match="connection"):
                await two.append(event(2))
            assert await two.version("a") == 1
        async with open_store(url) as store:
            await store.append(event(2))


async def test_hot_actors_starve_nobody(postgres_url):
    """Two stores that know nothing of each other append to the same two actors: batches lose races, and recover."""
    async with open_store(postgres_url) as one, open_store(postgres_url) as other:
        stores = [one, other] * 4
        acknowledged: list[list[int]] = [[] for _ in stores]
        writers = [
            write(store, f"hot{number % 2}", acknowledged[number], upto=40) for number, store in enumerate(stores)
        ]
        await asyncio.gather(*writers)
        for actor in (0, 1):
            versions = sorted(version for answers in acknowledged[actor::2] for version in answers)
            assert versions == list(range(1, await one.version(f"hot{actor}") + 1))
            assert all(acknowledged[actor::2])


REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON aether_events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.actor_id = 'bad') EXECUTE FUNCTION refuse()"""


@pytest.mark.parametrize("careful", [0, 1])
async def test_a_commit_that_fails_is_forgotten(postgres_url, careful):
    """What was remembered of it would let the next version in, and leave a hole."""
    async with open_store(postgres_url) as store:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(REFUSE)
        store._driver._database._careful = careful
        with pytest.raises(Unavailable, match="refused"):
            await store._driver.append(commit("bad", 0))
        await connection.execute("DROP TRIGGER refuse ON aether_events")
        await connection.close()
        with pytest.raises(VersionConflict) as caught:
            await store._driver.append(commit("bad", 1))
        assert caught.value.current == 0


async def test_one_that_the_server_cannot_take_fails_none_of_the_others(postgres_url):
    async with open_store(postgres_url) as store:
        calls = [store._driver.append(commit(f"a{number}", 0)) for number in range(5)]
        calls.append(store._driver.append(commit("bad", 0, b"{broken")))
        *sound, broken = await asyncio.gather(*calls, return_exceptions=True)
        assert len({position for position in sound if isinstance(position, int)}) == 5
        assert isinstance(broken, Unavailable)
        assert await store.version("bad") == 0


async def test_a_lost_listener_costs_no_event(postgres_url):
    listeners = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND pid <> $1"
    killer = await asyncpg.connect(postgres_url)
    async with open_store(postgres_url) as store, open_store(postgres_url) as writer, store.subscribe() as events:
        for version in range(1, 6):
            await writer.append(event(version))
            assert (await anext(events))[1].version == version
            await killer.fetch(listeners, killer.get_server_pid())
    await killer.close()


async def test_many_cancelled_calls_leave_every_connection_clean(postgres_url):
    async with open_store(postgres_url) as store:
        await store.append(*(event(version) for version in range(1, 101)))
        for turns in range(60):
            calls = [store.append(event(1, f"c{turns}")), store.version("a"), store.head()]
            tasks = [asyncio.create_task(call) for call in calls]
            for _ in range(turns % 12):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        assert [one.version async for one in store.read("a")] == list(range(1, 101))
        open_transactions = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        assert await run(postgres_url, open_transactions) == [(0,)]


async def test_another_store_in_its_place_is_noticed(postgres_url):
    async with open_store(postgres_url) as store:
        await store.append(event(1))
        await run(postgres_url, "UPDATE aether_namespaces SET identity = 'another'", KILL_OTHERS)
        with pytest.raises(StoreIdentityChanged):
            while True:
                await store.version("a")


# --- The tables ---


async def test_eight_processes_may_make_the_tables_at_once(postgres_url):
    command = (sys.executable, "-c", OPENER, postgres_url)
    processes = [await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT) for _ in range(8)]
    outputs = [(await process.communicate())[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, outputs
    assert len(set(outputs)) == 1


@pytest.mark.parametrize("count", [1, 2])
async def test_no_position_is_drawn_before_the_turn(postgres_url, until, count):
    """Drawn earlier, it could be committed behind a later one, and a reader of the feed would pass it by."""
    drawn = "SELECT last_value, is_called FROM aether_position"
    async with open_store(postgres_url) as store:
        await store.append(event(1, "before"))
        before = await run(postgres_url, drawn)
        holder = await asyncpg.connect(postgres_url)
        try:
            ns = await holder.fetchval("SELECT ns FROM aether_namespaces")
            async with holder.transaction():
                await holder.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK, ns)
                appending = asyncio.create_task(store.append(*(event(version) for version in range(1, count + 1))))
                waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                await until(lambda: run(postgres_url, waiting))
                assert await run(postgres_url, drawn) == before
            await appending
        finally:
            await holder.close()
        assert await run(postgres_url, drawn) != before


async def test_tables_can_be_read_with_what_everybody_has(postgres_url):
    async with open_store(postgres_url, namespace="shop") as store:
        await store.append(event(1, "order-1", total=42), event(2, "order-1", name="Grüße \u0000"))
        _, raw = [one async for one in store.read("order-1")]
    query = """
        SELECT n.name, e.actor_id, e.version, e.type, e.event -> 'data' ->> 'total'
        FROM aether_events AS e JOIN aether_namespaces AS n USING (ns) WHERE e.version = 1"""
    assert await run(postgres_url, query) == [("shop", "order-1", 1, "Happened", "42")]
    assert raw.data == {"name": "Grüße \u0000"}


async def test_a_newer_schema_is_refused(postgres_url):
    async with open_store(postgres_url):
        pass
    await run(postgres_url, "UPDATE aether_schema SET value = '999' WHERE name = 'version' RETURNING 1")
    with pytest.raises(SchemaTooNew, match="upgrade aether-sql"):
        async with open_store(postgres_url):
            pass


async def test_a_role_that_cannot_change_history(postgres_url):
    """What docs say of least privilege: the administrator makes the tables, the program may only add events."""
    role = f"writer_{postgres_url.rpartition('/')[2]}"
    own = postgres_url.replace("//aether@", f"//{role}@")
    await run(postgres_url, f"CREATE ROLE {role} LOGIN", "SELECT 1")
    with pytest.raises(SchemaMissing, match="ddl"):
        async with open_store(own, create="false"):
            pass
    ddl = aether.sql.ddl("postgresql")
    readme = Path(aether.sql.__file__).parents[3] / "README.md"
    grants = readme.read_text().partition("```sql\n")[2].partition("```")[0].replace("the_program", role)
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(ddl)
    await connection.execute(grants)
    await connection.close()
    async with open_store(own, create="false") as store:
        position = (await store.append(event(1))).position
        await store.save_checkpoint("c", position, token=1)
        async with aether.core.open_bus(own, create="false") as bus, bus.subscribe() as events:
            await bus.publish(event(1))
            assert (await anext(events)).version == 1
        async with aether.core.open_election(own, create="false") as election, election.lead("x", ttl=1):
            pass
    for statement in ("UPDATE aether_events SET type = 'x'", "DELETE FROM aether_events", "TRUNCATE aether_events"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await run(own, statement)


async def test_a_schema_and_a_prefix_of_ones_own(postgres_url):
    await run(postgres_url, "CREATE SCHEMA elsewhere", "SELECT 1")
    async with (
        open_store(postgres_url) as one,
        open_store(postgres_url, schema="elsewhere", prefix="x_") as other,
        other.subscribe() as events,
    ):
        await one.append(event(1))
        await other.append(event(1, "b"))
        assert (await anext(events))[1].actor_id == "b"
        assert await other.version("a") == 0
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'elsewhere' AND tablename LIKE 'x\\_%'"
    assert await run(postgres_url, tables) == [(7,)]


async def test_names_are_values_and_never_sql(postgres_url):
    names = ["'; DROP TABLE aether_events; --", '"', "?", ":name", "%s", "$1", "\\", "a' OR '1'='1"]
    async with open_store(postgres_url) as store:
        for name in names:
            await store.append(Event(type=name, actor_id=name, version=1, id=name))
            await store.save_checkpoint(name, await store.head(), token=1)
        assert [one.actor_id async for _, one in store.feed()] == names
        assert [await store.version(name) for name in names] == [1] * len(names)
        assert START not in [await store.checkpoint(name) for name in names]


# --- The caller's transaction ---


async def test_a_snapshot_that_is_too_old_stores_nothing(postgres_url):
    """Under REPEATABLE READ the caller's transaction may not see the current version: then the key refuses it."""
    engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"))
    async with open_store(postgres_url) as store:
        with pytest.raises((Unavailable, VersionConflict)):
            async with engine.connect() as plain:
                connection = await plain.execution_options(isolation_level="REPEATABLE READ")
                async with connection.begin():
                    await connection.execute(text("SELECT 1 FROM aether_events"))
                    await store.append(event(1))
                    await store.append(event(1), connection=connection)
        assert [one.version async for one in store.read("a")] == [1]
        await store.append(event(2))
    await engine.dispose()


async def test_an_open_transaction_keeps_only_its_namespace_waiting(postgres_url):
    engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"))
    async with open_store(postgres_url, namespace="one") as one, open_store(postgres_url, namespace="two") as two:
        async with engine.begin() as connection:
            await one.append(event(1), connection=connection)
            await two.append(event(1))
            waiting = asyncio.create_task(one.append(event(1, "b")))
            assert [position async for position in one.feed()] == []
        assert (await waiting).position.order > 0
        assert [found.actor_id async for _, found in one.feed()] == ["a", "b"]
    await engine.dispose()


async def test_a_connection_that_is_dropped_between_two_steps_of_a_call_is_lost(postgres_url):
    """asyncpg reaches for its protocol once more then, which is gone: seen when servers die while a store opens."""

    async def torn(session: PgSession) -> None:
        session.drop()
        await session.connection._protocol.bind_execute(None, None, "", 0, False, 1.0)

    connections = Connections(PgConnector(partial(asyncpg.connect, postgres_url)), 5.0, nothing, in_place=True)
    with pytest.raises(OutcomeUnknown, match="dropped"):
        await connections.run("appending", torn, writes=True)
    with pytest.raises(Unavailable, match="dropped"):
        await connections.run("reading", torn)
    await connections.close()


async def nothing(_session: PgSession) -> None:
    """A connection needs no check."""


async def test_connections_close_twice_at_once_behind_the_calls_that_are_under_way(postgres_url):
    connections = Connections(PgConnector(partial(asyncpg.connect, postgres_url)), 5.0, nothing, in_place=True)
    for _ in range(2):  # on new connections, then on those that are idle
        slow = [
            asyncio.create_task(connections.run("reading", lambda one: one.connection.fetchval("SELECT pg_sleep(.1)")))
            for _ in range(3)
        ]
        await asyncio.wait(slow, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(connections.close(), connections.close())
    assert all(call.done() for call in slow)
    assert [call.exception() for call in slow] == [None] * 3
    assert connections._calls._alarm is None
    with pytest.raises(Unavailable, match="closed"):
        await connections.run("reading", lambda one: one.connection.fetchval("SELECT 1"))


async def test_all_calls_that_take_too_long_are_dropped(postgres_url):
    connections = Connections(PgConnector(partial(asyncpg.connect, postgres_url)), 0.3, nothing, in_place=True)
    await connections.run("reading", lambda one: one.connection.fetchval("SELECT 1"))
    slow = [
        connections.run("writing", lambda one: one.connection.fetchval("SELECT pg_sleep(60)"), writes=True)
        for _ in range(3)
    ]
    errors = await asyncio.gather(*slow, return_exceptions=True)
    assert {type(error) for error in errors} == {OutcomeUnknown}
    assert await connections.run("reading", lambda one: one.connection.fetchval("SELECT 1")) == 1
    await connections.close()
