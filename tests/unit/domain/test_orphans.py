"""What counts as an orphan: over generated worlds."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from core.domain.belongings import (
    Kind,
    Listings,
    Owner,
    Owners,
    is_complete,
    is_explained,
    job_ids,
    seen,
)
from core.domain.facts import (
    Known,
    ListedJob,
    ServiceInstance,
    SessionFact,
    Unknown,
    WahaStatus,
)
from core.domain.names import database_name, job_id, main_database, session_name, variable_path
from core.domain.orphans import (
    BY_SETTING,
    Forgot,
    Judgement,
    Moved,
    Orphan,
    Rules,
    Saw,
    State,
    judge,
)
from core.domain.policy import Policy

NOW = datetime(2026, 3, 1, tzinfo=UTC)
RULES = Rules()
POLICY = Policy()
USERS = tuple(str(uuid.UUID(int=number)) for number in range(1, 5))
CHIPS = {user: str(uuid.UUID(int=100 + place)) for place, user in enumerate(USERS)}
SPACES = {user: f"u{place:015d}" for place, user in enumerate(USERS)}
BLIND = Unknown("nomad: unavailable")


def known(value: Any) -> Known[Any]:
    return Known(value, NOW)


def owners(*users: str, chips: bool = True) -> Owners:
    return Owners.of(
        (Owner(user, SPACES[user], "main") for user in users),
        {CHIPS[user]: user for user in users} if chips else {},
    )


def listed(user: str, index: int = 7, *, stopped: bool = False) -> ListedJob:
    return ListedJob(job_id(user), index, stopped, "dead" if stopped else "running", NOW)


def instance(user: str) -> ServiceInstance:
    return ServiceInstance(
        f"_nomad-{user}", user, str(uuid.uuid5(uuid.NAMESPACE_DNS, user)), "10.0.0.1", 3100, True
    )


def session(user: str) -> SessionFact:
    return SessionFact(session_name(CHIPS[user]), WahaStatus.STOPPED)


def world(*users: str, jobs: tuple[str, ...] | None = None) -> Listings:
    """Everything that these users own outside; `jobs`: whose job there is, all of theirs by default."""
    return Listings(
        jobs=known(tuple(listed(user) for user in (users if jobs is None else jobs))),
        allocations=known(()),
        variables=known(tuple(map(variable_path, users))),
        instances=known(tuple(map(instance, users))),
        storage={
            "main": known(
                tuple(
                    name
                    for user in users
                    for name in (
                        main_database(SPACES[user]),
                        database_name(SPACES[user], session_name(CHIPS[user])),
                    )
                )
            )
        },
        sessions={user: known((session(user),)) for user in users},
    )


some = st.lists(st.sampled_from(USERS), unique=True).map(tuple)
blinded = st.sets(st.sampled_from(["jobs", "variables", "instances", "storage", "sessions"]))


def with_blind_spots(listings: Listings, spots: set[str]) -> Listings:
    changed: dict[str, Any] = {}
    for spot in spots:
        value = getattr(listings, spot)
        changed[spot] = dict.fromkeys(value, BLIND) if isinstance(value, Mapping) else BLIND
    return msgspec.structs.replace(listings, **changed)


def rows_of(listings: Listings, *, age_s: float, state: State = State.SEEN) -> list[Orphan]:
    first = NOW - timedelta(seconds=age_s)
    return [
        Orphan(number, found, first_seen=first, last_seen=NOW, state=state)
        for number, found in enumerate(seen(listings).values(), 1)
    ]


def test_what_rows_explain_is_no_orphan() -> None:
    explained = judge((), world(*USERS), owners(*USERS), NOW, RULES)
    assert explained == Judgement((), {})


def test_each_kind_is_found() -> None:
    found = judge((), world(USERS[0]), owners(), NOW, RULES)
    kinds = {change.found.kind for change in found.changes if isinstance(change, Saw)}
    # A session belongs to a container, and its database to a namespace: both have an entry of their own.
    assert kinds == {Kind.JOB, Kind.VARIABLES, Kind.NAMESPACE, Kind.SESSION}
    alone = judge((), world(USERS[0], jobs=()), owners(USERS[0]), NOW, RULES)
    assert {change.found.kind for change in alone.changes if isinstance(change, Saw)} == {Kind.INSTANCE}
    left = judge((), world(USERS[0]), owners(USERS[0], chips=False), NOW, RULES)
    assert {c.found.kind for c in left.changes if isinstance(c, Saw)} == {Kind.SESSION, Kind.DATABASE}


@given(some, some, blinded)
def test_what_only_a_failed_listing_could_show_is_never_touched(
    there: tuple[str, ...], owned: tuple[str, ...], spots: set[str]
) -> None:
    listings = with_blind_spots(world(*there), spots)
    rows = rows_of(world(*there), age_s=10 * RULES.grace_s)
    judgement = judge(rows, listings, owners(*owned), NOW, msgspec.structs.replace(RULES, remove=True))
    by_id = {row.id: row for row in rows}
    for change in judgement.changes:
        key = change.found.key if isinstance(change, Saw) else by_id[change.orphan_id].found.key
        assert is_complete(key, listings)


@given(some, some, blinded, st.floats(0, 3599.9))
def test_nobody_is_asked_before_the_grace_is_over(
    there: tuple[str, ...], owned: tuple[str, ...], spots: set[str], age_s: float
) -> None:
    listings = with_blind_spots(world(*there), spots)
    rows = rows_of(world(*there), age_s=age_s)
    for remove in (False, True):
        rules = msgspec.structs.replace(RULES, remove=remove)
        changes = judge(rows, listings, owners(*owned), NOW, rules).changes
        assert not any(isinstance(change, Moved) for change in changes)


@given(some, some, blinded, st.sampled_from(State))
def test_without_the_setting_nothing_is_ever_approved(
    there: tuple[str, ...], owned: tuple[str, ...], spots: set[str], state: State
) -> None:
    listings = with_blind_spots(world(*there), spots)
    rows = rows_of(world(*there), age_s=10 * RULES.grace_s, state=state)
    moved = [
        change
        for change in judge(rows, listings, owners(*owned), NOW, RULES).changes
        if isinstance(change, Moved)
    ]
    assert all((m.before, m.after, m.decided_by) == (State.SEEN, State.WAITING, None) for m in moved)


@given(some, some, st.sampled_from(State), st.booleans())
def test_what_has_an_owner_again_is_forgotten_and_nothing_else_of_it_happens(
    there: tuple[str, ...], owned: tuple[str, ...], state: State, remove: bool
) -> None:
    listings, rules = world(*there), msgspec.structs.replace(RULES, remove=remove)
    rows = rows_of(listings, age_s=10 * RULES.grace_s, state=state)
    mine = owners(*owned)
    changes = judge(rows, listings, mine, NOW, rules).changes
    for row in rows:
        explained = is_explained(row.found, mine, job_ids(listings))
        of_it = [
            change
            for change in changes
            if (change.found.key == row.found.key if isinstance(change, Saw) else change.orphan_id == row.id)
        ]
        if explained and state is not State.REMOVED:
            assert of_it == [Forgot(row.id, state, "it has an owner")]
        elif explained:
            assert of_it == []
        else:
            assert not any(isinstance(change, Forgot) for change in of_it)


def test_what_went_by_itself_is_forgotten_after_a_while_and_what_is_being_removed_is_not() -> None:
    def after(unseen_s: float, state: State) -> tuple[Any, ...]:
        rows = [
            msgspec.structs.replace(row, last_seen=NOW - timedelta(seconds=unseen_s))
            for row in rows_of(world(USERS[0]), age_s=99_999, state=state)
            if row.found.kind is Kind.JOB
        ]
        empty = msgspec.structs.replace(world(USERS[0]), jobs=known(()), instances=known(()), sessions={})
        return tuple(
            change
            for change in judge(rows, empty, owners(), NOW, RULES).changes
            if isinstance(change, Forgot)
        )

    # Pages of a list are snapshots of their own: one miss proves nothing.
    assert after(RULES.forget_s - 1, State.WAITING) == ()
    (forgot,) = after(RULES.forget_s, State.WAITING)
    assert forgot.why == "it went by itself"
    assert after(RULES.forget_s, State.KEPT) != ()
    for state in (State.APPROVED, State.REMOVING, State.FAILED, State.REMOVED):
        assert after(99_999, state) == ()


def test_the_setting_says_yes_after_the_grace_but_never_for_what_may_serve_somebody() -> None:
    rules = msgspec.structs.replace(RULES, remove=True)
    listings = world(USERS[0])
    working = known((msgspec.structs.replace(session(USERS[0]), status=WahaStatus.WORKING),))
    listings = msgspec.structs.replace(listings, sessions={USERS[0]: working})
    rows = rows_of(listings, age_s=RULES.grace_s)
    moved = {
        row.found.kind: (change.after, change.decided_by)
        for change in judge(rows, listings, owners(), NOW, rules).changes
        if isinstance(change, Moved)
        for row in rows
        if row.id == change.orphan_id
    }
    assert moved[Kind.JOB] == (State.APPROVED, BY_SETTING)
    assert moved[Kind.NAMESPACE] == (State.APPROVED, BY_SETTING)
    assert moved[Kind.SESSION] == (State.WAITING, None)


@given(st.integers(0, 40), st.integers(0, 40))
def test_a_store_that_forgot_half_the_fleet_makes_no_setting_say_yes(lost: int, owned: int) -> None:
    users = [str(uuid.UUID(int=1000 + number)) for number in range(lost + owned)]
    jobs = tuple(listed(user) for user in users)
    listings = Listings(known(jobs), known(()), known(()), known(()), {}, {})
    mine = Owners.of((Owner(user, f"u{n:015d}", "main") for n, user in enumerate(users[lost:])), {})
    rows = rows_of(listings, age_s=RULES.grace_s)
    judgement = judge(rows, listings, mine, NOW, msgspec.structs.replace(RULES, remove=True))
    approved = [c for c in judgement.changes if isinstance(c, Moved) and c.after is State.APPROVED]
    waiting = [c for c in judgement.changes if isinstance(c, Moved) and c.after is State.WAITING]
    too_many = lost > 5 and lost > 0.2 * (lost + owned)
    assert (len(approved), len(waiting)) == ((0, lost) if too_many else (lost, 0))
    assert judgement.held_back == ({Kind.JOB: lost} if too_many else {})


def test_names_that_are_nobody_s_are_left_alone() -> None:
    listings = Listings(
        jobs=known((msgspec.structs.replace(listed(USERS[0]), job_id="waha_plus_user_of-somebody"),)),
        allocations=known(()),
        variables=known(("nomad/jobs/waha_plus_user_x",)),
        instances=known((msgspec.structs.replace(instance(USERS[0]), user_id="x"),)),
        storage={"main": known(("waha_gows_default", "postgres", f"waha_{SPACES[USERS[0]]}_default"))},
        sessions={USERS[0]: known((SessionFact("default", WahaStatus.WORKING),))},
    )
    assert judge((), listings, owners(USERS[0], chips=False), NOW, RULES) == Judgement((), {})


# --- removal ------------------------------------------------------------------------------------------------
