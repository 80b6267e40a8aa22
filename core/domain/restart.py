"""Restart of a container in place, by request: when it is due, when it is over, and what is said meanwhile.

A wish names the allocation that ran when it was accepted. Whatever runs under another id began later, so the
wish is answered by it. The task's own count of restarts, kept before the call is sent, tells a successor
whether a call whose answer was lost had its effect: a crash between effect and record may restart twice at
worst, and a call that takes longer than its time limit is not repeated for ever.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from core.domain.actions import ChipStatus, ContainerStatus, RestartAllocation
from core.domain.desired import DesiredContainer
from core.domain.endpoints import CLIENT_ENDED, current_allocation
from core.domain.facts import AllocationFact, Known, Observation, Unknown
from core.domain.policy import Policy
from core.domain.states import ChipPhase, ContainerPhase, Reason

_COMING_BACK = frozenset(
    {
        ChipPhase.QUEUED,
        ChipPhase.CREATING,
        ChipPhase.STARTING,
        ChipPhase.RECONNECTING,
        ChipPhase.RETRYING,
    }
)
# What a container that is being started again looks like from outside; every other reason says more.
_HIDDEN = (None, Reason.WAHA_NOT_READY, Reason.DEPENDENCY_WAHA, Reason.RESTARTING)


class RestartPlan(msgspec.Struct, frozen=True):
    """
    Attributes:
        answered: the generation of the wish, once its effect was seen or there is nothing left to restart.
    """

    action: RestartAllocation | None = None
    answered: int | None = None


def plan_restart(
    container: DesiredContainer,
    alive: tuple[AllocationFact, ...],
    observation: Observation,
    *,
    cut_off: bool,
) -> RestartPlan:
    """What to do about the wish. `alive`: allocations that run or may still run; `cut_off`: one is lost.

    Nothing is done while Nomad or Consul is Unknown: nobody would see the container come back. That WAHA
    does not answer holds nothing up, since that is what people restart it for.
    """
    wish, target = container.restart_generation, container.restart_allocation
    if wish <= container.restarted_generation:
        return RestartPlan()
    if not isinstance(observation.allocations, Known):
        return RestartPlan()
    found = next((a for a in observation.allocations.value if a.id == target), None)
    if found is None or found.desired != "run" or found.client in CLIENT_ENDED:
        return RestartPlan(answered=wish)
    before = container.restart_mark
    if before is not None and found.restarts > before:
        return RestartPlan(answered=wish)
    alone = all(a.id == target for a in alive)
    current = current_allocation(observation.allocations.value)
    runs = current is not None and current.id == target
    if cut_off or not alone or not runs or isinstance(observation.instances, Unknown):
        return RestartPlan()
    return RestartPlan(action=RestartAllocation(found.id, generation=wish, restarts=found.restarts))


def with_restart(
    status: ContainerStatus,
    plan: RestartPlan,
    container: DesiredContainer,
    now: datetime,
    policy: Policy,
) -> ContainerStatus:
    """The status with the reason `restarting`, from the wish on until `is_back` says otherwise.

    For as long as a container may boot at most: what lasts longer is told as any slow boot is.
    """
    if plan.answered is not None:
        status = msgspec.structs.replace(status, restarted_generation=plan.answered)
    same = status.allocation_id is not None and status.allocation_id == container.restart_allocation
    if not same or status.reason not in _HIDDEN:
        return status
    told = container.reason == Reason.RESTARTING
    pending = container.restart_generation > container.restarted_generation and plan.answered is None
    if not (told or pending):
        return status
    patience = timedelta(seconds=policy.ready_deadline_s)
    late = told and container.since is not None and now - container.since >= patience
    if late and plan.action is None:
        return status
    return msgspec.structs.replace(status, reason=Reason.RESTARTING)


def is_back(
    status: ContainerStatus,
    container: DesiredContainer,
    observation: Observation,
    chips: tuple[ChipStatus, ...],
) -> bool:
    """Whether a restarted container answers again, and every session that should run is up or has a reason."""
    if container.restart_generation > (status.restarted_generation or container.restarted_generation):
        return False
    if status.phase != ContainerPhase.READY or not isinstance(observation.sessions, Known):
        return False
    return not any(chip.phase in _COMING_BACK and chip.reason is None for chip in chips)
