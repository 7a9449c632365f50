"""Who watches a file of SQLite learns of every commit, and not only of its beginning. Linux only."""

import asyncio
from pathlib import Path

from aether.sql.threads import FileLock
from aether.sql.wake import FileWatch

BOUND = 10  # seconds, where something has to happen


async def _begun(watch: FileWatch, changes: "asyncio.Queue[None]") -> None:
    watch.start()
    async with asyncio.timeout(BOUND):
        await changes.get()  # the first one tells that it has begun


def test_a_touched_lock_is_told(tmp_path: Path) -> None:
    """Our writers write to it behind each commit."""

    async def run() -> None:
        log, changes = tmp_path / "log", asyncio.Queue[None]()
        log.touch()
        lock = FileLock(tmp_path / "lock")
        watch = FileWatch(log, tmp_path / "lock", lambda: changes.put_nowait(None))
        await _begun(watch, changes)
        lock.touch()
        async with asyncio.timeout(BOUND):
            await changes.get()
        await watch.close()
        lock.close()

    asyncio.run(run())


def test_a_write_to_the_log_is_told_again_later(tmp_path: Path) -> None:
    """It comes before the commit is there to be read: a look at that moment finds nothing. No lock is needed for it."""

    async def run() -> None:
        log, changes = tmp_path / "log", asyncio.Queue[None]()
        log.touch()
        watch = FileWatch(log, tmp_path / "missing", lambda: changes.put_nowait(None))
        await _begun(watch, changes)
        log.write_bytes(b"frame")
        async with asyncio.timeout(BOUND):
            for _ in range(3):
                await changes.get()
        await watch.close()

    asyncio.run(run())
