"""What the store holds about one chip's way, as one value: the chip, its container, what was seen, its waits."""

from __future__ import annotations

from datetime import datetime

import msgspec

from core.domain.desired import Tries
from core.domain.evidence import AllocationSeen, Evidence
from core.domain.views import StoredChip


class Waits(msgspec.Struct, frozen=True):
    """Times that a chip waits for; None where it waits for no such thing.

    Attributes:
        starts_at: when its start token is expected.
        breaker_until: when its circuit breaker lets one try through.
    """

    starts_at: datetime | None = None
    breaker_until: datetime | None = None


class ContainerStory(msgspec.Struct, frozen=True):
    """The columns of a container that an explanation needs.

    Attributes:
        looked_at: when a pass last wrote, blind or not. at_rest: nobody needs to look before there is news.
        answers: there is an endpoint.
        key_renewed_for: the allocation that was replaced for refusing our key, until one takes it.
    """

    phase: str
    reason: str | None
    since: datetime
    looked_at: datetime | None
    at_rest: bool = False
    answers: bool = False
    allocation_id: str | None = None
    key_renewed_for: str | None = None


class Story(msgspec.Struct, frozen=True):
    """Everything that the store knows of one chip's way.

    Attributes:
        max_chips: sessions that the plan allows.
        container: None before there was one.
        evidence: what passes saw; None before the first.
    """

    chip: StoredChip
    tries: Tries
    max_chips: int
    container: ContainerStory | None = None
    evidence: Evidence | None = None
    waits: Waits = Waits()

    @property
    def spent(self) -> Tries:
        """The tries of the newest wish; those of an older one count as none."""
        mine = self.tries.generation == self.chip.generation
        return self.tries if mine else Tries(generation=self.chip.generation)

    @property
    def newest(self) -> AllocationSeen | None:
        """The allocation that was created last, of those that are kept."""
        return self.evidence.allocations[-1] if self.evidence and self.evidence.allocations else None

    @property
    def looked_at(self) -> datetime | None:
        return self.container.looked_at if self.container else None
