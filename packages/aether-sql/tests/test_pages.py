"""What is read at once is bounded in bytes, also where the client fetches all of an answer."""

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
