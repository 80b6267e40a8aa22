"""A user's seat in a rollout: the leave to let a changed job restart its container, and how the move ended.

    waiting -- admitted by the duty --> moving -- settled --> ok | failed

A seat is for one restart hash: whoever wants another job by now asks anew. What follows for the whole fleet
stands in `rollout.py`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class SeatState(StrEnum):
    WAITING = "waiting"
    MOVING = "moving"
    OK = "ok"
    FAILED = "failed"


class SeatWhy(StrEnum):
    """Why a move failed."""

    PAIRING = "pairing"  # a chip that was connected asks for a QR code again
    LATE = "late"  # not everything was back by the deadline


class Seat(msgspec.Struct, frozen=True):
    """One user's seat.

    Attributes:
        release: of the settings that the wanted job was made from.
        restart_hash: of the wanted job.
        broken: an earlier move of this user failed, or was under way when the settings changed again.
        connected: chips that have to be connected again: those that were at the admission, and those that the
            earlier move broke.
        moved_from: the allocation that ran at the admission.
        admitted_at: None while it waits.
    """

    release: str
    restart_hash: str
    state: SeatState = SeatState.WAITING
    broken: bool = False
    connected: tuple[str, ...] = ()
    moved_from: str | None = None
    admitted_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        return self.state in (SeatState.WAITING, SeatState.MOVING)
