"""Projections whose view is in the store's own database: rows, parked events and checkpoint are one commit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from aether.core import Event, EventStore, StaleToken, open_store
from aether.core.projection import PARK, STOP, Consumer, batched, project, retry
from aether.core.state import NewEvent, record

ADD = text("INSERT INTO effects (actor_id, version) VALUES (:actor_id, :version)")


@pytest.fixture
def url(any_url: str) -> str:
    return any_url


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[EventStore, AsyncEngine]]:
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "mariadb": "mariadb+asyncmy"}
    driver = drivers[url.partition(":")[0]]
    engine = create_async_engine(f"{driver}:{url.partition(':')[2]}", poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE effects (actor_id TEXT, version INTEGER)"))
    async with open_store(url, namespace="shop") as store:
        yield store, engine
    await engine.dispose()


async def effects(engine: AsyncEngine) -> list[tuple[Any, ...]]:
    async with engine.connect() as connection:
        return [tuple(row) for row in (await connection.execute(text("SELECT * FROM effects"))).all()]


async def put(store: EventStore, *names: str) -> None:
    for one in names:
        await record(store, one[0], NewEvent(type=one[1:]))


async def add(event: Event, connection: AsyncConnection) -> None:
    await connection.execute(ADD, {"actor_id": event.actor_id, "version": event.version})


async def test_every_effect_is_there_once_wherever_it_failed(url: str) -> None:
    async with opened(url) as (store, engine):
        await put(store, "aX", "bX", "aX", "cX")
        failures = ["in the middle of a batch", "alone", "behind the rows"]

        async def failing(event: Event, connection: AsyncConnection) -> None:
            await add(event, connection)
            if event.version == 2 and failures:
                raise LookupError(failures.pop())

        transaction = async_sessionmaker(engine).begin if url.startswith("sqlite") else engine.begin
        on_error = retry(first=0.001)
        async with project(store, "list", failing, on_error=on_error, transaction=transaction) as running:
            await running.caught_up(timeout=30)
        assert sorted(await effects(engine)) == [("a", 1), ("a", 2), ("b", 1), ("c", 1)]
        assert not failures


async def test_a_commit_whose_answer_was_lost_is_not_done_again(url: str) -> None:
    async with opened(url) as (store, engine):
        await put(store, "aX", "aX")
        lost = ["first", "second"]

        @asynccontextmanager
        async def transaction() -> AsyncIterator[AsyncConnection]:
            async with engine.begin() as connection:
                yield connection
            if lost:
                raise ConnectionResetError(lost.pop())

        async with project(store, "list", add, on_error=retry(first=0.001), transaction=transaction) as running:
            await put(store, "aX")
            await running.caught_up(timeout=30)
        assert await effects(engine) == [("a", 1), ("a", 2), ("a", 3)]


async def test_who_was_superseded_leaves_no_rows(url: str, until: Any) -> None:
    async with opened(url) as (store, engine):
        await put(store, "aX")
        reached, gate = asyncio.Event(), asyncio.Event()

        async def paused(event: Event, connection: AsyncConnection) -> None:
            reached.set()
            await gate.wait()
            await add(event, connection)

        old = asyncio.create_task(project(store, "list", paused, on_error=PARK, transaction=engine.begin).run())
        await reached.wait()
        async with project(store, "list", add, on_error=STOP, transaction=engine.begin) as new:
            await new.caught_up(timeout=30)
            gate.set()
            with pytest.raises(StaleToken):
                await old
        assert await effects(engine) == [("a", 1)]
        assert await Consumer(store, "list").parked() == []


async def test_parked_and_retried_events_have_their_effect_once(url: str) -> None:
    async with opened(url) as (store, engine):
        await put(store, "aX", "aBAD", "bX", "aY")
        broken = True

        async def handler(event: Event, connection: AsyncConnection) -> None:
            await add(event, connection)
            if event.type == "BAD" and broken:
                raise LookupError

        async with project(store, "list", handler, on_error=PARK, transaction=engine.begin, partitions=2) as running:
            await running.caught_up(timeout=30)
            assert sorted(await effects(engine)) == [("a", 1), ("b", 1)]
            assert [one.event_version for one in await running.parked()] == [2, 3]
            await running.retry_parked()
            await running.caught_up(timeout=30)
            assert [one.attempts for one in await running.parked()] == [2, 0]
            broken = False
            await running.retry_parked()
            await running.caught_up(timeout=30)
            assert await running.parked() == []
        rows = await effects(engine)
        assert sorted(rows) == [("a", 1), ("a", 2), ("a", 3), ("b", 1)]
        assert [version for actor, version in rows if actor == "a"] == [1, 2, 3]


async def test_readers_switch_with_the_view_in_one_commit(url: str, until: Any) -> None:
    async with opened(url) as (store, engine):
        await put(store, "aX")

        async def into_new(events: list[Event], connection: AsyncConnection) -> None:
            for event in events:
                await add(event, connection)

        old = project(store, "list", lambda event: None, on_error=STOP)
        new = project(store, "list", batched(into_new), on_error=STOP, version=2, transaction=engine.begin)
        async with old, new:
            await old.caught_up(timeout=30)
            await until(lambda: new.states[0].state == "running")
            with pytest.raises(ZeroDivisionError):
                async with engine.begin() as connection:
                    await connection.execute(text("CREATE VIEW list AS SELECT * FROM effects"))
                    await old.switch(2, connection=connection)
                    raise ZeroDivisionError
            assert await old.active() == 1
            async with engine.begin() as connection:
                await connection.execute(text("CREATE VIEW seen AS SELECT * FROM effects"))
                await old.switch(2, connection=connection)
            assert await old.active() == 2
            async with engine.connect() as connection:
                assert (await connection.execute(text("SELECT * FROM seen"))).all() == [("a", 1)]
