"""What a pass saw of one user, in the words in which it is kept and shown to people.

    evidence_of(desired, observation, effects)   what this pass saw
    merged(before, seen, now)                    what is kept: trails, and what an outage hides now

It is kept for explanations alone: no rule of the loop reads it. Nothing in it moves while a user is at rest,
so rest costs no write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from core.domain.desired import Desired, DesiredContainer, Wanted
from core.domain.endpoints import endpoint_of, newest
from core.domain.excerpts import excerpt
from core.domain.facts import (
    NOT_ASKED,
    AllocationFact,
    ClientStatus,
    Fact,
    JobFact,
    Known,
    Observation,
    ServiceInstance,
    Unknown,
)
from core.domain.names import session_name
from core.domain.states import ContainerPhase

# All values here are trees without cycles, made anew in each pass: the collector need not follow them (gc=False).
EVENTS_KEPT: Final = 5
ALLOCATIONS_KEPT: Final = 3
CHECKS_KEPT: Final = 3
TRAIL_KEPT: Final = 5
# To be raised when the structs below change.
_SHAPE: Final = b"evidence 1"
_NOT_ASKED: Final = Unknown(NOT_ASKED)
# A chip that comes during a removal finds the job stopped, by us.
_MAY_STAND_STOPPED: Final = (ContainerPhase.STOPPING, ContainerPhase.MOVING, ContainerPhase.ABSENT)


class EventSeen(msgspec.Struct, frozen=True, gc=False):
    """One line of what happened to a task; `message` is an excerpt."""

    type: str
    message: str
    at: datetime


class AllocationSeen(msgspec.Struct, frozen=True, gc=False):
    """An allocation; `since`: when its client status last changed."""

    id: str
    node: str
    desired: str
    client: str
    since: datetime
    restarts: int = 0
    events: tuple[EventSeen, ...] = ()


class PlacementSeen(msgspec.Struct, frozen=True, gc=False):
    """Why Nomad could not place the container: hosts by exhausted dimension and by constraint they miss."""

    evaluation: str
    status: str
    nodes_evaluated: int
    nodes_filtered: int
    nodes_exhausted: int
    dimensions: dict[str, int] = {}
    constraints: dict[str, int] = {}


class JobSeen(msgspec.Struct, frozen=True, gc=False):
    """The job as Nomad held it before the pass acted.

    Attributes:
        edited: its specification is not the one that we registered last.
        stopped: it stands stopped. `unasked`: although it is wanted and we did not stop it.
    """

    modify_index: int
    status: str
    stopped: bool = False
    edited: bool = False
    unasked: bool = False


class CheckSeen(msgspec.Struct, frozen=True, gc=False):
    """An instance in Consul; `output`: what its failing checks say, an excerpt, "" while it passes."""

    allocation_id: str
    address: str
    port: int
    passing: bool
    output: str = ""


class WordSeen(msgspec.Struct, frozen=True, gc=False):
    """A word of WAHA about a session, and when a pass first heard it."""

    status: str
    at: datetime


class SessionSeen(msgspec.Struct, frozen=True, gc=False):
    """A session as WAHA lists it; `paired`: it names a WhatsApp account. `trail`: its last words, oldest first."""

    status: str
    paired: bool
    trail: tuple[WordSeen, ...] = ()


class EffectSeen(msgspec.Struct, frozen=True, gc=False):
    """An effect of the pass that did not succeed: the action's name, how it ended, and the error's code."""

    action: str
    verdict: str
    code: str
    chip_id: str | None = None


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """All of it.

    Attributes:
        away: system (`nomad`, `consul`, `waha`, `storage`) -> reason code why it could not be read. What is
            said of that system is then what was seen last.
        job: None = there is none, or it was never seen.
        allocations: the newest one and those on hosts that were lost, oldest first.
        sessions: by chip id; chips without a session have none.
        databases: how many WAHA has in storage for the container; None where nobody looked.
        answers: there is an endpoint.
        job_by_hand_at: when the job was last seen changed or stopped by somebody else, until it answers again.
    """

    away: dict[str, str] = {}
    job: JobSeen | None = None
    allocations: tuple[AllocationSeen, ...] = ()
    placement: PlacementSeen | None = None
    checks: tuple[CheckSeen, ...] = ()
    sessions: dict[str, SessionSeen] = {}
    databases: int | None = None
    effects: tuple[EffectSeen, ...] = ()
    answers: bool = False
    job_by_hand_at: datetime | None = None


def evidence_of(
    desired: Desired,
    seen: Observation,
    effects: Sequence[EffectSeen] = (),
    secrets: Collection[str] = (),
) -> Evidence:
    """What the pass saw. `secrets`: values that must not show up in any text, such as the container's keys."""
    allocations = seen.allocations.value if isinstance(seen.allocations, Known) else ()
    instances = seen.instances.value if isinstance(seen.instances, Known) else ()
    sessions = seen.sessions.value if isinstance(seen.sessions, Known) else {}
    answers = endpoint_of(allocations, instances) is not None
    return Evidence(
        away=_away(seen, answers=answers),
        job=_job(desired, seen.job.value) if isinstance(seen.job, Known) else None,
        allocations=tuple([_allocation(a, secrets) for a in _telling(allocations)]),
        placement=_placement(seen),
        checks=tuple([_check(i, secrets) for i in instances[:CHECKS_KEPT]]),
        sessions={
            chip.id: SessionSeen(str(session.status), session.me is not None)
            for chip in desired.chips
            if chip.wanted is not Wanted.DELETED
            and (session := sessions.get(session_name(chip.id))) is not None
        },
        databases=len(seen.storage.value) if isinstance(seen.storage, Known) else None,
        effects=tuple(effects),
        answers=answers,
    )


def digest(seen: Evidence) -> str:
    """A fingerprint of what a pass saw, 32 hex characters: the same one means that there is nothing to keep."""
    text = msgspec.json.encode(seen, order="sorted")
    return hashlib.blake2b(text, digest_size=16, person=_SHAPE).hexdigest()


def restored(body: object) -> Evidence | None:
    """What was kept, from its JSON; None for nothing, and for what another version kept in another shape.

    That version's digest differs too (`_SHAPE`), so the next look writes it anew.
    """
    try:
        return None if body is None else msgspec.convert(body, Evidence)
    except msgspec.ValidationError:
        return None


def merged(before: Evidence | None, seen: Evidence, now: datetime) -> Evidence:
    """What is kept after a pass that saw `seen`, given what was kept before.

    What cannot be read now stays as it was last seen, beside the word that it cannot be read.
    """
    before = before or Evidence()
    change: dict[str, object] = {}
    if "nomad" in seen.away:
        for name in ("job", "allocations", "placement"):
            change[name] = getattr(seen, name) or getattr(before, name)
    if "consul" in seen.away:
        change["checks"] = before.checks
    if "waha" in seen.away or not seen.answers:
        change["sessions"] = before.sessions
    else:
        change["sessions"] = {
            chip: _with_trail(before.sessions.get(chip), session, now)
            for chip, session in seen.sessions.items()
        }
    if seen.databases is None:
        change["databases"] = before.databases
    if seen.job is not None and (seen.job.edited or seen.job.unasked):
        change["job_by_hand_at"] = now
    elif not seen.answers:
        change["job_by_hand_at"] = before.job_by_hand_at
    return msgspec.structs.replace(seen, **change)


def _with_trail(before: SessionSeen | None, seen: SessionSeen, now: datetime) -> SessionSeen:
    trail = before.trail if before is not None else ()
    if not trail or trail[-1].status != seen.status:
        trail = (*trail, WordSeen(seen.status, now))[-TRAIL_KEPT:]
    return msgspec.structs.replace(seen, trail=trail)


def _away(seen: Observation, *, answers: bool) -> dict[str, str]:
    facts: tuple[tuple[str, Fact[Any]], ...] = (
        ("nomad", seen.job),
        ("nomad", seen.allocations),
        ("nomad", seen.evaluation),
        ("consul", seen.instances),
        ("storage", seen.storage),
        # That WAHA is not asked before there is an endpoint is no outage of its own.
        ("waha", seen.sessions if answers else _NOT_ASKED),
    )
    return {
        system: str(fact.why) for system, fact in facts if isinstance(fact, Unknown) and fact.why != NOT_ASKED
    }


def _job(desired: Desired, job: JobFact) -> JobSeen:
    container = desired.container
    return JobSeen(
        modify_index=job.modify_index,
        status=job.status,
        stopped=job.stopped,
        edited=not job.stopped and _is_foreign(container, job),
        unasked=job.stopped
        and _is_foreign(container, job)
        and _is_wanted(desired)
        and container.phase not in _MAY_STAND_STOPPED,
    )


def _is_foreign(container: DesiredContainer, job: JobFact) -> bool:
    """Whether somebody else wrote the job since we registered it; our own register of the same job does not.

    A daemon that died between its register and the record of it leaves another index too, with a hash that
    is not the recorded one (`core/domain/container.py`, adoption).
    """
    ours = container.registered
    if ours is None or ours.modify_index == job.modify_index:
        return False
    return job.stopped or job.spec in ("", ours.hashes.spec)


def _is_wanted(desired: Desired) -> bool:
    chips = any(chip.wanted is not Wanted.DELETED for chip in desired.chips)
    return not desired.container.deleted and (chips or desired.container.pinned)


def _telling(allocations: Sequence[AllocationFact]) -> Sequence[AllocationFact]:
    if len(allocations) < 2:
        return allocations
    last, lost = newest(allocations), (ClientStatus.LOST, ClientStatus.UNKNOWN)
    return [a for a in allocations if a is last or a.client in lost][-ALLOCATIONS_KEPT:]


def _allocation(fact: AllocationFact, secrets: Collection[str]) -> AllocationSeen:
    return AllocationSeen(
        id=fact.id,
        node=fact.node_name,
        desired=fact.desired,
        client=str(fact.client),
        since=fact.modified_at,
        restarts=fact.restarts,
        events=tuple(
            [EventSeen(e.type, excerpt(e.message, secrets), e.at) for e in fact.events[-EVENTS_KEPT:]]
        ),
    )


def _check(instance: ServiceInstance, secrets: Collection[str]) -> CheckSeen:
    output = excerpt(instance.output, secrets)
    return CheckSeen(instance.allocation_id, instance.address, instance.port, instance.passing, output)


def _placement(seen: Observation) -> PlacementSeen | None:
    if not isinstance(seen.evaluation, Known) or seen.evaluation.value.failure is None:
        return None
    evaluation, failure = seen.evaluation.value, seen.evaluation.value.failure
    return PlacementSeen(
        evaluation=evaluation.id,
        status=evaluation.status,
        nodes_evaluated=failure.nodes_evaluated,
        nodes_filtered=failure.nodes_filtered,
        nodes_exhausted=failure.nodes_exhausted,
        dimensions={excerpt(name): count for name, count in sorted(failure.dimensions.items())},
        constraints={excerpt(name): count for name, count in sorted(failure.constraints.items())},
    )
