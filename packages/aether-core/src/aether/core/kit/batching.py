"""Group commit: whatever is waiting goes to the server as one transaction, at once when the server is idle."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from aether.core.errors import AetherError, OutcomeUnknown, Unavailable, VersionConflict
from aether.core.kit.deadlines import Deadlines
from aether.core.kit.shelter import Shelter
from aether.core.spi import Write

Request = TypeVar("Request")
Answer = TypeVar("Answer")

MOST = 1000
"""Requests that go into one batch at most."""

LARGEST = 1 << 20
"""Bytes behind which a batch takes no further request."""

SHARE = 16
"""Requests that have to wait before one more batch goes under way."""

_QUICK = (1e-3, 2e-5)
"""Seconds that a batch, and each request in it, may take for the next one to go under way before it is answered."""

_ROOM = 4096  # requests that may wait; whoever comes then waits outside


class _Waiting(Generic[Request, Answer]):
    __slots__ = ("answer", "request", "sent", "size")

    def __init__(self, request: Request, size: int, answer: asyncio.Future[Answer]) -> None:
        self.request = request
        self.size = size
        self.answer = answer
        self.sent = False


class Batcher(Generic[Request, Answer]):
    """Hands requests to `flush` in batches, in their order, and never waits for more of them.

    A lone request is a batch of its own, one turn of the event loop later, or at once where `leads` says so; what comes
    while a batch is under way goes into the next one. Where `ahead` says so that goes to the server before the one
    under way is answered, if it is worth a batch: then the server works on the one while the callers of the other are
    answered and ask again.

    Nobody who is cancelled disturbs a call to the server, because `flush` runs in a task of the batcher, or sheltered:
    a request that still waits is taken back, one that was sent ends as if nobody had left.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Request]], Awaitable[Sequence[Answer | Exception]]],
        *,
        what: str,
        timeout: float,
        size: Callable[[Request], int],
        ahead: int = 0,
        leads: bool = False,
    ) -> None:
        """`flush` answers each request with its result or its own exception.

        Where it raises instead, nothing of the batch was done, unless it raises `OutcomeUnknown`. An `AetherError`
        goes to everybody; after any other exception each request is flushed alone, so that one that the server cannot
        take fails none of the others.

        With `ahead`, so many batches may be under way besides the oldest: `flush` is called in the order of requests,
        but again before it has answered. Only while it is quick: one that takes long waits for a disk or for a network,
        which as many requests as possible should share.

        With `leads`, a request that is alone, as the one before it was, is flushed where its caller stands: tasks take
        a tenth of the time of a small commit. Then `flush` MUST NOT care which task it runs in (see `Shelter`).
        """
        self._flush = flush
        self._what = what
        self._timeout = timeout
        self._size = size
        self._queue: deque[_Waiting[Request, Answer]] = deque()
        self._deadlines = Deadlines(timeout)
        self._room = asyncio.Event()
        self._ahead = ahead
        assert not (leads and ahead), "who leads flushes one batch at a time"
        self._leads = leads
        self._lone = False
        """Whether the last batch was a lone request, and nobody waited behind it."""

        self._leading: asyncio.Future[None] | None = None
        """Pending while a caller flushes its own request, or a task does because the caller has left."""

        self._workers: set[asyncio.Task[None]] = set()
        self._orphaned: set[asyncio.Task[Answer]] = set()
        """Flushes whose callers have left."""

        self._wanted = 1
        """How many requests have to wait for one more worker to start."""

        self._batches = self._sent = 0
        """What is under way where several batches may be: batches, and requests in them."""

        self._quick = True
        self._closed = False

    async def ask(self, request: Request) -> Answer:
        """Give a request to the next batch and wait for its answer, for `timeout` seconds.

        Then it raises `Unavailable` if the request was not sent, `OutcomeUnknown` if it was.
        """
        if len(self._queue) >= _ROOM:
            await self._wait_for_room()
        if self._closed:
            raise Unavailable(self._what, reason="it is closed")
        if self._lone and self._leading is None and not self._workers:
            return await self._lead(request)
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Request, Answer] = _Waiting(request, self._size(request), loop.create_future())
        self._queue.append(waiting)
        if len(self._queue) >= self._wanted:
            self._hire()
        self._deadlines.watch(waiting.answer, partial(self._late, waiting))
        try:
            return await waiting.answer
        finally:
            self._deadlines.tidy()

    async def _wait_for_room(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                while len(self._queue) >= _ROOM:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            raise Unavailable(self._what, reason=f"{_ROOM} calls are waiting already") from None

    def _late(self, waiting: _Waiting[Request, Answer]) -> Exception:
        if waiting.sent:
            return self._unknown()
        return Unavailable(self._what, reason=f"not sent: {self._unanswered} to what came before")

    def _unknown(self) -> Exception:
        return OutcomeUnknown(self._what, reason=self._unanswered)

    @property
    def _unanswered(self) -> str:
        return f"no answer within {self._timeout:g} s"

    async def close(self) -> None:
        """Let what is waiting end, with its answer or its time-out. Later requests are refused. May be called twice."""
        self._closed = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 2 * self._timeout
        while (busy := self._busy()) and (left := deadline - loop.time()) > 0:
            await asyncio.wait(busy, timeout=left)
        while tasks := self._workers | self._orphaned:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        self._deadlines.close()

    def _busy(self) -> set[asyncio.Future[Any]]:
        return {*self._workers, *self._orphaned, *([] if self._leading is None else [self._leading])}

    # --- Alone ---

    async def _lead(self, request: Request) -> Answer:
        self._leading = asyncio.get_running_loop().create_future()
        self._count()
        answer = Shelter(self._flush_alone(request), self._go_on)
        self._deadlines.watch(answer, self._unknown)
        try:
            return await answer
        finally:
            self._deadlines.tidy()

    async def _flush_alone(self, request: Request) -> Answer:
        try:
            (answer,) = await self._flush([request])
        except asyncio.CancelledError as error:  # not of the caller's: that does not come here
            raise OutcomeUnknown(self._what, reason="the call was cancelled") from error
        finally:
            assert self._leading is not None
            self._leading.set_result(None)
            self._leading = None
            self._count()
            if self._queue:
                self._hire()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _go_on(self, rest: Coroutine[Any, Any, Answer]) -> None:
        task = asyncio.get_running_loop().create_task(rest)
        self._orphaned.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Answer]) -> None:
        self._orphaned.discard(task)
        if not task.cancelled():
            task.exception()  # nobody is left to hear of it

    # --- The workers ---

    def _hire(self) -> None:
        """One worker more, if there may be one."""
        self._lone = False
        if self._leading is None and len(self._workers) < self._most():
            worker = asyncio.get_running_loop().create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)  # one that is cancelled before its first turn never runs
        self._count()

    def _most(self) -> int:
        return 1 + self._ahead if self._quick else 1

    def _count(self) -> None:
        there = len(self._workers) + (self._leading is not None)
        self._wanted = 1 if not there else SHARE if there < self._most() else _ROOM + 1

    async def _work(self) -> None:
        worker = asyncio.current_task()
        assert worker is not None
        send = self._send_timed if self._ahead else self._send
        try:
            while self._quick or not self._batches:  # else whoever waits for the other batch goes on with the rest
                batch = [] if self._batches else self._take()  # while the server is busy there is time for a turn
                if not batch:
                    await asyncio.sleep(0)  # one turn: whoever was just answered may have a next request already
                    batch = self._take()
                    if not batch:
                        return
                await send(batch)
                if self._leads and len(batch) == 1 and not self._queue:
                    self._lone = True
                    return
        finally:
            self._workers.discard(worker)
            self._count()

    async def _send_timed(self, batch: Sequence[_Waiting[Request, Answer]]) -> None:
        clock = asyncio.get_running_loop().time
        start = clock()
        self._batches += 1
        self._sent += len(batch)
        try:
            await self._send(batch)
        finally:
            self._batches -= 1
            self._sent -= len(batch)
            self._quick = clock() - start <= _QUICK[0] + _QUICK[1] * len(batch)
            self._count()

    def _take(self) -> list[_Waiting[Request, Answer]]:
        batch: list[_Waiting[Request, Answer]] = []
        if not self._queue:
            return batch
        most, size = self._portion(), 0
        while self._queue and len(batch) < most and size < LARGEST:
            waiting = self._queue.popleft()
            if not waiting.answer.done():  # it was neither cancelled nor timed out
                waiting.sent = True
                size += waiting.size
                batch.append(waiting)
        if len(self._queue) >= self._wanted:
            self._hire()
        self._room.set()
        return batch

    def _portion(self) -> int:
        """How many requests go into the next batch: an equal share of all, if several batches may be under way."""
        if self._most() == 1:
            return MOST
        share = -(-(len(self._queue) + self._sent) // self._most())
        return min(MOST, max(SHARE, share))

    async def _send(self, batch: Sequence[_Waiting[Request, Answer]]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            answers = await self._flush([waiting.request for waiting in batch])
        except AetherError as error:
            answers = [error] * len(batch)
        except Exception as error:  # noqa: BLE001  (it goes to whoever has asked)
            if len(batch) > 1:
                for waiting in batch:
                    await self._send([waiting])
                return
            answers = [error]
        for waiting, answer in zip(batch, answers, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(answer, Exception):
                waiting.answer.set_exception(answer)
            else:
                waiting.answer.set_result(answer)


def plan(commits: Sequence[Sequence[Write]], versions: MutableMapping[str, int]) -> list[VersionConflict | None]:
    """Judge commits one behind the other: None where all of its expectations hold, else the conflict.

    `versions` holds the current version of every actor that is written; it is moved on by each commit that is sound,
    so that a commit may build on one before it in the same batch. The conflicts are true if the sound ones are stored.
    """
    return [_judge(commit, versions) for commit in commits]


def _judge(commit: Sequence[Write], versions: MutableMapping[str, int]) -> VersionConflict | None:
    for write in commit:
        current = versions[write.actor_id]
        if write.expected != current:
            return VersionConflict(write.actor_id, attempted=write.expected + 1, current=current)
    for write in commit:
        versions[write.actor_id] = write.expected + len(write.records)
    return None


def size_of(commit: Sequence[Write]) -> int:
    """The bytes of a commit's events."""
    if len(commit) == 1 and len(commit[0].records) == 1:
        return len(commit[0].records[0].data)
    return sum(len(record.data) for write in commit for record in write.records)
