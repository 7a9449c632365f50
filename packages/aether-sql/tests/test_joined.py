"""Which transactions of the caller can be joined, on every kind of database: those that really are one."""

import pytest
from sqlalchemy import event as listeners
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from aether.core import START, Event, open_store
from aether.sql.database import WrongConnection

CLIENTS = {"sqlite": "aiosqlite", "postgresql": "asyncpg", "mariadb": "asyncmy"}
ONE = Event(type="Happened", actor_id="a", version=1)


@pytest.fixture
def engine(any_url):
    """Makes an engine over the same database as the URL, or over another one that has no tables of ours."""

    def engine(*, elsewhere=False, **options):
        scheme, _, place = any_url.partition(":")
        if elsewhere:
            place = f"{place}.other" if scheme == "sqlite" else f"{place.rpartition('/')[0]}/aether"
        return create_async_engine(f"{scheme}+{CLIENTS[scheme]}:{place}", **options)

    return engine


async def test_autocommit_is_no_transaction(any_url, engine):
    """What each statement commits by itself could not be taken back together with the event."""
    everywhere, somewhere = engine(isolation_level="AUTOCOMMIT"), engine()
    async with open_store(any_url) as store:
        position = (await store.append(ONE)).position
        for made in (everywhere, somewhere):
            async with made.connect() as plain:
                connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
                async with connection.begin():
                    with pytest.raises(WrongConnection, match="AUTOCOMMIT"):
                        await store.append(Event(type="T", actor_id="a", version=2), connection=connection)
                    with pytest.raises(WrongConnection, match="AUTOCOMMIT"):
                        await store.save_checkpoint("c", position, token=1, connection=connection)
            await made.dispose()
        assert await store.head() == position
        assert await store.checkpoint("c") == START


async def test_a_transaction_that_somebody_begins_by_hand_is_one(any_url, engine):
    """As documents of SQLAlchemy have it for SQLite: the driver commits by itself, and `begin` says BEGIN."""
    made = engine(isolation_level="AUTOCOMMIT")
    listeners.listen(made.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    async with open_store(any_url) as store:
        async with made.connect() as connection:
            await connection.begin()
            position = (await store.append(ONE, connection=connection)).position
            await store.save_checkpoint("c", position, token=1, connection=connection)
            await connection.exec_driver_sql("ROLLBACK")
        assert await store.head() == START
        async with made.connect() as connection:
            await connection.begin()
            position = (await store.append(ONE, connection=connection)).position
            await store.save_checkpoint("c", position, token=1, connection=connection)
            await connection.exec_driver_sql("COMMIT")
        assert await store.head() == position == await store.checkpoint("c")
    await made.dispose()


async def test_a_database_without_the_tables_is_another_one(any_url, engine):
    made = engine(elsewhere=True)
    async with open_store(any_url) as store:
        position = (await store.append(ONE)).position
        for call in (
            lambda connection: store.append(Event(type="T", actor_id="a", version=2), connection=connection),
            lambda connection: store.save_checkpoint("c", position, token=1, connection=connection),
        ):
            async with made.connect() as connection:
                await connection.begin()
                with pytest.raises(WrongConnection, match="another database"):
                    await call(connection)
                await connection.rollback()
                assert (await connection.execute(text("SELECT 1"))).scalar() == 1
    await made.dispose()


async def test_another_client_is_refused(postgres_url):
    made = create_async_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    async with open_store(postgres_url) as store, made.begin() as connection:
        with pytest.raises(WrongConnection, match="one over asyncpg is needed, not over psycopg"):
            await store.append(ONE, connection=connection)
        assert (await connection.execute(text("SELECT 1"))).scalar() == 1
    await made.dispose()
