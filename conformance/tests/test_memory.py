"""The model keeps every rule."""

from aether.conformance import conformance
from aether.memory.testing import MemoryHarness

TestMemory = conformance(MemoryHarness)
