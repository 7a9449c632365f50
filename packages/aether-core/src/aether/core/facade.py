"""What the three facades share: they open and close one driver, and know which state they are in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from aether.core.errors import Closed
from aether.core.names import check_namespace
from aether.core.scope import DEFAULT_TIMEOUT

# A library's warnings go where the application sends them, and nowhere if it has not said where.
logging.getLogger("aether").addHandler(logging.NullHandler())


class Openable(Protocol):
    """The part that all drivers have in common."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...


class Leavable(Protocol):
    """What a facade has to end before it closes its driver."""

    async def _leave(self) -> None: ...


async def leave_all(subscriptions: Iterable[Leavable]) -> None:
    """End all of them at once, and each of them, whatever goes wrong with another."""
    await asyncio.gather(*(subscription._leave() for subscription in list(subscriptions)), return_exceptions=True)


DriverT = TypeVar("DriverT", bound=Openable)


class Facade(Generic[DriverT]):
    """Holds a driver. Use it with `async with`, or call `open()` and `close()`."""

    kind = "facade"

    def __init__(
        self, driver: DriverT, *, namespace: str, backend: str = "backend", timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        self.namespace = check_namespace(namespace)
        self.backend = backend
        if not timeout > 0:
            raise ValueError(f"timeout is a number of seconds above 0, not {timeout!r}")
        self.timeout = timeout
        self._driver = driver
        self._state = "new"
        self._closing: asyncio.Task[None] | None = None

    async def open(self) -> Self:
        """Connect; `async with` does it for you. Whatever fails, nothing is left behind."""
        if self._state != "new":
            raise Closed(str(self)) if self._state == "closed" else RuntimeError(f"{self} is open already")
        self._state = "opening"
        try:
            await self._driver.open()
            await self._opened()
            if self._state == "closed":  # close() was called meanwhile
                raise Closed(str(self))
        except BaseException:
            self._state = "closed"
            await self._driver.close()
            raise
        self._state = "open"
        return self

    async def close(self) -> None:
        """Release everything. May be called twice, and while calls are waiting: those raise `Closed`.

        While `open()` is under way it only makes that end with `Closed`.
        """
        if self._state in ("new", "opening"):
            self._state = "closed"
        if self._state == "open":
            self._state = "closed"
            # A task of its own: cancelling one caller of close() must not leave the driver half closed.
            self._closing = asyncio.create_task(self._shut())
        if self._closing is not None:
            await asyncio.shield(self._closing)

    @property
    def opened(self) -> bool:
        """Whether it is open now."""
        return self._state == "open"

    async def _opened(self) -> None:
        """Check what was asked for, when the driver knows what it has."""

    async def _closed(self) -> None:
        """End what the facade itself has running, before the driver is closed."""

    async def _shut(self) -> None:
        try:
            await self._closed()
        finally:
            await self._driver.close()

    def _live(self) -> DriverT:
        if self._state != "open":
            raise Closed(str(self), never_opened=self._state in ("new", "opening"))
        return self._driver

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace!r} on {self.backend}"

    def __repr__(self) -> str:
        return f"<{self} ({self._state})>"
