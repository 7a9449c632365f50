"""Durable subscriptions: views, reactors, and what operators ask about them.

| | |
|---|---|
| `project(store, name, handler, on_error=...)` | fill a view: one active, others stand by, ordered, at least once |
| `project(..., transaction=engine.begin)` | the same with rows and checkpoint in one transaction: exactly once |
| `react(store, name, handler, begin="now", ...)` | effects outside, which no rebuild repeats |
| `STOP`, `PARK`, `retry(...)` | what happens on an event that a handler fails on |
| `Consumer(store, name)` | `progress`, `wait`, `parked`, `retry_parked`, `switch`, from any process |

`aether.core.relay` carries stored events to a bus, by the same means.
"""

from aether.core.projection.consumer import Consumer, Progress
from aether.core.projection.journal import Parked
from aether.core.projection.policy import PARK, STOP, OnError, retry
from aether.core.projection.running import BATCH, Running, State, batched, project, react

__all__ = [
    "BATCH",
    "PARK",
    "STOP",
    "Consumer",
    "OnError",
    "Parked",
    "Progress",
    "Running",
    "State",
    "batched",
    "project",
    "react",
    "retry",
]
