"""The event broker: a bounded buffer of commits and subscriptions that read it at their own pace.

Semantics as in Nomad's event broker: a subscription starts at the requested index or the nearest entry at or
above it (the newest one if the index lies beyond), index 0 starts at the oldest entry, and a reader that falls
behind the buffer is cut off.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

import msgspec

DROPPED = "event dropped from buffer"


class Event(msgspec.Struct, frozen=True):
    """One object as a commit left it; rendered to JSON only when somebody reads it."""

    topic: str
    type: str
    key: str
    namespace: str
    filter_keys: list[str] | None
    index: int
    subject: object


class SubscriptionClosed(Exception):
    """The server ended this subscription; the text says why."""


class _Entry:
    __slots__ = ("events", "index", "number")

    def __init__(self, number: int, index: int, events: list[Event]) -> None:
        self.number = number
        self.index = index
        self.events = events


class EventBroker:
    """Keeps the last `size` commits that had events."""

    def __init__(self, size: int = 100) -> None:
        self._size = size
        self._entries: deque[_Entry] = deque()
        self._next_number = 0
        self._arrived = asyncio.Event()
        self._cut = asyncio.Event()
        self._subscriptions: set[Subscription] = set()

    def publish(self, index: int, events: list[Event]) -> None:
        if not events:
            return
        self._entries.append(_Entry(self._next_number, index, events))
        self._next_number += 1
        while len(self._entries) > self._size:
            self._entries.popleft()
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()

    def subscribe(self, index: int, topics: dict[str, list[str]], namespace: str) -> Subscription:
        subscription = Subscription(self, self._start(index), topics, namespace)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    def close_all(self, reason: str) -> None:
        """End every open stream; `reason` is the server's last word, "" for a connection that just ends."""
        if not reason:
            cut, self._cut = self._cut, asyncio.Event()
            cut.set()
        for subscription in list(self._subscriptions):
            subscription.close(reason)
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()

    def overflow(self) -> None:
        """Forget everything, as if more had come than fits: readers that wait are behind and are cut off."""
        if self._entries:
            self._entries.clear()
        self._next_number += 1
        self.close_all(DROPPED)

    async def until_cut(self) -> None:
        """Wait until connections just end."""
        await self._cut.wait()

    @property
    def subscribers(self) -> int:
        return len(self._subscriptions)

    def _start(self, index: int) -> int:
        if not self._entries:
            return self._next_number
        if index == 0:
            return self._entries[0].number
        for entry in self._entries:
            if index <= entry.index:
                return entry.number
        return self._entries[-1].number

    def _entry(self, number: int) -> _Entry | None:
        """The entry, or None when it has not come yet; raises when it is gone already."""
        if number >= self._next_number:
            return None
        first = self._entries[0].number if self._entries else self._next_number
        if number < first:
            raise SubscriptionClosed(DROPPED)
        return self._entries[number - first]

    async def _wait(self) -> None:
        await self._arrived.wait()


class Subscription:
    """One reader of the buffer, filtered by topic, key and namespace."""

    def __init__(
        self, broker: EventBroker, number: int, topics: dict[str, list[str]], namespace: str
    ) -> None:
        self._broker = broker
        self._number = number
        self._topics = topics
        self._namespace = namespace
        self._closed: str | None = None

    def close(self, reason: str) -> None:
        self._closed = reason

    async def next(self) -> tuple[int, list[Event]]:
        """The next commit with events for this reader: (index, events).

        Raises:
            SubscriptionClosed: the server ended the stream or the reader was too slow.
        """
        while (found := self.ready()) is None:
            await self._broker._wait()
        return found

    def ready(self) -> tuple[int, list[Event]] | None:
        """As `next`, without waiting; None when there is nothing yet."""
        while True:
            if self._closed is not None:
                raise SubscriptionClosed(self._closed)
            entry = self._broker._entry(self._number)
            if entry is None:
                return None
            self._number += 1
            events = [event for event in entry.events if self._wants(event)]
            if events:
                return entry.index, events

    def unsubscribe(self) -> None:
        self._broker.unsubscribe(self)

    def _wants(self, event: Event) -> bool:
        if event.namespace and self._namespace not in ("*", event.namespace):
            return False
        keys = [*self._topics.get("*", ()), *self._topics.get(event.topic, ())]
        # As in Nomad the wildcard counts only when it stands alone: beside a key it is a key named "*".
        if keys == ["*"]:
            return True
        names = {event.key, *(event.filter_keys or ())}
        return any(key in names for key in keys)


def parse_topics(raw: Iterable[str]) -> dict[str, list[str]]:
    """`topic=Job&topic=Allocation:abc` as a map; no topic at all means everything.

    Raises:
        ValueError: a topic with more than one colon.
    """
    topics: dict[str, list[str]] = {}
    for topic in raw:
        name, colon, key = topic.partition(":")
        if ":" in key:
            raise ValueError(f"Invalid key value pair for topic, topic: {topic}")
        topics.setdefault(name, []).append(key if colon else "*")
    return topics or {"*": ["*"]}
