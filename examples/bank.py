"""A bank: money moves between two accounts in one commit, so it is never on both and never on none.

python examples/bank.py                              # in memory
python examples/bank.py nats+embedded:///tmp/bank    # on disk, with a NATS server of its own
python examples/bank.py sqlite:////tmp/bank.db

A transfer is two events of two actors. Both accounts are loaded, both decide, and what they decided is appended in one
call: the versions of both are the expectation, so whoever was slower reads again and decides again.
"""

import asyncio
import random
import sys
from dataclasses import dataclass
from decimal import Decimal

from aether.core import EventStore, Feature, VersionConflict, new_id, open_store
from aether.core.correlation import correlation
from aether.core.state import Decider, EventTypes, Snapshots, event, execute, load

# --- What happens to an account ---


@event("account.opened")
@dataclass(frozen=True)
class Opened:
    owner: str


@event("account.credited")
@dataclass(frozen=True)
class Credited:
    amount: Decimal
    reason: str


@event("account.debited")
@dataclass(frozen=True)
class Debited:
    amount: Decimal
    reason: str


Told = Opened | Credited | Debited


@dataclass(frozen=True)
class Account:
    owner: str = ""
    balance: Decimal = Decimal(0)


# --- What can be asked of it ---


@dataclass(frozen=True)
class Open:
    owner: str


@dataclass(frozen=True)
class Credit:
    amount: Decimal
    reason: str


@dataclass(frozen=True)
class Debit:
    amount: Decimal
    reason: str


class Refused(Exception):
    """The account says no."""


def evolve(account: Account, told: Told) -> Account:
    """State is a function over events."""
    match told:
        case Opened(owner):
            return Account(owner)
        case Credited(amount):
            return Account(account.owner, account.balance + amount)
        case Debited(amount):
            return Account(account.owner, account.balance - amount)


def decide(account: Account, command: Open | Credit | Debit) -> list[Told]:
    """Events, or a refusal. No I/O, so it is tested without any: see tests/test_examples.py."""
    match command:
        case Open(owner):
            if account.owner:
                return []  # it was opened already: nothing to do
            return [Opened(owner)]
        case Credit(amount, reason):
            return [Credited(amount, reason)]
        case Debit(amount, reason):
            if not account.owner:
                raise Refused("there is no such account")
            if account.balance < amount:
                raise Refused(f"{account.owner} has {account.balance}, not {amount}")
            return [Debited(amount, reason)]


TYPES: EventTypes[Told] = EventTypes(Opened, Credited, Debited)
ACCOUNT: Decider[Account, Open | Credit | Debit, Told] = Decider(Account, evolve, decide, TYPES)
SNAPSHOTS = Snapshots("account", Account, every=50)


async def transfer(store: EventStore, source: str, target: str, amount: Decimal) -> None:
    """Move money: both events in one commit, or none."""
    reason = f"{source} to {target}"
    with correlation(new_id()):  # both events carry the id of the transfer
        while True:
            debtor = await load(store, evolve, Account, source, types=TYPES, snapshots=SNAPSHOTS)
            creditor = await load(store, evolve, Account, target, types=TYPES, snapshots=SNAPSHOTS)
            told = [
                (source, debtor.version, decide(debtor.state, Debit(amount, reason))),
                (target, creditor.version, decide(creditor.state, Credit(amount, reason))),
            ]
            try:
                await store.append(
                    *(
                        TYPES.encode(one).at(actor_id, version + number)
                        for actor_id, version, events in told
                        for number, one in enumerate(events, 1)
                    )
                )
            except VersionConflict:
                await asyncio.sleep(random.uniform(0, 0.01))  # somebody was faster
            else:
                return


async def main(url: str) -> None:
    """Sixty transfers at once between four accounts: some are refused, and no money is made or lost."""
    async with open_store(url, namespace="bank", require={Feature.MULTI_ACTOR}) as store:
        run = new_id()
        accounts = [f"account-{name}-{run}" for name in ("ada", "bob", "eve", "joe")]
        for actor_id in accounts:
            await execute(store, ACCOUNT, actor_id, Open(actor_id.split("-")[1]))
            await execute(store, ACCOUNT, actor_id, Credit(Decimal(100), "cash"), snapshots=SNAPSHOTS)

        async def one(number: int) -> bool:
            source, target = random.Random(number).sample(accounts, 2)
            try:
                await transfer(store, source, target, Decimal(20))
            except Refused:
                return False
            return True

        done = await asyncio.gather(*map(one, range(60)))
        balances = [(await load(store, evolve, Account, actor_id, types=TYPES)).state.balance for actor_id in accounts]

    print(f"{len(done)} transfers at once")
    print(f"in all {sum(balances)}, as before")
    print(f"nobody below 0: {min(balances) >= 0}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "memory://"))
