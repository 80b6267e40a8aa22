"""Rules for the container: whether its job should exist, and what to do about the difference."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum

import msgspec

from core.domain.actions import (
    Action,
    AdoptJob,
    ContainerStatus,
    DeleteStorage,
    DeleteVariables,
    EvaluateJob,
    PurgeJob,
    RegisterJob,
    RemoveContainer,
    ReplaceAllocation,
    StopJob,
    WriteVariables,
)
from core.domain.container_status import seen_status
from core.domain.deadlines import Stood, overdue
from core.domain.desired import Desired, Wanted
from core.domain.endpoints import is_cut_off, is_possibly_alive, newest, vanished_left_s
from core.domain.facts import (
    NOT_ASKED,
    AllocationFact,
    ClientStatus,
    JobFact,
    Known,
    Missing,
    Observation,
    Unknown,
)
from core.domain.move import is_held_back, seat_action
from core.domain.policy import Policy
from core.domain.restart import plan_restart, with_restart
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


class _Seen(msgspec.Struct, frozen=True):
    """What Nomad's answers amount to.

    Attributes:
        alive: allocations that run or may still run somewhere.
        cut_off: one of them is on a host that was lost.
        vanished: our placement left Nomad's lists before its end was seen, and may still run.
        stopped: there is no job, or it stands stopped.
        gone: none of all that.
    """

    job: Known[JobFact] | Missing
    alive: tuple[AllocationFact, ...]
    newest: AllocationFact | None
    cut_off: bool
    vanished: bool
    stopped: bool
    gone: bool


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
    """The container's next steps and its status. Whatever could not be seen stops nothing and starts nothing."""
    aim, empty_since = aim_of(desired, now, policy)
    job, allocations = observation.job, observation.allocations
    if isinstance(job, Unknown) or not isinstance(allocations, Known):
        why = job.why if isinstance(job, Unknown) else getattr(allocations, "why", Reason.DEPENDENCY_NOMAD)
        phase = ContainerPhase(desired.container.phase or ContainerPhase.ABSENT)
        status = ContainerStatus(phase=phase, reason=why, blind=True, empty_since=empty_since)
        return ContainerPlan(aim, (), status, gone=False, next_s=policy.poll_waiting_s)

    alive = tuple([a for a in allocations.value if is_possibly_alive(a, now, policy)])
    cut_off = any(is_cut_off(a, now, policy) for a in alive)
    vanished = vanished_left_s(desired.container, job, allocations.value, now, policy) is not None
    stopped = isinstance(job, Missing) or job.value.stopped
    gone = stopped and not alive and not vanished
    seen = _Seen(job, alive, newest(allocations.value), cut_off, vanished, stopped, gone)
    status = seen_status(job, allocations.value, cut_off, observation, empty_since)
    if aim is Aim.REMOVE:
        plan = _remove(desired, seen, observation, status, now, policy)
    elif aim is Aim.KEEP:
        assert empty_since is not None
        left_s = policy.empty_grace_s - (now - empty_since).total_seconds()
        plan = ContainerPlan(aim, (), status, seen.gone, next_s=max(0.0, left_s))
    else:
        plan = _run(desired, seen, observation, status, now, policy)
    seat = seat_action(desired.container, runs=aim is Aim.RUN and not seen.stopped)
    if seat is not None and not seen.cut_off:
        plan = msgspec.structs.replace(plan, actions=(*plan.actions, seat))
    return _in_time(plan, desired, now, policy)


def _in_time(plan: ContainerPlan, desired: Desired, now: datetime, policy: Policy) -> ContainerPlan:
    """The plan with what is to be said when the phase has lasted too long without a reason."""
    before = desired.container
    if plan.status.reason is not None:
        return plan
    stood = Stood(before.phase, before.reason, before.since)
    late = overdue(ContainerPhase(plan.status.phase), stood, now, policy)
    if late is None:
        return plan
    return msgspec.structs.replace(plan, status=msgspec.structs.replace(plan.status, reason=late))


def _run(
    desired: Desired,
    seen: _Seen,
    observation: Observation,
    status: ContainerStatus,
    now: datetime,
    policy: Policy,
) -> ContainerPlan:
    change = msgspec.structs.replace
    actions = _registration(desired, seen)
    if not actions and not seen.cut_off:
        actions = _renewal(desired, seen, status, now, policy) or _revival(seen, status, now, policy)
    restart = plan_restart(desired.container, seen.alive, observation, cut_off=seen.cut_off)
    if restart.action is not None and not actions and not seen.stopped:
        actions = (restart.action,)
    status = with_restart(status, restart, desired.container, now, policy)
    if seen.stopped and (seen.alive or seen.vanished):
        # Wanted, not registered, and something of an earlier life may still run.
        reason = Reason.POSSIBLY_ALIVE if seen.alive else Reason.ALLOCATION_VANISHED
        status = change(status, phase=ContainerPhase.MOVING, reason=reason, endpoint=None)
    elif not desired.container.renderable:
        if seen.gone:
            status = change(status, phase=ContainerPhase.WAITING)
        status = change(status, reason=status.reason or Reason.JOB_NOT_RENDERABLE)
    elif actions and status.allocation_id is None:
        status = change(status, phase=ContainerPhase.REGISTERING, reason=None)
    held_back = not seen.stopped and is_held_back(desired.container) and not desired.container.superseded
    if held_back and status.phase == ContainerPhase.READY and status.reason is None:
        status = change(status, reason=Reason.ROLLOUT)
    return ContainerPlan(Aim.RUN, actions, status, seen.gone, next_s=_next_s(status, policy))


def _next_s(status: ContainerStatus, policy: Policy) -> float | None:
    if status.phase == ContainerPhase.READY and status.reason in (None, Reason.ROLLOUT):
        return None  # whoever gets a seat is told
    if status.reason is not None:
        return policy.poll_waiting_s
    return policy.poll_booting_s if status.phase == ContainerPhase.BOOTING else policy.poll_moving_s


def _registration(desired: Desired, seen: _Seen) -> tuple[Action, ...]:
    """Register when it should run and does not, or runs from another specification.

    A placement after a stop has no predecessor that Nomad would wait for, so nothing older may be alive;
    and while an allocation is lost or unknown an extra evaluation would start a second container. Secrets
    are left alone then as well: new ones restart the task.
    """
    container = desired.container
    if not container.renderable:
        return ()
    write = WriteVariables(hash=container.wanted_variables_hash)
    if isinstance(seen.job, Missing) or seen.job.value.stopped:
        if not seen.gone:
            return ()
        index = 0 if isinstance(seen.job, Missing) else seen.job.value.modify_index
        return (write, RegisterJob(expected_index=index, hashes=container.wanted_hashes))
    adoption = _adoption(desired, seen.job.value)
    if seen.cut_off:
        return adoption
    registered, index = container.registered, seen.job.value.modify_index
    stale_secrets = container.variables_hash != container.wanted_variables_hash
    if adoption:
        return (write, *adoption) if stale_secrets else adoption
    if is_held_back(container):
        return (write,) if stale_secrets and not container.superseded else ()
    drift = (
        registered is None or registered.hashes != container.wanted_hashes or registered.modify_index != index
    )
    register = RegisterJob(expected_index=index, hashes=container.wanted_hashes)
    if drift and any(a.desired != "run" for a in seen.alive):
        # A client lets an allocation wait for its `PreviousAllocation` alone, the one that the scheduler
        # replaced. One that is replaced while it still waits itself ends at once, and its successor would
        # start beside the older one (Nomad 1.10.5, client/allocwatcher/alloc_watcher.go, NewAllocWatcher). A
        # predecessor on another host is no longer waited for once it is `lost` or `unknown`, or was
        # collected (remotePrevAlloc.Wait): `cut_off` and `possibly alive` are ours to judge.
        return ()
    if drift:
        return (write, register) if stale_secrets else (register,)
    if registered is not None and registered.release != container.release and not container.superseded:
        # The same job, made from settings that are not on record: told apart from those that still have to move.
        adopt = AdoptJob(modify_index=index, hashes=container.wanted_hashes)
        return (write, adopt) if stale_secrets else (adopt,)
    return (write,) if stale_secrets and not container.superseded else ()


def _adoption(desired: Desired, job: JobFact) -> tuple[Action, ...]:
    """What stands in Nomad booked as ours, where a daemon died between its register and the record of it.

    Sent again the register would change nothing, but each pass under way at the death would send one. The
    spec hash stands in the job itself. A job that was edited by hand keeps it, so it is believed only where
    nothing was registered yet and the job is as it was created, or where a register of another
    specification is what the record speaks of.
    """
    container = desired.container
    if job.spec == "" or job.spec != container.wanted_hashes.spec:
        return ()
    registered = container.registered
    if not (job.first if registered is None else registered.hashes.spec != job.spec):
        return ()
    return (AdoptJob(modify_index=job.modify_index, hashes=container.wanted_hashes),)


def _renewal(
    desired: Desired, seen: _Seen, status: ContainerStatus, now: datetime, policy: Policy
) -> tuple[Action, ...]:
    """Everything written again, and the allocation replaced, once, when its WAHA goes on refusing our key.

    The allocation that this is done for is remembered before it is stopped. As long as that one stands the
    steps may be repeated; when its successor refuses the key too, only an operator can help.
    """
    container = desired.container
    refused = status.reason == Reason.WAHA_KEY_REJECTED and container.reason == Reason.WAHA_KEY_REJECTED
    if not refused or status.endpoint is None or isinstance(seen.job, Missing) or not container.renderable:
        return ()
    if is_held_back(container):
        return ()  # its seat brings another container anyway
    patience = timedelta(seconds=policy.key_patience_s)
    allocation = status.endpoint.allocation_id
    alone = all(a.id == allocation for a in seen.alive)
    if not alone or container.since is None or now - container.since < patience:
        return ()
    if container.key_renewed_for not in (None, allocation):
        return ()
    return (
        WriteVariables(hash=container.wanted_variables_hash),
        RegisterJob(expected_index=seen.job.value.modify_index, hashes=container.wanted_hashes),
        ReplaceAllocation(allocation, key_refused=True),
    )


def _revival(seen: _Seen, status: ContainerStatus, now: datetime, policy: Policy) -> tuple[Action, ...]:
    """An evaluation for a container that its own client has ended although it should run.

    A client that was cut off for S stops its tasks. When it is back before the servers have noticed, the
    allocation is complete, still desired to run, and nothing replaces it (measured on Nomad 1.10.5, 2.0.5).
    """
    ended = seen.newest
    if seen.stopped or seen.alive or seen.vanished or status.phase == ContainerPhase.WAITING or ended is None:
        return ()
    if ended.desired != "run" or ended.client is not ClientStatus.COMPLETE:
        return ()
    # Nomad may be about to do it by itself.
    patience = timedelta(seconds=policy.evaluate_after_s)
    return (EvaluateJob(),) if now - ended.modified_at >= patience else ()


def _remove(
    desired: Desired,
    seen: _Seen,
    observation: Observation,
    status: ContainerStatus,
    now: datetime,
    policy: Policy,
) -> ContainerPlan:
    change = msgspec.structs.replace
    actions = _removal(desired, seen, observation, now, policy)
    storage = observation.storage
    if actions or not seen.gone or isinstance(storage, Unknown):
        status = change(status, phase=ContainerPhase.STOPPING)
    else:
        status = change(status, phase=ContainerPhase.ABSENT)
    if seen.vanished:
        status = change(status, reason=Reason.ALLOCATION_VANISHED)
    elif seen.gone and isinstance(storage, Unknown) and storage.why != NOT_ASKED:
        status = change(status, reason=storage.why)
    elif seen.cut_off:
        status = change(status, reason=Reason.POSSIBLY_ALIVE)
    return ContainerPlan(Aim.REMOVE, actions, status, seen.gone, next_s=policy.poll_moving_s)


def _removal(
    desired: Desired, seen: _Seen, observation: Observation, now: datetime, policy: Policy
) -> tuple[Action, ...]:
    """One step further towards nothing left.

    Log out, stop, confirm gone, purge, delete secrets and storage, look that it is gone, forget.
    """
    container = desired.container
    if not seen.stopped:
        return () if _sessions_left(desired, now, policy) else (StopJob(),)
    if not seen.gone:
        return ()
    if isinstance(seen.job, Known) or container.registered is not None:
        return (PurgeJob(),)  # also where somebody else removed the job: what we registered is forgotten
    if container.variables_hash is not None:
        return (DeleteVariables(),)
    if desired.chips:
        return ()  # tombstones go first; a chip that came meanwhile keeps the container
    match observation.storage:
        case Unknown():
            return ()
        case Known(value=databases) if databases:
            return (DeleteStorage(),)
        case _:
            # Once more, unseen: a daemon that died after its write never said that there is something.
            return (DeleteVariables(), RemoveContainer())


def _sessions_left(desired: Desired, now: datetime, policy: Policy) -> bool:
    """Whether it is still worth waiting for WAHA to log deleted chips out before it is stopped.

    The deadline of each counts from the first pass that tried, so a daemon that was away for long tries too;
    nothing that comes and goes meanwhile starts it anew.
    """
    deadline = timedelta(seconds=policy.teardown_deadline_s)
    for chip in desired.chips:
        tried = chip.tries.last_at if chip.tries.generation == chip.generation else None
        if chip.wanted is Wanted.DELETED and (tried is None or now - tried < deadline):
            return True
    return False
