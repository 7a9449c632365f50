"""What a backend can be certified for. Each case belongs to one profile."""

from __future__ import annotations

from enum import StrEnum


class Profile(StrEnum):
    """A part of the promises that somebody may rely on without the others."""

    CORE = "core"
    """Store and bus keep their rules on a healthy server. Every backend needs it."""

    ORDERED = "ordered"
    """One total order that can be followed, left and resumed without loss."""

    DURABLE = "durable"
    """What was acknowledged survives, and everybody goes on, when the server is killed, stopped or cut off."""

    COORDINATION = "coordination"
    """Leader election with fencing tokens, over the lease register."""
