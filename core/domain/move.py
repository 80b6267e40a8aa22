"""One user's part in a rollout: when it needs a seat, what its move may repair, and how the move ended.

A changed job restarts the container, and with it every session. So it is registered only under a seat that
moves. Nothing runs of a job that is missing or stopped: it is registered as it should be, without a seat.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from core.domain.actions import AskSeat, ChipStatus, ContainerStatus, LeaveSeat, SettleSeat
from core.domain.desired import Desired, DesiredChip, DesiredContainer, Tries, Wanted
from core.domain.facts import Known, Observation
from core.domain.seat import Seat, SeatState, SeatWhy
from core.domain.states import ChipPhase, ContainerPhase

_ASKS_FOR_PAIRING: Final = frozenset({ChipPhase.QR, ChipPhase.PASSKEY, ChipPhase.UNLINKED, ChipPhase.PARKED})
_GIVEN_UP: Final = _ASKS_FOR_PAIRING | {ChipPhase.FAILED}


def is_restart(container: DesiredContainer) -> bool:
    """Whether registering the wanted job would replace the one that we registered, with a restart."""
    registered = container.registered
    return registered is not None and registered.hashes.restart != container.wanted_hashes.restart


def is_held_back(container: DesiredContainer) -> bool:
    """Whether a job that exists stays as it is although another one is wanted.

    Under newer settings than ours nothing is changed, not even what looks edited by hand: that may be their
    register, whose record is yet to come, and the two would take turns.
    """
    if container.superseded:
        return container.registered is not None
    return is_restart(container) and not _moves(container)


def seat_action(container: DesiredContainer, *, runs: bool) -> AskSeat | LeaveSeat | None:
    """What is to be done about the seat before the container is acted on.

    `runs`: the container should run and its job exists; without that nobody needs a seat.
    """
    seat = container.seat
    if container.superseded or not container.renderable:
        return None
    if runs and is_held_back(container):
        ours = seat is not None and (seat.release, seat.restart_hash) == _wanted(container)
        if ours and seat is not None and seat.state is SeatState.WAITING:
            return None
        return AskSeat(*_wanted(container))
    if seat is None or not seat.is_open:
        return None
    settles = runs and seat.state is SeatState.MOVING and seat.restart_hash == _wanted(container)[1]
    return None if settles else LeaveSeat()


def forgiven(desired: Desired, status: ContainerStatus, now: datetime) -> tuple[DesiredChip, ...]:
    """The chips, and those that an earlier move broke as if it had not been.

    A container that could not read their credentials asked for a QR code; the one that comes now may. So each
    gets one start of its own accord, in the pass in which another allocation becomes the placement. QR sets that
    its owner's wish has spent stay spent: should it ask for pairing again, that start is the last one.
    """
    container = desired.container
    seat, placed = container.seat, status.placed
    arrives = placed is not None and placed.allocation_id != container.current_allocation
    if seat is None or not seat.broken or not arrives or not _arrived(container):
        return desired.chips
    return tuple(
        msgspec.structs.replace(
            chip,
            unlinked_generation=None,
            tries=Tries(generation=chip.generation, qr_rounds=_qr_rounds(chip)),
            phase=ChipPhase.QUEUED,
            reason=None,
            since=now,
        )
        if chip.id in seat.connected and chip.wanted is Wanted.CONNECTED and chip.phase in _GIVEN_UP
        else chip
        for chip in desired.chips
    )


def outcome(
    desired: Desired, observation: Observation, status: ContainerStatus, chips: Mapping[str, ChipStatus]
) -> SettleSeat | None:
    """How the move ended, as far as this pass can tell; None while that is open.

    A chip whose owner wants something else since the admission is left out.
    """
    container, seat = desired.container, desired.container.seat
    if seat is None or container.superseded or not _arrived(container):
        return None
    if status.phase != ContainerPhase.READY or not isinstance(observation.sessions, Known):
        return None
    if not _speaks_from_the_new_job(container, seat, observation, status):
        return None
    asked = [
        chips[chip.id]
        for chip in desired.chips
        if chip.id in seat.connected
        and chip.wanted is Wanted.CONNECTED
        and not (seat.admitted_at is not None and chip.intent_at > seat.admitted_at)
        and chip.id in chips
    ]
    if any(told.phase in _ASKS_FOR_PAIRING for told in asked):
        return SettleSeat(ok=False, why=SeatWhy.PAIRING)
    back = all(told.phase in (ChipPhase.CONNECTED, ChipPhase.PAUSED) for told in asked)
    return SettleSeat(ok=True) if back else None


def _qr_rounds(chip: DesiredChip) -> int:
    return chip.tries.qr_rounds if chip.tries.generation == chip.generation else 0


def _wanted(container: DesiredContainer) -> tuple[str, str]:
    return container.release, container.wanted_hashes.restart


def _moves(container: DesiredContainer) -> bool:
    seat = container.seat
    return (
        seat is not None
        and seat.state is SeatState.MOVING
        and seat.restart_hash == container.wanted_hashes.restart
    )


def _arrived(container: DesiredContainer) -> bool:
    """The job that the seat is for was registered, and the move is not settled."""
    return _moves(container) and not is_restart(container) and container.registered is not None


def _speaks_from_the_new_job(
    container: DesiredContainer, seat: Seat, observation: Observation, status: ContainerStatus
) -> bool:
    """Whether what answers was started, or taken over in place, from the job that is wanted.

    Just after a register the older allocation still answers. The service's meta carries the spec hash; where it
    carries none, another allocation than at the admission has to speak.
    """
    endpoint = status.endpoint
    if endpoint is None or not isinstance(observation.instances, Known):
        return False
    told = {
        one.spec_hash
        for one in observation.instances.value
        if one.allocation_id == endpoint.allocation_id and one.spec_hash
    }
    if told:
        return container.wanted_hashes.spec in told
    return endpoint.allocation_id != seat.moved_from
