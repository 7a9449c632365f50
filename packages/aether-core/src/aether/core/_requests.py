"""Request and reply, composed of publish and subscribe, so that every bus has it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import msgspec

from aether.core.encoding import decode_message
from aether.core.errors import Closed, InvalidEvent, NoResponders, OutcomeUnknown, TimedOut, Unavailable
from aether.core.event import Event, new_id
from aether.core.spi import BusDriver, BusFilter, Message

INBOX = "_inbox."
"""Replies travel in namespaces of their own, which no user can name: those start with a letter or digit."""

_REPLY_TO = "replyto"
_ECHO = "aether.echo"


def reply_address(request: Event) -> tuple[str, str]:
    """The inbox's namespace and the request's id, from the request's metadata."""
    address = request.metadata.get(_REPLY_TO, "")
    namespace, slash, request_id = address.partition("/")
    if not (slash and request_id and namespace.startswith(INBOX) and namespace.removeprefix(INBOX).isalnum()):
        raise InvalidEvent(f"metadata.{_REPLY_TO}", "this event does not ask for a reply; answer those of bus.request")
    return namespace, request_id


class Requests:
    """The requests of one bus that wait for their replies, behind one inbox that is opened with the first of them."""

    def __init__(self, driver: BusDriver) -> None:
        self._driver = driver
        self._namespace = INBOX + new_id().replace("-", "")
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self._lock = asyncio.Lock()
        self._inbox: AbstractAsyncContextManager[None] | None = None
        self._closed = False
        self._gaps = 0

    async def ask(self, event: Event, encode: Callable[[Event], Message], timeout: float) -> Event:
        """Publish the event with a return address and wait for the first reply."""
        request_id = new_id()
        metadata = {**event.metadata, _REPLY_TO: f"{self._namespace}/{request_id}"}
        message = encode(msgspec.structs.replace(event, metadata=metadata))
        answer = self._waiting[request_id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._open_inbox()
                if await self._driver.publish(message, count=True) == 0:
                    raise NoResponders(event.type, event.actor_id)
                return decode_message(await answer)
        except TimeoutError:
            raise TimedOut(f"request {event.type!r} of {event.actor_id!r}", timeout=timeout) from None
        finally:
            del self._waiting[request_id]
            if answer.done() and not answer.cancelled():
                answer.exception()  # or asyncio reports it as never looked at, where publishing failed meanwhile

    async def confirm(self, publish: Callable[[], Awaitable[None]], timeout: float) -> None:
        """Publish, then wait for an echo that was sent behind it: messages of one publisher stay in order.

        Raises `OutcomeUnknown` when no echo came, or when the connection was lost in between: the echo may have
        travelled over another one.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._open_inbox()
        except TimeoutError:
            raise Unavailable("publish", reason=f"no inbox within {timeout:g} s") from None
        before = self._gaps
        await publish()
        echo = new_id()
        answer = self._waiting[echo] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._driver.publish(Message(self._namespace, _ECHO, echo, b"{}"))
                await answer
        except (TimeoutError, Unavailable) as error:
            raise OutcomeUnknown("publish", reason=str(error) or f"no echo within {timeout:g} s") from error
        finally:
            del self._waiting[echo]
        if self._gaps != before:
            raise OutcomeUnknown("publish", reason="the connection was lost and came back meanwhile")

    async def _open_inbox(self) -> None:
        async with self._lock:
            if self._inbox is None:
                inbox = self._driver.subscribe(BusFilter(self._namespace, None, None), queue=None, sink=self)
                await inbox.__aenter__()
                if self._closed:
                    await inbox.__aexit__(None, None, None)
                    raise Closed("the bus")
                self._inbox = inbox

    async def close(self) -> None:
        """End all waiting requests and the inbox."""
        self._closed = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Closed("the bus"))
        if self._inbox is not None:
            await self._inbox.__aexit__(None, None, None)

    # --- The sink of the inbox ---

    def deliver(self, message: Message) -> None:
        answer = self._waiting.get(message.actor_id)
        if answer is not None and not answer.done():
            answer.set_result(message)

    def interrupted(self) -> None:
        """A reply may be lost: its request times out. So may what was published."""
        self._gaps += 1

    def lost(self, count: int) -> None:
        """A reply is lost: its request times out."""
        self._gaps += count
