"""What a process holds: tasks, file descriptors, threads, memory."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import Awaitable
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

ResultT = TypeVar("ResultT")

_DESCRIPTORS = Path("/dev/fd")


class Resources(NamedTuple):
    """Counts of what may be left behind."""

    tasks: int
    descriptors: int
    threads: int

    @classmethod
    def now(cls) -> Self:
        """What is held at this moment. Where the system does not list its descriptors, they count as 0."""
        try:
            descriptors = len(list(_DESCRIPTORS.iterdir()))
        except OSError:
            descriptors = 0
        # Threads of the loop's own pool (name resolution) stay for the loop, not for whoever used them.
        threads = sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())
        return cls(len(asyncio.all_tasks()), descriptors, threads)

    def within(self, other: Resources) -> bool:
        """Whether nothing is more than in `other`."""
        return all(mine <= theirs for mine, theirs in zip(self, other, strict=True))


async def peak_bytes(work: Awaitable[ResultT]) -> tuple[ResultT, int]:
    """What comes of the work, and how many bytes more than at its beginning Python held at most meanwhile."""
    traced = tracemalloc.is_tracing()
    if not traced:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        result = await work
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not traced:
            tracemalloc.stop()
    return result, peak - before
