"""What becomes of the observed columns when a pass reports what it saw. Pure, and the same for every store.

Each rule answers one question: does what was seen move this column, or does the column remember?
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec

from core.domain.actions import ChipStatus, ContainerStatus
from core.domain.desired import Memory, Tries
from core.domain.events import ChipEvent, Standing, status_event
from core.domain.facts import Endpoint
from core.domain.health import health_score
from core.domain.states import ON_ITS_WAY, ChipPhase

# A write that changes nothing else renews `looked_at` no more often than this.
LOOKED_AT_STEP: Final = timedelta(seconds=30)
# An estimate that moves by no more than this, or by this part of the wait, is the same to people.
_HARDLY_S, _HARDLY_PART = 5.0, 0.2


class ContainerColumns(msgspec.Struct, frozen=True):
    """Observed columns of a container that a status write may move.

    Attributes:
        observed_at: when a pass last saw the container; a blind one did not.
        looked_at: when a pass last wrote, blind or not; to `LOOKED_AT_STEP`.
        at_rest: that pass found that nobody needs to look again before there is news.
        isolated_at: when its storage was first seen to be its own; that never ceases to be so.
        key_renewed_for: the allocation that was replaced for refusing our key, until one takes it.
        restarted_generation, restart_mark: see `DesiredContainer`.
    """

    phase: str
    reason: str | None
    since: datetime
    allocation_id: str | None
    node_name: str | None
    address: str | None
    port: int | None
    endpoint: Endpoint | None
    empty_since: datetime | None
    observed_generation: int
    observed_at: datetime | None
    looked_at: datetime | None = None
    at_rest: bool = False
    isolated_at: datetime | None = None
    key_renewed_for: str | None = None
    restarted_generation: int = 0
    restart_mark: int | None = None

    def shown_in_chips(self) -> tuple[object, ...]:
        """What the answer for a chip takes from its container: a change here is a change of every chip."""
        return self.phase, self.reason, self.node_name, self.port

    def news(self) -> tuple[object, ...]:
        """What others want to hear of at once; the endpoint too, since copies of it are kept."""
        return *self.shown_in_chips(), self.endpoint, self.allocation_id


class ChipColumns(msgspec.Struct, frozen=True):
    """Observed columns of a chip that a status write may move.

    Attributes:
        waiting_since: since when it is on its way to its connection, without a break: other phases on the way
            do not end that.
        starts_at: when its start token is expected; None unless it waits for one.
    """

    phase: str
    reason: str | None
    status: str
    since: datetime
    waha_status: str | None
    phone_number: str | None
    push_name: str | None
    connected_at: datetime | None
    last_activity_at: datetime | None
    unlinked_generation: int | None
    tries: Tries
    health_score: int
    observed_generation: int
    memory: Memory = Memory()
    waiting_since: datetime | None = None
    starts_at: datetime | None = None

    @property
    def standing(self) -> Standing:
        return Standing(self.phase, self.reason, self.status)

    def rendered(self) -> tuple[object, ...]:
        """What the API shows of a chip; whether its newest wish was seen yet is part of it."""
        return (
            self.standing,
            self.observed_generation,
            self.waha_status,
            self.phone_number,
            self.connected_at,
            self.last_activity_at,
            self.health_score,
            self.starts_at,
        )


class ChipMove(msgspec.Struct, frozen=True):
    """The chip's columns after the write, with the line for its history (None = nothing to tell)."""

    after: ChipColumns
    event: ChipEvent | None


def merge_container(
    before: ContainerColumns, seen: ContainerStatus, generation: int, now: datetime
) -> ContainerColumns:
    """The container's columns after a pass that loaded `generation` and saw `seen`.

    `since` moves with phase or reason alone. A blind pass keeps allocation and address and withdraws the
    endpoint. Returns `before` itself when there is nothing worth a write.
    """
    moved = (seen.phase, seen.reason) != (before.phase, before.reason)
    placed = before if seen.blind else seen
    after = msgspec.structs.replace(
        before,
        phase=seen.phase,
        reason=seen.reason,
        since=now if moved else before.since,
        allocation_id=placed.allocation_id,
        node_name=placed.node_name,
        address=placed.address,
        port=placed.port,
        endpoint=seen.endpoint,
        empty_since=seen.empty_since,
        observed_generation=max(before.observed_generation, generation),
        at_rest=seen.at_rest,
        isolated_at=before.isolated_at or (now if seen.isolated else None),
        key_renewed_for=None if seen.key_accepted else before.key_renewed_for,
        restarted_generation=max(before.restarted_generation, seen.restarted_generation or 0),
        restart_mark=None if seen.restarted_generation is not None else before.restart_mark,
    )
    old = before.looked_at
    if after == before and old is not None and now - old < LOOKED_AT_STEP:
        return before
    return touched(after, seen, now)


def touched(before: ContainerColumns, seen: ContainerStatus, now: datetime) -> ContainerColumns:
    """As `before`, for a write that moves something else of the user: a pass looked."""
    return msgspec.structs.replace(
        before, looked_at=now, observed_at=before.observed_at if seen.blind else now
    )


def merge_chip(
    before: ChipColumns,
    seen: ChipStatus,
    *,
    loaded_generation: int,
    stored_generation: int,
    drops: int,
    now: datetime,
) -> ChipMove:
    """The chip's columns after a pass that loaded `loaded_generation` and saw `seen`.

    Facts are always taken over: WAHA's word, the account, activity, that it was connected, and what passes
    remember. The rest is
    an answer to a wish, so it stays as it is when a newer wish (`stored_generation`) came meanwhile.
    """
    facts = _facts(before, seen, loaded_generation, now)
    if stored_generation > loaded_generation:
        return ChipMove(facts, None)
    moved = (seen.phase, seen.reason) != (before.phase, before.reason)
    unlinked = None if seen.connected_now else seen.unlinked_generation
    after = msgspec.structs.replace(
        facts,
        phase=seen.phase,
        reason=seen.reason,
        status=seen.status,
        since=now if moved else before.since,
        unlinked_generation=unlinked,
        tries=seen.tries,
        observed_generation=max(before.observed_generation, loaded_generation),
        waiting_since=(before.waiting_since or now) if seen.phase in ON_ITS_WAY else None,
        starts_at=_starts_at(before.starts_at, seen.starts_in_s, now),
    )
    if unlinked is not None and seen.phone_number is None:
        # Its credentials are gone: the account that it had is nobody's here any more.
        after = msgspec.structs.replace(after, phone_number=None, push_name=None)
    score = _health(after, drops, now)
    if score != after.health_score:
        after = msgspec.structs.replace(after, health_score=score)
    if not moved and after.status == before.status:
        return ChipMove(after, None)
    return ChipMove(
        after,
        status_event(
            before.standing, after.standing, loaded_generation, held_port=seen.held_port, until=seen.until
        ),
    )


def _starts_at(before: datetime | None, in_s: float | None, now: datetime) -> datetime | None:
    """A new estimate, in whole seconds; one that has hardly moved stays, so that polls find nothing new."""
    if in_s is None:
        return None
    if before is not None:
        moved_s = abs((before - now).total_seconds() - in_s)
        if moved_s <= max(_HARDLY_S, _HARDLY_PART * in_s):
            return before
    return (now + timedelta(seconds=in_s + 0.5)).replace(microsecond=0)


def _facts(before: ChipColumns, seen: ChipStatus, loaded_generation: int, now: datetime) -> ChipColumns:
    after = msgspec.structs.replace(
        before,
        waha_status=seen.waha_status,
        # A session that is down names no account; the last one known stays.
        phone_number=seen.phone_number or before.phone_number,
        push_name=seen.push_name or before.push_name,
        memory=seen.memory,
    )
    if seen.activity_at is not None:
        minute = seen.activity_at.replace(second=0, microsecond=0)
        if before.last_activity_at is None or minute > before.last_activity_at:
            after = msgspec.structs.replace(after, last_activity_at=minute)
    if seen.connected_now:
        # The time of the latest connection; once set it never goes back to "never paired". The first one that
        # a wish sees is one more, which ends the consent that came with it.
        again = before.phase != ChipPhase.CONNECTED or before.connected_at is None
        again |= loaded_generation > before.observed_generation
        after = msgspec.structs.replace(
            after,
            connected_at=now if again else before.connected_at,
            unlinked_generation=None,
        )
    return after


def _health(columns: ChipColumns, drops: int, now: datetime) -> int:
    return health_score(
        paired=(
            columns.connected_at is not None
            and columns.unlinked_generation is None
            and columns.phase != ChipPhase.BANNED
        ),
        connected=columns.phase == ChipPhase.CONNECTED,
        drops=drops,
        failures=columns.tries.failures,
        connected_at=columns.connected_at,
        last_activity_at=columns.last_activity_at,
        now=now,
    )
