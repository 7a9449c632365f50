"""What is read at once is bounded in bytes, also where the client fetches all of an answer."""

import os

import pytest

from aether.core import Event, open_store
from aether.core.kit import Bell
from aether.core.scope import Scope
from aether.core.spi import Message
from aether.core.url import BackendURL
from aether.sql.bus import SqlLog
from aether.sql.statements import PAGE_BYTES


async def test_large_messages_are_read_a_few_at_a_time(any_url):
    log = SqlLog(BackendURL(any_url), Scope("shop"), Bell())
    await log.open()
    messages = [Message("shop", "Happened", f"a{n}", b"x" * (1 << 20 if 3 <= n < 23 else n)) for n in range(40)]
    for message in messages:
        await log.put(message)
    found, after = [], 0
    while page := await log.after(after, 256):
        assert sum(len(one.message.data) for one in page) <= 2 * PAGE_BYTES
        found += page
        after = page[-1].position
    await log.close()
    assert [one.message for one in found] == messages
    assert [one.position for one in found] == list(range(1, 41))


def documents(kind: str) -> list[str]:
    """What a page must be cut for: large as it stands, packed to a hundredth in the table, and in the middle of it."""
    large = {"random": os.urandom(150_000).hex(), "packed": "x" * 300_000, "medium": "x" * 20_000}[kind]
    return ["s" * 100, *[large] * 48, *["s" * 100] * 30, large, "s" * 100]


@pytest.mark.parametrize("kind", ["random", "packed", "medium"])
async def test_pages_of_large_events_among_small_ones_are_bounded(any_url: str, kind: str) -> None:
    texts = documents(kind)
    async with open_store(any_url) as store:
        events = [Event(type="T", actor_id="a", version=n, data={"text": text}) for n, text in enumerate(texts, 1)]
        for first in range(0, len(events), 12):
            await store.append(*events[first : first + 12])
        assert [event.data["text"] async for event in store.read("a")] == texts
        assert [event.data["text"] async for event in store.read("a", reverse=True)] == texts[::-1]
        assert [event.data["text"] async for _, event in store.feed()] == texts
        driver = store._driver
        for after in (0, 1, 47, 60, 78):
            for page in (
                await driver.read("a", after=after, upto=None, limit=None, reverse=False),
                await driver.feed(after=after, upto=1 << 40, limit=1000),
            ):
                assert sum(len(one.data) for one in page.records) <= 3 * PAGE_BYTES  # SQLite's begin with eight rows
                assert page.more == (page.records[-1].version < len(texts))
