"""Aether: event sourcing primitives for Python. Everything that an application needs is imported from here.

Backend authors read `aether.core.spi` and `aether.core.hookspecs`.
"""

import aether

if getattr(aether, "__file__", None) is not None:
    raise ImportError(
        f"another project's package 'aether' is installed at {aether.__file__} and hides this one; "
        "uninstall it (pip uninstall aether aether-core), then install Aether's own wheels again"
    )
del aether

from aether.core.bus import BusSubscription, EventBus
from aether.core.election import Election, LeaderView, Term
from aether.core.errors import (
    AetherError,
    BackendConflict,
    BackendNotFound,
    BackendUnusable,
    Closed,
    CommitTooLarge,
    CorruptEvent,
    FeatureMissing,
    InvalidEvent,
    InvalidName,
    InvalidSnapshot,
    InvalidURL,
    LeadershipLost,
    NoResponders,
    OutcomeUnknown,
    PayloadTooLarge,
    SlowConsumer,
    StaleRead,
    StaleToken,
    StoreIdentityChanged,
    TimedOut,
    Unavailable,
    VersionConflict,
)
from aether.core.event import START, Appended, Event, Position, Snapshot, new_id
from aether.core.features import Durability, Feature, Limits
from aether.core.opening import Connection, connect, open_bus, open_election, open_store
from aether.core.store import EventStore
from aether.core.subscription import Subscription

__all__ = [
    "START",
    "AetherError",
    "Appended",
    "BackendConflict",
    "BackendNotFound",
    "BackendUnusable",
    "BusSubscription",
    "Closed",
    "CommitTooLarge",
    "Connection",
    "CorruptEvent",
    "Durability",
    "Election",
    "Event",
    "EventBus",
    "EventStore",
    "Feature",
    "FeatureMissing",
    "InvalidEvent",
    "InvalidName",
    "InvalidSnapshot",
    "InvalidURL",
    "LeaderView",
    "LeadershipLost",
    "Limits",
    "NoResponders",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "Position",
    "SlowConsumer",
    "Snapshot",
    "StaleRead",
    "StaleToken",
    "StoreIdentityChanged",
    "Subscription",
    "Term",
    "TimedOut",
    "Unavailable",
    "VersionConflict",
    "connect",
    "new_id",
    "open_bus",
    "open_election",
    "open_store",
]
