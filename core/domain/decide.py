"""The one decision of the loop: what is wanted and what was seen go in, actions and status come out."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec

from core.domain.actions import (
    OF_LABELS,
    Action,
    AskSeat,
    ChipStatus,
    ContainerStatus,
    CreateSession,
    Decision,
    LeaveSeat,
    RestartSession,
    RewriteSession,
    SettleSeat,
    StartSession,
    is_start,
)
from core.domain.chip import plan_chip
from core.domain.chip_look import Scene
from core.domain.container import Aim, ContainerPlan, plan_container
from core.domain.desired import Desired, DesiredChip, DesiredContainer
from core.domain.endpoints import newest
from core.domain.facts import Known, Observation, Unknown, WahaStatus
from core.domain.fleet_pause import withheld_chip, withheld_container
from core.domain.isolation import isolation_failure, isolation_is_open
from core.domain.move import forgiven, outcome
from core.domain.names import chip_of_session
from core.domain.policy import Policy
from core.domain.restart import is_back
from core.domain.seat import SeatState
from core.domain.states import ContainerPhase, Reason

# Nothing outside follows from these by itself: they are no reason to look again soon.
_SEAT = (AskSeat, LeaveSeat, SettleSeat)
_QUIET = (*_SEAT, *OF_LABELS)
_DEPENDENCIES = (Reason.DEPENDENCY_NOMAD, Reason.DEPENDENCY_CONSUL)
_STOPPED: Final = WahaStatus.STOPPED


def decide(desired: Desired, observation: Observation, now: datetime, policy: Policy) -> Decision:
    """Pure: the same arguments give the same decision. `container.py` and `chip.py` hold the rules."""
    container = plan_container(desired, observation, now, policy)
    if desired.fleet_paused:
        container = withheld_container(container, policy)
    running = _running(observation)
    room = desired.max_chips - running
    scene = _scene(desired, observation, container, now, policy, full=room <= 0)
    if not scene.full and isolation_is_open(desired, observation):
        room = min(room, 1 - running)
    actions: list[Action] = list(container.actions)
    chips: dict[str, ChipStatus] = {}
    looks = [_patient(container.next_s, desired.container, container.status, now, policy)]
    of_starts: list[float | None] = []
    for chip in forgiven(desired, container.status, now):
        plan = plan_chip(chip, scene, may_start=room > 0)
        if desired.fleet_paused:
            plan = withheld_chip(plan, chip, policy)
        told = plan.status
        if told.reason == Reason.PORT_IN_USE:
            told = msgspec.structs.replace(told, held_port=_newest_port(observation))
        chips[chip.id] = told
        starts = plan.action is not None and is_start(plan.action)
        (of_starts if starts else looks).append(_patient(plan.next_s, chip, told, now, policy))
        if plan.action is None:
            continue
        actions.append(plan.action)
        if _starts(plan.action, told.waha_status):
            room -= 1
    if of_starts:
        of_starts.append(policy.poll_moving_s)
    if any(not is_start(action) and not isinstance(action, _QUIET) for action in actions):
        looks.append(policy.poll_moving_s)
    told_chips = tuple(chips.values())
    if container.status.reason == Reason.RESTARTING and is_back(
        container.status, desired.container, observation, told_chips
    ):
        container = msgspec.structs.replace(
            container, status=msgspec.structs.replace(container.status, reason=None)
        )
    seat = desired.container.seat
    if seat is not None and seat.state is SeatState.MOVING and not desired.container.superseded:
        settled = outcome(desired, observation, container.status, chips)
        if settled is not None:
            actions.append(settled)
        elif not any(isinstance(action, LeaveSeat) for action in actions):
            looks.append(policy.poll_waiting_s)
    if scene.start_refused is not None and container.status.reason in (None, Reason.ROLLOUT):
        container = msgspec.structs.replace(
            container, status=msgspec.structs.replace(container.status, reason=scene.start_refused)
        )
        looks.append(policy.poll_waiting_s)
    if container.status.phase == ContainerPhase.READY and not isinstance(scene.sessions, Known):
        looks.append(policy.poll_waiting_s)  # nobody rests on what could not be seen
    without_starts, requeue_after = _soonest(looks), _soonest([*looks, *of_starts])
    status = container.status
    if requeue_after is None:
        status = msgspec.structs.replace(status, at_rest=True)
    return Decision(tuple(actions), status, chips, requeue_after, without_starts)


def _soonest(looks: Iterable[float | None]) -> float | None:
    return min([look for look in looks if look is not None], default=None)


def _patient(
    next_s: float | None,
    before: DesiredContainer | DesiredChip,
    told: ContainerStatus | ChipStatus,
    now: datetime,
    policy: Policy,
) -> float | None:
    """The next look at what has stood with this phase and reason for a while.

    News come by themselves and polling only finds those that got lost, so who waited long can wait a bit
    longer. What has a moment of its own (the end of a grace, of a pause between tries) keeps it.
    """
    if next_s is None or before.since is None or next_s not in _polls(policy):
        return next_s
    if (before.phase, before.reason) != (told.phase, told.reason):
        return next_s
    stood_s = (now - before.since).total_seconds()
    return max(next_s, min(policy.poll_patience * stood_s, policy.poll_slowest_s))


def _polls(policy: Policy) -> tuple[float, ...]:
    return policy.poll_moving_s, policy.poll_waiting_s, policy.poll_booting_s


def _newest_port(observation: Observation) -> str | None:
    """`host:port` of the newest allocation, as far as it is known."""
    last = newest(observation.allocations.value) if isinstance(observation.allocations, Known) else None
    return None if last is None or last.port is None else f"{last.node_name}:{last.port}"


def _starts(action: Action, waha_status: str | None) -> bool:
    """Whether a session that does not run now will run (a restart of a running one adds none)."""
    if isinstance(action, CreateSession):
        return action.start
    starts = isinstance(action, StartSession | RestartSession | RewriteSession)
    return starts and waha_status == _STOPPED


def _running(observation: Observation) -> int:
    """Sessions that WAHA runs for the user, tombstones and strangers included."""
    if not isinstance(observation.sessions, Known):
        return 0
    return sum(
        [
            session.status is not _STOPPED and chip_of_session(name) is not None
            for name, session in observation.sessions.value.items()
        ]
    )


def _scene(
    desired: Desired,
    observation: Observation,
    container: ContainerPlan,
    now: datetime,
    policy: Policy,
    *,
    full: bool,
) -> Scene:
    status = container.status
    sessions = observation.sessions
    if status.endpoint is None:
        # Sessions read at an endpoint that does not count say nothing.
        sessions = Unknown(status.reason or Reason.WAHA_NOT_READY)
    ready = status.phase == ContainerPhase.READY
    # The allocation that already spoke for the user still runs: it may just be slow to answer its check.
    same = status.allocation_id is not None and status.allocation_id == desired.container.current_allocation
    uncertain = same or status.reason in _DEPENDENCIES or (ready and isinstance(sessions, Unknown))
    waiting_for = status.reason
    if waiting_for is None and ready and isinstance(sessions, Unknown):
        waiting_for = sessions.why
    refused = None
    if isinstance(sessions, Known):
        refused = isolation_failure(desired, observation)
    return Scene(
        sessions=sessions,
        waiting_for=waiting_for,
        uncertain=uncertain,
        container_gone=container.gone,
        removing=container.aim is Aim.REMOVE,
        never_ran=desired.container.registered is None and desired.container.variables_hash is None,
        now=now,
        policy=policy,
        paused=desired.container.paused,
        start_refused=refused,
        full=full,
        peers=observation.peers,
        probes=observation.probes,
    )
