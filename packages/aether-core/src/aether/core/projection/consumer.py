"""A projection as everybody can see it, whether it runs here, elsewhere, or not at all."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec

from aether.core.errors import TimedOut
from aether.core.event import START, Position
from aether.core.projection.journal import (
    Journal,
    Kind,
    Parked,
    RetryAsked,
    Switched,
    Unparked,
    checkpoint_of,
    key_of,
)
from aether.core.store import EventStore

_COUNTED = 1000
_POLL = (0.01, 0.2)  # seconds between two looks at the checkpoint of a projection that runs elsewhere; doubled


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a projection is. All of it is read from the store."""

    version: int
    position: Position
    """Behind the last event that all partitions have applied."""

    behind: int
    """How many events of the feed follow it; 1000 means as many or more."""

    seconds: float
    """How long ago the first of them happened, 0.0 if there is none: the age of the view."""

    parked: int
    """How many events are put aside."""


class Consumer:
    """A projection or reactor of a store, by its name: what operators and readers need of it.

    `version` is the version meant; None is the one that readers use now.
    """

    def __init__(self, store: EventStore, name: str, *, kind: Kind = "projection", version: int | None = None) -> None:
        self.store = store
        self.name = name
        self.kind = kind
        self.key = key_of(kind, name)
        if version is not None and (type(version) is not int or version < 1):
            raise ValueError(f"version is a whole number of 1 or more, not {version!r:.80}")
        self._version = version
        self._arrival = asyncio.Event()

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" + (f" version {self._version}" if (self._version or 1) > 1 else "")

    def __repr__(self) -> str:
        return f"<{self}>"

    async def _journal(self) -> Journal:
        return await Journal(self.store, self.key).refresh()

    def _meant(self, journal: Journal) -> int:
        return journal.active if self._version is None else self._version

    def _arrived(self) -> None:
        """A checkpoint was moved in this process."""
        self._arrival.set()
        self._arrival = asyncio.Event()

    def _begins(self, version: int) -> bool:
        """Whether a version that never ran is about to begin in this process."""
        return False

    # --- How far it is ---

    async def active(self) -> int:
        """The version that readers use: 1 until `switch` was called."""
        return (await self._journal()).active

    async def progress(self) -> Progress:
        """How far it is, how much and how long it lags behind, and what is parked."""
        journal = await self._journal()
        version = self._meant(journal)
        position = min(await self._positions(journal, version))
        behind, seconds = 0, 0.0
        async for _, event in self.store.feed(after=position, limit=_COUNTED):
            if not behind:
                seconds = max(0.0, (datetime.now(UTC) - event.timestamp).total_seconds())
            behind += 1
        parked = len(journal.parked(version))
        return Progress(version=version, position=position, behind=behind, seconds=seconds, parked=parked)

    async def _positions(self, journal: Journal, version: int) -> list[Position]:
        begun = journal.begun.get(version)
        count = 1 if begun is None else begun.partitions
        names = [checkpoint_of(self.key, version, number, count) for number in range(count)]
        return [await self.store.checkpoint(name) for name in names]

    async def wait(self, position: Position, *, timeout: float) -> None:
        """Return when everything up to a position was applied, such as `(await execute(...)).position`.

        Raises `TimedOut` after `timeout` seconds, naming where it is, and `StoreIdentityChanged`. What was parked
        counts as passed. Where it runs in this process it is told at once, elsewhere it looks every fraction of a
        second.
        """
        at: Position = START
        pause = _POLL[0]
        try:
            async with asyncio.timeout(timeout):
                journal = await self._journal()
                while True:
                    arrival = self._arrival  # of what arrives from here on
                    at = min(await self._positions(journal, self._meant(journal)))
                    if at >= position:
                        return
                    try:
                        async with asyncio.timeout(pause):
                            await arrival.wait()
                    except TimeoutError:
                        pause = min(2 * pause, _POLL[1])
                        await journal.refresh()
        except TimeoutError:
            raise TimedOut(f"{self} is at {at}, and not at {position}", timeout=timeout) from None

    async def caught_up(self, *, timeout: float) -> None:
        """Return when everything that is stored now was applied. Raises as `wait`."""
        await self.wait(await self.store.head(), timeout=timeout)

    # --- Parked events ---

    async def parked(self) -> list[Parked]:
        """The events that are put aside, in order."""
        journal = await self._journal()
        return journal.parked(self._meant(journal))

    async def retry_parked(self, actor_id: str | None = None) -> None:
        """Ask whoever runs it to handle the parked events again, of one actor or of all, in order.

        It does so when it comes to this request in the feed; what fails again stays parked.
        """
        journal = await self._journal()
        await journal.note(RetryAsked(self._meant(journal), actor_id))

    async def drop_parked(self, event_id: str) -> None:
        """Give up on a parked event: it is passed over for good. Raises `LookupError` if it is not parked.

        Those of its actor that wait behind it are handled by the next `retry_parked`.
        """
        journal = await self._journal()
        version = self._meant(journal)
        if not journal.is_parked(version, event_id):
            raise LookupError(f"{self} has parked no event {event_id!r}; look at parked()")
        await journal.note(Unparked(version, event_id, dropped=True))

    # --- Blue and green ---

    async def switch(self, version: int, *, timeout: float = 60.0, connection: object | None = None) -> None:
        """Make readers use another version, in one commit, when it has come as far as the present one.

        With `connection` the switch is part of the caller's transaction, beside the `CREATE OR REPLACE VIEW` or
        whatever else makes readers look at the other table. Raises `ValueError` for a version that never ran
        and does not run here, `TimedOut` when it does not catch up within `timeout` seconds, and `VersionConflict`
        when somebody else switches at the same time in another transaction.
        """
        journal = await self._journal()
        started = asyncio.get_running_loop().time()
        while version not in journal.begun:
            if not self._begins(version):
                reason = f"{self.kind} {self.name!r} never ran as version {version}"
                raise ValueError(f"{reason}; run project(version=) first")
            if asyncio.get_running_loop().time() - started > timeout:
                raise TimedOut(f"{self} has not begun", timeout=timeout)
            await asyncio.sleep(_POLL[0])
            await journal.refresh()
        reached = max(await self._positions(journal, journal.active))
        await Consumer(self.store, self.name, kind=self.kind, version=version).wait(reached, timeout=timeout)
        await journal.note(Switched(version), connection=connection)
