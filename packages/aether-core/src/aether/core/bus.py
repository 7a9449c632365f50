"""The bus that users hold: live, at most once, between namespaces that do not see each other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Literal, Self

import msgspec

from aether.core._requests import INBOX, Requests, reply_address
from aether.core.encoding import decode_message, encode_event
from aether.core.errors import Closed, FeatureMissing, PayloadTooLarge, SlowConsumer
from aether.core.event import Event
from aether.core.facade import Facade, leave_all
from aether.core.features import Feature
from aether.core.filters import EventFilter, check_count
from aether.core.names import check_name, check_namespace_pattern, namespace_matches
from aether.core.scope import DEFAULT_TIMEOUT
from aether.core.spi import BusDriver, BusFilter, Message

Overflow = Literal["raise", "drop_oldest"]


class BusSubscription:
    """An endless iterator over the events that are published while it is entered."""

    def __init__(
        self, bus: EventBus, namespaces: str, wanted: EventFilter, queue: str | None, buffer: int, overflow: Overflow
    ) -> None:
        self._bus = bus
        self._namespaces = namespaces
        self._wanted = wanted
        self._queue = queue
        self._buffer = buffer
        self._overflow = overflow
        self._waiting: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._unreported = 0
        self._manager: AbstractAsyncContextManager[None] | None = None
        self._left = False
        self.dropped = 0
        """How many events were dropped in all, because the consumer was too slow."""

        self.interrupted = 0
        """How often the connection was lost and came back; events published in between are missing."""

    async def __aenter__(self) -> Self:
        if self._manager is not None:
            raise RuntimeError("a subscription is entered once; call subscribe() again")
        wanted = BusFilter(self._namespaces, self._wanted.types, self._wanted.actors)
        manager = self._bus._live().subscribe(wanted, queue=self._queue, sink=_Sink(self))
        await manager.__aenter__()
        self._manager = manager
        self._bus._subscriptions.add(self)
        if not self._bus.opened:  # closed meanwhile, without seeing this one
            await self._leave()
            raise Closed("the subscription")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        if self._left:
            return
        self._left = True
        self._arrived.set()
        self._bus._subscriptions.discard(self)
        if self._manager is not None:
            await self._manager.__aexit__(None, None, None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            if self._left or self._manager is None:
                raise Closed("the subscription", never_opened=not self._left)
            if self._waiting:
                return decode_message(self._waiting.popleft())
            if self._unreported:
                dropped, self._unreported = self._unreported, 0
                raise SlowConsumer(dropped=dropped, buffer=self._buffer)
            self._arrived.clear()
            await self._arrived.wait()

    def _receive(self, message: Message) -> None:
        if self._left or not self._wants(message):
            return
        if self._overflow == "raise":
            # From the first loss to its report nothing is accepted, so the gap has one place: behind what waits.
            if self._unreported or len(self._waiting) >= self._buffer:
                self._lose(1)
                return
        elif len(self._waiting) >= self._buffer:
            self._waiting.popleft()
            self._lose(1)
        self._waiting.append(message)
        self._arrived.set()

    def _wants(self, message: Message) -> bool:
        return (
            not message.namespace.startswith(INBOX)
            and namespace_matches(self._namespaces, message.namespace)
            and self._wanted.wants_type(message.type)
            and self._wanted.wants_actor(message.actor_id)
        )

    def _lose(self, count: int) -> None:
        self.dropped += count
        if self._overflow == "raise":
            self._unreported += count
        self._arrived.set()


class _Sink:
    """What the driver sees of a subscription. Whatever goes wrong here is not the driver's problem."""

    def __init__(self, subscription: BusSubscription) -> None:
        self._subscription = subscription

    def deliver(self, message: Message) -> None:
        self._subscription._receive(message)

    def interrupted(self) -> None:
        self._subscription.interrupted += 1

    def lost(self, count: int) -> None:
        self._subscription._lose(count)


class EventBus(Facade[BusDriver]):
    """The bus of one namespace: fast and forgetful. What must not be lost is read with `store.subscribe`."""

    kind = "bus"

    def __init__(
        self,
        driver: BusDriver,
        *,
        namespace: str,
        backend: str = "backend",
        timeout: float = DEFAULT_TIMEOUT,
        require: Iterable[Feature] = (),
    ) -> None:
        super().__init__(driver, namespace=namespace, backend=backend, timeout=timeout)
        self._require = frozenset(require)
        self._subscriptions: set[BusSubscription] = set()
        self._requests = Requests(driver)

    async def _opened(self) -> None:
        if missing := self._require - self._driver.features:
            raise FeatureMissing(self.backend, missing, hint="the server that it is connected to cannot do it")

    async def _closed(self) -> None:
        await leave_all(self._subscriptions)
        await self._requests.close()

    @property
    def features(self) -> frozenset[Feature]:
        """The optional promises that this bus keeps."""
        return self._live().features

    async def publish(self, *events: Event, confirm: bool = False) -> None:
        """Hand the events to everybody who is subscribed now, in this order; wait for nobody.

        With `confirm` it returns when the backend has them all, and raises `OutcomeUnknown` when that cannot be known,
        within about `timeout` seconds: without, those that were just sent are lost when this process or its connection
        dies.

        Raises `InvalidEvent`, `InvalidName` or `PayloadTooLarge` before any of them is sent, and `Unavailable` when
        the connection is gone: the event at fault and those behind it were not sent. `OutcomeUnknown` says the same,
        except that the event at fault may have been.
        """
        driver = self._live()
        messages = [self._message(event) for event in events]

        async def publish() -> None:
            for message in messages:
                await driver.publish(message)

        await (self._requests.confirm(publish, self.timeout) if confirm else publish())

    def subscribe(
        self,
        *,
        types: Iterable[str] | None = None,
        actors: str | None = None,
        queue: str | None = None,
        namespaces: str | None = None,
        buffer: int = 1024,
        overflow: Overflow = "raise",
    ) -> BusSubscription:
        """Receive what is published after the context was entered.

            async with bus.subscribe(types={"OrderPlaced"}, actors="order-*") as events:
                async for event in events: ...

        `types` is an OR over names, `actors` a pattern in which `*` is any run of characters. Subscribers that name
        the same `queue` share the events; they should name the same `actors`. `namespaces` looks across: `shop.*` for
        one token, `shop.>` for the rest.
        A subscriber that is more than `buffer` events behind never blocks a publisher: its iterator raises
        `SlowConsumer` and goes on with newer events, or with `overflow="drop_oldest"` counts them in `dropped`.
        """
        self._live()
        check_count("buffer", buffer)
        if buffer < 1:
            raise ValueError("buffer is at least 1")
        if overflow not in ("raise", "drop_oldest"):
            raise ValueError(f"overflow is 'raise' or 'drop_oldest', not {overflow!r:.80}")
        if queue is not None:
            check_name("queue", queue)
        pattern = self.namespace if namespaces is None else check_namespace_pattern(namespaces)
        return BusSubscription(self, pattern, EventFilter(types=types, actors=actors), queue, buffer, overflow)

    async def request(self, event: Event, *, timeout: float | None = None) -> Event:
        """Publish an event and return the first reply to it.

        The reply is the event that a subscriber gives to `reply`. Subscribers see the request with the key `replyto`
        in its metadata. `timeout` is in seconds, the bus's own by default.
        Raises `TimedOut`, or `NoResponders` at once where the backend knows that nobody is subscribed.
        """
        self._live()
        seconds = self.timeout if timeout is None else timeout
        if not seconds > 0:
            raise ValueError(f"timeout is a number of seconds above 0, not {seconds!r}")
        return await self._requests.ask(event, self._message, seconds)

    async def reply(self, request: Event, answer: Event) -> None:
        """Answer a request that a subscription delivered. Nobody but the one who asked sees it.

        Raises `InvalidEvent` if `request` was published without asking for a reply.
        """
        driver = self._live()
        namespace, request_id = reply_address(request)
        message = self._message(answer)
        await driver.publish(msgspec.structs.replace(message, namespace=namespace, actor_id=request_id))

    def _message(self, event: Event) -> Message:
        data = encode_event(event)
        limit = self._driver.max_message_bytes
        if len(data) > limit:
            raise PayloadTooLarge(f"event {event.type!r} of {event.actor_id!r}", size=len(data), limit=limit)
        return Message(self.namespace, event.type, event.actor_id, data)
