"""What is awaited in shelter ends as if nobody had been cancelled, and its caller is cancelled at once."""

import asyncio
import functools

import pytest

from aether.core.kit import Shelter


def in_a_loop(test):
    @functools.wraps(test)
    def run(**arguments):
        asyncio.run(test(**arguments))

    return run


class Calls:
    """Work in several steps, and the tasks that were made of the rest of it."""

    def __init__(self) -> None:
        self.answers = [asyncio.get_running_loop().create_future() for _ in range(3)]
        self.steps: list[object] = []
        self.rest: list[asyncio.Task[object]] = []

    async def work(self) -> str:
        try:
            self.steps.append("begun")
            for answer in self.answers:
                self.steps.append(await answer)
                await asyncio.sleep(0)
            return "done"
        finally:
            self.steps.append("ended")

    def begin(self, rest) -> None:
        self.rest.append(asyncio.ensure_future(rest))

    def call(self) -> asyncio.Task[str]:
        async def caller() -> str:
            return await Shelter(self.work(), self.begin)

        return asyncio.ensure_future(caller())

    def shelter(self) -> tuple[Shelter[str], asyncio.Task[str]]:
        shelter = Shelter(self.work(), self.begin)

        async def caller() -> str:
            return await shelter

        return shelter, asyncio.ensure_future(caller())

    def answer(self) -> None:
        for number, answer in enumerate(self.answers):
            if not answer.done():
                answer.set_result(number)

    async def end(self) -> None:
        self.answer()
        assert [await rest for rest in self.rest] == ["done"]
        assert self.steps == ["begun", 0, 1, 2, "ended"]


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@in_a_loop
async def test_without_a_cancellation_it_is_a_plain_await():
    calls = Calls()
    call = calls.call()
    await turns(1)
    assert calls.steps == ["begun"]
    calls.answer()
    assert await call == "done"
    assert calls.steps == ["begun", 0, 1, 2, "ended"]
    assert not calls.rest


@in_a_loop
async def test_errors_are_those_of_the_work():
    calls = Calls()
    call = calls.call()
    await turns(1)
    calls.answers[0].set_exception(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        await call
    assert calls.steps == ["begun", "ended"]


@pytest.mark.parametrize("after", range(12))
@in_a_loop
async def test_wherever_the_caller_is_cancelled_the_work_goes_on(after):
    """One answer comes every third turn, so the caller is met at each of its steps, and between two of them."""
    calls = Calls()
    call = calls.call()
    for turn in range(after):
        await turns(1)
        if turn % 3 == 1 and turn // 3 < len(calls.answers):
            calls.answers[turn // 3].set_result(turn // 3)
    if call.done():
        assert call.result() == "done"
        return
    if not calls.steps:  # it was cancelled before it began, and there is nothing to shelter
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not any(answer.cancelled() for answer in calls.answers)
    await calls.end()


@in_a_loop
async def test_a_caller_that_is_cancelled_need_not_wait_for_an_answer():
    calls = Calls()
    call = calls.call()
    await turns(1)
    call.cancel()
    await turns(2)
    assert call.cancelled()
    assert not calls.answers[0].done()
    await calls.end()


@in_a_loop
async def test_an_answer_in_the_same_turn_as_the_cancellation_is_not_lost():
    calls = Calls()
    call = calls.call()
    await turns(1)
    calls.answers[0].set_result(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await calls.end()


@in_a_loop
async def test_what_its_caller_has_left_hears_of_errors():
    calls = Calls()
    call = calls.call()
    await turns(1)
    call.cancel()
    await asyncio.wait([call])
    await turns(1)
    calls.answers[0].set_exception(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        await calls.rest[0]
    assert calls.steps == ["begun", "ended"]


@pytest.mark.parametrize("answered", [0, 1])
@in_a_loop
async def test_what_its_caller_has_left_can_be_cancelled(answered):
    calls = Calls()
    call = calls.call()
    await turns(1)
    call.cancel()
    await asyncio.wait([call])
    await turns(2)
    for number in range(answered):
        calls.answers[number].set_result(number)
        await turns(4)
    calls.rest[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls.rest[0]
    assert calls.steps == ["begun", *range(answered), "ended"]
    assert calls.answers[answered].cancelled()


@in_a_loop
async def test_what_its_caller_has_left_is_told_before_its_first_turn():
    calls = Calls()
    call = calls.call()
    await turns(1)
    call.cancel()
    await turns(1)
    calls.rest[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls.rest[0]
    assert calls.steps == ["begun", "ended"]


@pytest.mark.parametrize("kind", ["task", "gather"])
@in_a_loop
async def test_what_work_waits_for_may_be_more_than_a_future(kind):
    """Its caller leaves, and then what is left of it is cancelled: so is what it waits for, which takes its time."""
    log = []

    async def child() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await turns(2)
            log.append("child ended")

    async def work() -> None:
        try:
            await (asyncio.ensure_future(child()) if kind == "task" else asyncio.gather(child()))
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    rest: list[asyncio.Task[None]] = []

    async def caller() -> None:
        await Shelter(work(), lambda left: rest.append(asyncio.ensure_future(left)))

    call = asyncio.ensure_future(caller())
    await turns(2)
    call.cancel()
    await asyncio.wait([call])
    await turns(1)
    rest[0].cancel()
    await asyncio.wait(rest)
    assert log == ["child ended", "cancelled"]


@in_a_loop
async def test_others_may_wait_for_the_same_future():
    shared = asyncio.get_running_loop().create_future()

    async def work() -> int:
        return await shared

    async def sheltered() -> int:
        return await Shelter(work(), asyncio.ensure_future)

    calls = [asyncio.ensure_future(sheltered()), asyncio.ensure_future(work()), asyncio.ensure_future(sheltered())]
    await turns(1)
    shared.set_result(7)
    assert await asyncio.gather(*calls) == [7, 7, 7]


@in_a_loop
async def test_shelters_may_stand_in_shelters():
    calls, rest = Calls(), []

    async def outer() -> str:
        return await Shelter(calls.work(), calls.begin)

    async def caller() -> str:
        return await Shelter(outer(), lambda left: rest.append(asyncio.ensure_future(left)))

    call = asyncio.ensure_future(caller())
    await turns(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    calls.answer()
    assert await rest[0] == "done"
    assert not calls.rest
    assert calls.steps == ["begun", 0, 1, 2, "ended"]


@in_a_loop
async def test_a_cancellation_keeps_its_message():
    calls = Calls()
    call = calls.call()
    await turns(1)
    call.cancel("anyio knows its own by this")
    with pytest.raises(asyncio.CancelledError) as raised:
        await call
    assert raised.value.args == ("anyio knows its own by this",)
    await calls.end()


@in_a_loop
async def test_a_time_out_around_it_is_one():
    calls = Calls()

    async def caller() -> None:
        async with asyncio.timeout(0):
            await Shelter(calls.work(), calls.begin)

    with pytest.raises(TimeoutError):
        await caller()
    await calls.end()


@in_a_loop
async def test_a_caller_that_goes_on_can_ask_again():
    calls, others = Calls(), Calls()

    async def caller() -> str:
        try:
            return await Shelter(calls.work(), calls.begin)
        except asyncio.CancelledError:
            return await Shelter(others.work(), others.begin)

    call = asyncio.ensure_future(caller())
    await turns(1)
    call.cancel()
    await turns(2)
    others.answer()
    assert await call == "done"
    await calls.end()


@in_a_loop
async def test_a_caller_that_is_told_to_leave_does():
    calls = Calls()
    shelter, call = calls.shelter()
    await turns(1)
    assert not shelter.done()
    shelter.set_exception(TimeoutError("too late"))
    with pytest.raises(TimeoutError, match="too late"):
        await call
    assert shelter.done()
    await calls.end()


@in_a_loop
async def test_a_caller_that_is_told_to_leave_between_two_waits_leaves_at_the_next():
    calls = Calls()
    shelter, call = calls.shelter()
    await turns(1)
    calls.answers[0].set_result(0)
    await turns(1)
    shelter.set_exception(TimeoutError("too late"))  # its answer is there, and it goes on in a moment
    with pytest.raises(TimeoutError, match="too late"):
        await call
    await calls.end()


@in_a_loop
async def test_who_is_done_is_not_told_to_leave():
    calls = Calls()
    shelter = Shelter(calls.work(), calls.begin)
    calls.answer()
    assert await shelter == "done"
    assert shelter.done()
