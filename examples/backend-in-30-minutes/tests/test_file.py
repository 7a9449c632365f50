"""What only a backend in a file has to prove: kill -9, other people's files, and writers of other processes."""

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from aether.core import Durability, Event, InvalidURL, Unavailable, open_bus, open_store

WRITER = """
import asyncio, sys
from aether.core import Event, open_store

async def main():
    async with open_store(sys.argv[1], namespace="shop") as store:
        for version in range(1, 100_000, 2):
            pair = (Event(type="T", actor_id=actor, version=v) for actor in "ab" for v in (version, version + 1))
            await store.append(*pair)
            print(version + 1, flush=True)

asyncio.run(main())
"""

MEMBER = """
import asyncio, sys
from aether.core import open_bus

async def main():
    async with open_bus(sys.argv[1]) as bus, bus.subscribe(queue="q") as events:
        print("ready", flush=True)
        async for event in events:
            if event.type == "End":
                break
            print(event.version, flush=True)

asyncio.run(main())
"""


def event(version: int, actor: str = "a") -> Event:
    return Event(type="T", actor_id=actor, version=version)


async def stored(url: str) -> tuple[int, int, int]:
    async with open_store(url, namespace="shop") as store:
        return await store.version("a"), await store.version("b"), len([one async for one in store.feed()])


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("options", ["", "?synchronous=normal"])
def test_kill_9_loses_nothing_that_was_acknowledged_and_leaves_whole_commits(
    tmp_path: Path, options: str, number: int
) -> None:
    url = f"filestore://{tmp_path}/events.db{options}"
    with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = 0
        while acknowledged < 20 + 17 * number:
            acknowledged = int(writer.stdout.readline())
        writer.kill()
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])

    a, b, total = asyncio.run(stored(url))
    assert acknowledged <= a == b
    assert a % 2 == 0
    assert total == 2 * a


def test_durability_is_what_the_file_is_set_to(tmp_path: Path) -> None:
    async def durability(options: str) -> Durability:
        async with open_store(f"filestore://{tmp_path}/events.db{options}") as store:
            return store.durability

    assert asyncio.run(durability("")) is Durability.HOST
    assert asyncio.run(durability("?synchronous=normal")) is Durability.PROCESS


def test_a_file_of_somebody_else_is_refused_and_not_touched(tmp_path: Path) -> None:
    async def refused(path: Path) -> None:
        before = path.read_bytes()
        with pytest.raises(InvalidURL):
            await open_store(f"filestore://{path}").open()
        assert path.read_bytes() == before
        assert list(tmp_path.glob(f"{path.name}-*")) == []

    text, database = tmp_path / "notes.txt", tmp_path / "theirs.db"
    text.write_text("not a database at all, and long enough to have a header of one " * 20)
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    for path in (text, database):
        asyncio.run(refused(path))


@pytest.mark.parametrize("url", ["filestore://", "filestore://host/x.db", "filestore:///x.db?synchronous=off"])
def test_a_url_that_says_something_else_is_refused(url: str) -> None:
    with pytest.raises(InvalidURL):
        open_store(url)


def test_a_busy_file_is_unavailable_and_nothing_was_written(tmp_path: Path) -> None:
    url = f"filestore://{tmp_path}/events.db"

    async def main() -> None:
        async with open_store(url) as patient, open_store(url, timeout=1.0) as store:
            await patient.append(event(1))
            other = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            async with asyncio.timeout(30):
                results = await asyncio.gather(*(store.append(event(2)) for _ in range(5)), return_exceptions=True)
            assert [type(result) for result in results] == [Unavailable] * 5
            assert await patient.version("a") == 1  # readers do not wait for writers
            other.execute("ROLLBACK")
            other.close()
            await patient.append(event(2))

    asyncio.run(main())


def test_many_that_open_a_new_file_at_once_all_succeed(tmp_path: Path) -> None:
    async def main(number: int) -> None:
        url = f"filestore://{tmp_path}/new{number}.db"
        stores = [open_store(url) for _ in range(8)]
        await asyncio.gather(*(store.open() for store in stores))
        assert {store.durability for store in stores} == {Durability.HOST}
        assert len({store.identity for store in stores}) == 1
        await asyncio.gather(*(store.close() for store in stores))

    for number in range(20):
        asyncio.run(main(number))


def test_a_queue_is_shared_by_processes(tmp_path: Path) -> None:
    url = f"filestore://{tmp_path}/events.db"
    command = [sys.executable, "-c", MEMBER, url]
    members = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [member.stdout for member in members if member.stdout is not None]
    assert [output.readline() for output in outputs] == ["ready\n"] * 2

    async def publish() -> None:
        async with open_bus(url) as bus:
            await bus.publish(*(event(version) for version in range(1, 201)))
            while any(member.poll() is None for member in members):  # each End goes to one of them
                await bus.publish(Event(type="End", actor_id="a", version=1))

    asyncio.run(asyncio.wait_for(publish(), 60))
    got = [int(line) for output in outputs for line in output.read().split()]
    for member, output in zip(members, outputs, strict=True):
        output.close()
        assert member.returncode == 0
    assert sorted(got) == list(range(1, 201))
