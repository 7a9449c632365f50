"""What the suite itself puts in front of a server to break."""

from __future__ import annotations

from aether.conformance.faults.line import Traffic, Way
from aether.conformance.faults.link import Connection, Link

__all__ = ["Connection", "Link", "Traffic", "Way"]
