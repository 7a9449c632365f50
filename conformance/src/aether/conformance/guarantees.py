"""What the rules add up to: sentences that somebody may rely on, and the rules that try to refute each of them."""

from __future__ import annotations

GUARANTEES = {
    "G1": "An acknowledged append is in every later complete read, exactly once, at the acknowledged version.",
    "G2": "Of concurrent appends of one version at most one succeeds; appends to an actor are linearizable.",
    "G3": "A commit is visible entirely or not at all.",
    "G4": "A conflict or a refusal means not stored; an unknown outcome is resolved by repeating the same call.",
    "G5": "Versions are 1 to n without holes; positions strictly increase, and are never used again.",
    "G6": "Once a reader has seen a position, no event appears before it.",
    "G7": "An append that was acknowledged before another began comes before it in the feed.",
    "G8": "A client reads what it has written, and never an older state than it has asked for.",
    "G9": "A read that asks for it reflects every append that was acknowledged before it.",
    "G10": "A subscription delivers every matching event behind its checkpoint, in order and without a gap.",
    "G11": "With a transaction of the caller's, effects happen exactly once.",
    "G12": "Fencing tokens strictly increase, and two terms never share one.",
    "G13": "What is fenced never accepts a token below one that it has accepted.",
    "G14": "Two candidates never lead at once, as long as their clocks run at nearly the same rate.",
    "G15": "When a leader dies there is a new one soon.",
    "G16": "A shard has at most one owner, and every shard has one when the members are stable.",
    "G17": "A snapshot never changes what is loaded.",
    "G18": "No name and no payload lets one namespace read, write or hinder another.",
    "G19": "Cancelling a call leaves the client usable.",
    "G20": "Memory and queues are bounded, and a slow consumer hinders nobody.",
}
"""The sentences, by number."""

UNCHECKED = {
    "G9": "A read asks for a version or a position instead (G8).",
    "G16": "The core's, over any backend that keeps G12 to G15; its own tests and simulations check it.",
}
"""Those that no rule is about, and why."""

_OF_RULES = {
    "store.append": "G2 G4",
    "store.append.atomic": "G3",
    "store.append.conflict": "G2 G4",
    "store.append.empty": "",
    "store.append.gapless": "G5",
    "store.append.idempotent": "G1 G4",
    "store.append.isolated": "G1",
    "store.append.limits": "G4",
    "store.append.many": "G3",
    "store.append.race": "G2",
    "store.append.transaction": "G3 G11",
    "store.append.unknown": "G4 G19",
    "store.read": "G1",
    "store.read.early": "G20",
    "store.read.fresh": "G8",
    "store.read.order": "G1 G5",
    "store.read.own": "G8",
    "store.read.pages": "G20",
    "store.feed": "G5 G6 G7",
    "store.feed.complete": "G1 G6 G10",
    "store.feed.parallel": "",
    "store.subscribe": "G10",
    "store.subscribe.pressure": "G20",
    "store.snapshot": "G17",
    "store.checkpoint": "G10",
    "store.checkpoint.claimed": "G10 G13",
    "store.checkpoint.expected": "G10 G11",
    "store.checkpoint.fenced": "G13",
    "store.durability": "G1",
    "store.identity": "G5",
    "store.names": "G18",
    "store.namespace": "G18",
    "store.close": "G19",
    "store.driver.append": "G2 G4",
    "store.driver.close": "G19",
    "store.driver.feed": "G6",
    "store.driver.identity": "G5",
    "store.driver.limits": "G4",
    "store.driver.read": "G1",
    "store.driver.slot": "G13 G18",
    "store.driver.tail": "G10",
    "store.driver.timeout": "G4",
    "store.same": "G1 G2 G4 G5 G10 G13 G18",
    "bus.close": "G19",
    "bus.namespace": "G18",
    "bus.overflow": "G20",
    "bus.driver.close": "G19",
    "bus.driver.sink": "G20",
    "bus.same": "G18",
    "election.close": "G19",
    "election.exclusive": "G14",
    "election.failover": "G15",
    "election.fence": "G13",
    "election.lost": "G14",
    "election.register": "G12 G14",
    "election.register.close": "G19",
    "election.register.names": "G18",
    "election.register.same": "G12 G18",
    "election.resign": "G15",
    "election.run": "G15",
    "election.token": "G12",
    "election.unique": "G12",
}
"""The longest name that a rule begins with says what it is about. A rule may be about none of them."""


def guarantees(rule: str) -> tuple[str, ...]:
    """The numbers of what a rule tries to refute."""
    words = rule.split(".")
    for count in range(len(words), 0, -1):
        if (found := _OF_RULES.get(".".join(words[:count]))) is not None:
            return tuple(found.split())
    return ()
