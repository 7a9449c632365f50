"""The timer that all calls to a server share."""

import asyncio

from aether.sql.connections import _Calls


class Session:
    """Notes that it was dropped; the first one then raises."""

    def __init__(self, number: int, dropped: list[int]) -> None:
        self._number = number
        self._dropped = dropped

    def drop(self) -> None:
        self._dropped.append(self._number)
        if self._number == 0:
            raise OSError("it cannot be dropped")


async def test_all_calls_that_are_late_are_dropped_whatever_one_of_them_raises(caplog):
    loop, dropped = asyncio.get_running_loop(), []
    calls = _Calls()
    late = [Session(number, dropped) for number in range(3)]
    in_time = Session(3, dropped)
    calls.begin(in_time, loop, 60)
    for session in late:
        calls.begin(session, loop, 0)
    async with asyncio.timeout(10):
        while len(dropped) < 3:
            await asyncio.sleep(0)
    assert dropped == [0, 1, 2]
    assert "could not be dropped" in caplog.text
    for session in (*late, in_time):
        calls.end(session)
    calls.close()


async def test_the_timer_goes_on_to_the_next_call_that_is_late():
    loop, dropped = asyncio.get_running_loop(), []
    calls = _Calls()
    first, second = Session(1, dropped), Session(2, dropped)
    calls.begin(second, loop, 0.05)
    calls.begin(first, loop, 0)
    async with asyncio.timeout(10):
        while len(dropped) < 1:
            await asyncio.sleep(0)
        calls.end(first)
        while len(dropped) < 2:
            await asyncio.sleep(0)
    assert dropped == [1, 2]
    calls.end(second)
    calls.close()
