"""Start tokens as the world sees them: every grant and every start that reaches WAHA, judged by buckets of its own.

A bucket that starts full and is never overdrawn lets through, in any window, no more than its burst and what
flows in meanwhile: so one look a grant judges all windows.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import datetime

from core.domain.pacing import Ask, Turns
from tests.simulation.world import World, short

_DUST = 1e-3
# A start arrives while its pass lasts.
_SENT_WITHIN_S = 60.0
# A place is given up this long after its last ask.
_SILENT_S = 61.0


class Told:
    """A chip's first estimate, and when it got its token."""

    __slots__ = ("at", "granted_at", "wait_s")

    def __init__(self, at: float, wait_s: float) -> None:
        self.at = at
        self.wait_s = wait_s
        self.granted_at: float | None = None

    @property
    def error(self) -> float | None:
        """Relative to the wait that came; None while it lasts."""
        if self.granted_at is None:
            return None
        came_s = self.granted_at - self.at
        return abs(self.wait_s - came_s) / came_s if came_s > 0 else 0.0


class Starts:
    """Attributes:
    arrived: (moment, host) of each start that WAHA took.
    told: of each time that a chip stood in line, in order of their ends.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.arrived: list[tuple[float, str]] = []
        self.told: list[Told] = []
        self._waiting: dict[str, Told] = {}
        self._left: dict[str, tuple[float, float]] = {}  # tokens, and when
        self._asked: dict[str, float] = {}
        self._granted: dict[str, deque[float]] = defaultdict(deque)

    def taken(self, asks: Sequence[Ask], turns: Turns) -> None:
        now, world = self.world.now, self.world
        by_id = {ask.chip_id: ask for ask in asks}
        self._asked.update(dict.fromkeys(by_id, now))
        self._given_up()
        for chip_id in turns.waited_s:
            ask = by_id[chip_id]
            if self._draw("fleet") < -_DUST:
                world.violate(f"pace: chip {short(chip_id)} may start, the fleet's bucket is empty")
            if self._draw(f"host:{ask.host}") < -_DUST:
                world.violate(f"pace: chip {short(chip_id)} may start, the bucket of {ask.host} is empty")
            if ask.provider and self._draw(f"provider:{ask.provider}") < -_DUST:
                world.violate(f"pace: chip {short(chip_id)} may start, the bucket of {ask.provider} is empty")
            self._in_turn(ask)
            self._granted[chip_id].append(now)
            told = self._waiting.pop(chip_id, None)
            if told is not None:
                told.granted_at = now
                self.told.append(told)
        for chip_id, waits in turns.waits.items():
            world.counts["paced"] += 1
            self._waiting.setdefault(chip_id, Told(now, waits.wait_s))
        world.counts["granted"] += len(turns.waited_s)

    def forget(self) -> None:
        """The pace is another from now on, and every bucket is full."""
        self._left.clear()

    def arrives(self, chip_id: str, host: str) -> None:
        """WAHA takes a start: it has a token of its own, taken in the same pass."""
        tokens = self._granted[chip_id]
        while tokens and self.world.now - tokens[0] > _SENT_WITHIN_S:
            tokens.popleft()
        if not tokens:
            self.world.violate(f"pace: chip {short(chip_id)} starts on {host} without a token")
            return
        tokens.popleft()
        self.arrived.append((self.world.now, host))

    def _given_up(self) -> None:
        """Whoever has not asked for so long (its daemon died, its wish changed) has no place any more."""
        moment = self.world.moment()
        for chip_id, place in self.world.store.line.items():
            silent_s = self.world.now - self._asked[chip_id]
            if silent_s > _SILENT_S and place.expires_at > moment:
                self.world.violate(
                    f"pace: chip {short(chip_id)} asked {silent_s:.0f} s ago and is in line still"
                )

    def _in_turn(self, ask: Ask) -> None:
        """What is left is enough for all ahead that could start now; asked for hosts with a line alone."""
        moment = self.world.moment()
        ahead: dict[str, int] = defaultdict(int)
        through: dict[str | None, int] = defaultdict(int)
        for place in self.world.store.line.values():
            if place.expires_at > moment and _rank(place.ask, moment) < _rank(ask, moment):
                ahead[place.ask.host] += 1
                through[place.ask.provider] += 1
        if not ahead:
            return
        if any(one and self._level(f"provider:{one}") < count + 1 for one, count in through.items()):
            return  # a provider may hold up some of them, and they then nobody else
        # Both sums leave the other side what rounding may have given it.
        own = ahead.get(ask.host, 0) > self._level(f"host:{ask.host}") + _DUST
        could = sum(min(n, int(max(0.0, self._level(f"host:{host}") - _DUST))) for host, n in ahead.items())
        if own or could > self._level("fleet") + _DUST:
            self.world.violate(
                f"pace: chip {short(ask.chip_id)} of {ask.host} starts before {sum(ahead.values())} with a better "
                "place"
            )

    def _level(self, key: str) -> float:
        limit = self.world.pace.limit(key)
        tokens, at = self._left.get(key, (limit.burst, 0.0))
        return min(limit.burst, tokens + limit.per_s * (self.world.now - at))

    def _draw(self, key: str) -> float:
        left = self._level(key) - 1
        self._left[key] = (left, self.world.now)
        return left


def _rank(ask: Ask, now: datetime) -> tuple[int, datetime, str]:
    return ask.start_order, min(ask.waiting_since or now, now), ask.chip_id
