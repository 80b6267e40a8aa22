"""A register that was sent and not booked: the job that stands is taken for ours, or it is not."""

from __future__ import annotations

import msgspec
import pytest

from core import jobspecs
from core.clients.scheduler_facts import Job, job_fact
from core.domain.actions import Action, AdoptJob, RegisterJob, WriteVariables
from core.domain.decide import decide
from core.domain.desired import Registered, SpecHashes
from core.domain.facts import AllocationFact, ClientStatus, JobFact, Known
from tests.passes import CHIPS, POLICY, USERS, hosts, settle
from tests.world import World
from tests.world_rows import SPEC

U = USERS[0]
OTHER = SpecHashes(spec="s0", restart="r0")


def actions(
    job: JobFact,
    registered: Registered | None,
    *,
    secrets: str = "v1",
    client: ClientStatus = ClientStatus.RUNNING,
) -> tuple[Action, ...]:
    """What is done about the container of a user at their QR when Nomad and the books say this."""
    world = World(hosts(4))
    world.add_chip(U, CHIPS[0])
    settle(world, U, passes=10)
    desired, seen = world.desired[U], world.observe(U)
    container = msgspec.structs.replace(desired.container, registered=registered, variables_hash=secrets)
    assert isinstance(seen.allocations, Known)
    changed = tuple(msgspec.structs.replace(a, client=client) for a in seen.allocations.value)
    assert all(isinstance(a, AllocationFact) for a in changed)
    seen = msgspec.structs.replace(seen, job=Known(job, world.now), allocations=Known(changed, world.now))
    decision = decide(msgspec.structs.replace(desired, container=container), seen, world.now, POLICY)
    return tuple(a for a in decision.actions if isinstance(a, (AdoptJob, RegisterJob, WriteVariables)))


def job(*, spec: str = SPEC.spec, first: bool = True, stopped: bool = False) -> JobFact:
    return JobFact(77, stopped, "running", spec=spec, first=first)


ADOPT = AdoptJob(modify_index=77, hashes=SPEC)
REGISTER = RegisterJob(expected_index=77, hashes=SPEC)
WRITE = WriteVariables(hash="v1")


def test_a_job_as_it_was_created_with_our_spec_is_booked_and_not_sent_again() -> None:
    assert actions(job(), None) == (ADOPT,)


def test_a_change_that_was_sent_and_not_booked_is_booked() -> None:
    assert actions(job(first=False), Registered(OTHER, 70)) == (ADOPT,)


def test_secrets_that_changed_meanwhile_are_written() -> None:
    assert actions(job(), None, secrets="old") == (WRITE, ADOPT)


def test_a_host_that_is_cut_off_hinders_no_entry_in_our_own_books() -> None:
    assert actions(job(), None, secrets="old", client=ClientStatus.UNKNOWN) == (ADOPT,)


@pytest.mark.parametrize(
    ("standing", "registered"),
    [
        (job(spec="s0"), None),  # an older specification
        (job(spec=""), None),  # nobody's, or one that carries no hash
        (job(first=False), None),  # somebody changed it since: its hash may be all that is left of ours
        (job(first=False), Registered(SPEC, 70)),  # edited by hand; the hash stayed as it was
        (job(spec="s0", first=False), Registered(SPEC, 70)),  # put back by hand
    ],
)
def test_any_other_job_is_registered_over(standing: JobFact, registered: Registered | None) -> None:
    assert actions(standing, registered) == (REGISTER,)


def test_what_is_booked_stays_booked() -> None:
    assert actions(job(), Registered(SPEC, 77)) == ()


@pytest.mark.parametrize("name", ["waha-plus", "waha-simulator"])
def test_both_jobspecs_carry_their_hash_where_the_job_is_read(name: str) -> None:
    template = jobspecs.template(name).job
    read = {**template, "ID": "a", "JobModifyIndex": 9, "CreateIndex": 9}
    fact = job_fact(msgspec.convert(read, Job))
    assert (fact.spec, fact.first) == ("[[spec_hash]]", True)
    assert not job_fact(msgspec.convert({**read, "JobModifyIndex": 10}, Job)).first
