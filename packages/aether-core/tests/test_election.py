"""How long an election takes, and what its users hold; in virtual time."""

import asyncio

import pytest

from aether.core import Closed, InvalidName, LeadershipLost, LeaderView, Term, Unavailable

TTL = 10.0
MARGIN = 0.1 * TTL
RENEW = 0.2 * TTL
PAUSE = 0.05 * TTL + 0.01  # between two tries, and their way
HOP = 0.05  # seconds: more than a few round trips, much less than a ttl


# --- Liveness ---


def test_l2_resign_hands_over_in_one_hop(world) -> None:
    a, b = world.machine("a"), world.machine("b")

    async def test() -> None:
        async with a.election() as first, b.election() as second:
            async with first.lead("x", ttl=TTL):
                standby = asyncio.create_task(second.campaign("x", ttl=TTL))
                await asyncio.sleep(3 * TTL)
                began = world.time
            term = await standby
            assert term.token == 2
            assert world.time - began <= HOP

    world.run(test)


def test_l2_a_watch_that_died_is_replaced(world) -> None:
    """It is found out when a read shows what the watch has missed; then hand-over takes one hop again."""
    a, b = world.machine("a"), world.machine("b")

    async def test() -> None:
        async with a.election() as first, b.election() as second:
            async with first.lead("x", ttl=TTL):
                standby = asyncio.create_task(second.campaign("x", ttl=TTL))
                await asyncio.sleep(TTL)
                b.link.deaf = True
                await asyncio.sleep(TTL)
                b.link.deaf = False
                await asyncio.sleep(TTL)
                began = world.time
            await standby
            assert world.time - began <= HOP

    world.run(test)


def test_l3_an_outage_shorter_than_the_lease_costs_nothing(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            term = await election.campaign("x", ttl=TTL)
            for number in range(10):
                await asyncio.sleep(RENEW * (1 + number / 10))
                machine.link.dead = True
                await asyncio.sleep(TTL - MARGIN - RENEW - PAUSE)
                machine.link.dead = False
                await asyncio.sleep(PAUSE)
                machine.link.cut = True  # here a call waits in vain before the next can be tried
                await asyncio.sleep(TTL - MARGIN - 2 * RENEW - PAUSE)
                machine.link.cut = False
            await asyncio.sleep(RENEW + PAUSE)
            assert term.valid()
            assert world.stored()["token"] == term.token == 1

    world.run(test)


def test_l4_a_fresh_candidate_waits_a_full_ttl_of_the_record(world) -> None:
    """The ttl of the record, not its own."""
    machine = world.machine()
    world.forge(revision=7, ttl=3 * TTL)

    async def test() -> None:
        async with machine.election() as election:
            term = await election.campaign("x", ttl=TTL)
            assert term.token == 2
            assert 3 * TTL <= world.time <= 1.05 * 3 * TTL + HOP

    world.run(test)


# --- The facade ---


def test_leader_and_observe(world) -> None:
    a, b = world.machine("a"), world.machine("b")

    async def test() -> None:
        async with a.election() as election, b.election() as looking:
            assert looking.push
            assert await looking.leader("x") is None
            views: list[LeaderView | None] = []

            async def look() -> None:
                async for view in looking.observe("x"):
                    views.append(view)  # noqa: PERF401  (it ends with an error, and must keep what it has seen)

            task = asyncio.create_task(look())
            await asyncio.sleep(HOP)
            async with election.lead("x", ttl=TTL) as term:
                await asyncio.sleep(HOP)
                assert await looking.leader("x") == LeaderView(term.holder, 1, 0.0)
                await asyncio.sleep(1.0)
                view = await looking.leader("x")
                assert view is not None
                assert view.age == pytest.approx(1.0, abs=HOP)
                await asyncio.sleep(3 * TTL)
            await asyncio.sleep(HOP)
            assert await looking.leader("x") is None
            await looking.close()
            with pytest.raises(Closed):
                await task
            assert [None if view is None else view.holder for view in views] == [None, term.holder, None]
            assert term.holder.startswith(f"{election.holder}/")
            assert election.holder.startswith("a/")

    world.run(test)


def test_run_campaigns_again_until_the_work_fails(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            tokens: list[int] = []

            async def work(term: Term) -> None:
                tokens.append(term.token)
                if len(tokens) == 1:
                    machine.link.cut = True
                    await asyncio.sleep(2 * TTL)
                elif len(tokens) == 3:
                    raise RuntimeError("broken")

            async def mend() -> None:
                await asyncio.sleep(TTL)
                machine.link.cut = False

            mending = asyncio.create_task(mend())
            with pytest.raises(RuntimeError, match="broken"):
                await election.run("x", work, ttl=TTL)
            await mending
            assert tokens == [1, 2, 3]
            assert world.stored()["holder"] == ""

    world.run(test)


def test_resigning_inside_of_the_body_ends_quietly(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            async with election.lead("x", ttl=TTL) as term:
                await term.resign()
                await asyncio.sleep(TTL)
            assert term.resigned
            with pytest.raises(LeadershipLost, match="resigned"):
                term.check()

    world.run(test)


def test_close_resigns_and_ends_what_waits(world) -> None:
    a, b = world.machine("a"), world.machine("b")

    async def test() -> None:
        first, second = await a.started(), await b.started()
        term = await first.campaign("x", ttl=TTL)
        waiting = asyncio.create_task(second.campaign("x", ttl=TTL))
        body_ended = asyncio.Event()

        async def lead() -> None:
            with pytest.raises(LeadershipLost, match="closed"):
                async with first.lead("y", ttl=TTL):
                    await asyncio.sleep(10 * TTL)
            body_ended.set()

        leading = asyncio.create_task(lead())
        await asyncio.sleep(RENEW)
        await second.close()
        with pytest.raises(Closed):
            await waiting
        others = asyncio.all_tasks()
        await first.close()
        assert not term.valid()
        assert world.stored("x")["holder"] == world.stored("y")["holder"] == ""
        await leading
        assert body_ended.is_set()
        assert asyncio.all_tasks() <= others
        assert not world.space.register_watches
        with pytest.raises(Closed):
            await first.campaign("x")

    world.run(test)


def test_close_is_bounded_when_the_register_is_gone(world) -> None:
    machine = world.machine()

    async def test() -> None:
        election = await machine.started()
        await election.campaign("x", ttl=TTL)
        waiting = asyncio.create_task(election.campaign("x", ttl=TTL))
        await asyncio.sleep(HOP)
        machine.link.cut = True
        began = world.time
        await election.close()
        assert world.time - began <= RENEW + HOP
        with pytest.raises(Closed):
            await waiting

    world.run(test)


def test_meta_is_kept_in_the_record(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            term = await election.campaign("x", ttl=TTL, meta={"zone": "a"})
            assert world.stored()["meta"] == {"zone": "a"}
            term.update({"applied": 7})
            await asyncio.sleep(HOP)
            assert world.stored()["meta"] == {"applied": 7}
            await asyncio.sleep(TTL)
            assert world.stored()["meta"] == {"applied": 7}
            assert term.valid()

    world.run(test)


def test_bad_arguments_are_refused_before_any_call(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            machine.link.arrived = lambda value: pytest.fail("something was sent")
            for ttl in (0, -1, 0.01, float("nan"), float("inf"), 1e9):
                with pytest.raises(ValueError, match="ttl"):
                    await election.campaign("x", ttl=ttl)
            with pytest.raises(InvalidName):
                await election.campaign("a\nb")
            with pytest.raises(InvalidName):
                election.observe("")
            with pytest.raises(ValueError, match="floor"):
                await election.campaign("x", floor=-1)
            with pytest.raises(ValueError, match="meta"):
                await election.campaign("x", meta={"a": float("nan")})

    world.run(test)


def test_an_unreachable_register_is_waited_for(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            machine.link.cut = True
            waiting = asyncio.create_task(election.campaign("x", ttl=TTL))
            with pytest.raises(Unavailable):
                await election.leader("x")
            await asyncio.sleep(10 * TTL)
            machine.link.cut = False
            began = world.time
            assert (await waiting).token == 1
            assert world.time - began < TTL

    world.run(test)
