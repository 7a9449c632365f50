"""One timer for many calls: who is late fails, who is done is forgotten, and nothing is left behind."""

import asyncio
import weakref

import pytest

from aether.core.kit import Deadlines

SHORT, LONG = 0.01, 60.0


class Result:
    """Something that a weak reference can be made to."""


def late() -> Exception:
    return TimeoutError("late")


def test_who_is_late_fails_and_who_came_later_has_time() -> None:
    async def main() -> None:
        deadlines = Deadlines(SHORT)
        first, done = asyncio.get_running_loop().create_future(), asyncio.get_running_loop().create_future()
        deadlines.watch(first, late)
        deadlines.watch(done, late)
        done.set_result("in time")
        with pytest.raises(TimeoutError):
            await first
        second = asyncio.get_running_loop().create_future()
        deadlines.watch(second, late)  # the timer starts anew
        with pytest.raises(TimeoutError):
            await second
        assert await done == "in time"

    asyncio.run(main())


def test_a_result_is_forgotten_once_all_before_it_are_done() -> None:
    async def main() -> None:
        deadlines = Deadlines(LONG)
        loop = asyncio.get_running_loop()
        slow, quick = loop.create_future(), loop.create_future()
        deadlines.watch(slow, late)
        deadlines.watch(quick, late)
        result = Result()
        left = weakref.ref(result)
        quick.set_result(result)
        deadlines.tidy()
        del quick, result
        assert left() is not None, "the docstring says that it is kept"
        slow.set_result(None)
        deadlines.tidy()
        assert left() is None
        deadlines.close()

    asyncio.run(main())


def test_closing_leaves_no_timer() -> None:
    async def main() -> None:
        deadlines = Deadlines(LONG)
        future = asyncio.get_running_loop().create_future()
        deadlines.watch(future, late)
        timer = deadlines._alarm
        assert timer is not None
        future.set_result(None)
        deadlines.close()
        deadlines.close()
        assert timer.cancelled()

    asyncio.run(main())


def test_what_still_waits_when_it_is_closed_expires() -> None:
    async def main() -> None:
        deadlines = Deadlines(SHORT)
        future = asyncio.get_running_loop().create_future()
        deadlines.watch(future, late)
        deadlines.close()
        with pytest.raises(TimeoutError):
            await future

    asyncio.run(main())
