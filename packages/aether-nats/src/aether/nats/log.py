"""The stream of a namespace's events: how its commits are written to the server and read from it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

import msgspec

from aether.core.errors import BackendUnusable, OutcomeUnknown, StoreIdentityChanged, Unavailable
from aether.core.event import new_id
from aether.core.names import encode_token
from aether.nats.commits import Commit, decode_commit
from aether.nats.connection import ApiError, Connection, NoReply
from aether.nats.patience import Patience
from aether.nats.streams import check_stream, create_stream, find_stream, stream_name, update_stream
from nats.aio.msg import Msg

BATCH = 8000
"""Messages per read, if their bytes allow it: 161,000 a second against 139,000 with 1,000 (measured)."""

BATCH_BYTES = 4 << 20
_PAUSE = 0.05
_IDENTITY = "aether.identity"
_ATOMIC_BATCH_LEVEL = 2
"""The API level (`api_lvl` of the server's INFO) from which a stream can be told `allow_atomic`: server 2.12.
Older servers take a batch for separate messages and answer success, so trying it out is no way to find out."""

NO_MESSAGE = 10037
"""Not just any 404: a stream that is gone is no empty stream."""

WRONG_SEQUENCE = frozenset({10071, 10164})
"""Replicated streams answer 10164 where another write is in flight, and 10071 otherwise, as single ones always do."""


Answer = TypeVar("Answer")


class Refused(Exception):
    """The server refused a commit because of its expectation. Definite: nothing of it is or will be stored."""


class EventLog:
    """One stream: `aether-<namespace>`, subjects `aether.e.<namespace>.<actor>`."""

    def __init__(self, connection: Connection, namespace: str, *, timeout: float, replicas: int | None) -> None:
        self.connection = connection
        self.timeout = timeout
        self._patience = Patience(connection, timeout=timeout)
        self.attempt = self._patience.attempt
        self.stream = stream_name("aether", namespace)
        self.identity = ""
        self.replicas = 1
        self.atomic = False
        self.highest = 0
        """The highest sequence that the stream has been seen to reach."""

        self._acknowledged = 0
        self._config: dict[str, Any] = {}
        self._wanted_replicas = replicas
        self._prefix = f"aether.e.{namespace.replace('.', '=')}."
        self._generation = -1
        self.subjects = self._prefix + "*"
        self._direct = f"$JS.API.DIRECT.GET.{self.stream}"
        self._leader = f"$JS.API.STREAM.MSG.GET.{self.stream}"

    def subject(self, actor_id: str) -> str:
        """The subject that holds the actor's commits."""
        return self._prefix + encode_token(actor_id)

    # --- Life ---

    async def open(self) -> None:
        """Create the stream if need be, check that it can lose nothing, and read what it is."""
        await self.patiently(self._open)
        if self.replicas > 1:
            await self.last(self.subjects)  # a stream that was just made may have no leader yet
            await self.patiently(self._listens)

    async def ready(self) -> None:
        """After a reconnect, and after any doubt, make sure that it is the same stream on the other side."""
        if self._generation == self.connection.generation:
            return
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.timeout
        while (last := await self.patiently(self._look)) < self.highest:
            # A new leader may not have applied all that it has; a stream that was restored never will.
            if clock() >= deadline:
                reason = f"the stream ended at sequence {self.highest} or later, and now ends at {last}"
                raise StoreIdentityChanged(self.stream, reason)
            await asyncio.sleep(_PAUSE)

    def doubt(self) -> None:
        """Something happened that would if the stream had been replaced: look before it is used again."""
        self._generation = -1

    def note(self, sequence: int) -> None:
        """Remember that the stream has been seen to reach a sequence."""
        self.highest = max(self.highest, sequence)

    async def _open(self, seconds: float) -> None:
        generation = self.connection.generation  # before asking: a reconnect meanwhile is looked at again
        config: dict[str, Any] = {
            "name": self.stream,
            "subjects": [self.subjects],
            "allow_direct": True,
            "metadata": {_IDENTITY: new_id()},
        }
        if int(self.connection.server_info.get("api_lvl") or 0) >= _ATOMIC_BATCH_LEVEL:
            config["allow_atomic"] = True
        found = (await create_stream(self.connection, config, self._wanted_replicas, timeout=seconds))["config"]
        check_stream(found, config)
        identity = _identity(found)
        if identity is None:
            raise BackendUnusable(f"stream {self.stream!r} was not made by Aether; choose another namespace")
        if "allow_atomic" in config and not found.get("allow_atomic"):
            # Made by an older server that was upgraded since.
            upgraded = {**found, "allow_atomic": True}
            found = (await update_stream(self.connection, upgraded, timeout=seconds))["config"]
        self._config = config
        self.identity = identity
        self._take_over(found, generation)

    async def _listens(self, seconds: float) -> None:
        """Make sure that the client's server knows who takes commits, by one that every stream refuses.

        Servers of a cluster hear of a new stream's subjects later than of its leader.
        """
        headers = {"Nats-Expected-Stream": "none"}
        reply = await self.connection.request(f"{self._prefix}_", b"", headers=headers, timeout=seconds)
        if not reply.data:
            raise self.unreadable("no stream takes its subjects")

    async def _look(self, seconds: float) -> int:
        """Check that it is the stream that was opened, and return its last sequence. Never makes a new one."""
        generation = self.connection.generation
        answer = await find_stream(self.connection, self.stream, timeout=seconds)
        if answer is None:
            raise StoreIdentityChanged(self.stream, f"the stream {self.identity} is gone")
        found = answer["config"]
        if _identity(found) != self.identity:
            raise StoreIdentityChanged(self.stream, f"the stream was {self.identity} and is {_identity(found)}")
        check_stream(found, self._config)
        last: int = answer["state"]["last_seq"]
        if last >= self.highest:
            self._take_over(found, generation)
        return last

    def _take_over(self, found: Mapping[str, Any], generation: int) -> None:
        self.replicas = found.get("num_replicas", 1)
        self.atomic = found.get("allow_atomic", False)
        self._generation = generation

    # --- Writing ---

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str], what: str) -> int:
        """Store one message and return its sequence, or that of the last of the batch that it commits.

        Raises `Refused` if the expectation does not hold, `Unavailable` if nothing was stored for another reason,
        and `OutcomeUnknown` if no answer came.
        """
        try:
            reply = await self.connection.request(subject, body, headers=headers, timeout=self.attempt)
        except NoReply as error:
            raise OutcomeUnknown(what, reason=str(error)) from error
        ack = _decode_ack(reply.data) if reply.data else _Ack()
        if ack.error is None and ack.seq > 0:
            if ack.seq < self._acknowledged:
                self.doubt()  # sequences never go back
            self._acknowledged = max(self._acknowledged, ack.seq)
            self.note(ack.seq)
            return ack.seq
        if ack.error is not None and ack.error.err_code in WRONG_SEQUENCE:
            raise Refused
        self.doubt()
        reason = f"the server refused it: {ack.error.description}" if ack.error else "no stream takes its subject"
        raise Unavailable(what, reason=reason)

    # --- Reading ---

    async def last(self, subject: str) -> Commit | None:
        """The last commit on a subject (or on all, with a wildcard), as the stream's leader has it."""
        if self.replicas == 1:
            return self._noted(await self._get({"last_by_subj": subject}))
        # Direct gets are answered by any replica: 6 to 18 of 600 were stale right after an append (measured).
        try:
            reply = await self.patiently(
                lambda seconds: self.connection.js_api(self._leader, {"last_by_subj": subject}, timeout=seconds)
            )
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise self.unreadable(error.description) from error
        message = reply["message"]
        return self._noted(decode_commit(base64.b64decode(message.get("data", "")), message["seq"]))

    def _noted(self, commit: Commit | None) -> Commit | None:
        if commit is not None:
            self.note(commit.sequence)
        return commit

    async def at_or_after(self, subject: str, sequence: int) -> Commit | None:
        """The first commit on a subject from a sequence on."""
        return await self._get({"seq": sequence, "next_by_subj": subject})

    async def _get(self, request: Mapping[str, Any]) -> Commit | None:
        payload = msgspec.json.encode(request)
        reply = await self.patiently(lambda seconds: self.connection.request(self._direct, payload, timeout=seconds))
        headers = reply.headers or {}
        status = headers.get("Status")
        if status == "404":
            return None
        if status is not None:
            raise self.unreadable(_status(headers))
        return decode_commit(reply.data, int(headers["Nats-Sequence"]))

    async def patiently(self, ask: Callable[[float], Awaitable[Answer]]) -> Answer:
        """A read, asked again while no answer comes."""
        return await self._patience(f"read of stream {self.stream!r}", ask)

    def unreadable(self, reason: str) -> Unavailable:
        """The error of a read that got no answer."""
        return Unavailable(f"read of stream {self.stream!r}", reason=reason)

    def batch(
        self, sequence: int, *, subject: str | None = None, messages: int = BATCH, size: int = BATCH_BYTES
    ) -> Batch:
        """Ask for up to `messages` bodies from a sequence on. Any replica answers, and it may be behind."""
        request: dict[str, Any] = {"seq": sequence, "batch": messages, "max_bytes": size, "no_hdr": True}
        if subject is not None:
            request["next_by_subj"] = subject
        return Batch(self, self._direct, msgspec.json.encode(request))


class Batch:
    """A request that many messages answer: it is sent on entering, so that another can go beside it.

    Without headers, because parsing them costs half of the time (measured).
    """

    def __init__(self, log: EventLog, subject: str, payload: bytes) -> None:
        self._log = log
        self._subject = subject
        self._payload = payload
        self._bodies: list[bytes] = []
        self.ended = False
        """Whether the server said that this is the end of it, as those do that know of batches."""

        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._stack = ExitStack()

    async def __aenter__(self) -> Batch:
        connection = self._log.connection
        await connection.large_reads.acquire()
        with ExitStack() as stack:
            stack.callback(connection.large_reads.release)
            inbox = stack.enter_context(connection.inbox(self._take))
            stack.callback(connection.on_disconnect(lambda: self._fail("the connection was lost")))
            await connection.publish(self._subject, self._payload, reply=inbox)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stack.close()
        self._end.cancel()

    async def result(self) -> tuple[list[bytes], int]:
        """The bodies, and the sequence of the last of them, 0 if there is none. Gives up when nothing arrives."""
        seen = -1
        while not self._end.done():
            if len(self._bodies) == seen:
                raise self._log.unreadable(f"no answer within {self._log.attempt:g} s")
            seen = len(self._bodies)
            await asyncio.wait([self._end], timeout=self._log.attempt)
        last = self._end.result()
        return self._bodies, last if self._bodies else 0

    def _take(self, message: Msg) -> None:
        headers = message.headers
        if headers is None:
            self._bodies.append(message.data)
            return
        if self._end.done():
            return
        status = headers.get("Status")
        if status is None:
            # A server that knows no `no_hdr` (2.11); or no batches either (2.10), which answers with one message.
            self._bodies.append(message.data)
            if "Nats-Num-Pending" not in headers:
                self._end.set_result(int(headers["Nats-Sequence"]))
        elif status == "204":
            self.ended = True
            self._end.set_result(int(headers["Nats-Last-Sequence"]))
        elif status == "404":
            self._end.set_result(0)
        else:
            self._fail(_status(headers))

    def _fail(self, reason: str) -> None:
        if not self._end.done():
            self._end.set_exception(self._log.unreadable(reason))
            self._end.exception()  # seen: nobody may be waiting for it yet


class _AckError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    seq: int = 0
    error: _AckError | None = None


_decode_ack = msgspec.json.Decoder(_Ack).decode


def _identity(config: Mapping[str, Any]) -> str | None:
    return (config.get("metadata") or {}).get(_IDENTITY)


def _status(headers: Mapping[str, str]) -> str:
    status = headers.get("Status", "?")
    if status == "503":
        return "the stream does not answer (503): it was deleted, or has no leader now"
    return f"the server answered {status} {headers.get('Description', '')}".strip()
