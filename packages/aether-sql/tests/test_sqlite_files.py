"""Which file a URL or an engine means, whatever it is called and wherever the program goes."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import create_async_engine

import aether.sql
from aether.core import Event, open_store
from aether.sql.database import WrongConnection


def event(version: int) -> Event:
    return Event(type="Happened", actor_id="a", version=version)


async def test_memory_is_memory_by_each_of_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_store("sqlite://") as one, open_store("sqlite:///:memory:") as other:
        await one.append(event(1))
        assert await other.version("a") == 1
    assert not list(tmp_path.iterdir())


NAMES = [
    "a b.db",
    "a?b=c&d.db",
    "a#b.db",
    "100%.db",
    "a%20b.db",
    "file:a.db?mode=ro",
    "a;b'c\".db",
    "é🚀",
    "a\\b",
    ":memory:x",
]


@pytest.mark.parametrize("name", NAMES)
async def test_any_name_of_a_file_is_this_files_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = create_async_engine(URL.create("sqlite+aiosqlite", database=str(tmp_path / name)))
    async with (
        open_store(f"sqlite:///{quote(name)}") as relative,
        open_store(f"sqlite:///{tmp_path}/{quote(name)}") as absolute,
    ):
        await relative.append(event(1))
        assert await absolute.version("a") == 1
        async with aether.sql.open_store(engine) as own:
            assert own.identity == relative.identity
        assert {one.name for one in tmp_path.iterdir()} == {name + end for end in ("", ".lock", "-shm", "-wal")}
    await engine.dispose()


async def test_a_change_of_the_directory_splits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Writer, reader and watch begin one after the other: all with the file that the first of them has."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with AsyncExitStack() as stack:
        opening = asyncio.create_task(stack.enter_async_context(open_store("sqlite:///events.db")))
        while not (tmp_path / "events.db").exists():
            await asyncio.sleep(0)
        monkeypatch.chdir(tmp_path / "elsewhere")
        store = await opening
        async with store.subscribe() as events:
            await store.append(event(1))
            assert (await anext(events))[1].version == 1
    assert not list((tmp_path / "elsewhere").iterdir())
    assert "cannot be watched" not in caplog.text


async def test_a_link_is_the_file_that_it_leads_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "events.db")
    url = f"sqlite:///{tmp_path}/events.db"
    async with open_store(f"sqlite:///{tmp_path}/link.db") as one, open_store(url) as other, one.subscribe() as events:
        await other.append(event(1))
        assert (await anext(events))[1].version == 1
        assert not list(tmp_path.glob("link.db?*"))
    assert "cannot be watched" not in caplog.text


async def test_an_engine_with_a_uri_is_refused() -> None:
    engine = create_async_engine("sqlite+aiosqlite:///file:events.db?mode=ro&uri=true")
    with pytest.raises(WrongConnection, match="name of a file"):
        aether.sql.open_store(engine)
    await engine.dispose()
