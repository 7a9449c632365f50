"""The stream of a namespace's small values: leases, snapshots and checkpoints, the last value of each.

A value's revision is its stream sequence, so it rises with every change and is never used again, also after a restart.
Everything is read from the stream's leader: there are no direct gets on this stream.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any, NamedTuple

import msgspec

from aether.core.errors import OutcomeUnknown, Unavailable
from aether.core.names import encode_token
from aether.core.spi import RevisionConflict
from aether.nats.connection import ApiError, Connection, NoReply
from aether.nats.log import NO_MESSAGE, WRONG_SEQUENCE
from aether.nats.patience import Patience
from aether.nats.streams import check_stream, create_stream, stream_name

_KIND = "aether_state"  # with `aether-state` the stream of `shop` would be that of the events of `state-shop`


class Value(NamedTuple):
    """A value and its revision."""

    revision: int
    data: bytes


class State:
    """One stream: `aether_state-<namespace>`, subjects `aether.s.<namespace>.<kind>.<name>`."""

    def __init__(self, connection: Connection, namespace: str, *, timeout: float, replicas: int | None) -> None:
        self.connection = connection
        self.timeout = timeout
        self._patience = Patience(connection, timeout=timeout)
        self.stream = stream_name(_KIND, namespace)
        self._prefix = f"aether.s.{namespace.replace('.', '=')}."
        self._republished = f"aether.r.{namespace.replace('.', '=')}."
        self._replicas = replicas
        self._opened = False
        self._opening = asyncio.Lock()
        self._get = f"$JS.API.STREAM.MSG.GET.{self.stream}"

    def subject(self, kind: str, name: str) -> str:
        """The subject of a value."""
        return f"{self._prefix}{kind}.{encode_token(name)}"

    def subjects(self, kind: str) -> str:
        """All subjects of a kind."""
        return f"{self._prefix}{kind}.*"

    def republished(self, kind: str) -> str:
        """Where the server sends every value of a kind as soon as it is stored, its revision in `Nats-Sequence`."""
        return f"{self._republished}{kind}.*"

    async def open(self) -> None:
        """Create the stream if need be, and check that it can lose nothing but replaced values."""
        config: dict[str, Any] = {
            "name": self.stream,
            "subjects": [self._prefix + ">"],
            "max_msgs_per_subject": 1,
            "allow_direct": False,
            "republish": {"src": self._prefix + ">", "dest": self._republished + ">"},
        }

        async def create(seconds: float) -> dict[str, Any]:
            return await create_stream(self.connection, config, self._replicas, timeout=seconds)

        found = (await self._patience(f"stream {self.stream!r}", create))["config"]
        check_stream(found, config)
        if found.get("num_replicas", 1) > 1:
            await self.read(self._prefix + ">")  # a stream that was just made may have no leader yet
        self._opened = True

    async def ready(self) -> None:
        """`open`, the first time."""
        if not self._opened:
            async with self._opening:  # a cluster that makes a stream leaves others who ask for it without an answer
                if not self._opened:
                    await self.open()

    async def read(self, subject: str) -> Value | None:
        """The value as the leader has it."""
        return await self._patience(f"read of stream {self.stream!r}", lambda seconds: self._read(subject, seconds))

    async def _read(self, subject: str, seconds: float) -> Value | None:
        try:
            reply = await self.connection.js_api(self._get, {"last_by_subj": subject}, timeout=seconds)
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise Unavailable(f"read of stream {self.stream!r}", reason=error.description) from error
        message = reply["message"]
        return Value(message["seq"], base64.b64decode(message.get("data", "")))

    async def put(self, subject: str, data: bytes, *, expected: int) -> int:
        """`cas`, tried again while certainly nothing was stored. Not for leases, whose holders count the seconds."""
        return await self._patience(
            f"write to stream {self.stream!r}",
            lambda seconds: self.cas(subject, data, expected=expected, timeout=seconds),
        )

    async def cas(self, subject: str, data: bytes, *, expected: int, timeout: float | None = None) -> int:
        """Replace the value if its revision is `expected`, and return the new one.

        Raises `RevisionConflict`, which is definite, `Unavailable` when certainly nothing was stored, and
        `OutcomeUnknown` for everything else. Tries once.
        """
        headers = {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        what = f"write to stream {self.stream!r}"
        try:
            seconds = self.timeout if timeout is None else timeout
            reply = await self.connection.request(subject, data, headers=headers, timeout=seconds)
        except NoReply as error:
            raise OutcomeUnknown(what, reason=str(error)) from error
        if not reply.data:
            raise Unavailable(what, reason="no stream takes its subject: it was deleted, or has no leader now")
        ack = msgspec.json.decode(reply.data)
        if refusal := ack.get("error"):
            if refusal.get("err_code") in WRONG_SEQUENCE:
                raise RevisionConflict(subject)
            raise Unavailable(what, reason=f"the server refused it: {refusal.get('description', '')}")
        return int(ack["seq"])

    async def tokens(self, kind: str) -> list[str]:
        """The encoded names of all values of a kind."""
        found: list[str] = []
        prefix = len(self.subjects(kind)) - 1
        while True:
            request = {"subjects_filter": self.subjects(kind), "offset": len(found)}
            reply = await self._info(request)
            subjects = reply["state"].get("subjects") or {}
            found.extend(subject[prefix:] for subject in subjects)
            if not subjects or len(found) >= reply.get("total", 0):
                return found

    async def _info(self, request: dict[str, Any]) -> dict[str, Any]:
        async def ask(seconds: float) -> dict[str, Any]:
            try:
                return await self.connection.js_api(f"$JS.API.STREAM.INFO.{self.stream}", request, timeout=seconds)
            except ApiError as error:
                raise Unavailable(f"list of stream {self.stream!r}", reason=error.description) from error

        return await self._patience(f"list of stream {self.stream!r}", ask)
