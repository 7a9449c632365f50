"""What a backend can do, how much it takes, and what it survives."""

from __future__ import annotations

from enum import IntEnum, StrEnum

import msgspec


class Feature(StrEnum):
    """An optional promise. Declared: its cases must pass. Not declared: the call must raise `FeatureMissing`."""

    MULTI_ACTOR = "multi-actor"
    """Events of several actors in one `append` are one commit."""

    CALLER_TRANSACTION = "caller-transaction"
    """`append(..., connection=c)` and `save_checkpoint(..., connection=c)` join the caller's transaction."""

    NO_RESPONDERS = "no-responders"
    """`bus.request` knows at once when nobody is subscribed, instead of waiting for the time-out."""


class Durability(IntEnum):
    """What an acknowledged append survives. Read from what the server is really set to, never assumed."""

    NONE = 0
    """Nothing: the data lives in this process."""

    PROCESS = 1
    """A crash or kill -9 of the server process, but not a power cut."""

    HOST = 2
    """A power cut of the server's machine."""

    QUORUM = 3
    """The permanent loss of a minority of the servers."""

    def __str__(self) -> str:
        return self.name


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The most that one call may carry. Above it the call is refused before anything is stored."""

    max_event_bytes: int
    max_commit_bytes: int
    max_commit_events: int
    max_snapshot_bytes: int
