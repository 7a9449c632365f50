"""What a backend author writes: how to start a server, where it is, and how to break it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields

Fault = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Faults:
    """What the suite may do to the server. Cases that need what is missing are reported as not testable."""

    restart: Fault | None = None
    """Kill the server as `kill -9` does, start it again with its data at the same URL, return when it answers."""

    pause: Fault | None = None
    """Stop the server as SIGSTOP does: connections stay, nothing is answered."""

    resume: Fault | None = None
    """End a pause."""

    kill: Fault | None = None
    """End the server as `kill -9` does, return when it is gone."""

    start: Fault | None = None
    """Start it again behind `kill`, with its data at the same URL, return when it answers. Both make a `restart`."""

    link: bool = False
    """Whether links may be put in front of the hosts of the URL, and be broken. The URL has to name their ports, and
    the server must not tell its clients of other addresses."""

    def names(self) -> frozenset[str]:
        """The faults that are there."""
        found = {field.name for field in fields(self) if getattr(self, field.name)}
        return frozenset(found | {"restart"} if {"kill", "start"} <= found else found)


class Harness:
    """One server for a run of the suite. Each case uses a fresh namespace on it.

    Override `start` and `stop`, and `faults` if the server can be broken. All of them run on the event loop of the
    cases. The backend itself is found through its entry point, as a user's is.
    """

    lease: float = 1.0
    """The shortest lease of an election that the backend keeps reliably, in seconds."""

    deadline: float = 10.0
    """The longest time that an answer of a healthy server may take, in seconds."""

    multiprocess: bool = True
    """Whether other processes on this machine can reach the URL."""

    server: str = ""
    """What the server is and its version, for the report: "nats-server 2.15.1". Set by `start`."""

    async def start(self) -> str:
        """Start a fresh server and return its URL."""
        raise NotImplementedError(f"{type(self).__name__}.start() has to start a server and return its URL")

    async def stop(self) -> None:
        """Stop the server and remove its data. Called once, also after `start` has failed."""

    def faults(self) -> Faults:
        """What may be done to the server; asked after `start`."""
        return Faults()

    def transaction(self) -> AbstractAsyncContextManager[object]:
        """A transaction on the server that the suite owns, for backends with CALLER_TRANSACTION.

        Entering gives what `connection=` takes; leaving commits, leaving by an error rolls back. Cases that need it
        are not testable where it is not overridden.
        """
        raise NotImplementedError(f"{type(self).__name__}.transaction() has to open a transaction on the server")

    @property
    def transactional(self) -> bool:
        """Whether the harness can open transactions."""
        return type(self).transaction is not Harness.transaction

    @property
    def target(self) -> str:
        """What to write behind `aether-conformance run` to have this harness again."""
        return f"{type(self).__module__}:{type(self).__qualname__}"


class UrlHarness(Harness):
    """A server that is there already: all that is needed to run the suite without writing a file."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.multiprocess = not url.startswith("memory:")

    async def start(self) -> str:
        return self._url

    @property
    def target(self) -> str:
        from aether.core.url import redact

        return redact(self._url)
