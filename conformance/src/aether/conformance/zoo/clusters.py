"""Clusters with the bugs that shard managers have; most of them were in prototypes of this one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import msgspec

from aether.conformance.zoo import breaks
from aether.core import Cluster, EventStore
from aether.core.cluster import duties, membership, presence
from aether.core.cluster.follower import PASSING, Follower
from aether.core.cluster.host import Host
from aether.core.cluster.leader import Leader
from aether.core.cluster.membership import ClusterState, Member
from aether.core.cluster.nodes import NodeWatch, Track
from aether.core.cluster.presence import Presence
from aether.core.errors import VersionConflict
from aether.core.term import Term

_FAULTS = "test_no_shard_is_owned_twice_in_short_runs"


# --- The hand-over ---


@breaks(duties, "acknowledged", found_by=_FAULTS)
def assigns_without_acknowledgement(original: Any) -> Any:
    """A shard is given to the next node before its owner has said that it gave it up."""
    return lambda member, lease: 2**31


@breaks(presence, "owner_of", found_by=f"test_an_heir_owns_nothing_before_the_acknowledgement {_FAULTS}")
def inherits_before_the_acknowledgement(original: Any) -> Any:
    """An heir takes its shards when it is named, not when their owner has given them up."""
    return lambda state, shard, acknowledged: original(state, shard, lambda member: 2**31)


@breaks(NodeWatch, "acknowledged", found_by="test_only_the_owner_itself_acknowledges_to_the_heir")
def inherits_by_what_another_incarnation_says(original: Any) -> Any:
    """What the next process of that name has followed counts as what the owner has given up."""
    return lambda self, member: self._acknowledged.get(member.id, ("", 0, 0))[2]


@breaks(membership, "_leave", found_by="test_what_an_heir_has_taken_stays_its_own_when_the_owner_dies")
def forgets_heirs_when_the_owner_dies(original: Any) -> Any:
    """Shards of the dead are free, also those that an heir has taken: somebody else gets them."""
    return lambda state, change: original(
        msgspec.structs.replace(
            state, heirs={s: heir for s, heir in state.heirs.items() if state.owners[s] != change.id}
        ),
        change,
    )


@breaks(duties, "_planned", found_by="test_what_an_heir_was_promised_is_its_own_for_the_plan")
def plans_without_heirs(original: Any) -> Any:
    """The plan takes what was promised for free: it moves once more than it must."""
    return lambda state, shard, before: "" if shard in state.revoking else before


@breaks(Presence, "_call", found_by="test_a_shard_is_nobody_elses_before_its_handlers_have_ended")
def does_not_wait_for_its_handlers(original: Any) -> Any:
    """The handlers of a loss are not waited for."""

    async def call(self: Presence, handlers: list[Any], shards: frozenset[int]) -> None:
        return None

    return call


@breaks(presence, "owned_by", found_by=_FAULTS)
def owns_what_was_revoked(original: Any) -> Any:
    """A node goes on to own what it has to give up, until somebody else gets it."""

    def owned(state: ClusterState, node: str, **rest: Any) -> frozenset[int]:
        owned: frozenset[int] = original(msgspec.structs.replace(state, revoking={}, heirs={}), node, **rest)
        return owned

    return owned


@breaks(presence, "owned_by", found_by="test_another_incarnation_owns_nothing_of_the_last_one")
def owns_what_its_name_owned(original: Any) -> Any:
    """A node that has lost its lease and has another one goes on with the shards of the first."""

    def owned(state: ClusterState, node: str, **rest: Any) -> frozenset[int]:
        return frozenset(shard for shard, owner in enumerate(state.owners) if owner == node)

    return owned


@breaks(Presence, "_call", found_by="test_a_handler_that_will_not_end_holds_nothing_up")
def waits_for_handlers_that_were_cancelled(original: Any) -> Any:
    """A handler that does not heed its cancellation holds its shards up for ever."""

    async def call(self: Presence, handlers: list[Any], shards: frozenset[int]) -> None:
        with suppress(TimeoutError):
            async with self._clock.timeout(self._drain_timeout):
                await asyncio.gather(*(handler(shards) for handler in handlers), return_exceptions=True)

    return call


@breaks(Presence, "_refresh", found_by="test_what_was_lost_and_is_back_was_lost_all_the_same")
def forgets_what_is_back(original: Any) -> Any:
    """What was lost, and is owned again before the handlers were told, counts as if it had never been lost."""

    def refresh(self: Presence, state: ClusterState) -> None:
        original(self, state)
        self._gone = frozenset()

    return refresh


@breaks(Cluster, "close", found_by="test_closing_ends_a_join_at_once")
def closes_without_ending_its_join(original: Any) -> Any:
    """A node that is closed while it joins goes on to wait for its place."""

    async def close(self: Cluster) -> None:
        if self._state != "joining":
            await original(self)

    return close


# --- Replacing leases ---


@breaks(duties, "expires", found_by=_FAULTS)
def reaps_at_half_the_ttl(original: Any) -> Any:
    """A lease is replaced while its holder may still act."""

    def expires(member: Member, track: Track, *, ttl: float, resumed: float) -> float:
        time: float = original(member, track, ttl=ttl, resumed=resumed)
        return time - ttl / 2

    return expires


@breaks(duties, "over", found_by="test_a_lost_record_is_waited_for")
def takes_silence_for_death(original: Any) -> Any:
    """Shards of a node whose lease is not there are free at once, without the wait for its ttl."""
    return lambda member, lease: lease is None or original(member, lease)


@breaks(NodeWatch, "reap", found_by="test_a_node_that_renews_at_the_last_moment_lives")
def reaps_by_opinion(original: Any) -> Any:
    """A lease is replaced whatever stands there by now."""

    async def reap(self: NodeWatch, node: str, track: Track, *, incarnation: int) -> bool:
        await self.look()
        return bool(await original(self, node, self.tracks[node], incarnation=incarnation))

    return reap


@breaks(duties, "expires", found_by="test_behind_an_outage_of_its_own_a_leader_waits_longer")
def blames_others_for_its_outage(original: Any) -> Any:
    """Behind an outage of the register whoever comes back late is taken for dead."""
    return lambda member, track, *, ttl, resumed: original(member, track, ttl=ttl, resumed=-1e9)


@breaks(duties, "braked", found_by="test_no_more_than_half_of_the_members_are_reaped_at_once")
def has_no_brake(original: Any) -> Any:
    """All leases that stand still are replaced at once, however many."""
    return lambda nodes, *, members, recent, brake: list(nodes)


# --- The fence ---


@breaks(Follower, "append", found_by="test_a_leader_that_was_replaced_writes_nothing")
def appends_without_an_expectation(original: Any) -> Any:
    """A leader that finds its version taken appends at the next one: there is no fence."""

    async def append(self: Follower, changes: Any, **ids: Any) -> None:
        try:
            await original(self, changes, **ids)
        except VersionConflict as conflict:
            self.state = msgspec.structs.replace(self.state, version=conflict.current)
            await original(self, changes, **ids)

    return append


@breaks(Leader, "_begin", found_by="test_a_leader_that_was_replaced_writes_nothing")
def has_no_barrier(original: Any) -> Any:
    """A term begins without an append: an older leader can go on."""

    async def begin(self: Leader, term: Term) -> bool:
        state = await self._follower.sync()
        if state.shards == 0:
            return bool(await original(self, term))
        changed = msgspec.structs.replace(state, term=term.token)
        self._follower.state = changed
        return True

    return begin


@breaks(Leader, "_floor", found_by="test_a_wiped_register_gives_out_no_token_again")
def leads_without_a_floor(original: Any) -> Any:
    """Tokens begin again when the register has lost its data."""

    async def floor(self: Leader) -> int:
        return 0

    return floor


@breaks(Presence, "_floor", found_by="test_a_wiped_register_gives_out_no_token_again")
def reuses_incarnations(original: Any) -> Any:
    """Incarnations begin again when the register has lost its data."""

    async def floor(self: Presence) -> int:
        return 0

    return floor


# --- Following ---


@breaks(Follower, "run", found_by="test_a_hint_that_comes_during_a_read_is_not_lost")
def forgets_hints_that_come_during_a_read(original: Any) -> Any:
    """A node that is reading does not hear that there is more by now: it learns of it when it looks by itself."""

    async def run(self: Follower) -> None:
        while True:
            with suppress(*PASSING):
                await self.sync()
            self._behind.clear()
            with suppress(TimeoutError):
                async with self._clock.timeout(self._poll):
                    await self._behind.wait()

    return run


# --- Commands ---


@breaks(Host, "_replay", found_by="test_what_was_kept_warm_is_not_believed_when_the_actor_comes_back")
def keeps_what_it_was_loading(original: Any) -> Any:
    """An actor that was lost while it was being loaded stays in memory, and is old when it comes back."""

    async def replay(self: Any, actor_id: str) -> Any:
        warm = await original(self, actor_id)
        if warm is None:
            warm = await original(self, actor_id)
        self._warm[actor_id] = warm
        return warm

    return replay


@breaks(Host, "_continue", found_by="test_repeats_are_known_as_far_back_as_they_are_read")
def forgets_commands_before_the_snapshot(original: Any) -> Any:
    """A host that begins at a snapshot does not know the commands before it, and executes their repeats."""

    async def begin(self: Any, actor_id: str, saved: Any) -> Any:
        warm = await original(self, actor_id, saved)
        if warm is not None:
            warm.caused.clear()
        return warm

    return begin


@breaks(EventStore, "read", found_by="test_a_repeat_is_never_answered_with_less_than_it_has_caused")
def answers_repeats_from_a_server_that_is_behind(original: Any) -> Any:
    """The events of a repeated command are read wherever, also where they have not arrived yet."""

    def read(self: EventStore, actor_id: str, **options: Any) -> Any:
        return original(self, actor_id, **{**options, "min_version": 0})

    return read


@breaks(Host, "_load", found_by="test_a_repeated_command_is_answered_from_the_log")
def executes_repeats(original: Any) -> Any:
    """A command that comes twice is executed twice."""

    async def load(self: Any, actor_id: str, owned: Any) -> Any:
        warm = await original(self, actor_id, owned)
        if warm is not None:
            warm.caused = {}
        return warm

    return load
