"""When a label changes, and when an exit is looked at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.egress_errors import EgressError
from core.domain.routes import (
    FAILING_FOR,
    FAILURES,
    OF_LABEL,
    OF_PROVIDER,
    OF_SUB_USER,
    READ_EVERY,
    SHARED_EVERY,
    TROUBLE_FOR,
    ChipRoute,
    LabelWhy,
    reading_due,
    rotation,
    trouble_now,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ROUTE = ChipRoute(
    provider="local",
    sub_user_id="s",
    generation=3,
    label="abc",
    assigned_at=NOW - timedelta(days=2),
    exit_ip="203.0.113.7",
    exit_at=NOW - timedelta(minutes=5),
    checked_at=NOW - timedelta(minutes=5),
)
FAILING = msgspec.structs.replace(
    ROUTE, failure=EgressError.NO_PEER, failures=FAILURES, others_work=True, checked_at=NOW
)

_errors = st.none() | st.sampled_from(sorted(EgressError))
_times = st.timedeltas(timedelta(0), timedelta(days=3)).map(lambda ago: NOW - ago)
routes = st.builds(
    ChipRoute,
    provider=st.just("local"),
    sub_user_id=st.just("s"),
    generation=st.integers(1, 4),
    label=st.just("abc"),
    assigned_at=_times,
    released=st.booleans(),
    requested=st.booleans(),
    unusable=_errors,
    exit_ip=st.none() | st.just("203.0.113.7"),
    exit_at=st.none() | _times,
    checked_at=st.none() | _times,
    failure=_errors,
    failures=st.integers(0, 12),
    others_work=st.booleans(),
    shares_exit=st.booleans(),
)


def test_a_label_that_works_stays() -> None:
    assert rotation(ROUTE, NOW) is None
    assert rotation(msgspec.structs.replace(ROUTE, exit_ip="203.0.113.8"), NOW) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"requested": True}, LabelWhy.REQUESTED),
        ({"shares_exit": True}, LabelWhy.SHARED_EXIT),
        ({"unusable": EgressError.NO_UPSTREAM}, LabelWhy.MOVED),
        ({"unusable": EgressError.NO_UPSTREAM, "requested": True}, LabelWhy.MOVED),
        ({"unusable": EgressError.TRAFFIC_EXHAUSTED}, None),
        ({"unusable": EgressError.PROXY_AUTH}, None),
        ({"released": True, "requested": True, "unusable": EgressError.NO_UPSTREAM}, None),
    ],
)
def test_the_rules_that_change_a_label(change: dict[str, object], why: LabelWhy | None) -> None:
    assert rotation(msgspec.structs.replace(ROUTE, **change), NOW) == why


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, LabelWhy.FAILING),
        ({"failures": FAILURES - 1}, None),
        ({"others_work": False}, None),  # then it is the provider's
        ({"failure": EgressError.PROXY_AUTH}, None),  # the sub-user's: another label would fail as well
        ({"failure": EgressError.TRAFFIC_EXHAUSTED}, None),
        ({"unusable": EgressError.THREADS_EXHAUSTED}, None),
        ({"assigned_at": NOW - FAILING_FOR}, LabelWhy.FAILING),
        ({"assigned_at": NOW - FAILING_FOR + SECOND}, None),  # a new label gets its time
    ],
)
def test_a_label_that_alone_keeps_failing_changes(change: dict[str, object], why: LabelWhy | None) -> None:
    assert rotation(msgspec.structs.replace(FAILING, **change), NOW) == why


def test_a_shared_exit_costs_a_first_label_at_once_and_later_ones_hourly() -> None:
    young = msgspec.structs.replace(ROUTE, shares_exit=True, assigned_at=NOW, generation=1)
    assert rotation(young, NOW) is LabelWhy.SHARED_EXIT
    second = msgspec.structs.replace(young, generation=2)
    assert rotation(second, NOW + SHARED_EVERY - SECOND) is None
    assert rotation(second, NOW + SHARED_EVERY) is LabelWhy.SHARED_EXIT


def test_a_reading_is_due_before_a_first_start_and_hourly() -> None:
    assert reading_due(msgspec.structs.replace(ROUTE, checked_at=None), NOW)
    read = msgspec.structs.replace(ROUTE, checked_at=NOW)
    assert not reading_due(read, NOW + READ_EVERY - SECOND)
    assert reading_due(read, NOW + READ_EVERY)


def test_a_failed_reading_is_made_again_sooner_and_then_later_and_later() -> None:
    waits = []
    for failures in range(1, 12):
        route = msgspec.structs.replace(FAILING, failures=failures)
        waits.append(next(s for s in range(2000) if reading_due(route, NOW + timedelta(seconds=s))))
    assert waits[:4] == [15, 30, 60, 120]
    assert waits == sorted(waits)
    assert waits[-1] == 900


@given(routes)
def test_nothing_is_read_or_changed_that_carries_nothing(route: ChipRoute) -> None:
    if route.released:
        assert rotation(route, NOW) is None
    if route.released or route.unusable is not None:
        assert not reading_due(route, NOW)
    why = rotation(route, NOW)
    if why is LabelWhy.FAILING:
        assert route.failure in OF_LABEL
        assert route.others_work
        assert route.unusable is None


@given(routes)
def test_an_answered_wish_is_not_answered_twice(route: ChipRoute) -> None:
    """What `assign_label` leaves behind asks for nothing at once, so no label changes in circles."""
    fresh = ChipRoute("local", "s", route.generation + 1, "def", NOW, shares_exit=route.shares_exit)
    assert rotation(fresh, NOW) is None
    assert reading_due(fresh, NOW)


def test_trouble_is_forgotten_by_itself() -> None:
    told = EgressError.TRAFFIC_EXHAUSTED
    assert trouble_now(told, NOW, NOW + TROUBLE_FOR - SECOND) is told
    assert trouble_now(told, NOW, NOW + TROUBLE_FOR) is None
    assert trouble_now(None, NOW, NOW) is None
    assert trouble_now(told, None, NOW) is None


def test_every_error_of_an_upstream_is_somebodys() -> None:
    assert {*OF_LABEL, *OF_PROVIDER, *OF_SUB_USER} >= {EgressError.NO_PEER, EgressError.PROXY_AUTH}
    assert not OF_LABEL & (OF_PROVIDER | OF_SUB_USER)
    assert EgressError.NO_UPSTREAM not in OF_LABEL
