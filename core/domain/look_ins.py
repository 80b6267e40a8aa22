"""Looks into a container, as values: who looks at what, what was sampled, what was read of its log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from core.domain.log_lines import Position

LEASE_PREFIX: Final = "look:"
# A mark lasts this long after the request that set it; a sample older than the second number is no news of
# the container, and tells that nobody samples it any more.
VIEWED_S: Final = 30.0
FRESH_S: Final = 15.0


class What(StrEnum):
    STATS = "stats"
    LOGS = "logs"


class Look(msgspec.Struct, frozen=True):
    """What is looked at of one container, as the store holds it now.

    Attributes:
        allocation_id: what runs there as far as passes saw, None when nothing does.
        last_allocation_id: the same, or what ran last: its log is still there.
        watched: what somebody looks at right now.
    """

    allocation_id: str | None
    last_allocation_id: str | None
    watched: frozenset[What]


class StoredStats(msgspec.Struct, frozen=True):
    """The newest sample. `cpu_percent`: 100 = one core. `age_s`: by the store's clock."""

    allocation_id: str
    cpu_percent: float
    memory_bytes: int
    sampled_at: datetime
    age_s: float


class Meter(msgspec.Struct, frozen=True):
    """What a request for stats is answered from; `allocation_id` of what runs now.

    `memory_limit_mb`: what the plan allows at most.
    """

    allocation_id: str | None
    memory_limit_mb: int
    newest: StoredStats | None

    @property
    def sample(self) -> StoredStats | None:
        """The newest one, if it is of what runs now and young enough to say something about it."""
        found = self.newest
        if found is None or found.allocation_id != self.allocation_id or found.age_s > FRESH_S:
            return None
        return found


class StoredLog(msgspec.Struct, frozen=True):
    """The newest lines of a container's log, redacted.

    Attributes:
        lines: oldest first; the last of them is number `last_line`, which rises by one a line for ever.
        positions: how far each stream was taken.
        read_at, age_s: when it was read last, and how long ago that is by the store's clock.
    """

    allocation_id: str
    lines: tuple[str, ...]
    last_line: int
    positions: Mapping[str, Position]
    read_at: datetime
    age_s: float

    def after(self, number: int) -> tuple[str, ...]:
        """The lines that are newer than line `number`, as far as they are kept."""
        return self.lines[max(0, len(self.lines) - max(0, self.last_line - number)) :]


def lease_key(user_id: str) -> str:
    """The key of the lease of whoever samples this user's container."""
    return LEASE_PREFIX + user_id
