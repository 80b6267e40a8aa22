"""What is kept of a pass: its digest stands still at rest, and an outage hides nothing that was seen."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from core.domain.desired import Registered, SpecHashes, Wanted
from core.domain.evidence import TRAIL_KEPT, Evidence, JobSeen, SessionSeen, digest, evidence_of, merged
from core.domain.facts import (
    ClientStatus,
    EvaluationFact,
    JobFact,
    Known,
    Missing,
    Observation,
    PlacementFailure,
    TaskEvent,
    Unknown,
)
from core.domain.policy import Policy
from tests.passes import CHIPS
from tests.unit.domain.ways import CHIP, USER, Way
from tests.world_rows import START

SECRET = "hunter2-hunter2"


def seen_now(way: Way) -> Evidence:
    return evidence_of(way.world.desired[USER], way.world.observe(USER))


def test_rest_costs_nothing() -> None:
    way = Way().connect()
    before = digest(seen_now(way))
    for _ in range(20):
        way.world.tick(60)
        way.one_pass()
        assert digest(seen_now(way)) == before


def test_times_of_a_look_are_no_news_and_words_are() -> None:
    way = Way().connect()
    seen = way.world.observe(USER)
    assert isinstance(seen.sessions, Known)
    desired = way.world.desired[USER]
    later = {
        name: msgspec.structs.replace(session, activity_at=START + timedelta(days=1), push_name="Ana")
        for name, session in seen.sessions.value.items()
    }
    active = msgspec.structs.replace(seen, sessions=Known(later, START + timedelta(days=2)))
    assert digest(evidence_of(desired, active)) == digest(evidence_of(desired, seen))
    hidden = msgspec.structs.replace(seen, instances=Unknown("dependency_consul"))
    assert digest(evidence_of(desired, hidden)) != digest(evidence_of(desired, seen))


def test_no_secret_of_the_container_gets_in() -> None:
    way = Way()
    way.world.unready.add(USER)
    way.run(3)
    seen = way.world.observe(USER)
    assert isinstance(seen.allocations, Known)
    assert isinstance(seen.instances, Known)
    said = f"cannot use {SECRET} at http://u:{SECRET}@10.0.0.1/"
    allocations = tuple(
        msgspec.structs.replace(a, events=(TaskEvent("Driver Failure", said, START),))
        for a in seen.allocations.value
    )
    instances = tuple(msgspec.structs.replace(i, output=said) for i in seen.instances.value)
    loud = msgspec.structs.replace(
        seen, allocations=Known(allocations, START), instances=Known(instances, START)
    )
    evidence = evidence_of(way.world.desired[USER], loud, secrets=[SECRET])
    assert evidence.allocations[0].events[0].message.startswith("cannot use ***")
    assert evidence.checks[0].output != ""
    assert SECRET.encode() not in msgspec.json.encode(evidence)


def test_chips_that_are_deleted_have_no_session_in_it() -> None:
    way = Way()
    way.add(CHIPS[1])
    way.run(8)
    assert seen_now(way).sessions.keys() == {CHIP, CHIPS[1]}
    way.world.intend(USER, CHIP, Wanted.DELETED)
    assert seen_now(way).sessions.keys() == {CHIPS[1]}


def test_hosts_that_were_lost_stay_in_sight_beside_the_newest_allocation() -> None:
    way = Way(count=2).connect()
    lost = way.host
    way.world.lose(lost)
    way.run(60)
    clients = {(a.node == lost, a.client) for a in seen_now(way).allocations}
    assert (True, ClientStatus.LOST) in clients
    assert any(client != ClientStatus.LOST for _, client in clients)


def test_placement_by_dimension_and_constraint() -> None:
    failure = PlacementFailure(3, 1, 2, {"memory": 2}, {"${attr.kernel.name} = linux": 1})
    seen = Observation(
        job=Known(JobFact(1, False, "pending"), START),
        allocations=Known((), START),
        evaluation=Known(EvaluationFact("e1", "blocked", "job-register", 3, failure), START),
        instances=Known((), START),
        sessions=Unknown("waha_not_ready"),
    )
    way = Way()
    placement = evidence_of(way.world.desired[USER], seen).placement
    assert placement is not None
    assert (placement.nodes_evaluated, placement.nodes_filtered, placement.nodes_exhausted) == (3, 1, 2)
    assert placement.dimensions == {"memory": 2}
    assert placement.constraints == {"${attr.kernel.name} = linux": 1}


def job_seen(ours: Registered | None, job: JobFact, *, wanted: bool = True, phase: str = "ready") -> JobSeen:
    way = Way()
    way.world._container(USER, registered=ours, phase=phase)
    if not wanted:
        way.world.intend(USER, CHIP, Wanted.DELETED)
    seen = msgspec.structs.replace(way.world.observe(USER), job=Known(job, START))
    found = evidence_of(way.world.desired[USER], seen).job
    assert found is not None
    return found


OURS = Registered(SpecHashes("s1", "r1"), 7)


def test_who_changed_the_job() -> None:
    assert not job_seen(OURS, JobFact(7, False, "running", "s1")).edited
    assert job_seen(OURS, JobFact(9, False, "running", "s1")).edited
    # A daemon died between its register of another specification and the record of it.
    assert not job_seen(OURS, JobFact(9, False, "running", "s2")).edited
    assert not job_seen(None, JobFact(9, False, "running", "s1")).edited
    assert job_seen(OURS, JobFact(9, True, "dead", "s1")).unasked
    assert not job_seen(OURS, JobFact(9, True, "dead", "s1"), wanted=False).unasked
    # Our own stop, and a chip that came while it was under way.
    assert not job_seen(OURS, JobFact(9, True, "dead", "s1"), phase="stopping").unasked


def test_that_the_job_was_changed_is_remembered_until_the_container_answers() -> None:
    edited = Evidence(job=JobSeen(9, "running", edited=True))
    first = merged(None, edited, START)
    assert first.job_by_hand_at == START
    moving = merged(first, Evidence(job=JobSeen(10, "running")), START + timedelta(seconds=9))
    assert moving.job_by_hand_at == START
    assert merged(moving, Evidence(job=JobSeen(10, "running"), answers=True), START).job_by_hand_at is None


@given(st.lists(st.sampled_from(["STARTING", "WORKING", "FAILED"]), max_size=30))
def test_a_trail_holds_the_last_words_without_repeats(words: list[str]) -> None:
    kept: Evidence | None = None
    for step, word in enumerate(words):
        seen = Evidence(sessions={"c": SessionSeen(word, True)}, answers=True)
        kept = merged(kept, seen, START + timedelta(seconds=step))
    changes = [word for n, word in enumerate(words) if n == 0 or words[n - 1] != word]
    trail = kept.sessions["c"].trail if kept else ()
    assert [word.status for word in trail] == changes[-TRAIL_KEPT:]
    assert list(trail) == sorted(trail, key=lambda word: word.at)


def test_what_cannot_be_read_stays_as_last_seen_and_what_is_gone_goes() -> None:
    way = Way().connect()
    kept = way.evidence
    assert kept is not None
    blind = msgspec.structs.replace(
        way.world.observe(USER),
        job=Unknown("dependency_nomad"),
        allocations=Unknown("dependency_nomad"),
        instances=Unknown("dependency_consul"),
        sessions=Unknown("waha_not_ready"),
    )
    after = merged(kept, evidence_of(way.world.desired[USER], blind), START)
    assert after.away == {"nomad": "dependency_nomad", "consul": "dependency_consul"}
    for part in ("job", "allocations", "checks", "sessions"):
        assert getattr(after, part) == getattr(kept, part), part
    gone = msgspec.structs.replace(
        blind, job=Missing(START), allocations=Known((), START), instances=Known((), START)
    )
    emptied = merged(after, evidence_of(way.world.desired[USER], gone), START)
    assert (emptied.job, emptied.allocations, emptied.checks, emptied.away) == (None, (), (), {})


def test_a_policy_is_no_part_of_it() -> None:
    """Evidence is of the outside alone: two daemons with different settings keep the same."""
    one, other = Way(), Way(policy=Policy(egress=None))
    assert digest(seen_now(one)) == digest(seen_now(other))
