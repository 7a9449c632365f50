"""The cases. Importing this registers them, in the order of the rules."""

from __future__ import annotations

from importlib import import_module

_MODULES = (
    "append",
    "transaction",
    "outcome",
    "limits",
    "read",
    "feed",
    "subscribe",
    "state",
    "checkpoints",
    "names",
    "close",
    "driver_store",
    "driver_feed",
    "driver_slots",
    "edges",
    "bus",
    "bus_confirm",
    "bus_queue",
    "bus_close",
    "driver_bus",
    "register",
    "driver_register",
    "election",
    "election_end",
    "faults_store",
    "faults_mixed",
    "faults_bus",
    "faults_election",
    "same",
)

for _module in _MODULES:
    import_module(f"{__name__}.{_module}")
