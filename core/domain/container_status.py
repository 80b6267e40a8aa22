"""What Nomad's, Consul's, WAHA's and the storage's facts of one container amount to."""

from __future__ import annotations

from datetime import datetime

from core.domain.actions import ContainerStatus, Placed
from core.domain.endpoints import CLIENT_ENDED, current_allocation, endpoint_of, newest, newest_live
from core.domain.facts import (
    AllocationFact,
    EvaluationFact,
    JobFact,
    Known,
    Missing,
    Observation,
    Unknown,
)
from core.domain.placement import failure_reason, task_failure_reason
from core.domain.states import ContainerPhase, Reason


def seen_status(
    job: Known[JobFact] | Missing,
    allocations: tuple[AllocationFact, ...],
    cut_off: bool,
    observation: Observation,
    empty_since: datetime | None,
) -> ContainerStatus:
    """The status as seen, whatever is wanted. `cut_off`: an allocation is lost or unknown and may be alive."""
    current = current_allocation(allocations)
    live = newest_live(allocations)
    instances = observation.instances
    endpoint = endpoint_of(allocations, instances.value) if isinstance(instances, Known) else None
    if isinstance(job, Missing) or job.value.stopped:
        endpoint = None  # on its way out: nobody is sent there any more
    phase, reason = _phase(job, allocations, live, cut_off, observation, ready=endpoint is not None)
    asked = endpoint is not None and isinstance(observation.sessions, Known)
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
        empty_since=empty_since,
        # `lost` may still hold its port; the client's own word frees it.
        closed_allocations=tuple([a.id for a in allocations if a.client in CLIENT_ENDED]),
        isolated=isinstance(observation.storage, Known) and bool(observation.storage.value),
        key_accepted=asked,
    )


def _phase(
    job: Known[JobFact] | Missing,
    allocations: tuple[AllocationFact, ...],
    live: AllocationFact | None,
    cut_off: bool,
    observation: Observation,
    *,
    ready: bool,
) -> tuple[ContainerPhase, str | None]:
    if ready:
        sessions = observation.sessions
        return ContainerPhase.READY, sessions.why if isinstance(sessions, Unknown) else None
    if isinstance(job, Missing):
        return ContainerPhase.ABSENT, None
    if job.value.stopped:
        return ContainerPhase.STOPPING, None
    if live is not None:
        if isinstance(observation.instances, Unknown):
            return ContainerPhase.BOOTING, observation.instances.why
        return ContainerPhase.BOOTING, task_failure_reason(live)
    if cut_off:
        return ContainerPhase.MOVING, Reason.POSSIBLY_ALIVE
    return _unplaced(allocations, observation)


def _unplaced(
    allocations: tuple[AllocationFact, ...], observation: Observation
) -> tuple[ContainerPhase, str | None]:
    evaluation = observation.evaluation
    last = newest(allocations)
    if isinstance(evaluation, Known) and _explains(evaluation.value, last):
        assert evaluation.value.failure is not None
        return ContainerPhase.WAITING, failure_reason(evaluation.value.failure)
    if last is None:
        why = evaluation.why if isinstance(evaluation, Unknown) else None
        return ContainerPhase.PLACING, why
    if last.desired == "run":
        return ContainerPhase.FAILING, task_failure_reason(last) or Reason.TASK_FAILED
    return ContainerPhase.PLACING, None


def _explains(evaluation: EvaluationFact, last: AllocationFact | None) -> bool:
    """An evaluation that failed to place, and that is younger than the newest allocation."""
    return evaluation.failure is not None and (last is None or evaluation.create_index > last.create_index)
