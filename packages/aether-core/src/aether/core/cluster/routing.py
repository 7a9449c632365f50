"""Commands go to the owner of their actor, over the bus, and the events that they cause come back.

One owner at a time is what makes this fast; what makes it right is the version in every append. So a command that is
still running when its shard moves does no harm, and nothing here has to be trusted with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from aether.core.bus import EventBus
from aether.core.clock import Clock
from aether.core.cluster.follower import PASSING, Follower
from aether.core.cluster.membership import Change, ClusterState, Member, MemberLeft
from aether.core.cluster.presence import Presence, Shards
from aether.core.errors import (
    AetherError,
    CommandRefused,
    InvalidEvent,
    NoResponders,
    SlowConsumer,
    TimedOut,
    VersionConflict,
)
from aether.core.event import Event
from aether.core.names import check_name
from aether.core.sharding import shard_of

_log = logging.getLogger("aether.cluster")

_FOR = "actorid"  # the key of metadata under which a command carries its actor: the address is that of the owner
_ANSWER = "ClusterAnswer"
_BATCH = 100  # commands of one actor that are handled together
_TOGETHER = 1000  # commands that one node handles at once; more wait in the inbox
_PATIENCE = 0.3  # of the caller's time-out: then the command or its answer counts as lost, and is sent again
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1  # seconds


class Owner(NamedTuple):
    """Who owns an actor, by the map of `version`."""

    node: str
    incarnation: int
    shard: int
    version: int


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What comes back: `done` with the events, `elsewhere`, `refused` with a reason, or `again` for what may pass."""

    kind: str
    events: list[Event] = []
    version: int = 0
    error: str = ""
    reason: str = ""


class Asked:
    """One command that waits for its answer."""

    __slots__ = ("answer", "command")

    def __init__(self, command: Event, answer: asyncio.Future[Answer]) -> None:
        self.command = command
        self.answer = answer

    def done(self, events: Sequence[Event]) -> None:
        """Answer with the events that the command has caused."""
        self.settle(Answer("done", list(events)))

    def refused(self, error: Exception) -> None:
        """Answer that it will not be done."""
        self.settle(Answer("refused", error=type(error).__name__, reason=str(error)))

    def again(self, error: Exception) -> None:
        """Answer that it may be done, or has been, if it is sent again."""
        self.settle(Answer("again", error=type(error).__name__, reason=str(error)))

    def settle(self, answer: Answer) -> None:
        """Answer, unless that was done."""
        if not self.answer.done():
            self.answer.set_result(answer)


Work = Callable[[str, list[Asked]], Awaitable[None]]
"""Handles commands of one actor, in their order: it settles each of them."""


class Router:
    """Both sides of a command: asking the owner, and being it."""

    def __init__(
        self, bus: EventBus, follower: Follower, presence: Presence, *, node: str, inbox: str, clock: Clock
    ) -> None:
        self._bus = bus
        self._follower = follower
        self._presence = presence
        self._node = node
        self._inbox = inbox
        self._clock = clock
        self._work: Work | None = None
        self._waiting: dict[str, list[Asked]] = {}  # by actor, while a task handles them
        self._busy: dict[int, set[asyncio.Task[None]]] = {}  # the tasks that handle commands, by shard
        self._replies: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_TOGETHER)
        self._asking: dict[str, set[asyncio.Timeout]] = {}  # requests under way, by the holder that was asked
        presence.lost.append(self._drain)
        follower.watchers.append(self._gone)

    # --- Asking ---

    def locate(self, actor_id: str) -> Owner | None:
        """Who owns the actor, as far as this node knows; None while nobody does."""
        state = self._follower.state
        if not state.shards:
            return None
        shard = shard_of(actor_id, state.shards)
        node = self._presence.owner_of(shard)
        if not node:
            return None
        return Owner(node, state.members[node].incarnation, shard, state.version)

    async def ask(self, actor_id: str, command: Event, *, timeout: float, once: bool) -> tuple[Event, ...]:
        """Send a command to the owner of the actor until it answers; `Cluster.ask` has the contract."""
        check_name("actor id", actor_id)
        limit = self._clock.timeout(timeout)
        what = f"command {command.type!r} for {actor_id!r}"
        try:
            async with limit:
                return await self._ask(actor_id, command, timeout, once)
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimedOut(what, timeout=timeout) from None

    async def _ask(self, actor_id: str, command: Event, timeout: float, once: bool) -> tuple[Event, ...]:
        pause = _FIRST_PAUSE
        while True:
            answer = await self._try(actor_id, command, timeout, once)
            if answer is not None:
                if answer.kind == "done":
                    return tuple(answer.events)
                if answer.kind == "refused" or (once and answer.kind == "again"):
                    raise CommandRefused(actor_id, command=command.type, kind=answer.error, reason=answer.reason)
                if answer.version > self._follower.state.version:
                    self._follower.behind()
            with suppress(TimeoutError):
                async with self._clock.timeout(pause):
                    await self._follower.changed.wait()
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _try(self, actor_id: str, command: Event, timeout: float, once: bool) -> Answer | None:
        """The answer of whoever owns the actor now, None if there is nobody, or nothing was heard of it."""
        owner = self.locate(actor_id)
        if owner is None:
            return None
        if owner.node == self._node:
            return await self.accept(actor_id, command)
        member = self._follower.state.members[owner.node]
        limit = self._clock.timeout(None if once else timeout * _PATIENCE)
        asking = self._asking.setdefault(member.holder, set())
        try:
            async with limit:
                asking.add(limit)
                return await self._request(member, actor_id, command, timeout)
        except TimeoutError:
            if not limit.expired():
                raise
            if once:
                raise TimedOut(f"command {command.type!r}, sent to {owner.node!r}", timeout=timeout) from None
        finally:
            asking.discard(limit)
            if not asking:
                self._asking.pop(member.holder, None)
        return None

    async def _request(self, member: Member, actor_id: str, command: Event, timeout: float) -> Answer | None:
        request = msgspec.structs.replace(command, actor_id=member.inbox, metadata={**command.metadata, _FOR: actor_id})
        try:
            reply = await self._bus.request(request, timeout=timeout)
        except NoResponders:
            return None
        except PASSING:  # it may not even have been sent
            await self._clock.sleep(_LONGEST_PAUSE)
            return None
        return msgspec.convert(reply.data, Answer)

    def _gone(self, change: Change | None, state: ClusterState) -> None:
        """Nobody waits for the answer of an incarnation that is over."""
        if isinstance(change, MemberLeft):
            there = {member.holder for member in state.members.values()}
            for holder in [holder for holder in self._asking if holder not in there]:
                for limit in self._asking[holder]:
                    if not limit.expired():
                        limit.reschedule(asyncio.get_running_loop().time())

    # --- Being the owner ---

    def serve(self, work: Work) -> None:
        """Let `work` handle the commands for the actors of this node."""
        if self._work is not None:
            raise RuntimeError("this node has something that handles commands already; one host per cluster")
        self._work = work

    async def accept(self, actor_id: str, command: Event) -> Answer:
        """Handle a command behind those that wait for the same actor, if the actor is this node's."""
        shards = self._follower.state.shards
        shard = shard_of(actor_id, shards) if shards else 0
        if self._work is None or not self._presence.owns(shard):
            return self._elsewhere()
        asked = Asked(command, asyncio.get_running_loop().create_future())
        waiting = self._waiting.get(actor_id)
        if waiting is None:
            self._waiting[actor_id] = [asked]
            self._start(shard, actor_id)
        else:
            waiting.append(asked)
        return await asked.answer

    def _elsewhere(self) -> Answer:
        return Answer("elsewhere", version=self._follower.state.version)

    def _start(self, shard: int, actor_id: str) -> None:
        task = asyncio.create_task(self._handle(shard, actor_id))
        busy = self._busy.setdefault(shard, set())
        busy.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            busy.discard(task)
            if not busy and self._busy.get(shard) is busy:
                del self._busy[shard]

        task.add_done_callback(ended)

    async def _handle(self, shard: int, actor_id: str) -> None:
        """Handle the commands of one actor, one batch after the other, until none waits."""
        waiting = self._waiting[actor_id]
        try:
            while waiting:
                batch = waiting[:_BATCH]
                del waiting[:_BATCH]
                await self._handle_batch(shard, actor_id, batch)
        finally:
            del self._waiting[actor_id]
            for asked in waiting:  # cancelled
                asked.settle(self._elsewhere())

    async def _handle_batch(self, shard: int, actor_id: str, batch: list[Asked]) -> None:
        try:
            if self._work is not None and self._presence.owns(shard):
                await self._work(actor_id, batch)
        except (VersionConflict, *PASSING) as error:
            for asked in batch:
                asked.again(error)
        except AetherError as error:
            for asked in batch:
                asked.refused(error)
        except Exception as error:  # noqa: BLE001 - the owner goes on, whatever the code of one actor raises
            _log.exception("a command for %r has failed", actor_id)
            for asked in batch:
                asked.refused(error)
        finally:
            for asked in batch:
                asked.settle(self._elsewhere())

    async def _drain(self, shards: Shards) -> None:
        """Wait for the commands that run on shards that were lost."""
        while running := [task for shard in shards & self._busy.keys() for task in self._busy[shard]]:
            await asyncio.wait(running)

    # --- The inbox ---

    async def receive(self, ready: Callable[[], None]) -> None:
        """Hear commands from other nodes, for ever. `ready` is called when the inbox is there."""
        while True:
            with suppress(SlowConsumer, *PASSING):
                async with self._bus.subscribe(actors=self._inbox) as commands:
                    ready()
                    async for command in commands:
                        await self._room.acquire()
                        self._spawn(self._answer(command))
            await self._clock.sleep(_LONGEST_PAUSE)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._replies.add(task)
        task.add_done_callback(self._replies.discard)
        task.add_done_callback(lambda _: self._room.release())

    async def _answer(self, request: Event) -> None:
        actor_id = request.metadata.get(_FOR, "")
        with suppress(*PASSING):
            answer = await self.accept(actor_id, request)
            try:
                await self._reply(request, actor_id, answer)
            except (InvalidEvent, AetherError) as error:
                if isinstance(error, PASSING):
                    raise
                await self._reply(request, actor_id, Answer("refused", error=type(error).__name__, reason=str(error)))

    async def _reply(self, request: Event, actor_id: str, answer: Answer) -> None:
        data = msgspec.to_builtins(answer)
        await self._bus.reply(request, Event(type=_ANSWER, actor_id=actor_id or _ANSWER, version=1, data=data))

    async def close(self) -> None:
        """Answer nobody any more."""
        tasks = [*self._replies, *(task for tasks in self._busy.values() for task in tasks)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
