"""How servers of different ages answer a batched read. The replies are recorded from the versions that are named."""

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest
from nats.aio.msg import Msg

from aether.core import Unavailable
from aether.nats.log import Batch, EventLog
from aether.nats.streams import stream_name

DATA = {"Nats-Stream": "T", "Nats-Subject": "e.t.a", "Nats-Time-Stamp": "2026-11-23T21:58:43.7Z"}
END = {"Status": "204", "Description": "EOB", "Nats-Num-Pending": "0"}

REPLIES: dict[str, list[tuple[dict[str, str] | None, bytes]]] = {
    "2.15.1": [(None, b"one"), (None, b"two"), ({**END, "Nats-Last-Sequence": "3"}, b"")],
    "2.11.11": [
        ({**DATA, "Nats-Sequence": "1", "Nats-Num-Pending": "1", "Nats-Last-Sequence": "0"}, b"one"),
        ({**DATA, "Nats-Sequence": "3", "Nats-Num-Pending": "0", "Nats-Last-Sequence": "1"}, b"two"),
        ({**END, "Nats-Last-Sequence": "3"}, b""),
    ],
    "2.10.26": [({**DATA, "Nats-Sequence": "1"}, b"one")],
    "nothing": [({"Status": "404", "Description": "Message Not Found"}, b"")],
}


class Recorded:
    """A connection that answers with a recording."""

    def __init__(self, replies: list[tuple[dict[str, str] | None, bytes]]) -> None:
        self.replies = replies
        self.large_reads = asyncio.Semaphore(1)

    def inbox(self, handler: Any) -> Any:
        self.handler = handler
        return nullcontext("inbox")

    def on_disconnect(self, callback: Any) -> Any:
        return lambda: None

    async def publish(self, subject: str, payload: bytes, *, reply: str) -> None:
        for headers, data in self.replies:
            self.handler(Msg(_client=None, subject=reply, data=data, headers=headers))  # type: ignore[arg-type]


def read(replies: list[tuple[dict[str, str] | None, bytes]]) -> tuple[list[bytes], int]:
    async def main() -> tuple[list[bytes], int]:
        log = EventLog(Recorded(replies), "shop", timeout=1.0, replicas=1)  # type: ignore[arg-type]
        async with Batch(log, "subject", b"{}") as batch:
            return await batch.result()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("server", "bodies", "last"),
    [("2.15.1", [b"one", b"two"], 3), ("2.11.11", [b"one", b"two"], 3), ("2.10.26", [b"one"], 1), ("nothing", [], 0)],
)
def test_replies_of_every_age_are_understood(server: str, bodies: list[bytes], last: int) -> None:
    assert read(REPLIES[server]) == (bodies, last)


def test_other_answers_are_errors() -> None:
    with pytest.raises(Unavailable, match="has no leader"):
        read([({"Status": "503"}, b"")])
    with pytest.raises(Unavailable, match="408 Bad Request"):
        read([({"Status": "408", "Description": "Bad Request"}, b"")])


def test_nothing_here_names_a_stream_that_another_namespace_could_have() -> None:
    """`shop.eu` and `shop=eu` are not both namespaces, and streams of values are not streams of events."""
    names = ("shop.eu", "shop-eu", "state-shop", "shop")
    streams = {stream_name(kind, name) for kind in ("aether", "aether_state") for name in names}
    assert len(streams) == 8
