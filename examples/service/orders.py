"""What happens to an order, and what can be asked of it: plain functions, without a store and without a web."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from aether.core.state import Decider, EventTypes, Snapshots, event


@event("order.placed", schema=2, upcast={1: lambda data: data | {"currency": "EUR"}})
@dataclass(frozen=True)
class Placed:
    """Schema 1 had no currency: everything was in euros."""

    customer: str
    total: Decimal
    currency: str


@event("order.shipped")
@dataclass(frozen=True)
class Shipped:
    tracking: str


@event("order.cancelled")
@dataclass(frozen=True)
class Cancelled:
    reason: str


Told = Placed | Shipped | Cancelled


@dataclass(frozen=True)
class Order:
    status: Literal["new", "placed", "shipped", "cancelled"] = "new"
    customer: str = ""


@dataclass(frozen=True)
class Place:
    customer: str
    total: Decimal
    currency: str


@dataclass(frozen=True)
class Ship:
    tracking: str


@dataclass(frozen=True)
class Cancel:
    reason: str


Command = Place | Ship | Cancel


class Refused(Exception):
    """What was asked for is not possible now."""


def evolve(order: Order, told: Told) -> Order:
    match told:
        case Placed(customer=customer):
            return Order("placed", customer)
        case Shipped():
            return Order("shipped", order.customer)
        case Cancelled():
            return Order("cancelled", order.customer)


def decide(order: Order, command: Command) -> list[Told]:
    match command, order.status:
        case Place(customer, total, currency), "new":
            return [Placed(customer, total, currency)]
        case Ship(tracking), "placed":
            return [Shipped(tracking)]
        case Cancel(reason), "placed":
            return [Cancelled(reason)]
        case Cancel(), "cancelled":
            return []  # asked for twice
        case _:
            raise Refused(f"{type(command).__name__} is not possible, the order is {order.status}")


TYPES: EventTypes[Told] = EventTypes(Placed, Shipped, Cancelled)
ORDER: Decider[Order, Command, Told] = Decider(Order, evolve, decide, TYPES)
SNAPSHOTS = Snapshots("order", Order, every=100)
