"""When which key is looked at next. No time of its own, no waiting: `workqueue.py` adds both.

Each key is in at most one of these states, and `wanted at` in at most one of the last three:

    idle -- put --> waiting (until its time) --> ready -- take --> taken
    taken: a put is kept until `done`, so a key is never taken twice at once and no wish is lost

A take satisfies every put made before it, delayed ones too: the pass that follows sees the world as it is
now and says itself when to look again.

With each wish stands when its news came. Of several the newest counts: whoever looked after it answered all.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Final

# After this many urgent keys in a row one from the long list gets its turn.
_URGENT_IN_A_ROW: Final = 4


class Agenda:
    """Keys with the time at which each is wanted. Times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._urgent: OrderedDict[str, None] = OrderedDict()
        self._bulk: OrderedDict[str, None] = OrderedDict()
        self._due: dict[str, float] = {}
        self._due_bulk: set[str] = set()  # of those that wait for their time
        self._heap: list[tuple[float, str]] = []
        self._taken: dict[str, float | None] = {}  # when it is wanted again, None = not yet
        self._since_bulk = 0
        self._news: dict[str, float] = {}  # of the wishes not taken yet
        self._taken_news: dict[str, float] = {}

    def __len__(self) -> int:
        """Keys that wait or are ready; those being worked on are not counted."""
        return len(self._due) + len(self._urgent) + len(self._bulk)

    def __contains__(self, key: str) -> bool:
        return any(key in where for where in (self._due, self._urgent, self._bulk, self._taken))

    @property
    def taken(self) -> frozenset[str]:
        return frozenset(self._taken)

    @property
    def is_ready(self) -> bool:
        """Whether a key is known to be ready; one whose time has come since the last `take` may not be yet."""
        return bool(self._urgent or self._bulk)

    def put(
        self, key: str, at: float, now: float, *, bulk: bool = False, news_at: float | None = None
    ) -> None:
        """Want `key` at `at` at the latest; the sooner of two wishes counts.

        `bulk`: one of a long list (a resync), or a look for which nobody waits; it must not delay what somebody
        waits for. `news_at`: when the news came that this is about, if not now.
        """
        came_at = now if news_at is None else news_at
        self._news[key] = max(came_at, self._news.get(key, came_at))
        self._place(key, at, now, bulk=bulk)

    def _place(self, key: str, at: float, now: float, *, bulk: bool = False) -> None:
        if key in self._taken:
            wanted = self._taken[key]
            self._taken[key] = at if wanted is None else min(wanted, at)
        elif key in self._urgent:
            return
        elif at <= now:
            self._due.pop(key, None)
            self._due_bulk.discard(key)
            self._ready(key, bulk=bulk)
        elif key not in self._bulk and at < self._due.get(key, float("inf")):
            self._due[key] = at
            if bulk:
                self._due_bulk.add(key)
            else:
                self._due_bulk.discard(key)
            heapq.heappush(self._heap, (at, key))

    def _ready(self, key: str, *, bulk: bool) -> None:
        if bulk:
            self._bulk[key] = None
        else:
            self._bulk.pop(key, None)
            self._urgent[key] = None

    def take(self, now: float) -> str | None:
        """A key whose time has come, or None; it stays taken until `done`."""
        self._promote(now)
        for ready in self._order():
            if ready:
                key, _ = ready.popitem(last=False)
                self._since_bulk = 0 if ready is self._bulk else self._since_bulk + 1
                self._taken[key] = None
                self._taken_news[key] = self._news.pop(key)
                return key
        return None

    def done(self, key: str, now: float) -> None:
        """The work on `key` has ended. Raises KeyError when nobody had taken it."""
        wanted = self._taken.pop(key)
        del self._taken_news[key]
        if wanted is not None:
            self._place(key, wanted, now)

    def news_at(self, key: str) -> float:
        """When the newest news came that `key` was taken for. Raises KeyError when it is not taken."""
        return self._taken_news[key]

    def keys(self) -> frozenset[str]:
        """Everything that is wanted now or later and not being worked on."""
        return frozenset(self._news) - self._taken.keys()

    def next_at(self) -> float | None:
        """When the next waiting key becomes ready; None when none waits."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # superseded by a sooner wish
        return self._heap[0][0] if self._heap else None

    def _promote(self, now: float) -> None:
        while (at := self.next_at()) is not None and at <= now:
            _, key = heapq.heappop(self._heap)
            del self._due[key]
            bulk = key in self._due_bulk
            self._due_bulk.discard(key)
            self._ready(key, bulk=bulk)

    def _order(self) -> tuple[OrderedDict[str, None], OrderedDict[str, None]]:
        if self._since_bulk >= _URGENT_IN_A_ROW:
            return self._bulk, self._urgent
        return self._urgent, self._bulk
