"""What a driver is told when it is made, and how drivers of one URL share a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar, cast

Shared = TypeVar("Shared")

DEFAULT_TIMEOUT = 5.0
"""Seconds that a call may take, unless the caller says otherwise."""


class Scope:
    """One opening of a URL: the namespace, the time-out in seconds, and what its drivers share."""

    def __init__(self, namespace: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.namespace = namespace
        self.timeout = timeout
        self._held: dict[Hashable, _Held] = {}

    @asynccontextmanager
    async def share(
        self, key: Hashable, connect: Callable[[], AbstractAsyncContextManager[Shared]]
    ) -> AsyncIterator[Shared]:
        """Enter `connect()` for the first caller with this key, and leave it behind the last one.

        Callers that come while the first is still connecting wait for it. If it fails, the next one tries itself.
        """
        held = self._held.setdefault(key, _Held())
        held.users += 1
        try:
            async with held.lock:
                if held.manager is None:
                    manager = connect()
                    held.value = await manager.__aenter__()
                    held.manager = manager
            yield cast("Shared", held.value)
        finally:
            held.users -= 1
            if held.users == 0:
                self._held.pop(key, None)
                if held.manager is not None:
                    await held.manager.__aexit__(None, None, None)


class _Held:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
        self.manager: AbstractAsyncContextManager[Any] | None = None
        self.value: Any = None
