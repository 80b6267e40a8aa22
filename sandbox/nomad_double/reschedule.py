"""When is a failed allocation replaced (reschedule policy of Nomad 1.10.5)."""

from __future__ import annotations

from sandbox.nomad_double.clock import NS_PER_S
from sandbox.nomad_double.durations import parse_iso_time
from sandbox.nomad_double.jobspec import group_of
from sandbox.nomad_double.model import Allocation, Json, RescheduleEvent, RescheduleTracker

WINDOW_NS = NS_PER_S
"""An evaluation this close to the moment replaces at once."""
MAX_PAST_EVENTS = 5


def policy_of(alloc: Allocation) -> Json | None:
    group = group_of(alloc.job, alloc.task_group)
    return group["ReschedulePolicy"] if group else None


def next_reschedule(alloc: Allocation, speed: float = 1.0) -> tuple[int, bool]:
    """(moment in ns, may it be replaced at all) of a failed allocation; delays are divided by `speed`."""
    policy = policy_of(alloc)
    if policy is None or (not policy["Attempts"] and not policy["Unlimited"]):
        return 0, False
    failed_at = last_event_ns(alloc)
    if alloc.client_status not in ("failed", "lost") or not failed_at:
        return 0, False
    if alloc.desired_status == "stop" and not _last_failed(alloc):
        return 0, False
    delay = next_delay(alloc, policy)
    eligible = bool(policy["Unlimited"])
    if policy["Attempts"]:
        past = alloc.reschedule_tracker.events if alloc.reschedule_tracker else []
        attempted = sum(failed_at - event.reschedule_time < policy["Interval"] for event in past)
        eligible = attempted < policy["Attempts"] and (not past or delay < policy["Interval"])
    return failed_at + round(delay / speed), eligible


def next_delay(alloc: Allocation, policy: Json) -> int:
    """How long after the failure the replacement comes, in ns."""
    past = alloc.reschedule_tracker.events if alloc.reschedule_tracker else []
    delay = int(policy["Delay"])
    if not past:
        return delay
    if policy["DelayFunction"] == "exponential":
        delay = past[-1].delay * 2
    elif policy["DelayFunction"] == "fibonacci":
        if len(past) >= 2:
            restarted = past[-2].delay == policy["MaxDelay"] and past[-1].delay == policy["Delay"]
            delay = past[-1].delay if restarted else past[-1].delay + past[-2].delay
    else:
        return delay
    if policy["MaxDelay"] > 0 and delay > policy["MaxDelay"]:
        delay = int(policy["MaxDelay"])
        # An allocation that outlived the longest delay starts the series anew.
        if last_event_ns(alloc) - past[-1].reschedule_time > delay:
            delay = int(policy["Delay"])
    return delay


def tracker_for_replacement(previous: Allocation, now_ns: int) -> RescheduleTracker:
    """What the replacement remembers of its predecessors."""
    policy = policy_of(previous)
    delay = next_delay(previous, policy) if policy else 0
    past = list(previous.reschedule_tracker.events) if previous.reschedule_tracker else []
    if policy and policy["Attempts"]:
        past = [event for event in past if now_ns - event.reschedule_time <= policy["Interval"]]
    else:
        past = past[-(MAX_PAST_EVENTS - 1) :]
    event = RescheduleEvent(
        reschedule_time=now_ns, prev_alloc_id=previous.id, prev_node_id=previous.node_id, delay=delay
    )
    return RescheduleTracker(events=[*past, event], last_reschedule="ok")


def last_event_ns(alloc: Allocation) -> int:
    """When the allocation finished: its last task's end, else its last change."""
    finished = [
        parse_iso_time(state.finished_at)
        for state in (alloc.task_states or {}).values()
        if state.finished_at is not None
    ]
    return max(finished, default=alloc.modify_time)


def _last_failed(alloc: Allocation) -> bool:
    return alloc.reschedule_tracker is not None and alloc.reschedule_tracker.last_reschedule == "no placement"
