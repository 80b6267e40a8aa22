"""What should change about the allocations of one job: a pure comparison of spec and state.

Follows the reconciler of Nomad 1.10.5 for service jobs without canaries. Node silence (lost, unknown,
disconnect waits) enters through `tainted`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sandbox.nomad_double.disconnect import lost_after_ns, replacement_held_ns, silence_of
from sandbox.nomad_double.feasibility import filtered_by, in_reach
from sandbox.nomad_double.jobspec import spec_of
from sandbox.nomad_double.model import Allocation, Deployment, Json, Node
from sandbox.nomad_double.reschedule import WINDOW_NS, next_reschedule
from sandbox.nomad_double.updates import destructive_change

NOT_NEEDED = "alloc not needed due to job update"
MIGRATING = "alloc is being migrated"
UPDATING = "alloc is being updated due to job update"
LOST = "alloc is lost since its node is down"
RESCHEDULED = ""
"""Since about 1.9 a rescheduled allocation is stopped without a word of why (measured on Nomad 1.10.5)."""


class Stop(msgspec.Struct, frozen=True):
    """`followup` is the evaluation that will replace the allocation."""

    alloc: Allocation
    description: str
    client_status: str = ""
    followup: str = ""


class Place(msgspec.Struct, frozen=True):
    """A place to fill. Stopping `previous` for it (`stop_previous` says why) is undone when no room is found."""

    group: Json
    name: str
    previous: Allocation | None = None
    stop_previous: str | None = None
    rescheduling: bool = False


class Later(msgspec.Struct, frozen=True):
    """A failed or lost allocation whose replacement has to wait until `at_ns`."""

    alloc: Allocation
    at_ns: int


class Changes(msgspec.Struct):
    """The result: in the order in which Nomad applies it."""

    stop: list[Stop] = []
    in_place: list[Allocation] = []
    destructive: list[Place] = []
    place: list[Place] = []
    later: list[Later] = []
    lost_later: list[Later] = []
    """Lost ones whose client is given time to stop them (`stop_on_client_after`)."""
    unknown: list[Allocation] = []
    """To be marked unknown: on a silent node, and may come back."""
    returned: list[Allocation] = []
    """Were unknown, and are wanted again."""
    expires: list[Later] = []
    """When an unknown one is given up (`lost_after`)."""
    annotations: dict[str, dict[str, int]] = {}


def reconcile(
    job: Json | None,
    allocs: list[Allocation],
    nodes: Mapping[str, Node],
    eval_id: str,
    now_ns: int,
    deployment: Deployment | None = None,
    speed: float = 1.0,
) -> Changes:
    """Compare a job (None or stopped: nothing may run) with its allocations."""
    changes = Changes()
    groups = {} if job is None or job["Stop"] else {group["Name"]: group for group in job["TaskGroups"]}
    by_group: dict[str, list[Allocation]] = {name: [] for name in groups}
    for alloc in allocs:
        by_group.setdefault(alloc.task_group, []).append(alloc)
    for alloc in allocs:
        # Told to stop, and its host fell silent before it said that it has (updateNonTerminalAllocsToLost).
        node = nodes.get(alloc.node_id)
        gone = node is None or node.status == "down"
        if gone and alloc.server_terminal and alloc.client_status in ("pending", "running"):
            changes.stop.append(Stop(alloc, LOST, "lost"))
    for name, members in by_group.items():
        counts = dict.fromkeys(
            (
                "Ignore",
                "Place",
                "Migrate",
                "Stop",
                "InPlaceUpdate",
                "DestructiveUpdate",
                "Canary",
                "Preemptions",
            ),
            0,
        )
        changes.annotations[name] = counts
        group = groups.get(name)
        if group is None or job is None:
            for alloc in members:
                if not alloc.terminal:
                    changes.stop.append(_stop(alloc, nodes, NOT_NEEDED))
                    counts["Stop"] += 1
            continue
        _reconcile_group(job, group, members, nodes, eval_id, now_ns, deployment, changes, counts, speed)
    return changes


def _reconcile_group(
    job: Json,
    group: Json,
    allocs: list[Allocation],
    nodes: Mapping[str, Node],
    eval_id: str,
    now_ns: int,
    deployment: Deployment | None,
    changes: Changes,
    counts: dict[str, int],
    speed: float,
) -> None:
    keep: list[Allocation] = []
    migrate: list[Allocation] = []
    lost: list[Allocation] = []
    reschedule: list[Allocation] = []
    unknown: list[Allocation] = []
    for alloc in allocs:
        node = nodes.get(alloc.node_id)
        silence = silence_of(alloc, node, now_ns, speed)
        if silence == "lost":
            lost.append(alloc)
            continue
        if silence == "unknown":
            if alloc.client_status != "unknown":
                unknown.append(alloc)
                after = lost_after_ns(alloc, speed)
                if after:
                    changes.expires.append(Later(alloc, now_ns + after))
            continue
        if silence == "returned":
            if any(other.id == alloc.next_allocation and not other.terminal for other in allocs):
                # Of the two the one that ran all the time is kept (measured on Nomad 1.10.5).
                changes.stop.append(Stop(alloc, NOT_NEEDED))
                counts["Stop"] += 1
                continue
            changes.returned.append(alloc)
            keep.append(alloc)
            continue
        if alloc.terminal:
            if _counts_although_terminal(alloc, job):
                moment, eligible = next_reschedule(alloc, speed)
                forced = bool(alloc.desired_transition.force_reschedule)
                due = alloc.followup_eval_id == eval_id or moment - now_ns <= WINDOW_NS
                if forced or (eligible and due and not _deployment_holds(alloc, deployment)):
                    reschedule.append(alloc)
                    continue
                keep.append(alloc)
                if eligible and not alloc.followup_eval_id:
                    changes.later.append(Later(alloc, moment))
        elif alloc.desired_transition.migrate:
            migrate.append(alloc)
        else:
            keep.append(alloc)

    for alloc in lost:
        held_ns = replacement_held_ns(alloc, speed)
        if held_ns:
            changes.lost_later.append(Later(alloc, now_ns + held_ns))
        changes.stop.append(Stop(alloc, LOST, "lost"))
    held = bool(changes.lost_later)
    surplus = len(keep) + len(migrate) + len(reschedule) - group["Count"]
    doomed = sorted(migrate, key=_highest_first) + sorted(keep, key=_highest_first)
    for alloc in doomed[: max(0, surplus)]:
        if not alloc.terminal:
            changes.stop.append(_stop(alloc, nodes, NOT_NEEDED))
        counts["Stop"] += 1
        (migrate if alloc in migrate else keep).remove(alloc)

    destructive: list[Allocation] = []
    for alloc in keep:
        if alloc.job["JobModifyIndex"] == job["JobModifyIndex"] or spec_of(alloc.job) == spec_of(job):
            counts["Ignore"] += 1
        elif _fits_in_place(alloc, job, group, nodes):
            changes.in_place.append(alloc)
            counts["InPlaceUpdate"] += 1
        else:
            destructive.append(alloc)
    limit = _update_limit(group, keep, deployment)
    for alloc in sorted(destructive, key=lambda a: a.index)[:limit]:
        changes.destructive.append(Place(group, alloc.name, alloc, UPDATING))
        counts["DestructiveUpdate"] += 1
    counts["Ignore"] += max(0, len(destructive) - limit)

    for alloc in () if held else reschedule:
        changes.place.append(Place(group, alloc.name, alloc, RESCHEDULED, rescheduling=True))
        counts["Place"] += 1
        counts["Stop"] += 1
    for alloc in migrate:
        # Stopped whether or not there is room for its replacement.
        changes.stop.append(Stop(alloc, MIGRATING))
        changes.place.append(Place(group, alloc.name, alloc))
        counts["Migrate"] += 1
    if held:
        # Nothing new is placed in the group meanwhile. Any later evaluation of the job finds the lost ones
        # settled already and places at once, without waiting (measured on Nomad 1.10.5).
        return
    used = {alloc.index for alloc in [*keep, *migrate, *reschedule]}
    missing = group["Count"] - len(keep) - len(migrate) - len(reschedule)
    replaced = sorted([*lost, *unknown], key=lambda a: a.index)
    changes.unknown += unknown
    for number in (n for n in range(group["Count"] + len(used)) if n not in used):
        if missing <= 0:
            break
        previous = replaced.pop(0) if replaced else None
        changes.place.append(Place(group, f"{job['ID']}.{group['Name']}[{number}]", previous))
        counts["Place"] += 1
        missing -= 1


def _fits_in_place(alloc: Allocation, job: Json, group: Json, nodes: Mapping[str, Node]) -> bool:
    """The new spec changes nothing a running task cannot take, and its node is still allowed."""
    if destructive_change(alloc.job, job, group["Name"]) is not None:
        return False
    node = nodes.get(alloc.node_id)
    return node is not None and in_reach(node, job) and filtered_by(node, job, group) is None


def _counts_although_terminal(alloc: Allocation, job: Json) -> bool:
    """A failed allocation holds its place until it is replaced, or for ever when it may not be.

    Complete ones of a service job and those told to stop hold none. Nor do those of an earlier incarnation.
    """
    if alloc.next_allocation:
        return False
    if alloc.server_terminal:
        return False
    if alloc.job["CreateIndex"] != job["CreateIndex"]:
        return False
    if job["Type"] == "batch":
        return alloc.client_status in ("complete", "failed")
    return alloc.client_status == "failed"


def _deployment_holds(alloc: Allocation, deployment: Deployment | None) -> bool:
    """While its deployment runs, an allocation is replaced only if the deployment says so."""
    if deployment is None or not deployment.active or alloc.deployment_id != deployment.id:
        return False
    return not alloc.desired_transition.reschedule


def _update_limit(group: Json, keep: list[Allocation], deployment: Deployment | None) -> int:
    """How many allocations may be replaced now: all without an update strategy."""
    update = group["Update"]
    if not update or not update["MaxParallel"]:
        return len(keep)
    waiting = 0
    if deployment is not None and deployment.active:
        waiting = sum(
            alloc.deployment_id == deployment.id
            and not (alloc.deployment_status is not None and alloc.deployment_status.healthy)
            for alloc in keep
        )
    return max(0, int(update["MaxParallel"]) - waiting)


def _stop(alloc: Allocation, nodes: Mapping[str, Node], description: str) -> Stop:
    node = nodes.get(alloc.node_id)
    if node is None or node.status in ("down", "disconnected"):
        return Stop(alloc, LOST, "lost")
    return Stop(alloc, description)


def _highest_first(alloc: Allocation) -> int:
    return -alloc.index
