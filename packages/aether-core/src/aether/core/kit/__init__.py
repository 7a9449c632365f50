"""What a backend can build on whose server only keeps and finds: a tail, a register and a bus that poll.

| a driver that lacks | takes | and gives |
|---|---|---|
| `StoreDriver.tail` | `PollingTail(store, after=…)` | `head()` and `feed()` |
| a `LeaseRegister` | `StoreRegister(store)` | `load()` and `save()` |
| a `BusDriver` | `PollingBus(log)` | a `BusLog`: one table, or one list, of messages |
| a server that is fast with single calls | `Batcher(flush)`, `plan` | one transaction for many calls: group commit |
| a client whose calls must not be cancelled | `Shelter(call)` | `asyncio.shield` without a task for each call |
| a time-out for each call | `Deadlines(seconds)` | one timer for all calls that end in the order they came in |

The first three poll with a pause that grows while nothing happens, and look at once when somebody in the same process
rings their `Bell`. They keep the obligations of `aether.core.spi` if what they stand on does.

For its tests a backend whose server is a program derives from `aether.core.kit.server.ChildServer`.
"""

from aether.core.kit.batching import Batcher, plan, size_of
from aether.core.kit.bus import BusLog, Logged, PollingBus
from aether.core.kit.deadlines import Deadlines
from aether.core.kit.polling import Bell, Poll, PollingTail, Questions
from aether.core.kit.register import StoreRegister
from aether.core.kit.shelter import Shelter

__all__ = [
    "Batcher",
    "Bell",
    "BusLog",
    "Deadlines",
    "Logged",
    "Poll",
    "PollingBus",
    "PollingTail",
    "Questions",
    "Shelter",
    "StoreRegister",
    "plan",
    "size_of",
]
