"""Recorded histories, and checkers that say whether a sound backend could have had them."""

from __future__ import annotations

from aether.conformance.history.election import RegisterCall, Tenure, check_register, check_tenures
from aether.conformance.history.recorder import StoreHistory, seen_of

__all__ = ["RegisterCall", "StoreHistory", "Tenure", "check_register", "check_tenures", "seen_of"]
