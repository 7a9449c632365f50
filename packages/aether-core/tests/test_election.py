"""The election in virtual time: safety, bounds, and the bugs that prototypes of it had."""

import asyncio
import contextlib
import json
from typing import Any

import pytest

from aether.core import (
    Closed,
    Election,
    Event,
    EventStore,
    InvalidName,
    LeadershipLost,
    LeaderView,
    Term,
    TimedOut,
    Unavailable,
    VersionConflict,
)
from aether.core.lease import CorruptLease
from aether.core.spi import Entry
from aether.memory import MemoryStore, NamespaceSpace

TTL = 10.0
MARGIN = 0.1 * TTL
RENEW = 0.2 * TTL
HOP = 0.05  # seconds: more than a few round trips, much less than a ttl


async def started(machine: Any) -> Election:
    """An election that nobody closes: its machine may crash."""
    return await machine.election().open()


async def crashed(leader: Any) -> Term:
    """The term of a machine that was elected and has crashed just behind a renewal."""
    term = await (await started(leader)).campaign("x", ttl=TTL)
    before = term.deadline
    while term.deadline == before:
        await asyncio.sleep(HOP)
    leader.crash()
    term.end("crashed", release=False)
    return term


def stored(world: Any, name: str = "x") -> dict[str, Any]:
    return json.loads(world.space.registers[name].value)


def forge(world: Any, revision: int, **fields: Any) -> None:
    """Put a record into the register as if it had always been there: nobody is told."""
    lease = {"name": "x", "holder": "ghost", "token": 1, "ttl": TTL, "nonce": "ghost", **fields}
    world.space.registers["x"] = Entry("x", revision, json.dumps(lease).encode())


# --- The bugs of the prototypes ---


def test_bug_1_token_and_revision_come_from_one_snapshot(world) -> None:
    """While a candidate finds out its floor somebody else is elected: the token that it chose before must not win."""
    a, b = world.machine("a"), world.machine("b")

    async def test() -> None:
        terms: list[Term] = []

        async def floor() -> int:
            if not terms:
                terms.append(await (await started(b)).campaign("x", ttl=TTL))
                b.crash()
            return 0

        terms.append(await (await started(a)).campaign("x", ttl=TTL, floor=floor))
        assert [term.token for term in terms] == [1, 2]

    world.run(test)


def test_bug_2_a_dead_watch_costs_half_a_ttl(world) -> None:
    """L1: with a watch that is silently dead, a crashed leader is replaced within 1.5 ttl."""
    a, b = world.machine("a"), world.machine("b")
    b.link.deaf = True

    async def test() -> None:
        leader = asyncio.create_task(crashed(a))
        await asyncio.sleep(HOP)
        standby = b.start((await started(b)).campaign("x", ttl=TTL))
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
        leader = asyncio.create_task(crashed(a))
        await asyncio.sleep(HOP)
        standby = b.start((await started(b)).campaign("x", ttl=TTL))
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
        leader = await (await started(a)).campaign("x", ttl=TTL)
        standby = b.start((await started(b)).campaign("x", ttl=TTL))
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
            term = await (await started(machine)).campaign("x", ttl=TTL)
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
        leader = await (await started(a)).campaign("x", ttl=TTL)
        standby = b.start((await started(b)).campaign("x", ttl=TTL))
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
            assert stored(world)["holder"] == ""  # it resigned on its way out

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


def test_l3_an_outage_shorter_than_the_lease_costs_nothing(world) -> None:
    machine = world.machine()

    async def test() -> None:
        async with machine.election() as election:
            term = await election.campaign("x", ttl=TTL)
            for _ in range(5):
                await asyncio.sleep(1.7 * RENEW)
                machine.link.cut = True
                await asyncio.sleep(TTL - MARGIN - RENEW - 0.15 * TTL)  # and a call and a pause must fit in
                machine.link.cut = False
            await asyncio.sleep(RENEW)
            assert term.valid()
            assert stored(world)["token"] == term.token == 1

    world.run(test)


def test_l4_a_fresh_candidate_waits_a_full_ttl_of_the_record(world) -> None:
    """The ttl of the record, not its own."""
    machine = world.machine()
    forge(world, 7, ttl=3 * TTL)

    async def test() -> None:
        async with machine.election() as election:
            term = await election.campaign("x", ttl=TTL)
            assert term.token == 2
            assert 3 * TTL <= world.time <= 1.05 * 3 * TTL + HOP

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
            assert stored(world)["holder"] == term.holder
            assert stored(world)["token"] == term.token

    world.run(test)


@pytest.mark.parametrize(
    "fates",
    [["unanswered"], ["lost"], ["unanswered"] * 2, ["lost", "unanswered", "lost"], [0.24 * TTL], [0.3 * TTL, "lost"]],
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
            assert stored(world)["token"] == 1

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
                    forge(world, 50, token=9)
                    await asyncio.sleep(2 * RENEW)
                    raise AssertionError("the body must have been cancelled")
            assert stored(world)["token"] == 9

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
        forge(world, 1, holder="", token=4)
        old = await (await started(a)).campaign("x", ttl=TTL, floor=4)
        world.space.registers.clear()
        if left is not None:
            forge(world, left, holder="", token=left)
        a.link.cut = True
        began = world.time

        async def floor() -> int:
            return old.token

        new = await (await started(b)).campaign("x", ttl=TTL, floor=floor)
        assert (old.token, new.token) == (5, 6)
        assert not old.valid()
        assert TTL <= world.time - began <= 1.05 * TTL + HOP

    world.run(test)


def test_without_a_floor_a_candidate_knows_what_it_has_seen(world) -> None:
    """A candidate that was there before the loss goes on; one that was not cannot know."""
    a, b, c = world.machine("a"), world.machine("b"), world.machine("c")

    async def test() -> None:
        forge(world, 1, holder="", token=4)
        old = await (await started(a)).campaign("x", ttl=TTL)
        standby = b.start((await started(b)).campaign("x", ttl=TTL))
        await asyncio.sleep(HOP)
        a.link.cut = True
        world.space.registers.clear()
        new = await standby
        assert (old.token, new.token) == (5, 6)
        assert not old.valid()
        b.crash()
        world.space.registers.clear()
        assert (await (await started(c)).campaign("x", ttl=TTL)).token == 1

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
            assert stored(world)["holder"] == ""

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
        first, second = await started(a), await started(b)
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
        assert stored(world, "x")["holder"] == stored(world, "y")["holder"] == ""
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
        election = await started(machine)
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
            assert stored(world)["meta"] == {"zone": "a"}
            term.update({"applied": 7})
            await asyncio.sleep(HOP)
            assert stored(world)["meta"] == {"applied": 7}
            await asyncio.sleep(TTL)
            assert stored(world)["meta"] == {"applied": 7}
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
