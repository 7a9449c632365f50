"""A process that appends, for cases that need several: `python -m aether.conformance.writer NAMESPACE FIRST LAST`.

The URL comes through stdin. Actors `a<FIRST>` to `a<LAST - 1>` get 30 versions each, all at once.
"""

from __future__ import annotations

import asyncio
import sys

from aether.core import Event, VersionConflict, open_store

_VERSIONS = 30

REFUTED = 9
"""The exit code that says: what the backend did is on stderr."""


async def _write(url: str, namespace: str, first: int, last: int) -> None:
    async with open_store(url, namespace=namespace, timeout=30.0) as store, asyncio.TaskGroup() as group:

        async def write(actor_id: str) -> None:
            for version in range(1, _VERSIONS + 1):
                await store.append(Event(type="Happened", actor_id=actor_id, version=version))
                try:
                    await store.append(Event(type="Refused", actor_id=actor_id, version=version))
                except VersionConflict:
                    continue
                raise AssertionError(f"version {version} of {actor_id} was stored twice")

        for number in range(first, last):
            group.create_task(write(f"a{number}"))


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


if __name__ == "__main__":
    url = sys.stdin.read()
    try:
        asyncio.run(_write(url, sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    except Exception as error:  # noqa: BLE001  (whatever a backend raises is a finding)
        found = _first(error)
        print(f"{type(found).__name__}: {found}", file=sys.stderr)
        sys.exit(REFUTED)
