"""How an orphan goes: nothing is removed while a fact that it rests on is unknown."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.belongings import (
    Found,
    Kind,
)
from core.domain.facts import (
    AllocationFact,
    ClientStatus,
    Fact,
    JobFact,
    Known,
    Missing,
    Unknown,
)
from core.domain.names import database_name, job_id, main_database, session_name, variable_path
from core.domain.orphans import (
    Orphan,
    State,
)
from core.domain.removals import EFFECTS, Look, Step, next_step
from tests.unit.domain.test_orphans import (
    BLIND,
    CHIPS,
    NOW,
    POLICY,
    SPACES,
    USERS,
    known,
    session,
)


def allocation(client: ClientStatus, *, age_s: float = 0) -> AllocationFact:
    then = NOW - timedelta(seconds=age_s)
    return AllocationFact("a", "n", "host-1", "run", client, 1, then, then)


jobs = st.one_of(
    st.builds(
        lambda index, stopped: known(JobFact(index, stopped, "running")), st.integers(6, 8), st.booleans()
    ),
    st.just(Missing(NOW)),
    st.just(BLIND),
)


allocations = st.one_of(
    st.lists(
        st.builds(
            lambda client, age_s: allocation(client, age_s=age_s),
            st.sampled_from(ClientStatus),
            st.sampled_from([0, 134, 136, 9999]),
        ),
        max_size=2,
    ).map(lambda found: known(tuple(found))),
    st.just(BLIND),
)


OWN = main_database(SPACES[USERS[0]])


CHIP_DATABASE = database_name(SPACES[USERS[0]], session_name(CHIPS[USERS[0]]))


looks = st.builds(
    Look,
    owned=st.booleans(),
    job=jobs,
    allocations=allocations,
    present=st.sampled_from([known(True), Missing(NOW), BLIND]),
    databases=st.one_of(
        st.lists(st.sampled_from([OWN, CHIP_DATABASE, f"{OWN}_new"]), unique=True).map(
            lambda n: known(tuple(n))
        ),
        st.just(BLIND),
    ),
    loose_jobs=st.sampled_from([known(()), known((job_id(USERS[1]),)), BLIND]),
    sessions=st.sampled_from(
        [known({}), known({session_name(CHIPS[USERS[0]]): session(USERS[0])}), Missing(NOW), BLIND]
    ),
)


FOUND = (
    Found(Kind.JOB, job_id(USERS[0]), user_id=USERS[0], fingerprint="7"),
    Found(Kind.VARIABLES, variable_path(USERS[0]), user_id=USERS[0]),
    Found(Kind.INSTANCE, "_nomad-x", "a", user_id=USERS[0]),
    Found(Kind.NAMESPACE, SPACES[USERS[0]], "main", fingerprint=f"{OWN},{CHIP_DATABASE}"),
    Found(Kind.DATABASE, CHIP_DATABASE, "main"),
    Found(Kind.SESSION, session_name(CHIPS[USERS[0]]), USERS[0], user_id=USERS[0]),
)


NEEDED: dict[Step, tuple[str, ...]] = {
    Step.STOP_JOB: ("job", "allocations"),
    Step.PURGE_JOB: ("job", "allocations"),
    Step.DELETE_VARIABLES: ("present", "job", "allocations"),
    Step.DEREGISTER: ("present", "job", "allocations"),
    Step.DELETE_SESSION: ("sessions",),
    Step.DROP_NAMESPACE: ("databases", "loose_jobs"),
    Step.DROP_DATABASE: ("databases", "sessions"),
}


def possibly_alive(fact: Fact[tuple[AllocationFact, ...]]) -> bool:
    assert isinstance(fact, Known)
    return any(
        one.client in (ClientStatus.RUNNING, ClientStatus.PENDING, ClientStatus.UNKNOWN)
        or (one.client is ClientStatus.LOST and NOW - one.modified_at < timedelta(seconds=135))
        for one in fact.value
    )


def is_seen_gone(found: Found, look: Look) -> bool:
    match found.kind:
        case Kind.JOB:
            return isinstance(look.job, Missing) and not possibly_alive(look.allocations)
        case Kind.VARIABLES | Kind.INSTANCE:
            return isinstance(look.present, Missing)
        case Kind.NAMESPACE:
            return look.databases == known(())
        case Kind.DATABASE:
            return isinstance(look.databases, Known) and found.name not in look.databases.value
        case Kind.SESSION:
            return isinstance(look.sessions, Known) and found.name not in look.sessions.value


def test_every_effect_names_what_it_rests_on() -> None:
    assert NEEDED.keys() == EFFECTS


@given(st.sampled_from(FOUND), looks)
def test_nothing_is_removed_while_a_fact_is_unknown_or_it_is_owned_or_in_use(
    found: Found, look: Look
) -> None:
    orphan = Orphan(1, found, NOW, NOW, State.APPROVED)
    verdict = next_step(orphan, look, NOW, POLICY)
    assert verdict == next_step(orphan, look, NOW, POLICY)
    if look.owned:
        assert verdict.step is Step.OWNED
    if verdict.step is Step.GONE:
        assert is_seen_gone(found, look)
    if verdict.step not in EFFECTS:
        assert verdict.why or verdict.step in (Step.OWNED, Step.GONE)
        return
    assert not any(isinstance(getattr(look, name), Unknown) for name in NEEDED[verdict.step])
    match verdict.step:
        case Step.STOP_JOB:
            assert isinstance(look.job, Known)
            assert look.job.value.modify_index == 7
        case Step.PURGE_JOB | Step.DELETE_VARIABLES | Step.DEREGISTER:
            assert not possibly_alive(look.allocations)
        case Step.DROP_NAMESPACE:
            assert look.loose_jobs == known(())
            assert isinstance(look.databases, Known)
            assert set(look.databases.value) <= {OWN, CHIP_DATABASE}
        case Step.DROP_DATABASE:
            assert not (isinstance(look.sessions, Known) and look.sessions.value)


@pytest.mark.parametrize(
    ("job", "client", "step"),
    [
        (known(JobFact(7, False, "running")), ClientStatus.RUNNING, Step.STOP_JOB),
        (known(JobFact(8, False, "running")), ClientStatus.RUNNING, Step.CHANGED),
        (known(JobFact(8, True, "dead")), ClientStatus.RUNNING, Step.WAIT),
        (known(JobFact(8, True, "dead")), ClientStatus.COMPLETE, Step.PURGE_JOB),
        (Missing(NOW), ClientStatus.LOST, Step.WAIT),
        (Missing(NOW), ClientStatus.COMPLETE, Step.GONE),
    ],
)
def test_a_job_goes_by_stop_wait_and_purge(job: Fact[JobFact], client: ClientStatus, step: Step) -> None:
    look = Look(owned=False, job=job, allocations=known((allocation(client),)))
    assert next_step(Orphan(1, FOUND[0], NOW, NOW), look, NOW, POLICY).step is step
