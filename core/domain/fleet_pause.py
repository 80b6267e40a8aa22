"""While an operator has the fleet paused nothing is changed outside: what a decision loses then, and what is told.

Looks and status writes go on, wishes are accepted, and what only books something in our own store is done. All
else is withheld: no register, stop, purge, evaluation, restart, secret or storage, no start, stop, restart, logout
or deletion of a session. What runs, runs on, so a connected chip stays CONNECTED: this is not the pause of one
container, whose sessions are stopped (`MAINTENANCE`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from core.domain.actions import (
    OF_LABELS,
    Action,
    AdoptJob,
    AskSeat,
    ChipStatus,
    ContainerStatus,
    LeaveSeat,
    LogoutSession,
    RemoveChip,
    SettleSeat,
    is_start,
)
from core.domain.chip_look import ChipPlan
from core.domain.container import ContainerPlan
from core.domain.desired import DesiredChip, Tries, Wanted
from core.domain.facts import WahaStatus
from core.domain.policy import Policy
from core.domain.states import ChipPhase, ContainerPhase, Reason, status_word

_SEATS: Final = (AskSeat, LeaveSeat, SettleSeat)
# Reasons that the pause hides: what they announce does not come before its end.
_HIDDEN: Final = (None, Reason.RESTARTING, Reason.ROLLOUT)


def changes_outside(action: Action) -> bool:
    """Whether anything but our own store is changed by it."""
    return not isinstance(action, (*_SEATS, *OF_LABELS, AdoptJob, RemoveChip))


def withheld_container(plan: ContainerPlan, policy: Policy) -> ContainerPlan:
    """The container's plan without what changes anything outside, nor what was to follow upon that."""
    kept: list[Action] = []
    withheld = False
    for action in plan.actions:
        if not isinstance(action, _SEATS):
            withheld = withheld or changes_outside(action)
        if isinstance(action, _SEATS) or not withheld:
            kept.append(action)
    if not withheld:
        return plan
    return msgspec.structs.replace(
        plan, actions=tuple(kept), status=_container(plan.status), next_s=policy.poll_waiting_s
    )


def _container(status: ContainerStatus) -> ContainerStatus:
    registering = status.phase == ContainerPhase.REGISTERING
    return msgspec.structs.replace(
        status,
        phase=ContainerPhase.WAITING if registering else status.phase,
        reason=Reason.PAUSED if status.reason in _HIDDEN else status.reason,
    )


def withheld_chip(plan: ChipPlan, chip: DesiredChip, policy: Policy) -> ChipPlan:
    """The chip's plan without its action: nothing is spent, and what its owner sees stays true."""
    action, told = plan.action, plan.status
    if isinstance(action, OF_LABELS):
        # Another label cuts the tunnels of what runs; nothing of it is lost by waiting.
        waits = Reason.PAUSED if told.phase == ChipPhase.QUEUED else None
        status = msgspec.structs.replace(told, reason=told.reason or waits)
        return ChipPlan(status, None, policy.poll_waiting_s)
    if action is None or not changes_outside(action):
        return plan
    tries = chip.tries if chip.tries.generation == chip.generation else Tries(generation=chip.generation)
    if chip.wanted is Wanted.DELETED:
        # How long its container's end waits for it counts from the first try after the pause.
        tries = Tries(generation=chip.generation)
    change: dict[str, object] = {"tries": tries, "memory": chip.memory, "until": None}
    if isinstance(action, LogoutSession):
        change["unlinked_generation"] = chip.unlinked_generation
    if chip.wanted is not Wanted.CONNECTED:
        change["reason"] = Reason.PAUSED  # the phase says what is being ended
    elif is_start(action):
        phase = _waiting_phase(told, chip)
        change |= {
            "phase": phase,
            "status": status_word(phase, needs_pairing=chip.needs_pairing),
            "reason": Reason.PAUSED,
        }
    elif told.phase == ChipPhase.PARKED and chip.phase and chip.phase != ChipPhase.PARKED:
        # Its session runs on: parked, it would be taken for one that somebody started anew.
        change |= {"phase": chip.phase, "status": chip.status, "reason": Reason.PAUSED}
    else:
        change["reason"] = told.reason or Reason.PAUSED
    return ChipPlan(msgspec.structs.replace(told, **change), None, policy.poll_waiting_s)


def _waiting_phase(told: ChipStatus, chip: DesiredChip) -> ChipPhase:
    """Where a chip stands whose start is withheld; one that runs meanwhile keeps what it had."""
    if told.waha_status == WahaStatus.WORKING:
        return ChipPhase.CONNECTED  # deaf, and to its owner as connected as before
    if told.waha_status == WahaStatus.STARTING and chip.phase in (
        ChipPhase.STARTING,
        ChipPhase.RECONNECTING,
    ):
        return ChipPhase(chip.phase)
    return ChipPhase.QUEUED
