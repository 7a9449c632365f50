"""The web service: commands in, a conflict is 409, and the list comes from a view that a worker fills.

AETHER_URL=sqlite:////tmp/orders.db uvicorn app:app --app-dir examples/service
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse
from orders import ORDER, SNAPSHOTS, TYPES, Cancel, Command, Order, Place, Refused, Ship, evolve
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine
from view import NAME, opened, rows

from aether.core import EventStore, Position, TimedOut, VersionConflict
from aether.core.correlation import correlation
from aether.core.projection import Consumer
from aether.core.state import execute, load


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with opened(os.environ.get("AETHER_URL", "sqlite:///orders.db")) as (shop, engine):
        app.state.store, app.state.engine = shop.store, engine
        yield


app = FastAPI(lifespan=lifespan)


def store_of(request: Request) -> EventStore:
    store: EventStore = request.app.state.store
    return store


Store = Annotated[EventStore, Depends(store_of)]
Seen = Annotated[str | None, Header(alias="If-Match")]


@app.middleware("http")
async def correlate(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Everything that a request appends carries its id."""
    with correlation(request.headers.get("x-request-id")) as request_id:
        response = await call_next(request)
    response.headers["x-request-id"] = request_id
    return response


@app.exception_handler(VersionConflict)
async def conflict(_request: Request, error: VersionConflict) -> JSONResponse:
    """The order has changed since the client looked, or others were faster time and again."""
    return JSONResponse({"detail": str(error), "version": error.current}, 409)


@app.exception_handler(Refused)
async def refused(_request: Request, error: Refused) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


@app.exception_handler(TimedOut)
async def late(_request: Request, error: TimedOut) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})


class NewOrder(BaseModel):
    customer: str
    total: Decimal
    currency: str = "EUR"


class Shipment(BaseModel):
    tracking: str


class Reason(BaseModel):
    reason: str


@app.post("/orders/{order_id}", status_code=201)
async def place(order_id: str, body: NewOrder, store: Store, response: Response) -> dict[str, object]:
    return await carry_out(store, order_id, Place(body.customer, body.total, body.currency), None, response)


@app.post("/orders/{order_id}/shipment")
async def ship(order_id: str, body: Shipment, store: Store, response: Response, seen: Seen = None) -> dict[str, object]:
    return await carry_out(store, order_id, Ship(body.tracking), seen, response)


@app.post("/orders/{order_id}/cancellation")
async def cancel(order_id: str, body: Reason, store: Store, response: Response, seen: Seen = None) -> dict[str, object]:
    return await carry_out(store, order_id, Cancel(body.reason), seen, response)


async def carry_out(
    store: EventStore, order_id: str, command: Command, seen: str | None, response: Response
) -> dict[str, object]:
    """Execute a command; with `If-Match` only if the order is still at the version that the client has seen."""
    expected = None if seen is None else int(seen.strip('"'))
    done = await execute(store, ORDER, order_id, command, snapshots=SNAPSHOTS, expected=expected)
    response.headers["ETag"] = f'"{done.version}"'
    return {"status": done.state.status, "version": done.version, "position": str(done.position)}


@app.get("/orders/{order_id}")
async def show(order_id: str, store: Store, response: Response) -> dict[str, object]:
    """The order itself, replayed: always up to date."""
    order, version = await load(store, evolve, Order, order_id, types=TYPES, snapshots=SNAPSHOTS)
    response.headers["ETag"] = f'"{version}"'
    return {"status": order.status, "customer": order.customer, "version": version}


@app.get("/orders")
async def listed(request: Request, store: Store, after: str = "start") -> list[dict[str, object]]:
    """The list; `after` is the position that a command answered with, so that clients see what they have done."""
    await Consumer(store, NAME).wait(Position.parse(after), timeout=5)
    engine: AsyncEngine = request.app.state.engine
    return await rows(engine)
