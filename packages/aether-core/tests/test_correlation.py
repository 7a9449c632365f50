"""Correlation and causation: in every task, only within the block, and never over what an event says itself."""

import asyncio

from opentelemetry.sdk.trace import TracerProvider

from aether.core import Event, EventStore
from aether.core.correlation import correlated, correlation, current, handling
from aether.memory import MemoryStore, NamespaceSpace


async def appended(store: EventStore, **metadata: str) -> dict[str, str]:
    """The metadata of an event that is appended now."""
    version = await store.version("a") + 1
    await store.append(Event(type="T", actor_id="a", version=version, metadata=metadata))
    (event,) = [one async for one in store.read("a", after=version - 1)]
    return event.metadata


def run(body):
    async def main():
        async with EventStore(MemoryStore(NamespaceSpace()), namespace="t") as store:
            await body(store)

    asyncio.run(main())


def test_what_is_appended_while_an_event_is_handled_names_it():
    async def body(store):
        first = Event(type="T", actor_id="x", version=1)
        second = Event(type="T", actor_id="x", version=2, metadata={"correlationid": "story"})
        with handling(first):
            assert await appended(store) == {"causationid": first.id, "correlationid": first.id}
        with handling(second):
            assert await appended(store) == {"causationid": second.id, "correlationid": "story"}
            with handling(first):
                assert (await appended(store))["causationid"] == first.id
            assert (await appended(store))["causationid"] == second.id
        assert await appended(store) == {}

    run(body)


def test_a_correlation_has_no_cause():
    async def body(store):
        with correlation("checkout-42"):
            assert await appended(store) == {"correlationid": "checkout-42"}
        with correlation() as made:
            assert await appended(store) == {"correlationid": made}

    run(body)


def test_tasks_inherit_it_and_keep_their_own():
    async def body(store):
        async def task(name: str) -> dict[str, str]:
            with correlation(name):
                await asyncio.sleep(0)
                return current()

        with correlation("outer"):
            child = asyncio.create_task(appended(store))
            found = await asyncio.gather(*map(task, "abc"))
        assert [one["correlationid"] for one in found] == ["a", "b", "c"]
        assert (await child)["correlationid"] == "outer"
        assert current() == {}

    run(body)


def test_what_an_event_says_itself_stays():
    event = Event(type="T", actor_id="a", version=1, metadata={"correlationid": "mine"})
    assert correlated(event) is event
    with handling(Event(type="T", actor_id="x", version=1, id="cause")):
        assert correlated(event).metadata == {"correlationid": "mine", "causationid": "cause"}
        full = Event(type="T", actor_id="a", version=1, metadata={"correlationid": "m", "causationid": "n"})
        assert correlated(full) is full


def test_the_span_of_opentelemetry_becomes_traceparent():
    async def body(store):
        tracer = TracerProvider().get_tracer("test")
        assert await appended(store) == {}
        with tracer.start_as_current_span("POST /orders") as span:
            context = span.get_span_context()
            expected = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
            assert await appended(store) == {"traceparent": expected}
            assert await appended(store, traceparent="kept") == {"traceparent": "kept"}

    run(body)
