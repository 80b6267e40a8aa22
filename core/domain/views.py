"""What the owner of a chip sees, from what the store holds.

Desired columns are written when a wish is accepted, observed ones when a pass saw the world. Between the
two the observed ones speak of an older wish: `observed_generation < generation`. What such a chip shows is
decided here, in one table:

    wanted         seen in this generation   status
    disconnected   either                    DISCONNECTED, from the answer to the wish on
    connected      yes                       as observed
    connected      no                        WAITING_QR or CONNECTING, as a chip that is queued; what only
                                             an operator ends (BANNED, MAINTENANCE, ERROR) stays
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from core.domain.desired import Wanted
from core.domain.names import container_name, session_name
from core.domain.states import (
    ChipPhase,
    ChipStatusWord,
    ContainerPhase,
    Reason,
    reason_text,
    status_word,
)

# A press on Conectar does not end these.
_OPERATOR_ENDS: Final = frozenset({ChipStatusWord.BANNED, ChipStatusWord.MAINTENANCE, ChipStatusWord.ERROR})
# Nothing of the container stands any more, or what stands is on its way out: its port says nothing.
_UNPLACED: Final = frozenset({ContainerPhase.ABSENT, ContainerPhase.STOPPING})
# WAHA is already doing what a reconnect would ask of it.
_UNDER_WAY: Final = frozenset({"STARTING", "SCAN_QR_CODE", "WORKING"})
# The daemon is ending what WAHA still does there: a press that came now would be lost.
_GIVEN_UP: Final = frozenset({ChipPhase.UNLINKED, ChipPhase.PARKED, ChipPhase.FAILED})


class StoredContainer(msgspec.Struct, frozen=True):
    """The columns of a container that its chips show."""

    phase: str
    reason: str | None = None
    port: int | None = None
    node: str | None = None

    @property
    def shown_port(self) -> int | None:
        return None if self.phase in _UNPLACED else self.port

    @property
    def holds_up(self) -> str | None:
        """Why a chip that is queued has to wait for it; a container whose turn to restart is yet to come works."""
        return None if self.reason == Reason.ROLLOUT else self.reason

    @property
    def shown_node(self) -> str | None:
        return None if self.phase in _UNPLACED else self.node


class StoredChip(msgspec.Struct, frozen=True):
    """One chip's columns, desired and observed, with its container's.

    Attributes:
        phase, reason, status, waha_status: as of `observed_generation`.
        since: when the observed status last changed.
        started_at: when the last start or restart was sent.
        starts_at: when its start token is expected; None unless it waits for one.
    """

    id: str
    user_id: str
    alias: str
    wanted: str
    generation: int
    observed_generation: int
    phase: str
    reason: str | None
    status: str
    waha_status: str | None
    since: datetime
    started_at: datetime | None
    phone_number: str | None
    health_score: int
    unlinked: bool
    annotations: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    connected_at: datetime | None
    last_activity_at: datetime | None
    container: StoredContainer
    starts_at: datetime | None = None

    @property
    def seen(self) -> bool:
        """A pass has seen the newest wish; before that the observed columns speak of an older one."""
        return self.observed_generation >= self.generation

    @property
    def needs_pairing(self) -> bool:
        return self.connected_at is None or self.unlinked


class Shown(msgspec.Struct, frozen=True):
    """Status, phase and reason as people see them; `status` in upper case."""

    status: str
    phase: str
    reason: str | None


class ExtraData(msgspec.Struct, frozen=True):
    """Our part of a chip's `extra_data`; every key is always there."""

    waha_plus_container: str
    waha_plus_port: int | None
    waha_session: str
    waha_status: str | None
    proxy_enabled: bool
    node: str | None
    phase: str
    reason: str | None
    reason_text: str | None
    starts_at: datetime | None


class ChipView(msgspec.Struct, frozen=True):
    """A chip as the API gives it, but for `extra_data`, which annotations are merged under."""

    id: str
    alias: str
    session_id: str
    phone_number: str | None
    status: str
    health_score: int
    extra_data: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    connected_at: datetime | None
    last_activity_at: datetime | None


def shown(chip: StoredChip) -> Shown:
    """The table at the head of this file."""
    if chip.wanted != Wanted.CONNECTED:
        ours = (ChipPhase.DISCONNECTING, ChipPhase.DISCONNECTED)
        told = chip.seen and chip.phase in ours
        phase = chip.phase if told else ChipPhase.DISCONNECTING.value
        return Shown(ChipStatusWord.DISCONNECTED.value, phase, chip.reason if told else None)
    if chip.seen:
        reason = chip.reason
        if reason is None and chip.phase == ChipPhase.QUEUED:
            reason = chip.container.holds_up
        return Shown(chip.status, chip.phase, reason)
    if chip.status in _OPERATOR_ENDS:
        return Shown(chip.status, chip.phase, chip.reason)
    word = status_word(ChipPhase.QUEUED, needs_pairing=chip.needs_pairing)
    return Shown(word.value, ChipPhase.QUEUED.value, chip.container.holds_up)


def chip_view(chip: StoredChip, *, proxy_enabled: bool, lower_case: bool) -> ChipView:
    """The chip for its owner. `lower_case`: the deployed pages compare the status in lower case."""
    state = shown(chip)
    extra = ExtraData(
        waha_plus_container=container_name(chip.user_id),
        waha_plus_port=chip.container.shown_port,
        waha_session=session_name(chip.id),
        waha_status=chip.waha_status,
        proxy_enabled=proxy_enabled,
        node=chip.container.shown_node,
        phase=state.phase,
        reason=state.reason,
        reason_text=text_of(state.reason),
        starts_at=chip.starts_at if state.reason == Reason.PACED else None,
    )
    return ChipView(
        id=chip.id,
        alias=chip.alias,
        session_id=session_name(chip.id),
        phone_number=chip.phone_number,
        status=state.status.lower() if lower_case else state.status,
        health_score=chip.health_score,
        extra_data={**chip.annotations, **msgspec.structs.asdict(extra)},
        created_at=chip.created_at,
        updated_at=chip.updated_at,
        connected_at=chip.connected_at,
        last_activity_at=_to_the_minute(chip.last_activity_at),
    )


def answers_create(chip: StoredChip) -> bool:
    """Whether a create may be answered: the port is known, or the reason for having none."""
    return chip.container.shown_port is not None or shown(chip).reason is not None


def reconnect_is_under_way(chip: StoredChip) -> bool:
    """Whether a press on Conectar would change nothing: WAHA was seen at work on this very wish."""
    at_work = chip.waha_status in _UNDER_WAY and chip.phase not in _GIVEN_UP
    return chip.wanted == Wanted.CONNECTED and chip.seen and at_work


def text_of(reason: str | None) -> str | None:
    """The sentence for a reason; None also for a code that a newer daemon wrote and we do not know yet."""
    try:
        return reason_text(reason)
    except ValueError:
        return None


def _to_the_minute(time: datetime | None) -> datetime | None:
    return None if time is None else time.replace(second=0, microsecond=0)
