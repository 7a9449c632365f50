"""Recorded histories, and checkers that say whether a sound backend could have had them."""

from __future__ import annotations

from aether.conformance.history.bus import Published, Received, check_bus
from aether.conformance.history.election import (
    FencedWrite,
    RegisterCall,
    Tenure,
    check_fence,
    check_register,
    check_tenures,
)
from aether.conformance.history.recorder import StoreHistory
from aether.conformance.history.records import Seen
from aether.conformance.history.registers import RegisterHistory

__all__ = [
    "FencedWrite",
    "Published",
    "Received",
    "RegisterCall",
    "RegisterHistory",
    "Seen",
    "StoreHistory",
    "Tenure",
    "check_bus",
    "check_fence",
    "check_register",
    "check_tenures",
]
