"""One connection to NATS, shared by the store, the bus and the election of one URL.

It adds to nats-py what they need: requests over one inbox that end at once when the connection is lost, handlers that
are called in the server's order and never dropped, and errors that say whether something was sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from itertools import count
from typing import Any, Self, TypeVar

import nats.errors
from aether.core.errors import Closed, PayloadTooLarge, Unavailable
from aether.core.scope import DEFAULT_TIMEOUT, Scope
from aether.core.url import BackendURL
from aether.nats.client import START_HINT, Client, Handler, abort, as_future, cancellation_kept, connect, plain
from aether.nats.options import connect_options, needs_tls
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

_log = logging.getLogger("aether.nats")

_LARGE_READS = 8  # of 4 MiB: half of what a server lets wait for a client before it cuts it off
_CLOSE_SECONDS = 1.0
_WATCH_SECONDS = 0.1  # how often a client that is not ours is looked at
_HIGH_WATER = 1 << 20  # bytes that may wait for the socket before publishers wait
_DRAIN_SECONDS = 0.001
Result = TypeVar("Result")

_ECHO = ""  # the subject of a message to oneself


class NoReply(Exception):
    """A request was sent, or may have been sent, and no answer will come. It may have been carried out."""


class ApiError(Exception):
    """JetStream answered a request with an error: definite, nothing was changed."""

    def __init__(self, code: int, err_code: int, description: str) -> None:
        self.code = code
        self.err_code = err_code
        self.description = description
        super().__init__(f"{description} ({code}, {err_code})")


class Connection:
    """A NATS client with one inbox. Use it with `async with`, or call `open()` and `close()`.

    Publishing never suspends in the middle: a message is handed to the client or it is not, also when cancelled.
    What the client has not written to its socket when the connection is lost, it writes after the reconnect; so every
    write that goes through here carries an expectation which makes a late one harmless.
    """

    def __init__(
        self, client: NatsClient, *, what: str, timeout: float, options: Mapping[str, Any] | None, synced: bool = False
    ) -> None:
        self.client = client
        self.synced = synced
        """Whether the server is known to sync every write to the disk before it answers. Servers do not tell."""

        self.large_reads = asyncio.Semaphore(_LARGE_READS)
        """Held while an answer of many messages is under way."""

        self._what = what
        self._timeout = timeout
        self._options = options  # None: the client is somebody else's, connected, and stays open
        self._inbox = ""
        self._closed = False
        self._tokens = count(1)
        self._handlers: dict[str, Handler] = {}
        self._waiting: set[asyncio.Future[Msg]] = set()
        self._when_lost: dict[object, Callable[[], None]] = {}
        self._when_back: dict[object, Callable[[], None]] = {}
        self._connected = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._subscription: Subscription | None = None

    @classmethod
    def from_client(cls, client: NatsClient, *, timeout: float = DEFAULT_TIMEOUT) -> Self:
        """Use a client of your own, which must be connected. It is not closed, and its callbacks stay yours.

        A lost connection is noticed within 0.1 s, so requests that were under way end that much later.
        """
        return cls(client, what="nats", timeout=timeout, options=None)

    # --- Life ---

    async def open(self) -> None:
        """Connect, each server tried once, within the time-out. Raises `Unavailable` with the reason."""
        try:
            async with asyncio.timeout(self._timeout):
                if self._options is not None:
                    await connect(
                        self.client,
                        self._options,
                        what=self._what,
                        timeout=self._timeout,
                        disconnected=self._on_lost,
                        reconnected=self._on_back,
                    )
                elif not self.client.is_connected:
                    raise Unavailable(self._what, reason="the client is not connected", hint="connect it first")
                else:
                    self._watcher = asyncio.create_task(self._watch())
                self._connected.set()
                self._inbox = self.client.new_inbox() + "."
                self._subscription = await self._listen(self._inbox + "*", self._route)
        except BaseException as error:
            if self._options is not None:
                abort(self.client)
            await self.close()
            if not isinstance(error, TimeoutError):
                raise
            reason = f"no server answers within {self._timeout:g} s"
            raise Unavailable(self._what, reason=reason, hint=START_HINT) from None

    async def close(self) -> None:
        """Release everything; requests that wait end with `NoReply`. May be called twice, also without a server."""
        if self._closed:
            return
        self._closed = True
        self._end_waits("the connection was closed")
        if self._options is None:
            await self._leave()
            return
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                with cancellation_kept():
                    await self.client.close()
        except (TimeoutError, OSError, AssertionError, nats.errors.Error) as error:  # AssertionError: never connected
            _log.debug("%s: closed without its server: %r", self._what, error)
        finally:
            abort(self.client)

    async def _leave(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        if self._subscription is not None:
            with suppress(Unavailable):
                await self._unlisten(self._subscription)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- What the client tells ---

    async def _on_lost(self) -> None:
        self._lost()

    async def _on_back(self) -> None:
        self._back()

    async def _watch(self) -> None:
        """Find out what somebody else's client tells only its owner."""
        seen = self.generation
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if (not self.client.is_connected or self.generation != seen) and self._connected.is_set():
                self._lost()
            if self.client.is_connected and not self._connected.is_set():
                seen = self.generation
                self._back()

    def _lost(self) -> None:
        if self.closed:
            return
        _log.warning("%s: the connection is lost, trying to reconnect", self._what)
        self._connected.clear()
        self._end_waits("the connection was lost")

    def _back(self) -> None:
        _log.info("%s: connected again", self._what)
        self._connected.set()
        for callback in list(self._when_back.values()):
            callback()

    def _end_waits(self, reason: str) -> None:
        for future in list(self._waiting):
            _fail(future, reason)
        for callback in list(self._when_lost.values()):
            callback()

    # --- What others ask ---

    @property
    def closed(self) -> bool:
        """Whether it is closed for good."""
        return self._closed or self.client.is_closed

    @property
    def generation(self) -> int:
        """How often it was reconnected. Another number means: it may be another server, or another store."""
        # nats-py counts in the same step in which it becomes connected, so no request can go out before.
        return self.client.stats["reconnects"]

    @property
    def server_info(self) -> Mapping[str, Any]:
        """The INFO of the server that it is connected to."""
        return self.client._server_info

    @property
    def version(self) -> tuple[int, ...]:
        """The server's version, as in `(2, 12, 1)`."""
        numbers = str(self.server_info.get("version", "0")).partition("-")[0].split(".")
        return tuple(int(number) for number in numbers if number.isdecimal())

    @property
    def max_payload(self) -> int:
        """The most bytes that one message may have, headers included."""
        return self.client.max_payload

    def on_disconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call it whenever the connection is lost or closed; the returned function ends that."""
        return _register(self._when_lost, callback)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call it whenever the connection is back and every subscription in force; the returned function ends that."""
        return _register(self._when_back, callback)

    async def wait_connected(self, timeout: float | None = None) -> None:
        """Wait until it is connected. Raises `Unavailable` at the time-out."""
        try:
            async with asyncio.timeout(timeout):
                await self._connected.wait()
        except TimeoutError:
            raise self._unavailable(f"not connected within {timeout:.3g} s") from None

    def beside(self, server: str, *, timeout: float) -> Connection | None:
        """Another connection like this one, to one server of its cluster; None if the client is somebody else's."""
        if self._options is None:
            return None
        options = {**self._options, "servers": [server]}
        here = self.client.connected_url
        if "tls" in options and here is not None:
            options.setdefault("tls_hostname", here.hostname)  # servers announce addresses; certificates hold names
        return Connection(Client(tls="tls" in options), what=server, timeout=timeout, options=options)

    # --- Messages ---

    async def publish(
        self, subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Hand a message to the client. Raises `Unavailable` if it was not and will not be sent."""
        self._check_connected()
        if self.client.pending_data_size > _HIGH_WATER:
            await self._drained()
        size = len(payload) + (sum(len(key) + len(value) + 4 for key, value in headers.items()) + 12 if headers else 0)
        if size > self.max_payload:  # nats-py leaves the headers out, and the server ends the connection
            raise PayloadTooLarge("the message", size=size, limit=self.max_payload)
        try:
            await self._hand_over(self.client.publish(subject, payload, reply, dict(headers) if headers else None))
        except nats.errors.Error as error:
            raise self._unavailable(plain(error)) from error

    async def request(
        self, subject: str, payload: bytes, *, headers: Mapping[str, str] | None = None, timeout: float
    ) -> Msg:
        """Send a message and return the first answer, which has the header `Status: 503` when nobody listens.

        Raises `Unavailable` if it was not sent, and `NoReply` if no answer came: at the time-out, or at once when the
        connection is lost.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Msg] = loop.create_future()

        def answered(message: Msg) -> None:
            if not future.done():
                future.set_result(message)

        # As `inbox` does it: a context manager of its own would be a thirtieth of an append.
        token = str(next(self._tokens))
        self._handlers[token] = answered
        inbox = self._inbox + token
        try:
            if subject == _ECHO:
                await self.publish(inbox, payload)
            else:
                await self.publish(subject, payload, reply=inbox, headers=headers)
            self._waiting.add(future)
            timer = loop.call_later(timeout, _late, future, timeout)
            try:
                return await future
            finally:
                timer.cancel()
                self._waiting.discard(future)
        finally:
            del self._handlers[token]

    async def js_api(self, subject: str, payload: Mapping[str, Any] | bytes, *, timeout: float) -> dict[str, Any]:
        """Send a request to JetStream's API and return its answer. Raises `ApiError`, and as `request` does."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        message = await self.request(subject, body, timeout=timeout)
        if (message.headers or {}).get("Status") == "503":
            raise ApiError(503, 0, "JetStream does not answer (503)")
        answer: dict[str, Any] = json.loads(message.data)
        if error := answer.get("error"):
            raise ApiError(error.get("code", 0), error.get("err_code", 0), error.get("description", "unknown error"))
        return answer

    @contextmanager
    def inbox(self, handler: Handler) -> Iterator[str]:
        """A reply subject of its own: `handler` is called for every message to it, at once and in order.

        Nothing bounds how many: ask for as many as you can take.
        """
        token = str(next(self._tokens))
        self._handlers[token] = handler
        try:
            yield self._inbox + token
        finally:
            del self._handlers[token]

    @asynccontextmanager
    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> AsyncIterator[None]:
        """Call `handler` for every message to `subject`, at once, in the order of the server, and without a bound.

        In force when the server has seen it: wait for `barrier()`. It outlives reconnects.
        """
        self._check_connected()
        subscription = await self._listen(subject, handler, queue)
        try:
            yield
        finally:
            await self._unlisten(subscription)

    async def barrier(self) -> None:
        """Wait until the server has processed everything that was handed to the client before.

        A message to the own inbox, because nats-py's `flush` proves nothing: it writes its PING past the commands that
        wait in its buffer, and returns at once while disconnected. Raises `Unavailable` when it does not come back.
        """
        try:
            await self.request(_ECHO, b"", timeout=self._timeout)
        except NoReply as error:
            hint = f"does the user have the permission to publish to {self._inbox}>?"
            raise Unavailable(self._what, reason=str(error), hint=hint) from error

    # --- Parts ---

    def _route(self, message: Msg) -> None:
        handler = self._handlers.get(message.subject.rpartition(".")[2])
        if handler is not None:
            handler(message)

    async def _listen(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        try:
            subscribing = self.client.subscribe(subject, queue, future=as_future(handler))
            return await self._hand_over(subscribing)
        except nats.errors.Error as error:
            raise self._unavailable(plain(error)) from error

    async def _unlisten(self, subscription: Subscription) -> None:
        with suppress(nats.errors.Error):  # closed: the server has forgotten it
            await self._hand_over(subscription.unsubscribe())

    async def _hand_over(self, command: Coroutine[Any, Any, Result]) -> Result:
        """Give the client a command. Ours takes it without suspending; another may wait for its buffer, for ever."""
        if self._options is not None:
            return await command
        try:
            async with asyncio.timeout(self._timeout):
                with cancellation_kept():
                    return await command
        except TimeoutError:
            raise self._unavailable(f"the server takes no data, for {self._timeout:g} s now") from None

    async def _drained(self) -> None:
        """Wait until the client has written what it was given: its `publish` takes messages without end."""
        try:
            async with asyncio.timeout(self._timeout):
                while self.client.pending_data_size > _HIGH_WATER:
                    await asyncio.sleep(_DRAIN_SECONDS)
                    self._check_connected()
        except TimeoutError:
            raise self._unavailable(f"the server takes no data, for {self._timeout:g} s now") from None

    def _check_connected(self) -> None:
        if self.closed:
            raise Closed(f"the connection to {self._what}")
        if not self.client.is_connected:
            raise self._unavailable("not connected; reconnecting all the time")

    def _unavailable(self, reason: str) -> Unavailable:
        return Unavailable(self._what, reason=reason)


def open_connection(url: BackendURL, scope: Scope) -> AbstractAsyncContextManager[Connection]:
    """The connection that all drivers of one opening share; closed behind the last of them."""
    return scope.share("aether.nats", lambda: _connection(url, scope.timeout))


@asynccontextmanager
async def _connection(url: BackendURL, timeout: float) -> AsyncIterator[Connection]:
    async with AsyncExitStack() as stack:
        if url.variant == "embedded":
            from aether.nats.embedded import embedded_options

            options = await stack.enter_async_context(embedded_options(url))
        else:
            options = connect_options(url)
        client = Client(tls=needs_tls(url))
        connection = Connection(
            client, what=str(url), timeout=timeout, options=options, synced=url.variant == "embedded"
        )
        yield await stack.enter_async_context(connection)


def _register(callbacks: dict[object, Callable[[], None]], callback: Callable[[], None]) -> Callable[[], None]:
    key = object()
    callbacks[key] = callback
    return lambda: callbacks.pop(key, None) and None


def _late(future: asyncio.Future[Msg], timeout: float) -> None:
    _fail(future, f"no answer within {timeout:.3g} s")


def _fail(future: asyncio.Future[Msg], reason: str) -> None:
    if not future.done():
        future.set_exception(NoReply(reason))
