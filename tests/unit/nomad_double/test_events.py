"""The event buffer and its readers."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.nomad_double.events import Event, EventBroker, SubscriptionClosed, parse_topics


def event(index: int, topic: str = "Job", key: str = "a", namespace: str = "default") -> Event:
    return Event(topic, "JobRegistered", key, namespace, None, index, {})


async def read(broker: EventBroker, index: int, topics: dict[str, list[str]] | None = None) -> list[int]:
    """Indexes a new reader gets before it would have to wait."""
    subscription = broker.subscribe(index, topics or {"*": ["*"]}, "default")
    found: list[int] = []
    while True:
        waiting = asyncio.ensure_future(subscription.next())
        done, _ = await asyncio.wait({waiting}, timeout=0)
        await asyncio.sleep(0)
        if not (done or waiting.done()):
            waiting.cancel()
            return found
        found.append(waiting.result()[0])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(0, 300), st.integers(1, 10))
def test_where_a_reader_starts(steps: list[int], index: int, size: int) -> None:
    async def scenario() -> None:
        broker = EventBroker(size)
        indexes = [sum(steps[: n + 1]) for n in range(len(steps))]
        for each in indexes:
            broker.publish(each, [event(each)])
        kept = indexes[-size:]
        if index == 0:
            expected = kept
        elif index > kept[-1]:
            expected = kept[-1:]
        else:
            expected = [each for each in kept if each >= index]
        assert await read(broker, index) == expected

    asyncio.run(scenario())


async def test_an_empty_buffer_waits_for_the_first_event() -> None:
    broker = EventBroker(3)
    subscription = broker.subscribe(17, {"*": ["*"]}, "default")
    waiting = asyncio.ensure_future(subscription.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    broker.publish(5, [event(5)])
    assert (await waiting)[0] == 5


async def test_a_reader_that_falls_behind_is_cut_off() -> None:
    broker = EventBroker(2)
    broker.publish(1, [event(1)])
    subscription = broker.subscribe(1, {"*": ["*"]}, "default")
    for index in (2, 3, 4):
        broker.publish(index, [event(index)])
    with pytest.raises(SubscriptionClosed, match="event dropped from buffer"):
        await subscription.next()


async def test_what_is_there_already_needs_no_waiting() -> None:
    broker = EventBroker(3)
    subscription = broker.subscribe(0, {"Job": ["*"]}, "default")
    assert subscription.ready() is None
    broker.publish(1, [event(1)])
    broker.publish(2, [event(2, topic="Node")])
    broker.publish(3, [event(3)])
    told = [subscription.ready() for _ in range(3)]
    assert [found and found[0] for found in told] == [1, 3, None]
    broker.close_all("bye")
    with pytest.raises(SubscriptionClosed, match="bye"):
        subscription.ready()


async def test_closing_ends_waiting_readers() -> None:
    broker = EventBroker(2)
    waiting = asyncio.ensure_future(broker.subscribe(0, {"*": ["*"]}, "default").next())
    await asyncio.sleep(0)
    broker.close_all("bye")
    with pytest.raises(SubscriptionClosed, match="bye"):
        await waiting


@pytest.mark.parametrize(
    ("topics", "wanted"),
    [
        ({"*": ["*"]}, True),
        ({"Job": ["*"]}, True),
        ({"Job": ["a"]}, True),
        ({"Job": ["b"]}, False),
        ({"Allocation": ["*"]}, False),
        ({"Job": ["b", "*"]}, False),  # the wildcard counts only alone
        ({"*": ["a"]}, True),
    ],
)
async def test_topics_and_keys(topics: dict[str, list[str]], wanted: bool) -> None:
    broker = EventBroker(2)
    broker.publish(1, [event(1)])
    assert (await read(broker, 0, topics) == [1]) is wanted


async def test_namespaces() -> None:
    broker = EventBroker(3)
    broker.publish(1, [event(1, namespace="other")])
    broker.publish(2, [event(2, "Node", namespace="")])
    assert await read(broker, 0) == [2], "node events belong to no namespace"


def test_topics_of_a_query() -> None:
    assert parse_topics([]) == {"*": ["*"]}
    assert parse_topics(["Job", "Allocation:x", "Allocation:y"]) == {"Job": ["*"], "Allocation": ["x", "y"]}
    with pytest.raises(ValueError, match="Invalid key value pair"):
        parse_topics(["Job:a:b"])
