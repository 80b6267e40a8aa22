"""When the store's word about guards' leases may not be trusted to give new ones. Pure.

A lease is a promise about time, kept in rows. Rows that were lost (a restore, a failover to a server that had
not heard of the last writes) or a clock that jumped make the store forget promises that guards still live by.
Renewing what a guard holds stays safe; giving to another is not, until every forgotten promise has run out.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import Final

import msgspec

CLOCK_TOLERANCE: Final = timedelta(seconds=1)


class Doubt(StrEnum):
    """Why nothing new is granted for one life of a lease."""

    SERVER_CHANGED = "server_changed"
    CLOCK_STEPPED = "clock_stepped"


class ServerView(msgspec.Struct, frozen=True):
    """What a store's server says of itself: since when it runs, and what time it is."""

    started_at: datetime
    clock: datetime


class Reading(msgspec.Struct, frozen=True):
    """The server's clock as one process read it, between two readings of its own monotonic clock (s)."""

    clock: datetime
    sent_at: float
    received_at: float


def doubt(
    *, stored: ServerView, seen: ServerView, last: Reading | None, this: Reading | None
) -> Doubt | None:
    """Why the server that answers now may not know all promises; None when nothing speaks for that.

    `stored`: as the last batch of any process left it. `last`, `this`: readings by the asking process; with
    both, a step in either direction shows against its monotonic clock.
    """
    if seen.started_at != stored.started_at:
        return Doubt.SERVER_CHANGED
    if seen.clock < stored.clock - CLOCK_TOLERANCE:
        return Doubt.CLOCK_STEPPED
    if last is not None and this is not None:
        passed = this.clock - last.clock
        least = timedelta(seconds=max(0.0, this.sent_at - last.received_at))
        most = timedelta(seconds=this.received_at - last.sent_at)
        if passed < least - CLOCK_TOLERANCE or passed > most + CLOCK_TOLERANCE:
            return Doubt.CLOCK_STEPPED
    return None


class Granting(Enum):
    """To whom new leases may be given: nobody, who waits for no lease but freed ones, or all whose turn it is."""

    NONE = "none"
    FREED = "freed"
    ALL = "all"


def granting(now: datetime, granted_after: datetime, watches_since: datetime, ttl_s: float) -> Granting:
    """What a process may do that has watched the server's clock since then, all by that clock.

    A step before it began to watch could make a lease look run out that is not. After one life of a lease those from
    before have run out whatever the clock said.
    """
    if now < granted_after:
        return Granting.NONE
    return Granting.ALL if now - watches_since >= timedelta(seconds=ttl_s) else Granting.FREED
