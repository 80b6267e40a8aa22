"""Rules for the container: whether its job should exist, and what to do about the difference."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum

import msgspec

from core.domain.actions import (
    Action,
    ContainerStatus,
    DeleteStorage,
    DeleteVariables,
    Placed,
    PurgeJob,
    RegisterJob,
    RemoveContainer,
    StopJob,
    WriteVariables,
)
from core.domain.desired import Desired, Wanted
from core.domain.endpoints import (
    CLIENT_ENDED,
    current_allocation,
    endpoint_of,
    is_cut_off,
    is_possibly_alive,
    newest_live,
)
from core.domain.facts import (
    NOT_ASKED,
    AllocationFact,
    EvaluationFact,
    JobFact,
    Known,
    Missing,
    Observation,
    Unknown,
)
from core.domain.placement import failure_reason, task_failure_reason
from core.domain.policy import Policy
from core.domain.states import ContainerPhase, Reason


class Aim(Enum):
    """What should become of the container."""

    RUN = "run"  # it has chips, or an operator pinned it
    KEEP = "keep"  # its last chip left a moment ago: neither start nor stop it
    REMOVE = "remove"


class ContainerPlan(msgspec.Struct, frozen=True):
    """The container's half of a decision.

    Attributes:
        gone: it is known that nothing of it runs or may still run anywhere.
        next_s: seconds until the next look, as far as the container is concerned; None = nobody needs to.
    """

    aim: Aim
    actions: tuple[Action, ...]
    status: ContainerStatus
    gone: bool
    next_s: float | None


def aim_of(desired: Desired, now: datetime, policy: Policy) -> tuple[Aim, datetime | None]:
    """The aim, and since when the container has been empty (None while it has chips)."""
    container = desired.container
    has_chips = any(chip.wanted is not Wanted.DELETED for chip in desired.chips)
    empty_since = None if has_chips else (container.empty_since or now)
    if container.deleted:
        return Aim.REMOVE, empty_since
    if has_chips or container.pinned:
        return Aim.RUN, empty_since
    assert empty_since is not None
    if now - empty_since < timedelta(seconds=policy.empty_grace_s):
        return Aim.KEEP, empty_since
    return Aim.REMOVE, empty_since


def plan_container(
    desired: Desired, observation: Observation, now: datetime, policy: Policy
) -> ContainerPlan:
    aim, empty_since = aim_of(desired, now, policy)
    job, allocations = observation.job, observation.allocations
    if isinstance(job, Unknown) or not isinstance(allocations, Known):
        why = job.why if isinstance(job, Unknown) else getattr(allocations, "why", Reason.DEPENDENCY_NOMAD)
        phase = ContainerPhase(desired.container.phase or ContainerPhase.ABSENT)
        status = ContainerStatus(phase=phase, reason=why, blind=True, empty_since=empty_since)
        return ContainerPlan(aim, (), status, gone=False, next_s=policy.poll_waiting_s)

    known = allocations.value
    alive = tuple(a for a in known if is_possibly_alive(a, now, policy))
    cut_off = any(is_cut_off(a, now, policy) for a in alive)
    gone = not alive and (isinstance(job, Missing) or job.value.stopped)
    status = _seen(job, known, cut_off, observation)
    status = msgspec.structs.replace(
        status, reason=status.reason or _overdue(desired, status, now, policy), empty_since=empty_since
    )
    if aim is Aim.REMOVE:
        actions = _removal(desired, observation, now, policy, gone=gone)
        unsure = isinstance(observation.storage, Unknown)
        phase = ContainerPhase.STOPPING if actions or not gone or unsure else ContainerPhase.ABSENT
        if actions or not gone or isinstance(job, Known) or unsure:
            status = msgspec.structs.replace(status, phase=phase)
        if isinstance(observation.storage, Unknown) and observation.storage.why != NOT_ASKED:
            status = msgspec.structs.replace(status, reason=observation.storage.why)
        return ContainerPlan(aim, actions, status, gone=gone, next_s=policy.poll_moving_s)
    if aim is Aim.KEEP:
        assert empty_since is not None
        left = policy.empty_grace_s - (now - empty_since).total_seconds()
        return ContainerPlan(aim, (), status, gone=gone, next_s=max(0.0, left))
    actions = _registration(desired, job, alive, cut_off=cut_off)
    if actions and status.allocation_id is None:
        status = msgspec.structs.replace(status, phase=ContainerPhase.REGISTERING, reason=None)
    elif not actions and (gone or isinstance(job, Missing) or job.value.stopped):
        # Wanted, not registered, and something of an earlier life may still run.
        status = msgspec.structs.replace(
            status, phase=ContainerPhase.MOVING, reason=Reason.POSSIBLY_ALIVE, endpoint=None
        )
    return ContainerPlan(aim, actions, status, gone=gone, next_s=_next_s(status, policy))


def _next_s(status: ContainerStatus, policy: Policy) -> float | None:
    if status.phase == ContainerPhase.READY:
        return None
    return policy.poll_waiting_s if status.reason is not None else policy.poll_moving_s


def _overdue(desired: Desired, status: ContainerStatus, now: datetime, policy: Policy) -> str | None:
    """A container that boots for too long gets a reason, and keeps it until something changes."""
    before = desired.container
    if status.phase != ContainerPhase.BOOTING or before.phase != ContainerPhase.BOOTING:
        return None
    late = before.since is not None and now - before.since >= timedelta(seconds=policy.ready_deadline_s)
    return Reason.WAHA_NOT_READY if late or before.reason == Reason.WAHA_NOT_READY else None


def _registration(
    desired: Desired, job: Known[JobFact] | Missing, alive: tuple[AllocationFact, ...], *, cut_off: bool
) -> tuple[Action, ...]:
    """Register when it should run and does not, or runs from another specification.

    A placement after a stop has no predecessor that Nomad would wait for, so nothing older may be alive;
    and while an allocation is lost or unknown an extra evaluation would start a second container.
    """
    container = desired.container
    write = WriteVariables(hash=container.wanted_variables_hash)
    if isinstance(job, Missing) or job.value.stopped:
        if alive:
            return ()
        index = 0 if isinstance(job, Missing) else job.value.modify_index
        return (write, RegisterJob(expected_index=index, hashes=container.wanted_hashes))
    if cut_off:
        return ()
    registered = container.registered
    stale_secrets = container.variables_hash != container.wanted_variables_hash
    drift = (
        registered is None
        or registered.hashes != container.wanted_hashes
        or registered.modify_index != job.value.modify_index
    )
    register = RegisterJob(expected_index=job.value.modify_index, hashes=container.wanted_hashes)
    if drift:
        return (write, register) if stale_secrets else (register,)
    return (write,) if stale_secrets else ()


def _removal(
    desired: Desired, observation: Observation, now: datetime, policy: Policy, *, gone: bool
) -> tuple[Action, ...]:
    """One step further towards nothing left: log out, stop, confirm gone, purge, delete secrets and
    storage, look that it is gone, forget."""
    job = observation.job
    if isinstance(job, Known) and not job.value.stopped:
        return () if _sessions_left(desired, now, policy) else (StopJob(),)
    if not gone:
        return ()
    if isinstance(job, Known):
        return (PurgeJob(),)
    if desired.container.variables_hash is not None:
        return (DeleteVariables(),)
    if desired.chips:
        return ()  # tombstones go first; a chip that came meanwhile keeps the container
    match observation.storage:
        case Unknown():
            return ()
        case Known(value=databases) if databases:
            return (DeleteStorage(),)
        case _:
            return (RemoveContainer(),)


def _sessions_left(desired: Desired, now: datetime, policy: Policy) -> bool:
    """Whether it is still worth waiting for WAHA to log deleted chips out before it is stopped.

    The deadline counts from the first pass that tried, so a daemon that was away for long tries too.
    """
    if not any(chip.wanted is Wanted.DELETED for chip in desired.chips):
        return False
    before = desired.container
    if before.phase != ContainerPhase.STOPPING or before.since is None:
        return True
    return now - before.since < timedelta(seconds=policy.teardown_deadline_s)


def _seen(
    job: Known[JobFact] | Missing,
    allocations: tuple[AllocationFact, ...],
    cut_off: bool,
    observation: Observation,
) -> ContainerStatus:
    """The status that Nomad's and Consul's facts amount to."""
    current = current_allocation(allocations)
    live = newest_live(allocations)
    instances = observation.instances
    endpoint = endpoint_of(allocations, instances.value) if isinstance(instances, Known) else None
    phase, reason = _phase(job, allocations, cut_off, observation, ready=endpoint is not None)
    return ContainerStatus(
        phase=phase,
        reason=reason,
        placed=None
        if current is None
        else Placed(current.id, current.node_id, current.node_name, current.address, current.port),
        allocation_id=live.id if live else None,
        node_name=live.node_name if live else None,
        address=live.address if live else None,
        port=live.port if live else None,
        endpoint=endpoint,
        # `lost` may still hold its port; the client's own word frees it.
        closed_allocations=tuple(a.id for a in allocations if a.client in CLIENT_ENDED),
    )


def _phase(
    job: Known[JobFact] | Missing,
    allocations: tuple[AllocationFact, ...],
    cut_off: bool,
    observation: Observation,
    *,
    ready: bool,
) -> tuple[ContainerPhase, str | None]:
    if ready:
        return ContainerPhase.READY, None
    if isinstance(job, Missing):
        return ContainerPhase.ABSENT, None
    if job.value.stopped:
        return ContainerPhase.STOPPING, None
    live = newest_live(allocations)
    if live is not None:
        if isinstance(observation.instances, Unknown):
            return ContainerPhase.BOOTING, observation.instances.why
        return ContainerPhase.BOOTING, task_failure_reason(live)
    if cut_off:
        return ContainerPhase.MOVING, Reason.POSSIBLY_ALIVE
    evaluation = observation.evaluation
    newest = max(allocations, key=lambda a: a.create_index, default=None)
    if isinstance(evaluation, Known) and _explains(evaluation.value, newest):
        assert evaluation.value.failure is not None
        return ContainerPhase.WAITING, failure_reason(evaluation.value.failure)
    if newest is None:
        why = evaluation.why if isinstance(evaluation, Unknown) else None
        return ContainerPhase.PLACING, why
    if newest.desired == "run":
        return ContainerPhase.FAILING, task_failure_reason(newest) or Reason.TASK_FAILED
    return ContainerPhase.PLACING, None


def _explains(evaluation: EvaluationFact, newest: AllocationFact | None) -> bool:
    """An evaluation that failed to place, and that is younger than the newest allocation."""
    return evaluation.failure is not None and (
        newest is None or evaluation.create_index > newest.create_index
    )
