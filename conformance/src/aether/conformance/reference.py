"""The references that machines compare a backend with: the executable model, and JetStream on a server of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aether.conformance.context import Server
from aether.conformance.harness import Harness
from aether.core.event import new_id
from aether.core.registry import default_registry
from aether.memory.testing import MemoryHarness
from aether.nats.testing import NatsHarness


@asynccontextmanager
async def references(time_factor: float) -> AsyncIterator[tuple[Server, ...]]:
    """Start both references and stop them behind the block. The model is the first of them."""
    async with AsyncExitStack() as stack:
        yield (
            await _started(stack, MemoryHarness(), time_factor),
            await _started(stack, NatsHarness(), time_factor),
        )


async def _started(stack: AsyncExitStack, harness: Harness, time_factor: float) -> Server:
    stack.push_async_callback(harness.stop)
    server = Server(harness, await harness.start(), default_registry(), time_factor)
    await server.probe(f"probe-{new_id()[-12:]}")
    return server
