"""Group commit: what goes together, whose error is whose, and what a caller who leaves disturbs. In virtual time."""

import asyncio
import contextlib
import functools
import operator
import random
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import pytest

from aether.core import OutcomeUnknown, Unavailable
from aether.core.kit import Batcher, batching, plan
from aether.core.spi import NewRecord, Write

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Server:
    """Answers a request with its double; notes the batches."""

    def __init__(self, *, seconds: float = 0.0, bad: object = None, error: Exception | None = None) -> None:
        self.batches: list[list[int]] = []
        self._seconds = seconds
        self._bad = bad
        self._error = error

    async def __call__(self, requests: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(requests))
        await asyncio.sleep(self._seconds)
        if self._error is not None and (self._bad is None or self._bad in requests):
            raise self._error
        return [2 * request for request in requests]


def batcher(
    server: Server, *, timeout: float = 5.0, size: Callable[[int], int] = lambda _: 1, ahead: int = 0
) -> Batcher[int, int]:
    return Batcher(server, what="append", timeout=timeout, size=size, ahead=ahead)


# --- Batches ---


def test_what_comes_while_one_is_under_way_goes_together(virtual: Run) -> None:
    async def main() -> None:
        server = Server(seconds=1)
        calls = batcher(server)
        lone = asyncio.create_task(calls.ask(0))
        await asyncio.sleep(0.5)
        answers = await asyncio.gather(*(calls.ask(number) for number in range(1, 6)))
        assert (await lone, answers) == (0, [2, 4, 6, 8, 10])
        assert server.batches == [[0], [1, 2, 3, 4, 5]]

    virtual(main())


def test_what_comes_in_one_turn_goes_together_at_once(virtual: Run) -> None:
    async def main() -> None:
        server = Server()
        calls = batcher(server)
        await asyncio.gather(*(calls.ask(number) for number in range(3)))
        assert server.batches == [[0, 1, 2]]
        assert asyncio.get_running_loop().time() < 0.001

    virtual(main())


def test_a_batch_has_a_bound_in_bytes_and_in_number(virtual: Run) -> None:
    async def main() -> None:
        large = Server()
        calls = batcher(large, size=lambda _: batching.LARGEST // 2)
        await asyncio.gather(*(calls.ask(number) for number in range(5)))
        assert large.batches == [[0, 1], [2, 3], [4]]
        many = Server()
        calls = batcher(many)
        await asyncio.gather(*(calls.ask(number) for number in range(batching.MOST + 1)))
        assert [len(batch) for batch in many.batches] == [batching.MOST, 1]

    virtual(main())


# --- Batches ahead of the one that is under way ---

QUICK, SLOW = 0.001, 1.0  # seconds


def test_two_batches_are_under_way_where_a_server_is_quick(virtual: Run) -> None:
    async def main() -> None:
        server = Server(seconds=QUICK)
        calls = batcher(server, ahead=1)
        tasks = [asyncio.create_task(calls.ask(number)) for number in range(64)]
        await asyncio.sleep(QUICK / 2)
        assert [len(batch) for batch in server.batches] == [32, 32]
        assert await asyncio.gather(*tasks) == [2 * number for number in range(64)]
        assert functools.reduce(operator.iadd, server.batches, []) == list(range(64))

    virtual(main())


def test_few_requests_wait_for_the_answer(virtual: Run) -> None:
    """A batch of a few costs the server more than it gains."""

    async def main() -> None:
        server = Server(seconds=QUICK)
        calls = batcher(server, ahead=1)
        tasks = [asyncio.create_task(calls.ask(0))]
        await asyncio.sleep(QUICK / 4)
        tasks += [asyncio.create_task(calls.ask(number)) for number in range(1, batching.SHARE)]
        await asyncio.sleep(QUICK / 4)
        assert server.batches == [[0]]
        await asyncio.gather(*tasks)
        assert server.batches == [[0], list(range(1, batching.SHARE))]

    virtual(main())


def test_a_slow_server_gets_one_large_batch_after_the_other(virtual: Run) -> None:
    async def main() -> None:
        server = Server(seconds=SLOW)
        calls = batcher(server, ahead=1)
        await calls.ask(-1)
        tasks = [asyncio.create_task(calls.ask(number)) for number in range(64)]
        await asyncio.sleep(SLOW / 2)
        late = [asyncio.create_task(calls.ask(number)) for number in range(64, 128)]
        await asyncio.gather(*tasks, *late)
        assert [len(batch) for batch in server.batches] == [1, 64, 64]
        server._seconds = QUICK  # it has recovered
        await asyncio.gather(*(calls.ask(number) for number in range(64)))
        assert [len(batch) for batch in server.batches[3:]] == [64]
        await asyncio.gather(*(calls.ask(number) for number in range(64)))
        assert [len(batch) for batch in server.batches[4:]] == [32, 32]

    virtual(main())


def test_close_lets_all_batches_end(virtual: Run) -> None:
    async def main() -> None:
        server = Server(seconds=QUICK)
        calls = batcher(server, ahead=1)
        tasks = [asyncio.create_task(calls.ask(number)) for number in range(100)]
        await asyncio.sleep(0)
        await calls.close()
        assert [task.result() for task in tasks] == [2 * number for number in range(100)]

    virtual(main())


def test_close_ends_what_never_answers_and_what_has_not_begun(virtual: Run) -> None:
    async def main() -> None:
        calls = batcher(Server(seconds=1e9), ahead=1, timeout=1)
        tasks = [asyncio.create_task(calls.ask(number)) for number in range(64)]
        await asyncio.sleep(0)
        await calls.close()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(answer) for answer in answers} == {OutcomeUnknown}
        assert not calls._workers

    virtual(main())


@pytest.mark.parametrize(("ahead", "leads"), [(0, False), (0, True), (1, False), (2, False)])
@pytest.mark.parametrize("seed", range(20))
def test_everybody_is_answered_once_and_nobody_waits_for_nothing(
    virtual: Run, ahead: int, leads: bool, seed: int
) -> None:
    """Callers who come, go on, and are cancelled at random, and a server that is quick, slow and broken in turn."""

    async def main() -> None:
        rng = random.Random(seed)
        flushed: list[int] = []
        under_way = most = 0

        async def flush(requests: Sequence[int]) -> Sequence[int | Exception]:
            nonlocal under_way, most
            flushed.extend(requests)
            under_way += 1
            most = max(most, under_way)
            answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            error = OutcomeUnknown("append", reason="gone") if rng.random() < 0.1 else None
            how = partial(answer.set_exception, error) if error else partial(answer.set_result, None)
            asyncio.get_running_loop().call_later(rng.choice([0, 1e-5, QUICK, QUICK, 0.05]), how)
            try:
                await answer
            finally:
                under_way -= 1
            return [2 * request for request in requests]

        async def caller(number: int) -> None:
            for request in range(1000 * number, 1000 * number + 20):
                with contextlib.suppress(OutcomeUnknown):
                    assert await calls.ask(request) == 2 * request
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.random() / 200)

        calls: Batcher[int, int] = Batcher(flush, what="append", timeout=5, size=lambda _: 1, ahead=ahead, leads=leads)
        callers = [asyncio.create_task(caller(number)) for number in range(rng.choice([1, 2, 3, 40, 100]))]
        for leaving in rng.sample(callers, -(-len(callers) // 3)):
            await asyncio.sleep(rng.random() / 300)
            leaving.cancel()
        for left in await asyncio.gather(*callers, return_exceptions=True):
            assert left is None or isinstance(left, asyncio.CancelledError)
        assert asyncio.get_running_loop().time() < 4, "somebody has waited for a time-out"
        assert len(flushed) == len(set(flushed))
        assert most <= 1 + ahead
        await calls.close()
        assert (calls._batches, calls._sent, len(calls._queue)) == (0, 0, 0)

    virtual(main())


# --- Errors ---


def test_one_that_the_server_cannot_take_fails_none_of_the_others(virtual: Run) -> None:
    async def main() -> None:
        server = Server(bad=2, error=ValueError("cannot take it"))
        calls = batcher(server)
        answers = await asyncio.gather(*(calls.ask(number) for number in range(4)), return_exceptions=True)
        assert [answers[0], answers[1], answers[3]] == [0, 2, 6]
        assert isinstance(answers[2], ValueError)
        assert server.batches == [[0, 1, 2, 3], [0], [1], [2], [3]]

    virtual(main())


@pytest.mark.parametrize("error", [Unavailable("append", reason="gone"), OutcomeUnknown("append", reason="gone")])
def test_an_outage_is_everybodys_and_nothing_is_repeated(virtual: Run, error: Exception) -> None:
    async def main() -> None:
        server = Server(error=error)
        calls = batcher(server)
        answers = await asyncio.gather(*(calls.ask(number) for number in range(3)), return_exceptions=True)
        assert answers == [error] * 3
        assert server.batches == [[0, 1, 2]]

    virtual(main())


# --- Callers who leave ---


def test_who_is_cancelled_while_waiting_is_not_sent(virtual: Run) -> None:
    async def main() -> None:
        server = Server(seconds=1)
        calls = batcher(server)
        first, second, third = (asyncio.create_task(calls.ask(number)) for number in range(3))
        await asyncio.sleep(0.5)
        late = asyncio.create_task(calls.ask(3))
        await asyncio.sleep(0)
        late.cancel()
        fourth = asyncio.create_task(calls.ask(4))
        assert await asyncio.gather(first, second, third, fourth) == [0, 2, 4, 8]
        assert server.batches == [[0, 1, 2], [4]]

    virtual(main())


def test_who_is_cancelled_when_it_was_sent_disturbs_nobody(virtual: Run) -> None:
    async def main() -> None:
        server = Server(seconds=1)
        calls = batcher(server)
        leaving, staying = asyncio.create_task(calls.ask(1)), asyncio.create_task(calls.ask(2))
        await asyncio.sleep(0.5)
        leaving.cancel()
        assert await staying == 4
        assert server.batches == [[1, 2]]
        assert leaving.cancelled()

    virtual(main())


def test_a_time_out_says_whether_it_was_sent(virtual: Run) -> None:
    async def main() -> None:
        calls = batcher(Server(seconds=60), timeout=5)
        sent = asyncio.create_task(calls.ask(1))
        await asyncio.sleep(1)
        waiting = asyncio.create_task(calls.ask(2))
        with pytest.raises(OutcomeUnknown):
            await sent
        assert asyncio.get_running_loop().time() == pytest.approx(5, abs=0.01)
        with pytest.raises(Unavailable):
            await waiting
        assert asyncio.get_running_loop().time() == pytest.approx(6, abs=0.01)

    virtual(main())


def test_a_full_queue_keeps_callers_outside(virtual: Run) -> None:
    async def main() -> None:
        calls = batcher(Server(seconds=60), timeout=5)
        inside = [asyncio.create_task(calls.ask(number)) for number in range(batching._ROOM)]
        await asyncio.sleep(0)
        outside = asyncio.create_task(calls.ask(-1))
        await asyncio.sleep(1)
        assert len(calls._queue) < batching._ROOM
        assert not outside.done()
        answers = await asyncio.gather(*inside, outside, return_exceptions=True)
        assert {type(answer) for answer in answers} == {OutcomeUnknown, Unavailable}

    virtual(main())


# --- Close ---


def test_close_lets_what_waits_end(virtual: Run) -> None:
    async def main() -> None:
        server = Server(seconds=1)
        calls = batcher(server)
        tasks = [asyncio.create_task(calls.ask(1))]
        await asyncio.sleep(0.5)
        tasks.append(asyncio.create_task(calls.ask(2)))
        await asyncio.sleep(0)
        await calls.close()
        assert [task.result() for task in tasks] == [2, 4]
        with pytest.raises(Unavailable):
            await calls.ask(3)
        await calls.close()

    virtual(main())


# --- The plan ---


def write(actor: str, expected: int, count: int = 1) -> Write:
    records = tuple(NewRecord(expected + n, f"{actor}{expected + n}", "T", b"{}") for n in range(1, count + 1))
    return Write(actor, expected, records)


def test_a_commit_may_build_on_one_before_it_in_the_batch() -> None:
    versions = {"a": 3, "b": 0}
    commits = [[write("a", 3, 2)], [write("a", 5)], [write("a", 3)], [write("b", 0), write("a", 6)]]
    verdicts = plan(commits, versions)
    assert [verdict and (verdict.actor_id, verdict.attempted, verdict.current) for verdict in verdicts] == [
        None,
        None,
        ("a", 4, 6),
        None,
    ]
    assert versions == {"a": 7, "b": 1}


def test_a_commit_with_one_wrong_version_moves_nothing_on() -> None:
    versions = {"a": 0, "b": 4}
    (verdict,) = plan([[write("a", 0), write("b", 9)]], versions)
    assert verdict is not None
    assert versions == {"a": 0, "b": 4}
