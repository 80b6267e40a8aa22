"""One evaluation: from a view of the state to a plan. Pure but for the random generator it is given."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import msgspec

from sandbox.nomad_double.disconnect import state_change
from sandbox.nomad_double.durations import iso_time
from sandbox.nomad_double.feasibility import Room, filtered_by, find_room, node_in_scope
from sandbox.nomad_double.model import Allocation, Deployment, Evaluation, Json, Node
from sandbox.nomad_double.ports import PortsExhausted
from sandbox.nomad_double.reconcile import Changes, Later, Place, Stop, reconcile
from sandbox.nomad_double.reschedule import tracker_for_replacement

SIGNING_KEY_ID = "d0b1e000-0000-4000-8000-000000000000"
"""The double signs no workload identities; allocations only carry the field."""
PLACE_REMAINING = "created to place remaining allocations"


class View(msgspec.Struct, frozen=True):
    """What the scheduler may see: one job (possibly a candidate), its allocations, all nodes and their load."""

    job: Json | None
    allocs: list[Allocation]
    nodes: Mapping[str, Node]
    allocs_of_node: Callable[[str], list[Allocation]]
    deployment: Deployment | None = None
    reschedule_trigger: str = "alloc-failure"
    """`TriggeredBy` of delayed replacements of failed ones: `alloc-reschedule` since 2.0. Those of lost ones
    still say `alloc-failure` there (measured on 2.0.5)."""
    speed: float = 1.0
    """Delays and waits take this many times less than jobs say."""


class Plan(msgspec.Struct):
    """What an evaluation decided; the server applies it as one commit."""

    stops: list[Stop] = []
    placed: list[Allocation] = []
    in_place: list[Allocation] = []
    annotated: list[Allocation] = []
    follow_ups: list[Evaluation] = []
    blocked: Evaluation | None = None
    failed: dict[str, Json] = {}
    queued: dict[str, int] = {}
    desired: dict[str, dict[str, int]] = {}

    @property
    def empty(self) -> bool:
        return not (self.stops or self.placed or self.in_place or self.annotated)


def new_id(rng: Random) -> str:
    """A UUID from the double's own randomness, so that a seed replays exactly."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def schedule(view: View, evaluation: Evaluation, now_ns: int, rng: Random) -> Plan:
    """Decide what one evaluation changes."""
    changes = reconcile(view.job, view.allocs, view.nodes, evaluation.id, now_ns, view.deployment, view.speed)
    plan = Plan(desired=changes.annotations)
    plan.queued = dict.fromkeys(changes.annotations, 0)
    plan.in_place = [_in_place(alloc, view.job) for alloc in changes.in_place if view.job is not None]
    _follow_ups(changes, view, evaluation, plan, rng)
    held = _later(changes.lost_later, "alloc-failure", evaluation, plan, rng)
    plan.stops = [msgspec.structs.replace(s, followup=held.get(s.alloc.id, "")) for s in changes.stop]
    expires = _later(changes.expires, "max-disconnect-timeout", evaluation, plan, rng)
    for alloc in changes.unknown:
        plan.annotated.append(
            _with_state(alloc, "unknown", now_ns, followup_eval_id=expires.get(alloc.id, ""))
        )
    for alloc in changes.returned:
        plan.annotated.append(_with_state(alloc, alloc.client_status, now_ns))
    for place in [*changes.destructive, *changes.place]:
        _fill(place, view, evaluation, plan, now_ns, rng)
    if plan.failed and evaluation.status != "blocked":
        plan.blocked = Evaluation(
            id=new_id(rng),
            namespace=evaluation.namespace,
            priority=evaluation.priority,
            type=evaluation.type,
            triggered_by="queued-allocs",
            job_id=evaluation.job_id,
            job_modify_index=evaluation.job_modify_index,
            status="blocked",
            status_description=PLACE_REMAINING,
            previous_eval=evaluation.id,
            failed_tg_allocs=plan.failed,
            class_eligibility={},
            create_time=now_ns,
            modify_time=now_ns,
        )
    return plan


def _in_place(alloc: Allocation, job: Json | None) -> Allocation:
    assert job is not None
    return msgspec.structs.replace(alloc, job=job)


def _follow_ups(changes: Changes, view: View, evaluation: Evaluation, plan: Plan, rng: Random) -> None:
    """Failed allocations that must wait remember the delayed evaluation that will replace them."""
    ids = _later(changes.later, view.reschedule_trigger, evaluation, plan, rng)
    for later in changes.later:
        updated = next((a for a in plan.in_place if a.id == later.alloc.id), later.alloc)
        plan.annotated.append(msgspec.structs.replace(updated, followup_eval_id=ids[later.alloc.id]))


_DESCRIPTIONS = {"max-disconnect-timeout": "created for delayed disconnect timeout"}


def _with_state(alloc: Allocation, status: str, now_ns: int, **more: Any) -> Allocation:
    states = [*(alloc.alloc_states or ()), state_change(status, now_ns)]
    return msgspec.structs.replace(alloc, client_status=status, alloc_states=states, **more)


def _later(
    waiting: list[Later], trigger: str, evaluation: Evaluation, plan: Plan, rng: Random
) -> dict[str, str]:
    """One delayed evaluation for each moment (within a window of 5 s): allocation id -> evaluation id."""
    window_ns = 5_000_000_000
    current: Evaluation | None = None
    start_ns = 0
    ids: dict[str, str] = {}
    for later in sorted(waiting, key=lambda item: item.at_ns):
        if current is None or later.at_ns - start_ns >= window_ns:
            start_ns = later.at_ns
            current = Evaluation(
                id=new_id(rng),
                namespace=evaluation.namespace,
                priority=evaluation.priority,
                type=evaluation.type,
                triggered_by=trigger,
                job_id=evaluation.job_id,
                job_modify_index=evaluation.job_modify_index,
                status="pending",
                status_description=_DESCRIPTIONS.get(trigger, "created for delayed rescheduling"),
                previous_eval=evaluation.id,
                wait_until=iso_time(later.at_ns),
            )
            plan.follow_ups.append(current)
        ids[later.alloc.id] = current.id
    return ids


def _fill(place: Place, view: View, evaluation: Evaluation, plan: Plan, now_ns: int, rng: Random) -> None:
    job = view.job
    assert job is not None
    group, name = place.group, place.group["Name"]
    if name in plan.failed:
        plan.failed[name]["CoalescedFailures"] += 1
        plan.queued[name] += 1
        return
    stop = (
        Stop(place.previous, place.stop_previous)
        if place.previous is not None and place.stop_previous is not None
        else None
    )
    if stop is not None:
        plan.stops.append(stop)
    penalty = {place.previous.node_id} if place.previous and place.rescheduling else set()
    room, metrics = select_node(view, job, group, plan, penalty, rng)
    if room is None:
        plan.failed[name] = metrics
        plan.queued[name] += 1
        if stop is not None:
            plan.stops.remove(stop)
        if (
            place.previous is not None
            and place.rescheduling
            and place.previous.reschedule_tracker is not None
        ):
            tracker = msgspec.structs.replace(
                place.previous.reschedule_tracker, last_reschedule="no placement"
            )
            plan.annotated.append(msgspec.structs.replace(place.previous, reschedule_tracker=tracker))
        return
    chained = (
        tracker_for_replacement(place.previous, now_ns) if place.previous and place.rescheduling else None
    )
    deployment = view.deployment
    plan.placed.append(
        Allocation(
            id=new_id(rng),
            namespace=job["Namespace"],
            eval_id=evaluation.id,
            name=place.name,
            node_id=room.node.id,
            node_name=room.node.name,
            job_id=job["ID"],
            job=job,
            task_group=name,
            allocated_resources=room.resources,
            metrics=metrics,
            signing_key_id=SIGNING_KEY_ID,
            previous_allocation=place.previous.id if place.previous else "",
            reschedule_tracker=chained,
            deployment_id=deployment.id if deployment is not None and deployment.active else "",
        )
    )


def select_node(
    view: View, job: Json, group: Json, plan: Plan, penalty: set[str], rng: Random
) -> tuple[Room | None, Json]:
    """The best of a few feasible nodes in random order, as Nomad's service scheduler looks at max(2, log2 n)."""
    metrics = _metrics(view, job)
    nodes = [node for node in view.nodes.values() if node_in_scope(node, job)]
    rng.shuffle(nodes)
    enough = max(2, math.ceil(math.log2(len(nodes)))) if nodes else 0
    found: list[Room] = []
    for node in nodes:
        metrics["NodesEvaluated"] += 1
        reason = filtered_by(node, job, group)
        if reason is not None:
            _count(metrics, "NodesFiltered", "ConstraintFiltered", reason)
            continue
        proposed = _proposed(view, plan, node)
        try:
            room = find_room(node, group, proposed, rng)
        except PortsExhausted as exhausted:
            _count(metrics, "NodesExhausted", "DimensionExhausted", str(exhausted))
            if node.node_class:
                metrics["ClassExhausted"] = {
                    **(metrics["ClassExhausted"] or {}),
                    node.node_class: (metrics["ClassExhausted"] or {}).get(node.node_class, 0) + 1,
                }
            continue
        found.append(_scored(room, job, group, proposed, penalty, metrics))
        if len(found) >= enough:
            break
    if not found:
        metrics["ResourcesExhausted"] = _exhausted(metrics["DimensionExhausted"], group)
        return None, metrics
    return max(found, key=lambda room: room.score), metrics


def _exhausted(dimensions: dict[str, int] | None, group: Json) -> Json | None:
    """What each task wanted of the resources that ran out."""
    if dimensions is None:
        return None
    return {
        task["Name"]: {
            **dict.fromkeys(task["Resources"], 0),
            **dict.fromkeys(("Networks", "Devices", "NUMA"), None),
            "CPU": task["Resources"]["CPU"] if "cpu" in dimensions else 0,
            "MemoryMB": task["Resources"]["MemoryMB"] if "memory" in dimensions else 0,
        }
        for task in group["Tasks"]
    }


def _proposed(view: View, plan: Plan, node: Node) -> list[Allocation]:
    """What the node would hold after the plan so far: its allocations without the stopped, with the placed."""
    stopped = {stop.alloc.id for stop in plan.stops}
    existing = [
        alloc
        for alloc in view.allocs_of_node(node.id)
        if alloc.id not in stopped and not alloc.client_terminal
    ]
    return [*existing, *(alloc for alloc in plan.placed if alloc.node_id == node.id)]


def _scored(
    room: Room, job: Json, group: Json, proposed: list[Allocation], penalty: set[str], metrics: Json
) -> Room:
    same = sum(alloc.job_id == job["ID"] and alloc.task_group == group["Name"] for alloc in proposed)
    scores = {
        "binpack": room.score,
        "job-anti-affinity": -(same + 1) / group["Count"] if same else 0.0,
        "node-affinity": 0.0,
        "node-reschedule-penalty": -1.0 if room.node.id in penalty else 0.0,
    }
    counted = [scores["binpack"], *(score for name, score in scores.items() if name != "binpack" and score)]
    norm = sum(counted) / len(counted)
    metrics["ScoreMetaData"] = [
        *(metrics["ScoreMetaData"] or ()),
        {"NodeID": room.node.id, "Scores": scores, "NormScore": norm},
    ]
    return msgspec.structs.replace(room, score=norm)


def _metrics(view: View, job: Json) -> Json:
    available: dict[str, int] = {}
    for node in view.nodes.values():
        if node_in_scope(node, job):
            available[node.datacenter] = available.get(node.datacenter, 0) + 1
    return {
        "NodesEvaluated": 0,
        "NodesFiltered": 0,
        "NodesInPool": sum(available.values()),
        "NodePool": job["NodePool"],
        "NodesAvailable": available,
        "ClassFiltered": None,
        "ConstraintFiltered": None,
        "NodesExhausted": 0,
        "ClassExhausted": None,
        "DimensionExhausted": None,
        "QuotaExhausted": None,
        "ResourcesExhausted": None,
        "Scores": None,
        "ScoreMetaData": None,
        "AllocationTime": 50_000,
        "CoalescedFailures": 0,
    }


def _count(metrics: Json, total: str, by_reason: str, reason: str) -> None:
    metrics[total] += 1
    reasons = metrics[by_reason] or {}
    metrics[by_reason] = {**reasons, reason: reasons.get(reason, 0) + 1}
