"""How often something may be done: at most `most` times in any stretch of `window_s`, however it is placed.

The window is counted in slots of a twelfth of its length, and the slot that is leaving it counts whole until it is
gone. So the promise is kept exactly (two counters, one a window, would let nearly twice as much through around
their border), at the price of a twelfth more waiting at worst. The same rule runs inside Redis as a script
(core/clients/limit_script.py) and here for a process that has to count alone; a test compares both.
"""

from __future__ import annotations

from typing import Final

import msgspec

SLOTS: Final = 12


class Limit(msgspec.Struct, frozen=True):
    """A rule.

    Attributes:
        name: part of the counter's key, such as `read`.
        most: 0 = no limit.
        window_s: whole seconds.
        batch: how many a process may take at once and spend alone; 1 = it asks every time.
    """

    name: str
    most: int
    window_s: int = 60
    batch: int = 1


class Counter(msgspec.Struct, frozen=True):
    """What was taken, as (slot number, count), oldest first. Slots are counted from the clock's zero."""

    slots: tuple[tuple[int, int], ...] = ()


class Taken(msgspec.Struct, frozen=True):
    """Outcome of one try.

    Attributes:
        granted: how many were taken, 0 to what was wanted.
        after_ms: with 0 granted, how long to wait until there is one, if nobody else takes it first.
    """

    counter: Counter
    granted: int
    after_ms: int


def take(counter: Counter, limit: Limit, now_ms: int) -> Taken:
    """Take up to `limit.batch`; fewer when little is left, so that several processes share the rest evenly."""
    slot_ms = slot_length_ms(limit)
    slot = now_ms // slot_ms
    kept = [entry for entry in counter.slots if slot - SLOTS <= entry[0] <= slot]
    left = limit.most - sum(count for _, count in kept)
    if left <= 0:
        return Taken(Counter(tuple(kept)), 0, _wait_ms(kept, limit, left, now_ms))
    granted = min(limit.batch, max(1, left // 8))
    if kept and kept[-1][0] == slot:
        kept[-1] = (slot, kept[-1][1] + granted)
    else:
        kept.append((slot, granted))
    return Taken(Counter(tuple(kept)), granted, 0)


def give_back(counter: Counter) -> Counter:
    """Undo the newest one that was taken."""
    if not counter.slots:
        return counter
    *older, (slot, count) = counter.slots
    return Counter((*older, (slot, count - 1)) if count > 1 else tuple(older))


def slot_length_ms(limit: Limit) -> int:
    return max(1, limit.window_s * 1000 // SLOTS)


def _wait_ms(kept: list[tuple[int, int]], limit: Limit, left: int, now_ms: int) -> int:
    """Until so many slots have left the window that one is free."""
    slot_ms = slot_length_ms(limit)
    for slot, count in kept:
        left += count
        if left > 0:
            return (slot + SLOTS + 1) * slot_ms - now_ms
    return limit.window_s * 1000  # unreachable while most > 0: all slots together give everything back
