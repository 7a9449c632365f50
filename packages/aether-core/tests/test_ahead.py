"""Reading ahead: the next page is asked for before one is consumed, and nothing is left behind. In virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest

from aether.core import Closed, Event, EventStore, Unavailable
from aether.core.spi import Page
from aether.memory import MemoryStore, NamespaceSpace

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Paged(MemoryStore):
    """Gives two events a page, and takes a second for each page behind the first one."""

    def __init__(self, *, fails_at: int = 0, size: int = 2) -> None:
        super().__init__(NamespaceSpace())
        self.asked = 0
        self.answered = 0
        self._fails_at = fails_at
        self._size = size

    async def read(self, actor_id: str, *, after: int, upto: int | None, limit: int | None, reverse: bool) -> Page:
        await self._wait()
        page = await super().read(
            actor_id, after=after, upto=upto, limit=min(limit or self._size, self._size), reverse=reverse
        )
        return self._answer(page, limit)

    async def feed(self, *, after: int, upto: int, limit: int) -> Page:
        await self._wait()
        return self._answer(await super().feed(after=after, upto=upto, limit=min(limit, self._size)), limit)

    async def _wait(self) -> None:
        self.asked += 1
        if self.asked == self._fails_at:
            raise Unavailable("read", reason="no server")
        if self.asked > 1:
            await asyncio.sleep(1)

    def _answer(self, page: Page, limit: int | None) -> Page:
        self.answered += 1
        return Page(page.records, more=len(page.records) == self._size and limit != self._size)


async def filled(driver: Paged, count: int = 6) -> EventStore:
    store = await EventStore(driver, namespace="shop").open()
    await store.append(*(Event(type="T", actor_id="a", version=version) for version in range(1, count + 1)))
    return store


@pytest.mark.parametrize("kind", ["read", "feed"])
def test_the_next_page_is_on_its_way_while_one_is_consumed(virtual: Run, kind: str) -> None:
    async def main() -> None:
        driver = Paged()
        store = await filled(driver)
        clock = asyncio.get_running_loop().time
        asked = []
        async for _ in store.read("a") if kind == "read" else store.feed():
            asked.append(driver.asked)
            await asyncio.sleep(1)
        # Within the first page, and at the beginning of each later one. Where a feed ends is known before.
        assert asked == ([1, 2, 3, 3, 4, 4] if kind == "read" else [1, 2, 3, 3, 3, 3])
        # Six events at a second each: what the pages take has passed meanwhile.
        assert round(clock(), 3) == 6.0
        await store.close()

    virtual(main())


@pytest.mark.parametrize("size", [1, 3, 4, 5])
@pytest.mark.parametrize("kind", ["read", "back", "feed"])
def test_pages_of_any_size_are_read_to_the_end(virtual: Run, kind: str, size: int) -> None:
    async def main() -> None:
        store = await filled(Paged(size=size))
        if kind == "feed":
            found = [event.version async for _, event in store.feed()]
        else:
            found = [event.version async for event in store.read("a", reverse=kind == "back")]
        assert (found[::-1] if kind == "back" else found) == [1, 2, 3, 4, 5, 6]
        await store.close()

    virtual(main())


@pytest.mark.parametrize(("limit", "pages"), [(2, 1), (3, 2), (4, 2)])
def test_no_page_is_asked_for_that_nobody_wants(virtual: Run, limit: int, pages: int) -> None:
    async def main() -> None:
        driver = Paged()
        store = await filled(driver)
        assert len([event async for event in store.read("a", limit=limit)]) == limit
        assert driver.asked == pages
        await store.close()

    virtual(main())


@pytest.mark.parametrize(("consumed", "asked"), [(1, 1), (2, 2)])
def test_who_leaves_early_leaves_nothing_behind(virtual: Run, consumed: int, asked: int) -> None:
    async def main() -> None:
        driver = Paged()
        store = await filled(driver)
        async with aclosing(store.read("a")) as events:  # type: ignore[type-var]
            async for event in events:
                if event.version == consumed:
                    break
        await asyncio.sleep(0)
        assert (driver.asked, driver.answered) == (asked, 1)
        assert len(asyncio.all_tasks()) == 1
        await store.close()

    virtual(main())


def test_the_error_of_a_page_comes_behind_the_events_before_it(virtual: Run) -> None:
    async def main() -> None:
        store = await filled(Paged(fails_at=2))
        seen = []
        with pytest.raises(Unavailable):
            async for event in store.read("a"):
                seen.append(event.version)
                await asyncio.sleep(1)
        assert seen == [1, 2]
        await store.close()

    virtual(main())


def test_closing_ends_a_reader_that_waits_for_its_page(virtual: Run) -> None:
    async def main() -> None:
        driver = Paged()
        store = await filled(driver)

        async def read() -> list[int]:
            return [event.version async for event in store.read("a")]

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.5)
        assert (driver.asked, driver.answered) == (2, 1)
        await store.close()
        with pytest.raises(Closed):
            await reading
        assert len(asyncio.all_tasks()) == 1

    virtual(main())


def test_a_cancelled_reader_is_cancelled_and_its_question_too(virtual: Run) -> None:
    async def main() -> None:
        driver = Paged()
        store = await filled(driver)

        async def read() -> None:
            async for _ in store.read("a"):
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1
        assert [event.version async for event in store.read("a")] == [1, 2, 3, 4, 5, 6]
        await store.close()

    virtual(main())
