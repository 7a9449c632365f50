"""Elections with the bugs that lease algorithms have; the first of them were in prototypes of this one."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import msgspec

from aether.conformance.zoo import breaks
from aether.core import term
from aether.core.election import Election, LeaderView
from aether.core.errors import AetherError
from aether.core.lease import Lease, Observer, Record, Sighting
from aether.core.spi import RevisionConflict
from aether.core.term import Campaign, Term

# --- Taking over too early ---


@breaks(
    Campaign,
    "_wait",
    caught_by=("election.lost", "election.failover"),
    found_by="test_s3_terms_do_not_overlap_at_the_edge_of_the_clocks",
)
def waits_for_half_the_ttl(original: Any) -> Any:
    """A challenger takes over while the holder may still act."""

    def wait(self: Campaign, seen: Sighting) -> Any:
        lease = seen.lease and msgspec.structs.replace(seen.lease, ttl=seen.lease.ttl / 2)
        return original(self, seen._replace(lease=lease))

    return wait


@breaks(Campaign, "_wait", found_by="test_l4_a_fresh_candidate_waits_a_full_ttl_of_the_record")
def waits_for_its_own_ttl(original: Any) -> Any:
    """A challenger goes by its own ttl, not by that of the record."""

    def wait(self: Campaign, seen: Sighting) -> Any:
        lease = seen.lease and msgspec.structs.replace(seen.lease, ttl=self._record.ttl)
        return original(self, seen._replace(lease=lease))

    return wait


@breaks(Campaign, "_wait", found_by="test_a_second_start_waits_for_what_the_first_left_behind")
def takes_what_its_name_held(original: Any) -> Any:
    """A node that starts again takes what its name holds for its own, while its first start may still act."""

    def wait(self: Campaign, seen: Sighting) -> Any:
        mine = seen.holder.partition("/")[0] == self._holder.partition("/")[0]
        return 0.0 if mine else original(self, seen)

    return wait


@breaks(Campaign, "_wait_after_loss", found_by="test_no_overlap_when_the_register_is_wiped")
def trusts_an_empty_register(original: Any) -> Any:
    """A register that has lost its data is taken for one in which nobody leads."""
    return lambda self, seen, floor: 0.0


@breaks(Observer, "_note", found_by="test_bug_5_a_revision_that_is_given_again_is_a_change")
def knows_writes_by_their_revision(original: Any) -> Any:
    """A revision that a rolled-back register gives again looks as if nothing had happened."""

    def note(self: Observer, revision: int, lease: Lease | None) -> Any:
        if self.seen is None or self.seen.revision != revision:
            return original(self, revision, lease)
        return self.seen

    return note


@breaks(Campaign, "_try", found_by="test_bug_1_token_and_revision_come_from_one_snapshot")
def claims_from_two_looks(original: Any) -> Any:
    """Takes the token from one look and the revision from a later one."""

    async def attempt(self: Campaign, observer: Observer, seen: Sighting) -> Any:
        floor = await self._floor() if callable(self._floor) else self._floor or 0
        return await self._claim(observer, await observer.read(), max(seen.token, floor) + 1)

    return attempt


# --- Leading too long ---


@breaks(Term, "_adopt", found_by="test_a_term_counts_from_the_sending_of_what_was_written")
def counts_from_the_answer(original: Any) -> Any:
    """A renewal counts from the moment when its answer came."""

    def adopt(self: Term, revision: int, nonce: str) -> None:
        self._sent[nonce] = self._clock.now()
        original(self, revision, nonce)

    return adopt


@breaks(term, "_MARGIN", found_by="test_s3_terms_do_not_overlap_at_the_edge_of_the_clocks")
def leaves_no_margin(original: Any) -> Any:
    """The holder acts up to the very end of its ttl."""
    return 0.0


@breaks(Term, "valid", found_by="test_s4_a_blocking_call_past_the_deadline_is_found_out")
def believes_until_it_is_told(original: Any) -> Any:
    """A term is valid until somebody says that it is not."""
    return lambda self: not self._ended


@breaks(Term, "guard", caught_by="election.lost", found_by="test_s4_the_body_is_cancelled_at_the_deadline")
def lets_the_body_run_on(original: Any) -> Any:
    """Nobody interrupts the work of a term that has run out."""
    return lambda self, body: None


@breaks(Term, "_adopt", found_by="test_s7_an_answer_behind_the_deadline_revives_nothing")
def revives_behind_the_deadline(original: Any) -> Any:
    """An acknowledgement that comes behind the deadline makes the term valid again."""

    def adopt(self: Term, revision: int, nonce: str) -> None:
        self.deadline = max(self.deadline, self._sent[nonce] + 2 * self._lease.ttl)
        original(self, revision, nonce)

    return adopt


@breaks(Term, "_renew", found_by="test_a_term_that_was_taken_ends_at_once")
def renews_blindly(original: Any) -> Any:
    """Renews whatever revision is there: two leaders overwrite each other for ever."""

    async def renew(self: Term) -> None:
        self._revision, _ = await self._record.read()
        await original(self)

    return renew


# --- Giving back, and not ---


@breaks(Record, "release", found_by="test_a_release_behind_the_deadline_never_frees_the_lease_of_another")
def releases_blindly(original: Any) -> Any:
    """Gives back whatever lease is there, also that of another."""

    async def release(self: Record, ours: Any, *, last: Any = None) -> None:
        with suppress(RevisionConflict, AetherError):
            revision, found = await self.read()
            if found is not None:
                await self._free(revision, found)

    return release


@breaks(Record, "release", caught_by=("election.resign", "election.resign#error", "election.close#hands-over"))
def keeps_what_it_resigned(original: Any) -> Any:
    """Who resigns tells nobody, and the others wait for the ttl."""

    async def release(self: Record, ours: Any, *, last: Any = None) -> None:
        """Nobody is told."""

    return release


@breaks(Term, "resign", found_by="test_s6_resign_invalidates_before_it_tells")
def resigns_when_it_was_told(original: Any) -> Any:
    """The term is valid until the others know that it is over."""

    async def resign(self: Term) -> None:
        await self._record.release(self._sent, last=(self._revision, self._lease))
        await original(self)

    return resign


@breaks(Campaign, "win", found_by="test_a_cancelled_campaign_leaves_nothing_to_wait_for")
def leaves_what_it_won(original: Any) -> Any:
    """A campaign that is cancelled behind its write leaves a lease that nobody holds."""

    async def win(self: Campaign) -> Any:
        async with Observer(self._record) as observer:
            while (won := await self._step(observer)) is None:
                pass
        return won

    return win


# --- Tokens ---


@breaks(Campaign, "_claim", caught_by="election.token", found_by="test_s1_s2_every_term_has_a_higher_token")
def uses_a_token_twice(original: Any) -> Any:
    """A term gets the token of the one before it."""
    return lambda self, observer, seen, token: original(self, observer, seen, max(token - 1, 1))


@breaks(Election, "campaign", caught_by="election.token#floor")
def forgets_the_floor(original: Any) -> Any:
    """Counts tokens by the register alone."""
    return lambda self, name, **options: original(self, name, **{**options, "floor": None})


# --- Never getting there ---


@breaks(
    Term,
    "_keep",
    caught_by="election.exclusive#held",
    found_by="test_l3_an_outage_shorter_than_the_lease_costs_nothing",
)
def never_renews(original: Any) -> Any:
    """A term lasts for one ttl."""

    async def keep(self: Term) -> None:
        """Nothing is renewed."""

    return keep


@breaks(Term, "_reconcile", found_by="test_an_ambiguous_renewal_is_resolved")
def gives_up_when_refused(original: Any) -> Any:
    """A renewal that was refused ends the term, though an earlier one of its own may have landed."""

    async def reconcile(self: Term) -> None:
        self.end("it was refused", release=False)

    return reconcile


@breaks(Campaign, "_wait", found_by="test_bug_4_a_warm_candidate_takes_over_within_one_ttl")
def never_takes_over(original: Any) -> Any:
    """A lease is over only when it is given back."""
    return lambda self, seen: math.inf if seen.holder else 0.0


@breaks(Observer, "_quiet", found_by="test_bug_2_a_dead_watch_costs_half_a_ttl")
def believes_a_silent_watch(original: Any) -> Any:
    """Never reads a record whose watch says nothing."""
    return lambda self: original(self) if self.seen is None or self._read_at is None else math.inf


# --- Looking ---


@breaks(Election, "_view", caught_by="election.view")
def names_a_leader_of_nothing(original: Any) -> Any:
    """A free lease has a leader without a name."""
    return lambda self, seen: LeaderView(seen.holder, seen.token, 0.0)


@breaks(Election, "run", caught_by="election.run")
def leads_once(original: Any) -> Any:
    """Ends behind the first term."""

    async def run(self: Election, name: str, work: Any, **options: Any) -> None:
        async with self.lead(name, **options) as led:
            await work(led)

    return run


@breaks(Election, "_closed", caught_by="election.close#hands-over")
def closes_without_resigning(original: Any) -> Any:
    """Terms and campaigns are left to themselves."""

    async def closed(self: Election) -> None:
        """Nobody is told."""

    return closed
