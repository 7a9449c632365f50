"""What store, bus and register need of a database: each kind of database has a module that gives it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet

from aether.core.errors import AetherError, VersionConflict
from aether.core.features import Durability, Limits
from aether.core.kit import Bell
from aether.core.spi import Message, Write
from aether.sql.statements import Statement, Statements

LIMITS = Limits(
    max_event_bytes=1 << 20, max_commit_bytes=16 << 20, max_commit_events=10_000, max_snapshot_bytes=4 << 20
)

LAST = (1 << 63) - 1
"""The largest integer of these databases."""

EVERY = 1.0
"""Seconds between two looks where something else usually tells of what others wrote."""

POLL = 0.02
"""Seconds between two looks where nothing tells."""

Commit = Sequence[Write]
Row = Sequence[Any]


class Home(NamedTuple):
    """A namespace in a database: its number, and the identity of its store."""

    ns: int
    identity: str


class Bells:
    """The bells of those who wait for something to be written, by what that is."""

    EVENTS = "events"
    LEASES = "leases"
    MESSAGES = "messages"

    def __init__(self) -> None:
        self._bells: dict[str, WeakSet[Bell]] = defaultdict(WeakSet)

    def add(self, topic: str, bell: Bell) -> None:
        """Ring this bell, too, as long as somebody holds it."""
        self._bells[topic].add(bell)

    def ring(self, topic: str) -> None:
        """Something of the topic was written."""
        for bell in tuple(self._bells.get(topic, ())):
            bell.ring()

    def ring_all(self) -> None:
        """Something was written, and nobody knows what."""
        for topic in tuple(self._bells):
            self.ring(topic)


class Database(Protocol):
    """One namespace in one database, with the connections that one opening of its URL holds.

    Errors are those of `aether.core.spi`. A caller who is cancelled leaves every connection usable: calls to the
    database are made where no cancellation reaches them.
    """

    statements: Statements
    durability: Durability
    home: Home

    @property
    def losses(self) -> int:
        """How many connections were lost so far."""
        ...

    @property
    def push(self) -> bool:
        """Whether bells ring at once when other processes have written."""
        ...

    @property
    def every(self) -> float:
        """Seconds between two looks where a bell may be silent."""
        ...

    async def open(self) -> None:
        """Connect, make the tables or bring them up to date, and find or make the namespace."""
        ...

    async def close(self) -> None:
        """Let writes that are under way end, then release everything."""
        ...

    def listen(self, topic: str, bell: Bell) -> None:
        """Ring the bell from now on when somebody has written what the topic of `Bells` names."""
        ...

    def fetch(self, what: str, statement: Statement, **values: Any) -> Coroutine[Any, Any, Sequence[Row]]:
        """Run a query. One that is given a `limit` is a page: it ends with the row that reaches `PAGE_BYTES`."""
        ...

    def append(self, commit: Commit, *, transaction: object | None) -> Coroutine[Any, Any, int]:
        """Store a commit, together with what others append in the same moment; return its last position."""
        ...

    async def change(
        self, what: str, statement: Statement, *, topic: str | None, transaction: object | None = None, **values: Any
    ) -> bool:
        """Run a statement that changes one row or none, and say whether it did. A key that is taken is none."""
        ...

    async def publish(self, message: Message) -> int:
        """Add a message to the log behind all others, and return its position: 1, 2, 3 … without holes."""
        ...

    async def published(self) -> int:
        """The position of the last message that was ever published."""
        ...

    async def claim(self, queue: str, positions: Sequence[int]) -> Collection[int]:
        """Take messages for a queue; those that nobody had taken before."""
        ...

    async def forget(self, upto: int) -> None:
        """Remove messages and claims up to a position."""
        ...


class WrongConnection(AetherError, ValueError):
    """A connection or an engine of the caller is nothing that can be used here."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what}: {reason}")


def last_positions(
    first: int, commits: Sequence[Commit], verdicts: Sequence[VersionConflict | None]
) -> list[int | Exception]:
    """What each commit is answered when the sound ones got positions from `first` on, without holes."""
    answers: list[int | Exception] = []
    position = first - 1
    for commit, conflict in zip(commits, verdicts, strict=True):
        if conflict is None:
            position += sum(len(write.records) for write in commit)
        answers.append(conflict or position)
    return answers
