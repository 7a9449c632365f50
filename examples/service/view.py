"""The list of orders: a table beside the events, filled by a projection, read by the web."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orders import TYPES, Cancelled, Placed, Shipped
from sqlalchemy import Column, MetaData, Numeric, String, Table, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from aether.core import Connection, Event, connect

METADATA = MetaData()
ORDERS = Table(
    "order_list",
    METADATA,
    Column("id", String, primary_key=True),
    Column("customer", String),
    Column("total", Numeric(12, 2)),
    Column("currency", String(3)),
    Column("status", String),
)
NAME = "order-list"


async def handle(event: Event, connection: AsyncConnection) -> None:
    """Rows and checkpoint are one transaction, so `insert` without "or ignore" is right: each event comes once."""
    match TYPES.decode(event):
        case Placed(customer, total, currency):
            row = {"customer": customer, "total": total, "currency": currency, "status": "placed"}
            await connection.execute(insert(ORDERS).values(id=event.actor_id, **row))
        case Shipped():
            await connection.execute(update(ORDERS).where(ORDERS.c.id == event.actor_id).values(status="shipped"))
        case Cancelled():
            await connection.execute(update(ORDERS).where(ORDERS.c.id == event.actor_id).values(status="cancelled"))


async def rows(engine: AsyncEngine) -> list[dict[str, object]]:
    """The list, as the web shows it."""
    async with engine.connect() as connection:
        found = await connection.execute(select(ORDERS).order_by(ORDERS.c.id))
        return [{**row, "total": str(row["total"])} for row in found.mappings()]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Connection, AsyncEngine]]:
    """The events and the table, in one database. `sqlite:///file.db`, or `postgresql://…`."""
    scheme, _, place = url.partition(":")
    driver = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}[scheme]
    engine = create_async_engine(f"{driver}:{place}")
    try:
        async with connect(url, namespace="shop") as shop:
            async with engine.begin() as connection:
                await connection.run_sync(METADATA.create_all)
            yield shop, engine
    finally:
        await engine.dispose()
