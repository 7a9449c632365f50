"""A host that begins at snapshots: it reads less, and knows the same commands."""

import asyncio
from typing import Any

import pytest

from aether.core import Event, Host, Snapshot
from aether.core.cluster.routing import Answer, Asked
from aether.core.state import Decider, NewEvent, Snapshots

ACTOR = "order-1"


def evolve(state: int, _event: Event) -> int:
    return state + 1


def decide(_state: int, command: Event) -> list[NewEvent]:
    return [NewEvent(type="Added", data={"n": n}) for n in range(command.data.get("n", 1))]


def command(name: str, n: int = 1) -> Event:
    return Event(id=name, type="Add", actor_id="x", version=1, data={"n": n})


class Reads:
    """A host, and what it has read."""

    def __init__(self, store: Any, **settings: Any) -> None:
        self.read: list[int] = []
        read = store.read

        def counted(actor_id: str, **options: Any) -> Any:
            async def events() -> Any:
                async for event in read(actor_id, **options):
                    self.read.append(event.version)
                    yield event

            return events()

        self.store = store
        store.read = counted
        self.host: Host[int, Event] = Host(store, Decider(int, evolve, decide), **settings)

    async def ask(self, *commands: Event) -> list[Answer]:
        loop = asyncio.get_running_loop()
        asked = [Asked(one, loop.create_future()) for one in commands]
        await self.host.work(ACTOR, asked, owned=lambda: True)
        return [await one.answer for one in asked]

    async def cold(self, *commands: Event) -> list[Answer]:
        """Ask behind a replay."""
        self.host.forget(lambda _: True)
        self.read.clear()
        return await self.ask(*commands)


def versions(answers: list[Answer]) -> list[list[int]]:
    return [[event.version for event in answer.events] for answer in answers]


def play(world: Any, test: Any) -> None:
    async def with_store() -> None:
        facades = await world.machine("a").facades(timeout=1.0)
        await test(facades.store)

    world.run(with_store)


def test_a_replay_begins_at_the_snapshot(world) -> None:
    async def test(store: Any) -> None:
        reads = Reads(store, snapshots=Snapshots("count", int, every=10), repeats=5)
        for number in range(23):
            await reads.ask(command(f"c{number}"))
        saved = await store.snapshot(ACTOR, schema="count")
        assert (saved.version, saved.state["state"]) == (20, 20)
        assert versions(await reads.cold(command("new"))) == [[24]]
        assert reads.read == [16, 17, 18, 19, 20, 21, 22, 23]
        assert reads.host._warm[ACTOR].state == 24

    play(world, test)


def test_repeats_are_known_as_far_back_as_they_are_read(world) -> None:
    async def test(store: Any) -> None:
        reads = Reads(store, snapshots=Snapshots("count", int, every=10), repeats=5)
        for number in range(10):
            await reads.ask(command(f"c{number}", n=2))  # at 2 n + 1 and 2 n + 2
        (again,) = await reads.cold(command("c8"))
        assert [event.version for event in again.events] == [17, 18]
        # Of c7 only the second event is among the last five: half of an answer would be worse than another decision.
        assert versions(await reads.cold(command("c7"))) == [[21]]
        assert versions(await reads.cold(command("c7"))) == [[21]]

    play(world, test)


def test_without_snapshots_no_command_is_too_old(world) -> None:
    async def test(store: Any) -> None:
        reads = Reads(store, repeats=1)
        for number in range(10):
            await reads.ask(command(f"c{number}"))
        assert versions(await reads.cold(command("c0"))) == [[1]]

    play(world, test)


def test_a_snapshot_that_does_not_hold_is_dropped_and_replaced(world) -> None:
    async def test(store: Any) -> None:
        snapshots = Snapshots("count", int, every=10)
        reads = Reads(store, snapshots=snapshots)
        for number in range(12):
            await reads.ask(command(f"c{number}"))
        state = {"fingerprint": "of other fields", "state": 7}
        await store.save_snapshot(Snapshot(actor_id=ACTOR, version=12, schema="count", state=state))
        assert versions(await reads.cold(command("new"))) == [[13]]
        assert reads.host._warm[ACTOR].state == 13
        saved = await store.snapshot(ACTOR, schema="count")
        assert (saved.version, saved.state["state"]) == (13, 13)

    play(world, test)


def test_a_snapshot_of_another_history_is_dropped(world) -> None:
    async def test(store: Any) -> None:
        snapshots = Snapshots("count", int, every=10)
        reads = Reads(store, snapshots=snapshots)
        for number in range(12):
            await reads.ask(command(f"c{number}"))
        saved = snapshots.saved

        async def other(*arguments: Any) -> Any:
            found, dropped = await saved(*arguments)
            return found and found._replace(event_id="of before the restore", state=99), dropped

        snapshots.saved = other  # type: ignore[method-assign]
        await reads.cold(command("new"))
        assert reads.host._warm[ACTOR].state == 13

    play(world, test)


def test_what_cannot_be_saved_harms_no_command(world, caplog) -> None:
    async def test(store: Any) -> None:
        wrong: Snapshots[Any] = Snapshots("count", str, every=1)
        reads = Reads(store, snapshots=wrong)
        assert versions(await reads.ask(command("c1"))) == [[1]]

    play(world, test)
    assert "was saved" in caplog.text


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"keep": True}, {"repeats": 0}, {"repeats": 1.5}])
def test_settings_of_hosts_are_checked(world, wrong: dict[str, Any]) -> None:
    async def test(store: Any) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Host(store, Decider(int, evolve, decide), **wrong)

    play(world, test)
