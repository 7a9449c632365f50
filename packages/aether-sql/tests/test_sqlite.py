"""What the suite cannot know of SQLite: files, locks, threads, full disks, and what others read in the tables."""

import asyncio
import sqlite3
import sys
import threading
import tracemalloc
from asyncio.subprocess import PIPE
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import aether.sql
from aether.core import (
    START,
    Durability,
    Event,
    InvalidURL,
    OutcomeUnknown,
    Unavailable,
    VersionConflict,
    connect,
    open_store,
)
from aether.sql import threads
from aether.sql.database import WrongConnection
from aether.sql.schema import SchemaMissing, SchemaTooNew
from aether.sql.threads import DatabaseThread, SocketWire, Wire


def event(version: int, actor: str = "a", **data: object) -> Event:
    return Event(type="Happened", actor_id=actor, version=version, data=data)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def url(file: Path) -> str:
    return f"sqlite:///{file}"


# --- Where it is ---


async def test_memory_is_shared_and_gone_with_the_last_who_has_it_open() -> None:
    async with open_store("sqlite://") as one, connect("sqlite://") as other:
        assert one.durability == Durability.NONE
        async with other.store.subscribe() as events:
            await one.append(event(1))
            assert (await anext(events))[1].version == 1
        async with other.election.lead("x", ttl=1):
            assert await other.election.leader("x") is not None
    async with open_store("sqlite://") as later:
        assert await later.head() == START


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("sqlite://host/file.db", "sqlite:///relative"),
        ("sqlite:///directory/", "sqlite:///relative"),
        ("sqlite:///x.db?synchronous=off", "full or normal"),
        ("sqlite:///x.db?prefix=a;b", "letters"),
        ("sqlite:///x.db?create=maybe", "true or false"),
        ("sqlite:///x.db?sslmode=require", "Known options"),
    ],
)
def test_a_bad_url_says_what_is_wrong(bad: str, says: str) -> None:
    with pytest.raises(InvalidURL, match=says):
        asyncio.run(_open(bad))


async def _open(url: str) -> None:
    async with open_store(url):
        pass


async def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="directory has to exist"):
        await _open(f"sqlite:///{tmp_path}/missing/events.db")
    (tmp_path / "text").write_text("no database, but long enough to be looked at as if it were one" * 50)
    with pytest.raises(InvalidURL, match="no SQLite database"):
        await _open(f"sqlite:///{tmp_path}/text")
    assert not [thread for thread in threading.enumerate() if "sqlite" in thread.name]


async def test_durability_is_what_the_file_is_set_to(url: str) -> None:
    async with open_store(url) as store:
        assert store.durability == Durability.HOST
    async with open_store(url, synchronous="normal") as store:
        assert store.durability == Durability.PROCESS


def test_one_event_loop_after_another(url: str) -> None:
    for version in (1, 2, 3):

        async def main(version: int = version) -> None:
            async with open_store(url) as store:
                await store.append(event(version))

        asyncio.run(main())


# --- Turns ---


async def test_a_lock_that_is_not_given_back_stores_nothing(url: str, file: Path) -> None:
    async with open_store(url, timeout=0.3) as store:
        await store.append(event(1))
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match="locked"):
                await store.append(event(2))
            assert await store.version("a") == 1  # reading goes on
            other.rollback()
        await store.append(event(2))
        assert await store.version("a") == 2


async def test_a_write_that_waits_keeps_no_page_that_was_read(url: str, file: Path) -> None:
    async with open_store(url, timeout=60) as store:
        await store.append(event(1, x="x" * 1_000_000))
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.create_task(store.append(event(2)))
            tracemalloc.start()
            try:
                for _ in range(40):
                    assert [one.version async for one in store.read("a")] == [1]
                held, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert not waiting.done()
            other.rollback()
        await waiting
        assert held < 10_000_000


async def test_a_write_without_an_answer_may_have_happened(url: str) -> None:
    async with open_store(url, timeout=0.2) as store:
        database, go_on = store._driver._database, threading.Event()
        blocked = database._writer.submit(lambda _: go_on.wait(60))
        with pytest.raises(OutcomeUnknown):
            await store._driver.save("kind", "name", b"value", expected=0)
        with pytest.raises(OutcomeUnknown):
            await store.append(event(1))
        go_on.set()
        await blocked
        assert await store.append(event(2)) if await store.version("a") else await store.append(event(1))


@pytest.mark.parametrize("wire", [Wire, SocketWire])
async def test_a_thread_leaves_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wire: type[Wire]) -> None:
    monkeypatch.setattr(threads, "new_wire", wire)

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0

    async def use(thread: DatabaseThread) -> None:
        await thread.start()
        assert await thread.submit(lambda db: db.execute("SELECT 1").fetchone()) == (1,)
        pending = thread.submit(lambda db: db.execute("SELECT 2").fetchone())
        await asyncio.gather(thread.stop(), thread.stop())
        assert pending.result() == (2,)

    def fails() -> sqlite3.Connection:
        raise sqlite3.OperationalError("no")

    before = descriptors()
    await use(DatabaseThread("test", lambda: sqlite3.connect(tmp_path / "x.db", check_same_thread=False)))
    broken = DatabaseThread("test", fails)
    with pytest.raises(sqlite3.OperationalError):
        await broken.start()
    await broken.stop()
    abandoned = DatabaseThread("test", lambda: sqlite3.connect(tmp_path / "x.db", check_same_thread=False))
    await asyncio.to_thread(asyncio.run, abandoned.start())  # by an event loop that is closed now
    await abandoned.stop()
    assert descriptors() == before


async def test_a_thread_serves_other_event_loops_too(tmp_path: Path) -> None:
    """As the database in memory does, when programs run one loop after another, or one a thread."""
    thread = DatabaseThread("test", lambda: sqlite3.connect(tmp_path / "x.db", check_same_thread=False))
    await thread.start()

    async def ask() -> object:
        return await thread.submit(lambda db: db.execute("SELECT 1").fetchone())

    assert await asyncio.to_thread(asyncio.run, ask()) == (1,)
    assert await ask() == (1,)
    await asyncio.to_thread(asyncio.run, thread.stop())
    with pytest.raises(sqlite3.ProgrammingError):
        await ask()


async def test_one_answer_that_no_future_takes_holds_back_no_other(tmp_path: Path) -> None:
    def stops(_db: object) -> None:
        raise StopIteration

    thread = DatabaseThread("test", lambda: sqlite3.connect(tmp_path / "x.db", check_same_thread=False))
    await thread.start()
    bad, good = thread.submit(stops), thread.submit(lambda _: 7)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await bad
    assert await good == 7
    await thread.stop()


async def test_whoever_is_cancelled_leaves_no_lock(url: str, file: Path) -> None:
    """Cancelling an append at every await: others can write at once, and what is stored is whole."""
    async with open_store(url) as store:
        for turns in range(40):
            task = asyncio.create_task(store.append(event(await store.version("a") + 1), event(1, f"b{turns}")))
            for _ in range(turns % 10):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            with closing(sqlite3.connect(file, timeout=30, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                other.rollback()
        events = [one async for _, one in store.feed()]
        assert len([one for one in events if one.actor_id == "a"]) == len(
            [one for one in events if one.actor_id != "a"]
        )


async def test_a_full_disk_stores_nothing_and_is_survived(url: str) -> None:
    async with open_store(url, timeout=1) as store:
        await store.append(event(1))
        writer = store._driver._database._writer
        (pages,) = await writer.submit(lambda db: db.execute("PRAGMA page_count").fetchone())
        await writer.submit(lambda db: db.execute(f"PRAGMA max_page_count = {pages + 4}").fetchone())
        with pytest.raises(Unavailable, match="full"):
            await store.append(event(2, x="x" * 100_000))
        assert await store.version("a") == 1
        await writer.submit(lambda db: db.execute("PRAGMA max_page_count = 1000000").fetchone())
        await store.append(event(2, x="x" * 100_000))
        assert await store.version("a") == 2


@pytest.mark.parametrize("count", [1, 2])
async def test_a_refusal_is_certain_and_says_what_to_do(url: str, count: int) -> None:
    """A single event is stored by one statement, several in a transaction: both are told alike."""
    async with open_store(url, timeout=0.3) as store:
        await store.append(event(1))
        writer = store._driver._database._writer
        await writer.submit(lambda db: db.execute("PRAGMA query_only = ON"))
        with pytest.raises(Unavailable, match="readonly database.*writable"):
            await store.append(*(event(version) for version in range(2, 2 + count)))
        await writer.submit(lambda db: db.execute("PRAGMA query_only = OFF"))
        await store.append(event(2))
        assert await store.version("a") == 2


async def test_what_others_wrote_is_seen_by_the_one_statement_too(url: str) -> None:
    async with open_store(url) as one, open_store(url) as other:
        for version in (1, 3, 5):
            await one.append(event(version))
            await other.append(event(version + 1))
        with pytest.raises(VersionConflict) as caught:
            await one.append(event(6))
        assert caught.value.current == 6
        await one.append(event(1, "b"))
        await other.append(event(2, "b"))
        positions = [position.order async for position, _ in one.feed()]
        assert positions == list(range(1, 9))


async def test_what_was_remembered_ends_where_events_were_removed(url: str, file: Path) -> None:
    """By hand, which nobody should: what is remembered must not leave a hole in the actor's history then."""
    async with open_store(url) as store:
        for version in (1, 2, 3):
            await store.append(event(version))
        with closing(sqlite3.connect(file)) as db, db:
            db.execute("DELETE FROM aether_events WHERE version = 3")
        with pytest.raises(VersionConflict) as caught:
            await store.append(event(4))
        assert caught.value.current == 2


async def test_a_commit_that_fails_is_forgotten(url: str, file: Path) -> None:
    """What was remembered of it would let the next version in, and leave a hole."""
    async with open_store(url, timeout=0.5) as store:
        writer = store._driver._database._writer
        await writer.submit(lambda db: db.execute("PRAGMA foreign_keys = ON"))
        with closing(sqlite3.connect(file)) as db:
            db.executescript("""
                CREATE TABLE parents (id INTEGER PRIMARY KEY);
                CREATE TABLE children (id INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
                CREATE TRIGGER refuse AFTER INSERT ON aether_events WHEN NEW.actor_id = 'bad'
                    BEGIN INSERT INTO children VALUES (1); END;""")
        with pytest.raises(OutcomeUnknown):
            await store.append(event(1, "bad"))
        async with open_store(url) as other:
            await other.append(event(1))  # so that the feed is as long as the commit would have made it
        with closing(sqlite3.connect(file)) as db, db:
            db.execute("DROP TRIGGER refuse")
        with pytest.raises(VersionConflict) as caught:
            await store.append(event(2, "bad"))
        assert caught.value.current == 0


WRITER = """
import asyncio, sys
from aether.core import Event, open_store
async def main(url, actor):
    async with open_store(url, timeout=30) as store:
        for version in range(1, 21):
            await store.append(Event(type="Happened", actor_id=actor, version=version))
asyncio.run(main(*sys.argv[1:]))
"""


async def test_eight_processes_may_make_the_file_at_once(url: str) -> None:
    commands = [(sys.executable, "-c", WRITER, url, f"p{number}") for number in range(8)]
    writers = [await asyncio.create_subprocess_exec(*command) for command in commands]
    assert await asyncio.gather(*(writer.wait() for writer in writers)) == [0] * 8
    async with open_store(url) as store:
        orders = [position.order async for position, _ in store.feed()]
        assert orders == list(range(1, 161))


KILLED = """
import asyncio, sys
from aether.core import Event, open_store
async def main(url):
    async with open_store(url) as store:
        version = await store.version("a")
        while True:
            commit = [Event(type="Happened", actor_id="a", version=version + n) for n in (1, 2, 3)]
            await store.append(*commit)
            version += 3
            print(version, flush=True)
asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_process_that_is_killed_leaves_whole_commits_and_no_lock(url: str) -> None:
    for _ in range(3):
        writer = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, url, stdout=PIPE)
        assert writer.stdout is not None
        acknowledged = [await writer.stdout.readline() for _ in range(30)]
        writer.kill()
        acknowledged += (await writer.communicate())[0].splitlines(keepends=True)
        whole = [int(line) for line in acknowledged if line.endswith(b"\n")]
        async with open_store(url) as store:
            found = [one.version async for one in store.read("a")]
            assert found == list(range(1, len(found) + 1))
            assert len(found) % 3 == 0
            assert whole[-1] <= len(found) <= whole[-1] + 3
            await store.append(event(1, f"b{len(found)}"))


# --- The tables ---


async def test_tables_can_be_read_with_what_everybody_has(url: str, file: Path) -> None:
    async with open_store(url, namespace="shop") as store:
        await store.append(event(1, "order-1", total=42, name="Grüße"))
    query = """
        SELECT n.name, e.position, e.actor_id, e.version, e.type, json_extract(e.event, '$.data.total')
        FROM aether_events AS e JOIN aether_namespaces AS n USING (ns)"""
    with closing(sqlite3.connect(file)) as db:
        assert db.execute(query).fetchall() == [("shop", 1, "order-1", 1, "Happened", 42)]


async def test_a_newer_schema_is_refused(url: str, file: Path) -> None:
    await _open(url)
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("UPDATE aether_schema SET value = '999' WHERE name = 'version'")
    with pytest.raises(SchemaTooNew, match="upgrade aether-sql"):
        await _open(url)


async def test_tables_that_must_not_be_made_are_asked_for(url: str, file: Path) -> None:
    with pytest.raises(SchemaMissing, match="ddl"):
        await _open(f"{url}?create=false")
    with closing(sqlite3.connect(file)) as db:
        db.executescript(aether.sql.ddl("sqlite"))
    async with open_store(url, create="false") as store:
        await store.append(event(1))


async def test_two_prefixes_are_two_worlds(url: str) -> None:
    async with open_store(url) as one, open_store(url, prefix="other_") as other:
        await one.append(event(1))
        assert await other.version("a") == 0
        assert one.identity != other.identity


async def test_names_are_values_and_never_sql(url: str, file: Path) -> None:
    names = ["'; DROP TABLE aether_events; --", '"', "?", ":name", "%s", "$1", "\\", "a' OR '1'='1"]
    async with open_store(url) as store:
        for name in names:
            await store.append(Event(type=name, actor_id=name, version=1, id=name))
        assert [one.actor_id async for _, one in store.feed()] == names
        for name in names:
            assert await store.version(name) == 1
            position = await store.head()
            await store.save_checkpoint(name, position, token=1)
            assert await store.checkpoint(name) == position


# --- The caller's transaction ---


async def test_rows_and_events_share_their_fate_also_in_a_session(url: str, file: Path) -> None:
    """A projection that keeps its checkpoint beside its table has each event exactly once, whatever fails."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    async with open_store(url) as store:
        await store.append(*(event(version, amount=version) for version in range(1, 6)))
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE total (amount INTEGER NOT NULL)"))
            await connection.execute(text("INSERT INTO total VALUES (0)"))
        for attempt in range(100):
            done = await store.checkpoint("totals")
            following = [(position, one) async for position, one in store.feed(after=done, limit=1)]
            if not following:
                break
            position, one = following[0]
            try:
                async with AsyncSession(engine) as session, session.begin():
                    await session.execute(text(f"UPDATE total SET amount = amount + {one.data['amount']}"))
                    await store.save_checkpoint("totals", position, token=1, connection=session)
                    if attempt % 2:
                        raise ConnectionAbortedError
            except ConnectionAbortedError:
                pass
        async with engine.connect() as connection:
            assert (await connection.execute(text("SELECT amount FROM total"))).scalar() == 15
    await engine.dispose()


async def test_what_cannot_be_joined_is_refused(url: str, file: Path, tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    elsewhere = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/other.db")
    async with open_store(url) as store, open_store(f"sqlite:///{tmp_path}/other.db"):
        with pytest.raises(WrongConnection, match="AsyncConnection or AsyncSession"):
            await store.append(event(1), connection=object())
        async with engine.connect() as connection:
            with pytest.raises(WrongConnection, match="no transaction"):
                await store.append(event(1), connection=connection)
        async with elsewhere.begin() as connection:
            with pytest.raises(WrongConnection, match="another database"):
                await store.append(event(1), connection=connection)
        async with engine.begin() as connection:
            with pytest.raises(VersionConflict):
                await store.append(event(2), connection=connection)
        assert await store.head() == START
    await engine.dispose()
    await elsewhere.dispose()


async def test_an_engine_of_ones_own(file: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    async with aether.sql.open_store(engine, namespace="shop") as store:
        await store.append(event(1))
    async with aether.sql.open_bus(engine), aether.sql.open_election(engine):
        pass
    async with open_store(f"sqlite:///{file}", namespace="shop") as store:
        assert await store.version("a") == 1
    await engine.dispose()
