"""The events that all benchmarks write: about 200 bytes of data each."""

from __future__ import annotations

from typing import Any

from aether.core import Event

DATA: dict[str, Any] = {
    "order_id": "0190a1b2-0000-7000-8000-000000000000",
    "sku": "SKU-12345-BLUE",
    "quantity": 3,
    "price": 99.99,
    "note": "leave it with the neighbours, please",
    "tags": ["gift", "express"],
    "paid": True,
    "customer": "customer-4711",
}


def events(actor_id: str, first: int, count: int) -> list[Event]:
    """`count` events of one actor from version `first` on."""
    return [Event(type="ItemAdded", actor_id=actor_id, version=first + i, data=DATA) for i in range(count)]
