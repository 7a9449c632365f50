"""An event whose place is not known yet."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from aether.core.correlation import correlated
from aether.core.event import Event, new_id, now


class NewEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an `Event` is before it has an actor and a version: what `decide` returns and `record` takes."""

    type: str
    data: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    id: str = msgspec.field(default_factory=new_id)
    timestamp: datetime = msgspec.field(default_factory=now)

    def at(self, actor_id: str, version: int) -> Event:
        """The event at its place, with the metadata of the context (`aether.core.correlation`)."""
        return correlated(
            Event(
                type=self.type,
                actor_id=actor_id,
                version=version,
                data=self.data,
                metadata=self.metadata,
                id=self.id,
                timestamp=self.timestamp,
            )
        )
