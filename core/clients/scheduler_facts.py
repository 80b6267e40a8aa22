"""Nomad's JSON as facts. Pure; field names as in Nomad's `api` package, verified on 1.0 to 1.10.

List stubs carry nulls where single reads leave fields out, so every field that Nomad may omit is optional
here. What does not fit raises `msgspec.ValidationError`: an answer that we misread would be worse than none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from core.domain.facts import (
    AllocationFact,
    ClientStatus,
    EvaluationFact,
    JobFact,
    ListedAllocation,
    ListedJob,
    PlacementFailure,
    TaskEvent,
)
from core.domain.names import GROUP_NAME, PORT_LABEL, TASK_NAME

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Year 2500: beyond it datetime arithmetic of callers could overflow.
_MAX_NS = 16_725_225_600 * 10**9


class _Service(msgspec.Struct, frozen=True):
    meta: dict[str, str] | None = msgspec.field(name="Meta", default=None)


class _Group(msgspec.Struct, frozen=True):
    services: list[_Service] | None = msgspec.field(name="Services", default=None)


class Job(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="ID")
    modify_index: int = msgspec.field(name="JobModifyIndex")
    create_index: int = msgspec.field(name="CreateIndex", default=0)
    groups: list[_Group] | None = msgspec.field(name="TaskGroups", default=None)
    stop: bool | None = msgspec.field(name="Stop", default=None)
    status: str = msgspec.field(name="Status", default="")


class JobStub(msgspec.Struct, frozen=True):
    """An element of the list of jobs."""

    id: str = msgspec.field(name="ID")
    modify_index: int = msgspec.field(name="JobModifyIndex")
    submit_time: int = msgspec.field(name="SubmitTime")
    stop: bool | None = msgspec.field(name="Stop", default=None)
    status: str = msgspec.field(name="Status", default="")


class VariableStub(msgspec.Struct, frozen=True):
    """An element of the list of variables; it carries no items."""

    path: str = msgspec.field(name="Path")


class _Event(msgspec.Struct, frozen=True):
    type: str = msgspec.field(name="Type", default="")
    time: int = msgspec.field(name="Time", default=0)
    message: str | None = msgspec.field(name="DisplayMessage", default=None)


class _TaskState(msgspec.Struct, frozen=True):
    state: str | None = msgspec.field(name="State", default=None)
    restarts: int | None = msgspec.field(name="Restarts", default=None)
    events: list[_Event] | None = msgspec.field(name="Events", default=None)


class _Port(msgspec.Struct, frozen=True):
    label: str = msgspec.field(name="Label", default="")
    value: int = msgspec.field(name="Value", default=0)
    host_ip: str = msgspec.field(name="HostIP", default="")


class _Shared(msgspec.Struct, frozen=True):
    ports: list[_Port] | None = msgspec.field(name="Ports", default=None)


class _Memory(msgspec.Struct, frozen=True):
    reserved_mb: int | None = msgspec.field(name="MemoryMB", default=None)


class _TaskResources(msgspec.Struct, frozen=True):
    memory: _Memory | None = msgspec.field(name="Memory", default=None)


class _Resources(msgspec.Struct, frozen=True):
    shared: _Shared | None = msgspec.field(name="Shared", default=None)
    tasks: dict[str, _TaskResources] | None = msgspec.field(name="Tasks", default=None)


class Allocation(msgspec.Struct, frozen=True):
    """An allocation, whole or as a list's stub (with resources only where a list of all is asked for them)."""

    id: str = msgspec.field(name="ID")
    node_id: str = msgspec.field(name="NodeID")
    desired: str = msgspec.field(name="DesiredStatus")
    client: ClientStatus = msgspec.field(name="ClientStatus")
    create_index: int = msgspec.field(name="CreateIndex")
    create_time: int = msgspec.field(name="CreateTime")
    modify_time: int = msgspec.field(name="ModifyTime")
    node_name: str | None = msgspec.field(name="NodeName", default=None)
    followup: str | None = msgspec.field(name="FollowupEvalID", default=None)
    job_id: str = msgspec.field(name="JobID", default="")
    task_states: dict[str, _TaskState] | None = msgspec.field(name="TaskStates", default=None)
    resources: _Resources | None = msgspec.field(name="AllocatedResources", default=None)


class _Metric(msgspec.Struct, frozen=True):
    nodes_evaluated: int | None = msgspec.field(name="NodesEvaluated", default=None)
    nodes_filtered: int | None = msgspec.field(name="NodesFiltered", default=None)
    nodes_exhausted: int | None = msgspec.field(name="NodesExhausted", default=None)
    dimensions: dict[str, int] | None = msgspec.field(name="DimensionExhausted", default=None)
    constraints: dict[str, int] | None = msgspec.field(name="ConstraintFiltered", default=None)


class Evaluation(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="ID")
    status: str = msgspec.field(name="Status")
    create_index: int = msgspec.field(name="CreateIndex")
    triggered_by: str = msgspec.field(name="TriggeredBy", default="")
    blocked: str | None = msgspec.field(name="BlockedEval", default=None)
    failed: dict[str, _Metric] | None = msgspec.field(name="FailedTGAllocs", default=None)


class Address(msgspec.Struct, frozen=True):
    """Where port `http` of an allocation is published."""

    address: str
    port: int


def job_fact(job: Job) -> JobFact:
    """Creation sets CreateIndex and JobModifyIndex to one value; only a changed specification, or a stop, moves
    the second (Nomad source, state store, upsertJobImpl).
    """
    metas = [service.meta or {} for group in job.groups or () for service in group.services or ()]
    return JobFact(
        modify_index=job.modify_index,
        stopped=bool(job.stop),
        status=job.status,
        spec=next((meta["spec"] for meta in metas if "spec" in meta), ""),
        first=job.create_index == job.modify_index,
    )


def listed_job(stub: JobStub) -> ListedJob:
    return ListedJob(
        job_id=stub.id,
        modify_index=stub.modify_index,
        stopped=bool(stub.stop),
        status=stub.status,
        submitted_at=moment(stub.submit_time),
    )


def listed_allocation(stub: Allocation) -> ListedAllocation:
    tasks = (stub.resources.tasks if stub.resources else None) or {}
    reserved = [task.memory.reserved_mb or 0 for task in tasks.values() if task.memory]
    fact = allocation_fact(stub, address_of(stub))
    return ListedAllocation(stub.job_id, fact, memory_mb=sum(reserved) or None)


def address_of(allocation: Allocation) -> Address | None:
    """Host address and dynamic port of label `http`; None until both are known."""
    shared = allocation.resources.shared if allocation.resources else None
    for port in (shared.ports if shared else None) or ():
        if port.label == PORT_LABEL and port.host_ip and port.value:
            return Address(port.host_ip, port.value)
    return None


def allocation_fact(allocation: Allocation, address: Address | None) -> AllocationFact:
    states = allocation.task_states or {}
    task = states.get(TASK_NAME, _TaskState())
    return AllocationFact(
        id=allocation.id,
        node_id=allocation.node_id,
        node_name=allocation.node_name or "",
        desired=allocation.desired,
        client=allocation.client,
        create_index=allocation.create_index,
        created_at=moment(allocation.create_time),
        modified_at=moment(allocation.modify_time),
        address=address.address if address else None,
        port=address.port if address else None,
        followup_evaluation=allocation.followup or "",
        restarts=task.restarts or 0,
        task_state=task.state or "",
        events=tuple(TaskEvent(e.type, e.message or "", moment(e.time)) for e in task.events or ()),
    )


def newest_placement(evaluations: Iterable[Evaluation]) -> EvaluationFact | None:
    """The newest evaluation that the scheduler has worked on; pending and cancelled ones say nothing yet."""
    spoken = [e for e in evaluations if e.status in ("complete", "blocked", "failed")]
    newest = max(spoken, key=lambda e: e.create_index, default=None)
    if newest is None:
        return None
    failed = newest.failed
    if newest.status == "blocked" and not failed:
        # Older servers leave the reason with the evaluation that was blocked.
        failed = next((e.failed for e in spoken if e.blocked == newest.id), None)
    return EvaluationFact(
        id=newest.id,
        status=newest.status,
        triggered_by=newest.triggered_by,
        create_index=newest.create_index,
        failure=_failure(failed or {}),
        blocked_evaluation=newest.blocked or "",
    )


def _failure(failed: Mapping[str, _Metric]) -> PlacementFailure | None:
    metric = failed.get(GROUP_NAME)
    if metric is None:
        return None
    return PlacementFailure(
        nodes_evaluated=metric.nodes_evaluated or 0,
        nodes_filtered=metric.nodes_filtered or 0,
        nodes_exhausted=metric.nodes_exhausted or 0,
        dimensions=metric.dimensions or {},
        constraints=metric.constraints or {},
    )


def moment(nanoseconds: int) -> datetime:
    """UTC time of Nomad's nanoseconds since 1970. Raises ValueError outside 1970-2500."""
    if not 0 <= nanoseconds <= _MAX_NS:
        raise ValueError(f"{nanoseconds} ns is no time of ours")
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
