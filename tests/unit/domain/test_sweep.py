"""The sweep's comparison: nobody for nothing, everybody who differs, nothing from what could not be read."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.desired import Registered, SpecHashes
from core.domain.facts import (
    AllocationFact,
    ClientStatus,
    Endpoint,
    Known,
    ListedAllocation,
    ListedJob,
    ServiceInstance,
    Unknown,
)
from core.domain.names import job_id, variable_path
from core.domain.sweep import Listing, Rhythm, UserSummary, Why, by_phase, compare

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BLIND = Unknown("dependency_nomad")
RHYTHM = Rhythm()
LISTS = ("jobs", "allocations", "instances", "variables")


def user_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def running(number: int, **changes: Any) -> UserSummary:
    """A user at rest with everything in its place, as `world` lists it."""
    summary = UserSummary(
        user_id=user_id(number),
        wanted=True,
        deleted=False,
        generation=3,
        observed_generation=3,
        phase="ready",
        reason=None,
        since=NOW,
        observed_at=NOW,
        registered=Registered(SpecHashes("s", "r"), 100 + number),
        variables_hash="v",
        current_allocation=f"a{number}",
        allocation_id=f"a{number}",
        endpoint=Endpoint("10.0.0.1", 3100 + number, f"a{number}"),
        empty_since=None,
        at_rest=True,
        looked_s=10.0,
        namespace=f"u{number:015d}",
        storage_id="main",
    )
    return msgspec.structs.replace(summary, **changes)


def absent(number: int, **changes: Any) -> UserSummary:
    gone = {
        "wanted": False,
        "phase": "absent",
        "registered": None,
        "variables_hash": None,
        "current_allocation": None,
        "allocation_id": None,
        "endpoint": None,
    }
    return running(number, **gone | changes)


def job(user: UserSummary, **changes: Any) -> ListedJob:
    assert user.registered is not None
    listed = ListedJob(job_id(user.user_id), user.registered.modify_index, False, "running", NOW)
    return msgspec.structs.replace(listed, **changes)


def allocation(user: UserSummary, **changes: Any) -> ListedAllocation:
    fact = AllocationFact(
        id=user.current_allocation or "",
        node_id="n1",
        node_name="host-1",
        desired="run",
        client=ClientStatus.RUNNING,
        create_index=5,
        created_at=NOW,
        modified_at=NOW,
        address=user.endpoint.address if user.endpoint else None,
        port=user.endpoint.port if user.endpoint else None,
    )
    return ListedAllocation(job_id(user.user_id), msgspec.structs.replace(fact, **changes))


def instance(user: UserSummary, **changes: Any) -> ServiceInstance:
    assert user.endpoint is not None
    found = ServiceInstance(
        f"_nomad-task-{user.endpoint.allocation_id}",
        user.user_id,
        user.endpoint.allocation_id,
        user.endpoint.address,
        user.endpoint.port,
        True,
    )
    return msgspec.structs.replace(found, **changes)


def world(*users: UserSummary, **changes: Any) -> Listing:
    """Lists in which everything agrees with the store."""
    placed = [user for user in users if user.registered is not None]
    listing = Listing(
        jobs=Known(tuple(map(job, placed)), NOW),
        allocations=Known(tuple(map(allocation, placed)), NOW),
        instances=Known(tuple(instance(user) for user in placed if user.endpoint), NOW),
        variables=Known(tuple(variable_path(user.user_id) for user in placed), NOW),
        users=users,
        read_s=0.2,
    )
    return msgspec.structs.replace(listing, **changes)


def differing(listing: Listing, *, takeover: bool = False) -> dict[str, Why]:
    return dict(compare(listing, RHYTHM, since_s=60, takeover=takeover).differing)


users = st.lists(
    st.tuples(st.integers(1, 9000), st.sampled_from([running, absent]), st.floats(1.0, 1e4)),
    max_size=12,
    unique_by=lambda one: one[0],
).map(lambda found: [make(number, looked_s=looked_s) for number, make, looked_s in found])

ONE = running(1)
CHANGES: dict[str, tuple[Why, Callable[[], Listing]]] = {
    "a wish nobody saw": (Why.UNSEEN_WISH, lambda: world(running(1, generation=4))),
    "never looked at": (Why.UNSEEN_WISH, lambda: world(absent(1, looked_s=None))),
    "on the way, unseen for long": (Why.OVERDUE, lambda: world(running(1, at_rest=False, looked_s=76))),
    "kept, unseen for longer": (
        Why.OVERDUE,
        lambda: world(running(1, at_rest=False, wanted=False, empty_since=NOW, looked_s=301)),
    ),
    "job removed": (Why.JOB_MISSING, lambda: world(ONE, jobs=Known((), NOW))),
    "job stopped": (Why.JOB_STOPPED, lambda: world(ONE, jobs=Known((job(ONE, stopped=True),), NOW))),
    "job edited": (Why.JOB_EDITED, lambda: world(ONE, jobs=Known((job(ONE, modify_index=999),), NOW))),
    "job nobody recorded": (Why.JOB_LEFT, lambda: world(absent(1), jobs=Known((job(ONE),), NOW))),
    "allocation gone": (Why.ALLOCATION, lambda: world(ONE, allocations=Known((), NOW))),
    "allocation lost": (
        Why.ALLOCATION,
        lambda: world(ONE, allocations=Known((allocation(ONE, client=ClientStatus.LOST),), NOW)),
    ),
    "allocation unknown": (
        Why.ALLOCATION,
        lambda: world(ONE, allocations=Known((allocation(ONE, client=ClientStatus.UNKNOWN),), NOW)),
    ),
    "allocation to be stopped": (
        Why.ALLOCATION,
        lambda: world(ONE, allocations=Known((allocation(ONE, desired="stop"),), NOW)),
    ),
    "a second allocation": (
        Why.ALLOCATION,
        lambda: world(ONE, allocations=Known((allocation(ONE), allocation(ONE, id="b")), NOW)),
    ),
    "something runs that should not": (
        Why.ALLOCATION,
        lambda: world(absent(1), allocations=Known((allocation(ONE),), NOW)),
    ),
    "variables removed": (Why.VARIABLES_MISSING, lambda: world(ONE, variables=Known((), NOW))),
    "variables removed under one on the way": (
        Why.VARIABLES_MISSING,
        lambda: world(running(1, at_rest=False), variables=Known((), NOW)),
    ),
    "not passing": (Why.ENDPOINT, lambda: world(ONE, instances=Known((instance(ONE, passing=False),), NOW))),
    "no instance": (Why.ENDPOINT, lambda: world(ONE, instances=Known((), NOW))),
    "passing, of another allocation": (
        Why.ENDPOINT,
        lambda: world(ONE, instances=Known((instance(ONE, allocation_id="b"),), NOW)),
    ),
    "another port": (
        Why.ENDPOINT,
        lambda: world(ONE, allocations=Known((allocation(ONE, port=3999),), NOW)),
    ),
    "passing, and nobody was told": (
        Why.ENDPOINT,
        lambda: msgspec.structs.replace(world(ONE), users=(running(1, endpoint=None),)),
    ),
}


@given(users)
def test_a_world_as_it_was_left_asks_for_nobody(found: list[UserSummary]) -> None:
    assert differing(world(*found)) == {}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_differs_is_found(what: str) -> None:
    why, listing = CHANGES[what]
    assert differing(listing()) == {user_id(1): why}


@pytest.mark.parametrize("what", CHANGES)
@given(others=users)
def test_it_is_found_among_others_and_nobody_else_is(what: str, others: list[UserSummary]) -> None:
    why, made = CHANGES[what]
    listing, rest = made(), world(*(one for one in others if one.user_id != user_id(1)))

    def both(name: str) -> Any:
        return Known(getattr(listing, name).value + getattr(rest, name).value, NOW)

    together = Listing(
        both("jobs"),
        both("allocations"),
        both("instances"),
        both("variables"),
        (*rest.users, *listing.users),
        read_s=0.2,
    )
    assert differing(together) == {user_id(1): why}


@pytest.mark.parametrize("what", CHANGES)
def test_nothing_follows_from_a_list_that_could_not_be_read(what: str) -> None:
    why, made = CHANGES[what]
    blind = msgspec.structs.replace(made(), **dict.fromkeys(LISTS, BLIND))
    from_store_alone = {user_id(1): why} if why in (Why.UNSEEN_WISH, Why.OVERDUE) else {}
    assert differing(blind) == from_store_alone


@given(users, st.lists(st.sampled_from(LISTS), unique=True))
def test_a_list_that_failed_makes_nobody_differ(found: list[UserSummary], failed: list[str]) -> None:
    assert differing(msgspec.structs.replace(world(*found), **dict.fromkeys(failed, BLIND))) == {}


@pytest.mark.parametrize(
    "what", [what for what, (why, _) in CHANGES.items() if why not in (Why.UNSEEN_WISH, Why.OVERDUE)]
)
def test_lists_older_than_a_users_last_look_say_nothing_about_it(what: str) -> None:
    listing = CHANGES[what][1]()
    (user,) = listing.users
    fresh = msgspec.structs.replace(user, looked_s=0.1)
    assert differing(msgspec.structs.replace(listing, users=(fresh,))) == {}


def test_what_ended_is_no_allocation_that_runs() -> None:
    ended = [
        allocation(ONE, id="old", client=ClientStatus.COMPLETE),
        allocation(ONE, id="f", client=ClientStatus.FAILED),
    ]
    assert differing(world(ONE, allocations=Known((allocation(ONE), *ended), NOW))) == {}


def test_a_stopped_job_is_right_for_who_should_not_run() -> None:
    user = running(1, wanted=False, current_allocation=None, endpoint=None)
    stopped = job(ONE, stopped=True)
    listing = world(user, jobs=Known((stopped,), NOW), allocations=Known((), NOW), instances=Known((), NOW))
    assert differing(listing) == {}


def test_jobs_of_nobody_ask_for_nobody() -> None:
    assert (
        differing(world(ONE, jobs=Known((job(ONE), job(running(2)), ListedJob("x", 1, False, "", NOW)), NOW)))
        == {}
    )


def test_a_user_on_the_way_is_left_to_its_own_plan_until_a_daemon_may_have_died() -> None:
    moving = running(1, at_rest=False, looked_s=40, generation=4)
    assert differing(world(moving, jobs=Known((), NOW))) == {}
    assert differing(world(moving, jobs=Known((), NOW)), takeover=True) == {user_id(1): Why.OVERDUE}
    assert differing(world(ONE), takeover=True) == {}


@given(st.integers(0, 400), st.floats(0, 2000), st.data())
def test_looks_that_are_due_are_the_oldest_and_never_more_than_their_share(
    count: int, since_s: float, data: st.DataObject
) -> None:
    ages = data.draw(st.lists(st.floats(1, 299), min_size=count, max_size=count))
    listing = world(*(running(n, looked_s=age) for n, age in enumerate(ages, 1)))
    due = compare(listing, RHYTHM, since_s=since_s, takeover=False).due
    assert len(due) <= math.floor(count * min(1.0, since_s / RHYTHM.look_s))
    chosen = {user.user_id: user.looked_s or 0.0 for user in listing.users}
    if due:
        rest = [age for user, age in chosen.items() if user not in due]
        assert min(chosen[user] for user in due) >= max(rest, default=0.0)
        assert all(chosen[user] >= 60 for user in due)


@given(st.integers(1, 50))
def test_who_was_not_looked_at_for_the_whole_period_is_due_in_any_case(count: int) -> None:
    listing = world(*(running(n, looked_s=300) for n in range(1, count + 1)))
    assert len(compare(listing, RHYTHM, since_s=0, takeover=False).due) == count


def test_users_that_came_to_rest_together_are_spread_over_the_period() -> None:
    """Sweep after sweep in simulated time: each is seen once a period, as many in one sweep as in the next."""
    looked_at = dict.fromkeys(range(1, 1001), 0.0)
    counts = []
    for sweep in range(1, 21):
        now = sweep * 60.0
        listing = world(*(running(n, looked_s=now - at) for n, at in looked_at.items()))
        due = compare(listing, RHYTHM, since_s=60, takeover=False).due
        counts.append(len(due))
        for user in due:
            looked_at[int(user[-12:])] = now
        assert all(now - at <= 300 for at in looked_at.values())
    assert set(counts) == {200}


def test_users_are_counted_by_phase_and_reason() -> None:
    found = [running(1), running(2), running(3, phase="waiting", reason="no_port")]
    assert by_phase(found) == {("ready", ""): 2, ("waiting", "no_port"): 1}


def test_whoever_lacks_variables_is_named_whatever_else_differs() -> None:
    listing = world(ONE, running(2), jobs=Known((job(running(2)),), NOW), variables=Known((), NOW))
    found = compare(listing, RHYTHM, since_s=60, takeover=False)
    assert found.differing == {user_id(1): Why.JOB_MISSING, user_id(2): Why.VARIABLES_MISSING}
    assert found.without_variables == (user_id(1), user_id(2))


@pytest.mark.parametrize(
    ("changes", "variables"),
    [
        ({"variables_hash": None}, Known((), NOW)),  # they were not written yet
        ({"wanted": False}, Known((), NOW)),  # on its way out: it deletes them itself
        ({"looked_s": 0.1}, Known((), NOW)),  # a pass may have written them behind the list
        ({}, BLIND),
    ],
)
def test_nobody_lacks_variables_who_should_not_have_them_or_may_have_them(
    changes: dict[str, Any], variables: Any
) -> None:
    listing = world(running(1, **changes), variables=variables)
    found = compare(listing, RHYTHM, since_s=60, takeover=False)
    assert found.without_variables == ()
    assert Why.VARIABLES_MISSING not in found.differing.values()


@pytest.mark.parametrize(
    ("registered", "seat", "found"),
    [
        ("r1", None, True),  # it has to move, and nobody asked yet
        ("", None, True),  # from before this was kept on record
        ("r1", "r2", False),  # it waits for its seat
        ("r2", None, False),
        ("r2", "r1", True),  # it waits for what nobody wants any more
    ],
)
def test_a_job_made_from_other_settings_is_found(registered: str, seat: str | None, found: bool) -> None:
    job = Registered(SpecHashes("s", "r"), 101, registered)
    user = running(1, registered=job, seat_release=seat)
    for changes, expected in (({}, found), ({"wanted": False}, False), ({"at_rest": False}, False)):
        one = msgspec.structs.replace(user, **changes)
        findings = compare(world(one), RHYTHM, since_s=60, takeover=False, release="r2")
        assert findings.outdated == ((one.user_id,) if expected else ())
        assert one.user_id not in findings.differing
