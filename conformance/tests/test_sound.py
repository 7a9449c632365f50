"""Backends that are sound, and built otherwise than the references: no case may fail them."""

from collections.abc import Sequence

import msgspec
import pytest

from aether.conformance.rules import all_cases
from aether.conformance.runner import Session, Status
from aether.conformance.wrappers import BusWrapper, RegisterWrapper, StoreWrapper
from aether.conformance.zoo import registry_with
from aether.core import AetherError, Feature, OutcomeUnknown, VersionConflict
from aether.core.spi import Message, RevisionConflict, Write
from aether.nats.testing import NatsHarness


class AsksBeforeItStores(StoreWrapper):
    """Takes two requests for an append, as a transaction does: nothing is stored if the first has no answer."""

    async def append(self, writes: Sequence[Write], *, transaction: object | None = None) -> int:
        for write in writes:
            current = await self.inner.version(write.actor_id)
            if current != write.expected:
                raise VersionConflict(write.actor_id, attempted=write.expected + 1, current=current)
        return await self.inner.append(writes)


class AsksBeforeItWrites(RegisterWrapper):
    """Takes two requests for a write, of which the first has no answer either."""

    async def cas(self, name: str, value: bytes, *, expected: int) -> int:
        found = await self.inner.read(name)
        if (found.revision if found else 0) != expected:
            raise RevisionConflict
        return await self.inner.cas(name, value, expected=expected)


class WaitsForAnAnswer(BusWrapper):
    """Publishes by a write that is answered, as one to a table is: without an answer, nobody knows."""

    async def publish(self, message: Message, *, count: bool = False) -> int | None:
        reached = await self.inner.publish(message, count=count and Feature.NO_RESPONDERS in self.features)
        elsewhere = msgspec.structs.replace(message, namespace=f"{message.namespace}.answer")
        try:
            await self.inner.publish(elsewhere, count=True)
        except AetherError as error:
            raise OutcomeUnknown("publishing", reason="no answer") from error
        return reached


@pytest.mark.parametrize(
    ("sound", "case_id"),
    [
        (AsksBeforeItStores, "store.append.unknown#ack"),
        (AsksBeforeItStores, "store.append.unknown#reset"),
        (AsksBeforeItStores, "store.append.unknown#late"),
        (AsksBeforeItWrites, "election.register.cas#ack"),
        (AsksBeforeItWrites, "election.register.cas#reset"),
        (WaitsForAnAnswer, "bus.order#reset"),
        (WaitsForAnAnswer, "bus.driver.timeout"),
        (WaitsForAnAnswer, "bus.reconnect#gone"),
    ],
)
def test_what_is_sound_passes(sound: type[StoreWrapper | RegisterWrapper | BusWrapper], case_id: str) -> None:
    with Session(NatsHarness(), registry=registry_with(sound)) as session:
        result = session.run(all_cases()[case_id])

    assert result.status is Status.PASS, result.text
