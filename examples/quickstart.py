"""Two events of one order, and its state replayed from them.

python examples/quickstart.py                              # in memory
python examples/quickstart.py nats+embedded:///tmp/orders  # on disk, with a NATS server of its own
python examples/quickstart.py nats://localhost:4222        # on your NATS server
"""

import asyncio
import sys
from typing import Any

from aether.core import Event, open_store

# The ids are fixed so that the program can be run again on a store that lasts: an event that is found under the same
# id at the same version is not stored twice. Leave `id=` out where every run is something new that happens.
PLACED = Event(
    id="order-123-placed",
    type="OrderPlaced",
    actor_id="order-123",
    version=1,
    data={"total": "99.99"},  # a text, because a float would round money
)
SHIPPED = Event(
    id="order-123-shipped",
    type="OrderShipped",
    actor_id="order-123",
    version=2,
    data={"tracking": "FS123456"},
)


def evolve(state: dict[str, Any], event: Event) -> dict[str, Any]:
    """State is a function over events."""
    match event.type:
        case "OrderPlaced":
            return {**state, **event.data, "status": "placed"}
        case "OrderShipped":
            return {**state, **event.data, "status": "shipped"}
        case _:
            return state


async def main(url: str) -> None:
    async with open_store(url, namespace="quickstart") as store:
        await store.append(PLACED, SHIPPED)  # one call is one commit: both or none

        state: dict[str, Any] = {}
        count = 0
        async for event in store.read("order-123"):
            state = evolve(state, event)
            count += 1

    print(f"Order state after replaying {count} events:")
    print(f"  Status: {state['status']}")
    print(f"  Total: ${state['total']}")
    print(f"  Tracking: {state['tracking']}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "memory://"))
