"""Aether: event sourcing primitives for Python. Events, store, bus and election are imported from here.

What is built on them is imported from where it is: `aether.core.state` (commands, typed events, snapshots),
`aether.core.projection` (views, reactors, the outbox), `aether.core.correlation` and `aether.core.testing`.
Backend authors read `aether.core.spi` and `aether.core.hookspecs`.
"""

import importlib
from typing import TYPE_CHECKING, Any

import aether

if getattr(aether, "__file__", None) is not None:
    raise ImportError(
        f"another project's package 'aether' is installed at {aether.__file__} and hides this one; "
        "uninstall it (pip uninstall aether aether-core), then install Aether's own wheels again"
    )
del aether

if TYPE_CHECKING:
    from aether.core.bus import BusSubscription as BusSubscription
    from aether.core.bus import EventBus as EventBus
    from aether.core.cluster import Cluster as Cluster
    from aether.core.cluster import ClusterView as ClusterView
    from aether.core.cluster import Host as Host
    from aether.core.cluster import LeaderChanged as LeaderChanged
    from aether.core.cluster import MemberView as MemberView
    from aether.core.cluster import NodeChanged as NodeChanged
    from aether.core.cluster import NodeDown as NodeDown
    from aether.core.cluster import NodeSuspect as NodeSuspect
    from aether.core.cluster import NodeUp as NodeUp
    from aether.core.cluster import Owner as Owner
    from aether.core.cluster import ShardsGained as ShardsGained
    from aether.core.cluster import ShardsLost as ShardsLost
    from aether.core.election import Election as Election
    from aether.core.election import LeaderView as LeaderView
    from aether.core.election import Term as Term
    from aether.core.errors import AetherError as AetherError
    from aether.core.errors import BackendConflict as BackendConflict
    from aether.core.errors import BackendNotFound as BackendNotFound
    from aether.core.errors import BackendUnusable as BackendUnusable
    from aether.core.errors import CheckpointMoved as CheckpointMoved
    from aether.core.errors import Closed as Closed
    from aether.core.errors import ClusterMismatch as ClusterMismatch
    from aether.core.errors import CommandRefused as CommandRefused
    from aether.core.errors import CommitTooLarge as CommitTooLarge
    from aether.core.errors import CorruptEvent as CorruptEvent
    from aether.core.errors import CorruptLease as CorruptLease
    from aether.core.errors import FeatureMissing as FeatureMissing
    from aether.core.errors import InvalidEvent as InvalidEvent
    from aether.core.errors import InvalidName as InvalidName
    from aether.core.errors import InvalidSnapshot as InvalidSnapshot
    from aether.core.errors import InvalidURL as InvalidURL
    from aether.core.errors import LeadershipLost as LeadershipLost
    from aether.core.errors import NoResponders as NoResponders
    from aether.core.errors import OutcomeUnknown as OutcomeUnknown
    from aether.core.errors import PayloadTooLarge as PayloadTooLarge
    from aether.core.errors import SlowConsumer as SlowConsumer
    from aether.core.errors import StaleRead as StaleRead
    from aether.core.errors import StaleToken as StaleToken
    from aether.core.errors import StoreIdentityChanged as StoreIdentityChanged
    from aether.core.errors import TimedOut as TimedOut
    from aether.core.errors import Unavailable as Unavailable
    from aether.core.errors import UnreadableEvent as UnreadableEvent
    from aether.core.errors import VersionConflict as VersionConflict
    from aether.core.event import START as START
    from aether.core.event import Appended as Appended
    from aether.core.event import Claim as Claim
    from aether.core.event import Event as Event
    from aether.core.event import Position as Position
    from aether.core.event import Snapshot as Snapshot
    from aether.core.event import new_id as new_id
    from aether.core.features import Durability as Durability
    from aether.core.features import Feature as Feature
    from aether.core.features import Limits as Limits
    from aether.core.opening import Connection as Connection
    from aether.core.opening import connect as connect
    from aether.core.opening import open_bus as open_bus
    from aether.core.opening import open_election as open_election
    from aether.core.opening import open_store as open_store
    from aether.core.store import EventStore as EventStore
    from aether.core.subscription import Subscription as Subscription

_HOMES = {
    "AetherError": "errors",
    "Appended": "event",
    "BackendConflict": "errors",
    "BackendNotFound": "errors",
    "BackendUnusable": "errors",
    "BusSubscription": "bus",
    "CheckpointMoved": "errors",
    "Claim": "event",
    "Closed": "errors",
    "Cluster": "cluster",
    "ClusterMismatch": "errors",
    "ClusterView": "cluster",
    "CommandRefused": "errors",
    "CommitTooLarge": "errors",
    "Connection": "opening",
    "CorruptEvent": "errors",
    "CorruptLease": "errors",
    "Durability": "features",
    "Election": "election",
    "Event": "event",
    "EventBus": "bus",
    "EventStore": "store",
    "Feature": "features",
    "FeatureMissing": "errors",
    "Host": "cluster",
    "InvalidEvent": "errors",
    "InvalidName": "errors",
    "InvalidSnapshot": "errors",
    "InvalidURL": "errors",
    "LeaderChanged": "cluster",
    "LeaderView": "election",
    "LeadershipLost": "errors",
    "Limits": "features",
    "MemberView": "cluster",
    "NoResponders": "errors",
    "NodeChanged": "cluster",
    "NodeDown": "cluster",
    "NodeSuspect": "cluster",
    "NodeUp": "cluster",
    "OutcomeUnknown": "errors",
    "Owner": "cluster",
    "PayloadTooLarge": "errors",
    "Position": "event",
    "START": "event",
    "ShardsGained": "cluster",
    "ShardsLost": "cluster",
    "SlowConsumer": "errors",
    "Snapshot": "event",
    "StaleRead": "errors",
    "StaleToken": "errors",
    "StoreIdentityChanged": "errors",
    "Subscription": "subscription",
    "Term": "election",
    "TimedOut": "errors",
    "Unavailable": "errors",
    "UnreadableEvent": "errors",
    "VersionConflict": "errors",
    "connect": "opening",
    "new_id": "event",
    "open_bus": "opening",
    "open_election": "opening",
    "open_store": "opening",
}

__all__ = [
    "START",
    "AetherError",
    "Appended",
    "BackendConflict",
    "BackendNotFound",
    "BackendUnusable",
    "BusSubscription",
    "CheckpointMoved",
    "Claim",
    "Closed",
    "Cluster",
    "ClusterMismatch",
    "ClusterView",
    "CommandRefused",
    "CommitTooLarge",
    "Connection",
    "CorruptEvent",
    "CorruptLease",
    "Durability",
    "Election",
    "Event",
    "EventBus",
    "EventStore",
    "Feature",
    "FeatureMissing",
    "Host",
    "InvalidEvent",
    "InvalidName",
    "InvalidSnapshot",
    "InvalidURL",
    "LeaderChanged",
    "LeaderView",
    "LeadershipLost",
    "Limits",
    "MemberView",
    "NoResponders",
    "NodeChanged",
    "NodeDown",
    "NodeSuspect",
    "NodeUp",
    "OutcomeUnknown",
    "Owner",
    "PayloadTooLarge",
    "Position",
    "ShardsGained",
    "ShardsLost",
    "SlowConsumer",
    "Snapshot",
    "StaleRead",
    "StaleToken",
    "StoreIdentityChanged",
    "Subscription",
    "Term",
    "TimedOut",
    "Unavailable",
    "UnreadableEvent",
    "VersionConflict",
    "connect",
    "new_id",
    "open_bus",
    "open_election",
    "open_store",
]


def __getattr__(name: str) -> Any:
    # Lazy, because asyncio and msgspec alone take longer to import than a command line may take to say hello.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found  # asked once
    return found


def __dir__() -> list[str]:
    return __all__
