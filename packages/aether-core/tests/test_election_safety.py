"""What an election promises whatever happens, and the bugs that prototypes of it had; in virtual time."""

import asyncio
import contextlib
import json
from typing import Any

import pytest

from aether.core import Event, EventStore, LeadershipLost, Term, TimedOut, VersionConflict
from aether.core.lease import CorruptLease
from aether.core.spi import Entry
from aether.memory import MemoryStore, NamespaceSpace

TTL = 10.0
MARGIN = 0.1 * TTL
RENEW = 0.2 * TTL
HOP = 0.05  # seconds: more than a few round trips, much less than a ttl


# --- The bugs of the prototypes ---


def test_bug_1_token_and_revision_come_from_one_snapshot(world) -> None:
    """While a candidate finds out its floor somebody else is elected: the token that it chose before must not win."""
    a, b = world.machine("a"), world.machine("b")

    async def test() -> None:
        terms: list[Term] = []

        async def floor() -> int:
            if not terms:
                terms.append(await (await b.started()).campaign("x", ttl=TTL))
                b.crash()
            return 0

        terms.append(await (await a.started()).campaign("x", ttl=TTL, floor=floor))
        assert [term.token for term in terms] == [1, 2]

    world.run(test)


def test_bug_2_a_dead_watch_costs_half_a_ttl(world) -> None:
    """L1: with a watch that is silently dead, a crashed leader is replaced within 1.5 ttl."""
    a, b = world.machine("a"), world.machine("b")
    b.link.deaf = True

    async def test() -> None:
        leader = asyncio.create_task(a.crashed(TTL))
        await asyncio.sleep(HOP)
        standby = b.start((await b.started()).campaign("x", ttl=TTL))
        await leader
        began = world.time
        await standby
        assert world.time - began <= 1.5 * TTL + HOP

    world.run(test)


def test_bug_3_what_happens_while_one_begins_to_look_is_seen(world) -> None:
    """A change between the first look and the watch is not missed: what counts is the state, not the event."""
    a, b = world.machine("a"), world.machine("b")
    b.link.delay = (0.001, 0.5)

    async def test() -> None:
        async with a.election() as election, b.election() as looking:
            views = looking.observe("x")
            first = asyncio.ensure_future(anext(views))
            await asyncio.sleep(HOP)  # the read has arrived, its answer is on the way
            term = await election.campaign("x", ttl=TTL)
            assert await first is None
            began = world.time
            view = await anext(views)
            assert view is not None
            assert view.token == term.token
            assert world.time - began < 2.0
            await views.aclose()

    world.run(test)


def test_bug_3_a_term_that_ended_before_its_body_has_none(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            real = election._live().watch

            @contextlib.asynccontextmanager
            async def slow_to_end(prefix: str) -> Any:
                async with real(prefix) as watch:
                    yield watch
                    machine.link.cut = True
                    await asyncio.sleep(TTL)

            election._live().watch = slow_to_end
            with pytest.raises(LeadershipLost, match="ran out"):
                async with election.lead("x", ttl=TTL):
                    raise AssertionError("the body must not begin")
            machine.link.cut = False

    world.run(test)


def test_bug_4_a_warm_candidate_takes_over_within_one_ttl(world) -> None:
    """L1: a crashed leader is replaced within 1.05 ttl, counted from its last renewal, not from somebody's notice."""
    a, b = world.machine("a"), world.machine("b")

    async def test() -> None:
        leader = asyncio.create_task(a.crashed(TTL))
        await asyncio.sleep(HOP)
        standby = b.start((await b.started()).campaign("x", ttl=TTL))
        old = await leader
        began = world.time
        term = await standby
        assert term.token == old.token + 1
        assert world.time - began <= 1.05 * TTL + HOP

    world.run(test)


def test_bug_5_a_revision_that_is_given_again_is_a_change(world) -> None:
    """After a roll-back the register gives the same revision to another renewal; a challenger must not mistake it."""
    a, b = world.machine("a"), world.machine("b")

    async def test() -> None:
        leader = await (await a.started()).campaign("x", ttl=TTL)
        standby = b.start((await b.started()).campaign("x", ttl=TTL))
        await asyncio.sleep(HOP)
        before = world.space.registers["x"]
        a.link.fates.append("unanswered")
        while world.space.registers["x"] == before:
            await asyncio.sleep(HOP)
        lost = world.space.registers["x"]
        await asyncio.sleep(HOP)
        world.space.registers["x"] = before
        while world.space.registers["x"] == before:
            await asyncio.sleep(HOP)
        assert world.space.registers["x"].revision == lost.revision
        a.link.cut = True
        await leader.lost.wait()
        assert not standby.done()
        await standby

    world.run(test)


# --- Safety ---


def test_s1_s2_every_term_has_a_higher_token(world) -> None:
    """Across resignation, expiry and restart."""

    async def test() -> None:
        tokens = []
        for number in range(3):
            machine = world.machine("same name")
            term = await (await machine.started()).campaign("x", ttl=TTL)
            tokens.append(term.token)
            if number:
                machine.crash()
                term.end("crashed", release=False)
            else:
                await term.resign()
        assert tokens == [1, 2, 3]

    world.run(test)


@pytest.mark.parametrize(("slow", "fast"), [(0.95, 1.05), (1.05, 0.95), (1.0, 1.0)])
def test_s3_terms_do_not_overlap_at_the_edge_of_the_clocks(world, slow: float, fast: float) -> None:
    """Clock rates may differ by 5 % each way; what the clocks show does not matter at all."""
    a, b = world.machine("a", rate=slow, offset=1e6), world.machine("b", rate=fast, offset=-1e6)

    async def test() -> None:
        leader = await (await a.started()).campaign("x", ttl=TTL)
        standby = b.start((await b.started()).campaign("x", ttl=TTL))
        await asyncio.sleep(3.3 * RENEW)
        a.link.cut = True
        await leader.lost.wait()
        assert world.time == pytest.approx(a.clock.real(leader.deadline), abs=1e-6)
        assert not standby.done()
        await standby

    world.run(test)


def test_s4_the_body_is_cancelled_at_the_deadline(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            with pytest.raises(LeadershipLost, match="ran out") as caught:
                async with election.lead("x", ttl=TTL) as term:
                    machine.link.cut = True
                    assert term.remaining() == pytest.approx(TTL - MARGIN, abs=HOP)
                    term.check()
                    try:
                        await asyncio.sleep(10 * TTL)
                    except asyncio.CancelledError:
                        assert machine.clock.now() == pytest.approx(term.deadline)
                        assert not term.valid()
                        assert term.lost.is_set()
                        assert term.remaining() == 0
                        with pytest.raises(LeadershipLost):
                            term.check()
                        raise
            assert (caught.value.name, caught.value.token) == ("x", term.token)
            assert machine.clock.now() == pytest.approx(term.deadline)  # nobody waited for the release

    world.run(test)


def test_s4_a_blocking_call_past_the_deadline_is_found_out(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            with pytest.raises(LeadershipLost):
                async with election.lead("x", ttl=TTL) as term:
                    world.loop.advance(2 * TTL)
                    assert not term.valid()
                    await asyncio.sleep(HOP)
                    raise AssertionError("the body must have died at an await")
            with pytest.raises(LeadershipLost):
                async with election.lead("x", ttl=TTL) as term:
                    world.loop.advance(2 * TTL)  # and never awaits

    world.run(test)


def test_s4_a_cancel_from_outside_stays_a_cancel(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:

            async def lead() -> None:
                async with election.lead("x", ttl=TTL):
                    await asyncio.sleep(10 * TTL)

            task = asyncio.create_task(lead())
            await asyncio.sleep(TTL)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert world.stored()["holder"] == ""  # it resigned on its way out

            with pytest.raises(TimeoutError):  # the caller's own time-out is not ours
                async with asyncio.timeout(TTL), election.lead("x", ttl=TTL):
                    await asyncio.sleep(10 * TTL)

    world.run(test)


def test_s5_the_first_append_of_a_term_fences_the_older_ones(world) -> None:
    a, b = world.machine("a"), world.machine("b")

    async def test() -> None:
        async with EventStore(MemoryStore(NamespaceSpace()), namespace="test") as store:

            def started_by(term: Term, version: int) -> Event:
                return Event(type="TermStarted", actor_id="x", version=version, data={"term": term.token})

            async with a.election() as first, b.election() as second:
                old = await first.campaign("x", ttl=TTL)
                await store.append(started_by(old, 1))
                a.link.cut = True
                new = await second.campaign("x", ttl=TTL)
                await store.append(started_by(new, 2))
                with pytest.raises(VersionConflict):  # a paused process does not know that its term is over
                    await store.append(Event(type="Late", actor_id="x", version=2))

    world.run(test)


def test_s6_resign_invalidates_before_it_tells(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            term = await election.campaign("x", ttl=TTL)
            seen: list[tuple[str, bool]] = []
            machine.link.arrived = lambda value: seen.append((json.loads(value)["holder"], term.valid()))
            await term.resign()
            await term.resign()
            assert seen == [("", False)]
            assert term.lost.is_set()

    world.run(test)


def test_s7_an_answer_behind_the_deadline_revives_nothing(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            term = await election.campaign("x", ttl=TTL)
            deadline = term.deadline
            machine.link.answering = lambda: world.loop.advance(TTL)  # the process hangs as the answer comes in
            await term.lost.wait()
            assert term.deadline == deadline
            assert not term.valid()

    world.run(test)


# --- Answers that do not come ---


@pytest.mark.parametrize("fates", [["unanswered"], ["lost"], ["lost", "unanswered"], [0.3 * TTL]])
def test_an_ambiguous_election_is_resolved(world, fates: list[str | float]) -> None:
    """It is adopted, or tried again; what this attempt left behind itself is not waited for."""
    machine = world.machine()
    machine.link.fates.extend(fates)

    async def test() -> None:
        async with machine.election() as election:
            term = await election.campaign("x", ttl=TTL)
            assert world.time < TTL
            assert term.valid()
            await asyncio.sleep(3 * TTL)
            assert term.valid()
            assert world.stored()["holder"] == term.holder
            assert world.stored()["token"] == term.token

    world.run(test)


@pytest.mark.parametrize(
    "fates",
    [["unanswered"], ["lost"], ["unanswered"] * 2, ["lost", "unanswered"], [0.24 * TTL], [0.3 * TTL, "lost"]],
)
def test_an_ambiguous_renewal_is_resolved(world, fates: list[str | float]) -> None:
    """Applied, not applied, or applied later, when nobody waits for it any more: the term goes on."""
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            term = await election.campaign("x", ttl=TTL)
            for _ in range(5):
                machine.link.fates.extend(fates)
                await asyncio.sleep(2 * TTL)
                assert term.valid()
                assert term.deadline > machine.clock.now() + MARGIN
            assert world.stored()["token"] == 1

    world.run(test)


def test_stale_reads_cost_time_and_nothing_else(world) -> None:
    a, b = world.machine("a"), world.machine("b")

    async def test() -> None:
        leader = await (await a.started()).campaign("x", ttl=TTL)
        standby = b.start((await b.started()).campaign("x", ttl=TTL))
        await asyncio.sleep(TTL)
        old = world.space.registers["x"]
        # A renewal whose answer was lost has landed; the read that looks for it shows the record before.
        a.link.fates.append("unanswered")
        a.link.stale.append(old)
        await asyncio.sleep(TTL)
        assert not a.link.stale
        assert leader.valid()
        # A challenger is shown a record that is long gone whenever it asks, and hears of nothing else.
        b.link.deaf = True
        b.link.stale.extend([old] * 20)
        while b.link.stale:
            await asyncio.sleep(TTL)
            assert leader.valid()
        assert not standby.done()

    world.run(test)


def test_a_term_counts_from_the_sending_of_what_was_written(world) -> None:
    machine = world.machine()
    machine.link.delay = (0.0, 0.5)

    async def test() -> None:
        async with machine.election() as election:
            sent: list[float] = []
            machine.link.arrived = lambda value: sent.append(machine.clock.now())
            term = await election.campaign("x", ttl=TTL)
            for _ in range(50):
                assert term.deadline <= sent[-1] + TTL - MARGIN
                await asyncio.sleep(RENEW / 10)

    world.run(test)


def test_an_adopted_renewal_counts_from_its_sending(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            term = await election.campaign("x", ttl=TTL)
            sent: list[float] = []
            machine.link.arrived = lambda value: sent.append(machine.clock.now())
            machine.link.fates.append("unanswered")
            before = term.deadline
            while term.deadline == before:
                await asyncio.sleep(HOP)
            assert term.deadline <= sent[0] + TTL - MARGIN
            machine.link.cut = True
            await term.lost.wait()
            assert machine.clock.now() == pytest.approx(term.deadline)

    world.run(test)


def test_a_term_that_was_taken_ends_at_once(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            with pytest.raises(LeadershipLost, match="ghost has taken it with token 9"):
                async with election.lead("x", ttl=TTL):
                    world.forge(ttl=TTL, revision=50, token=9)
                    await asyncio.sleep(2 * RENEW)
                    raise AssertionError("the body must have been cancelled")
            assert world.stored()["token"] == 9

    world.run(test)


def test_a_cancelled_campaign_leaves_nothing_to_wait_for(world) -> None:
    a, b = world.machine("a"), world.machine("b")
    a.link.delay = (0.001, 0.5)  # it is elected, and does not know yet

    async def test() -> None:
        async with a.election() as first, b.election() as second:
            campaign = asyncio.create_task(first.campaign("x", ttl=TTL))
            while "x" not in world.space.registers:
                await asyncio.sleep(HOP)
            campaign.cancel()
            with pytest.raises(asyncio.CancelledError):
                await campaign
            term = await second.campaign("x", ttl=TTL, timeout=2.0)
            assert term.token == 2
            with pytest.raises(TimedOut, match="campaign for 'x'"):
                await first.campaign("x", ttl=TTL, timeout=TTL)

    world.run(test)


# --- A register that loses its data ---


@pytest.mark.parametrize("left", [None, 2], ids=["wiped", "rolled back"])
def test_with_a_floor_tokens_survive_the_register(world, left: int | None) -> None:
    """And nobody is elected until the holder of the lost record is surely gone."""
    a, b = world.machine("a"), world.machine("b")

    async def test() -> None:
        world.forge(ttl=TTL, revision=1, holder="", token=4)
        old = await (await a.started()).campaign("x", ttl=TTL, floor=4)
        world.space.registers.clear()
        if left is not None:
            world.forge(ttl=TTL, revision=left, holder="", token=left)
        a.link.cut = True
        began = world.time

        async def floor() -> int:
            return old.token

        new = await (await b.started()).campaign("x", ttl=TTL, floor=floor)
        assert (old.token, new.token) == (5, 6)
        assert not old.valid()
        assert TTL <= world.time - began <= 1.05 * TTL + HOP

    world.run(test)


def test_a_floor_that_rises_while_waiting_starts_the_wait_again(world) -> None:
    """Somebody was elected in between, and the register has lost that, too: it looks as if nothing had happened."""
    machine = world.machine()

    async def test() -> None:
        floors = [4]

        async def floor() -> int:
            return floors[-1]

        async with machine.election() as election:
            waiting = asyncio.create_task(election.campaign("x", ttl=TTL, floor=floor))
            await asyncio.sleep(0.6 * TTL)
            floors.append(5)
            assert (await waiting).token == 6
            assert world.time >= 1.6 * TTL

    world.run(test)


def test_without_a_floor_a_candidate_knows_what_it_has_seen(world) -> None:
    """A candidate that was there before the loss goes on; one that was not cannot know."""
    a, b, c = world.machine("a"), world.machine("b"), world.machine("c")

    async def test() -> None:
        world.forge(ttl=TTL, revision=1, holder="", token=4)
        old = await (await a.started()).campaign("x", ttl=TTL)
        standby = b.start((await b.started()).campaign("x", ttl=TTL))
        await asyncio.sleep(HOP)
        a.link.cut = True
        world.space.registers.clear()
        new = await standby
        assert (old.token, new.token) == (5, 6)
        assert not old.valid()
        b.crash()
        world.space.registers.clear()
        assert (await (await c.started()).campaign("x", ttl=TTL)).token == 1

    world.run(test)


def test_a_record_that_is_none_is_never_replaced(world) -> None:
    machine = world.machine()
    damaged = Entry("x", 3, b'{"name": "y"}')
    world.space.registers["x"] = damaged

    async def test() -> None:
        async with machine.election() as election:
            for call in (election.campaign("x"), election.leader("x"), anext(election.observe("x"))):
                with pytest.raises(CorruptLease, match="'x', revision 3"):
                    await call
        assert world.space.registers["x"] is damaged

    world.run(test)
