"""From events to state: functions over the store, each of which could be yours.

| function | what it does |
|---|---|
| `load(store, evolve, initial, actor_id)` | replay an actor's events into its state |
| `execute(store, decider, actor_id, command)` | load, decide, append; again if somebody was faster |
| `record(store, actor_id, *events)` | append at the end, whatever the version is |
| `@event("order.placed", schema=2)`, `EventTypes` | events as dataclasses, msgspec, attrs or pydantic; upcasters |
| `Snapshots("order", Order, every=100)` | start from a saved state instead of the first event |

What goes on from here: `aether.core.projection` (views, reactors, the outbox), `aether.core.correlation`, and
`aether.core.testing` (`given(...).when(...).then(...)`).
"""

from aether.core.state.decider import Decider, Executed, execute, load, record
from aether.core.state.new_event import NewEvent
from aether.core.state.snapshots import Loaded, Snapshots
from aether.core.state.typed import EventTypes, event, new_event

__all__ = [
    "Decider",
    "EventTypes",
    "Executed",
    "Loaded",
    "NewEvent",
    "Snapshots",
    "event",
    "execute",
    "load",
    "new_event",
    "record",
]
