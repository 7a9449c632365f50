"""Drivers that hand every call to another one: the base of lost answers, damaged records and broken backends."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from aether.core.features import Durability, Feature, Limits
from aether.core.spi import (
    BusDriver,
    BusFilter,
    Entry,
    LeaseRegister,
    Message,
    Page,
    Sink,
    Slot,
    Stored,
    StoreDriver,
    Tail,
    Watch,
    Write,
)


class StoreWrapper:
    """A `StoreDriver` that is another one, until a method is overridden."""

    def __init__(self, inner: StoreDriver) -> None:
        self.inner = inner

    @property
    def features(self) -> frozenset[Feature]:
        return self.inner.features

    @property
    def limits(self) -> Limits:
        return self.inner.limits

    @property
    def durability(self) -> Durability:
        return self.inner.durability

    @property
    def identity(self) -> str:
        return self.inner.identity

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        return await self.inner.append(writes, transaction=transaction)

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        return await self.inner.read(actor_id, after=after, upto=upto, limit=limit, reverse=reverse)

    async def version(self, actor_id: str) -> int:
        return await self.inner.version(actor_id)

    async def head(self) -> Stored | None:
        return await self.inner.head()

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        return await self.inner.feed(after=after, upto=upto, limit=limit)

    def tail(self, *, after: int) -> AbstractAsyncContextManager[Tail]:
        return self.inner.tail(after=after)

    async def load(self, kind: str, name: str) -> Slot | None:
        return await self.inner.load(kind, name)

    async def save(
        self, kind: str, name: str, value: bytes, *, expected: int, transaction: object | None = None
    ) -> int:
        return await self.inner.save(kind, name, value, expected=expected, transaction=transaction)


class TailWrapper:
    """A `Tail` that is another one."""

    def __init__(self, inner: Tail) -> None:
        self.inner = inner

    async def page(self, limit: int) -> Sequence[Stored]:
        return await self.inner.page(limit)


class BusWrapper:
    """A `BusDriver` that is another one."""

    def __init__(self, inner: BusDriver) -> None:
        self.inner = inner

    @property
    def features(self) -> frozenset[Feature]:
        return self.inner.features

    @property
    def max_message_bytes(self) -> int:
        return self.inner.max_message_bytes

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        return await self.inner.publish(message, count=count)

    def subscribe(self, wanted: BusFilter, *, queue: str | None, sink: Sink) -> AbstractAsyncContextManager[None]:
        return self.inner.subscribe(wanted, queue=queue, sink=sink)


class RegisterWrapper:
    """A `LeaseRegister` that is another one."""

    def __init__(self, inner: LeaseRegister) -> None:
        self.inner = inner

    @property
    def push(self) -> bool:
        return self.inner.push

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def read(self, name: str) -> Entry | None:
        return await self.inner.read(name)

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        return await self.inner.cas(name, value, expected=expected)

    async def scan(self, prefix: str) -> Sequence[Entry]:
        return await self.inner.scan(prefix)

    def watch(self, prefix: str) -> AbstractAsyncContextManager[Watch]:
        return self.inner.watch(prefix)
