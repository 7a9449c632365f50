"""How the conformance suite runs this backend. Needs `aether-conformance`."""

from __future__ import annotations

from aether.conformance import Harness
from aether.core.event import new_id


class MemoryHarness(Harness):
    """A space of its own in this process. There is no server that could be shared, broken or lost."""

    lease = 0.3
    multiprocess = False

    async def start(self) -> str:
        return f"memory://{new_id()}"
