"""What tests of an application need. Nothing here waits, and the domain's tests are not even async.

    given(ACCOUNT, Opened("Ada"), Deposited(100)).when(Withdraw(30)).then(Withdrawn(30))
    given(ACCOUNT, Opened("Ada")).when(Withdraw(900)).then_raises(Overdrawn, match="the balance is 0")
    given(ACCOUNT, Opened("Ada")).when(Withdraw(0)).then_nothing()

With pytest the fixtures `aether_store`, `aether_bus`, `aether_election` and `aether_connection` are there: in memory,
or on the backend that `pytest --aether-url=...` names; and `aether_clock`, which stands still until it is told.
"""

from aether.core.testing.clock import FakeClock
from aether.core.testing.given import Given, Then, given
from aether.core.testing.playing import assert_round_trip, history, play_twice

__all__ = ["FakeClock", "Given", "Then", "assert_round_trip", "given", "history", "play_twice"]
