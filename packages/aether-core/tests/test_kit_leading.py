"""Group commit whose callers flush for themselves while they are alone. In virtual time."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from aether.core import OutcomeUnknown, Unavailable
from aether.core.kit import Batcher

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Server:
    """Takes a second to answer each request with its double; notes the batches, and how many tasks there were."""

    def __init__(self, error: Exception | None = None, *, answers: bool = False, seconds: float = 1.0) -> None:
        self.batches: list[list[int]] = []
        self.tasks: list[int] = []
        self._error = error
        self._answers = answers
        self.seconds = seconds

    async def __call__(self, requests: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(requests))
        self.tasks.append(len(asyncio.all_tasks()))
        await asyncio.sleep(self.seconds)
        if self._error is not None and -1 in requests:
            if not self._answers:
                raise self._error
            return [self._error if request == -1 else 2 * request for request in requests]
        return [2 * request for request in requests]


async def leading(server: Server, *, timeout: float = 5.0) -> Batcher[int, int]:
    """One whose last batch was a lone request, so the next one leads."""
    calls: Batcher[int, int] = Batcher(server, what="append", timeout=timeout, size=lambda _: 1, leads=True)
    assert await calls.ask(0) == 0
    server.batches.clear()
    server.tasks.clear()
    return calls


def test_who_is_alone_needs_no_task(virtual: Run) -> None:
    async def main() -> None:
        server = Server()
        calls = await leading(server)
        assert [await calls.ask(number) for number in (1, 2, 3)] == [2, 4, 6]
        assert (server.batches, server.tasks) == ([[1], [2], [3]], [1, 1, 1])
        await calls.close()

    virtual(main())


def test_what_comes_meanwhile_goes_together(virtual: Run) -> None:
    async def main() -> None:
        server = Server()
        calls = await leading(server)
        first = asyncio.create_task(calls.ask(1))
        await asyncio.sleep(0.5)
        others = [asyncio.create_task(calls.ask(number)) for number in (2, 3, 4)]
        assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
        assert server.batches == [[1], [2, 3, 4]]
        # They were several: whoever comes first now waits a turn for the others.
        assert await asyncio.gather(*(calls.ask(number) for number in (5, 6))) == [10, 12]
        assert server.batches[2:] == [[5, 6]]
        await calls.close()

    virtual(main())


def test_a_leader_that_is_cancelled_disturbs_nobody(virtual: Run) -> None:
    async def main() -> None:
        server = Server()
        calls = await leading(server)
        leader = asyncio.create_task(calls.ask(1))
        await asyncio.sleep(0.5)
        leader.cancel()
        await asyncio.wait([leader])
        assert leader.cancelled()
        start = asyncio.get_running_loop().time()
        assert await calls.ask(2) == 4  # behind the batch that nobody waits for
        assert asyncio.get_running_loop().time() - start == pytest.approx(1.5, abs=0.01)
        assert server.batches == [[1], [2]]
        await calls.close()

    virtual(main())


def test_the_time_of_a_leader_ends_and_its_request_goes_on(virtual: Run) -> None:
    async def main() -> None:
        server = Server(seconds=0.1)
        calls = await leading(server, timeout=0.4)
        server.seconds = 1.0
        start = asyncio.get_running_loop().time()
        with pytest.raises(OutcomeUnknown):
            await calls.ask(1)
        assert asyncio.get_running_loop().time() - start == pytest.approx(0.4, abs=0.01)
        with pytest.raises(Unavailable) as raised:  # not sent: the first one is still under way
            await calls.ask(2)
        assert not isinstance(raised.value, OutcomeUnknown)
        assert server.batches == [[1]]
        await calls.close()

    virtual(main())


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("error", [Unavailable("append", reason="gone"), ValueError("cannot take it")])
def test_the_errors_of_a_leader_are_its_own(virtual: Run, error: Exception, answers: bool) -> None:
    async def main() -> None:
        server = Server(error, answers=answers)
        calls = await leading(server)
        leader = asyncio.create_task(calls.ask(-1))
        await asyncio.sleep(0.5)
        other = asyncio.create_task(calls.ask(2))
        with pytest.raises(type(error)) as raised:
            await leader
        assert raised.value is error
        assert await other == 4
        await calls.close()

    virtual(main())


def test_close_waits_for_a_leader(virtual: Run) -> None:
    async def main() -> None:
        calls = await leading(Server())
        leader = asyncio.create_task(calls.ask(1))
        await asyncio.sleep(0.5)
        waiting = asyncio.create_task(calls.ask(2))
        await asyncio.sleep(0)
        await calls.close()
        assert (leader.result(), waiting.result()) == (2, 4)
        with pytest.raises(Unavailable):
            await calls.ask(3)
        await calls.close()

    virtual(main())


def test_close_ends_what_a_leader_has_left_and_never_answers(virtual: Run) -> None:
    async def main() -> None:
        server = Server()
        calls = await leading(server, timeout=5)
        server.seconds = 1e9
        leader = asyncio.create_task(calls.ask(1))
        await asyncio.sleep(0.5)
        leader.cancel()
        await asyncio.wait([leader])
        start = asyncio.get_running_loop().time()
        await calls.close()
        assert asyncio.get_running_loop().time() - start == pytest.approx(10, abs=0.01)
        assert len(asyncio.all_tasks()) == 1

    virtual(main())
