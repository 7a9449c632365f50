"""Aether in memory: the executable model of every contract, for tests and single processes.

Open it as `memory://`. Without a URL: `EventStore(MemoryStore(NamespaceSpace()), namespace="shop")`.
"""

from aether.memory.bus import MemoryBus
from aether.memory.election import MemoryRegister
from aether.memory.space import NamespaceSpace, Space
from aether.memory.store import MemoryStore

__all__ = ["MemoryBus", "MemoryRegister", "MemoryStore", "NamespaceSpace", "Space"]
