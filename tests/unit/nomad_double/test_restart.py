"""Restart and reschedule policies."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.nomad_double.durations import go_duration, iso_time, parse_go_duration, parse_iso_time
from sandbox.nomad_double.model import Allocation, RescheduleEvent, RescheduleTracker, TaskState
from sandbox.nomad_double.reschedule import next_reschedule, tracker_for_replacement
from sandbox.nomad_double.restart import RestartTracker
from tests.unit.nomad_double.conftest import SECOND


def tracker(mode: str = "fail", attempts: int = 2, *, on_success: bool = True) -> RestartTracker:
    policy = {"Attempts": attempts, "Interval": 60 * SECOND, "Delay": 10 * SECOND, "Mode": mode}
    return RestartTracker(policy, on_success=on_success, now_ns=0, rng=Random(1))


@given(attempts=st.integers(1, 10), ends=st.lists(st.integers(0, SECOND), min_size=11, max_size=11))
def test_mode_fail_restarts_as_often_as_allowed(attempts: int, ends: list[int]) -> None:
    one = tracker(attempts=attempts)
    decisions = [one.after_exit(at, success=False) for at in sorted(ends)]
    assert [decision.action for decision in decisions[: attempts + 1]] == ["restart"] * attempts + ["failed"]
    for decision in decisions[:attempts]:
        assert 10 * SECOND <= decision.delay_ns <= 12.5 * SECOND, "delay plus at most a quarter"


def test_a_new_interval_counts_from_zero() -> None:
    one = tracker(attempts=1)
    assert one.after_exit(0, success=False).action == "restart"
    assert one.after_exit(61 * SECOND, success=False).action == "restart"
    assert one.after_exit(62 * SECOND, success=False).action == "failed"


def test_mode_delay_waits_for_the_next_interval() -> None:
    one = tracker("delay", attempts=1)
    one.after_exit(0, success=False)
    waiting = one.after_exit(5 * SECOND, success=False)
    assert (waiting.action, waiting.delay_ns) == ("restart", 55 * SECOND)


def test_success_ends_a_batch_job_and_restarts_a_service() -> None:
    assert tracker(on_success=False).after_exit(0, success=True).action == "complete"
    assert tracker(on_success=True).after_exit(0, success=True).action == "restart"
    assert tracker(attempts=0).after_exit(0, success=True).action == "failed"


def failed_alloc(past_delays: list[int], **policy: object) -> Allocation:
    full = {
        "Attempts": 0,
        "Interval": 0,
        "Delay": 30 * SECOND,
        "DelayFunction": "exponential",
        "MaxDelay": 300 * SECOND,
        "Unlimited": True,
        **policy,
    }
    events = [
        RescheduleEvent(reschedule_time=number * SECOND, prev_alloc_id="", prev_node_id="", delay=delay)
        for number, delay in enumerate(past_delays)
    ]
    return Allocation(
        id="a",
        namespace="default",
        eval_id="e",
        name="app.app[0]",
        node_id="n",
        node_name="host-1",
        job_id="app",
        job={"TaskGroups": [{"Name": "app", "ReschedulePolicy": full}]},
        task_group="app",
        allocated_resources={},
        metrics={},
        client_status="failed",
        task_states={"main": TaskState(state="dead", failed=True, finished_at=iso_time(100 * SECOND))},
        reschedule_tracker=RescheduleTracker(events=events) if events else None,
    )


@pytest.mark.parametrize(
    ("past", "policy", "delay_s"),
    [
        ([], {}, 30),
        ([30], {}, 60),
        ([30, 60, 120], {}, 240),
        ([30, 60, 120, 240], {}, 300),
        ([30], {"DelayFunction": "constant"}, 30),
        ([30, 30], {"DelayFunction": "fibonacci"}, 60),
        ([30, 60], {"DelayFunction": "fibonacci"}, 90),
    ],
)
def test_delays_between_replacements(past: list[int], policy: dict[str, object], delay_s: int) -> None:
    alloc = failed_alloc([delay * SECOND for delay in past], **policy)
    assert next_reschedule(alloc) == ((100 + delay_s) * SECOND, True)


def test_attempts_run_out_within_the_interval() -> None:
    limits: dict[str, object] = {"Unlimited": False, "Attempts": 2, "Interval": 3600 * SECOND}
    assert next_reschedule(failed_alloc([30 * SECOND], **limits))[1]
    assert not next_reschedule(failed_alloc([30 * SECOND, 60 * SECOND], **limits))[1]


def test_no_policy_no_replacement() -> None:
    assert next_reschedule(failed_alloc([], Unlimited=False)) == (0, False)


def test_a_replacement_remembers_its_last_five_predecessors() -> None:
    alloc = failed_alloc([SECOND] * 9)
    events = tracker_for_replacement(alloc, 200 * SECOND).events
    assert len(events) == 5
    assert events[-1].prev_alloc_id == "a"


@given(st.integers(0, 10**15))
def test_durations_read_back_what_they_print(ns: int) -> None:
    assert parse_go_duration(go_duration(ns)) == ns


@given(st.integers(0, 4 * 10**18))
def test_times_read_back_what_they_print(ns: int) -> None:
    assert parse_iso_time(iso_time(ns)) == ns


@pytest.mark.parametrize("text", ["", "x", "10", "1d", "1s2", "--1s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_go_duration(text)
