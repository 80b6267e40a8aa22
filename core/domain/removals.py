"""How one orphan goes: from what is seen of it right now to the one next step.

Every step is decided from a fresh look, so it does not matter who did the one before or whether he lived to
write it down. While any fact that a step rests on is Unknown there is no step (property P5).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from core.domain.belongings import Found, Kind
from core.domain.endpoints import is_possibly_alive
from core.domain.facts import NOT_ASKED, AllocationFact, Fact, JobFact, Known, Missing, SessionFact, Unknown
from core.domain.names import chip_of_database, session_name
from core.domain.orphans import Orphan
from core.domain.policy import Policy


class Step(StrEnum):
    """What to do next. The last four do nothing outside."""

    STOP_JOB = "stop_job"
    PURGE_JOB = "purge_job"
    DELETE_VARIABLES = "delete_variables"
    DEREGISTER = "deregister"
    DELETE_SESSION = "delete_session"
    DROP_NAMESPACE = "drop_namespace"
    DROP_DATABASE = "drop_database"
    WAIT = "wait"
    CHANGED = "changed"
    OWNED = "owned"
    GONE = "gone"


EFFECTS: Final = frozenset(Step) - {Step.WAIT, Step.CHANGED, Step.OWNED, Step.GONE}


class Look(msgspec.Struct, frozen=True):
    """What is known of one orphan at this moment; only the fields that its kind needs are asked for.

    Attributes:
        owned: a row explains it.
        job, allocations: of its user.
        present: whether it itself is there (variables, instances).
        databases: of its namespace, those there are.
        loose_jobs: ids of jobs, or of allocations that may still run, that no row explains; one of them may
            be using a namespace that no row explains.
        sessions: of its user's WAHA by name; Missing when no WAHA of the user can be running.
    """

    owned: bool
    job: Fact[JobFact] = Unknown(NOT_ASKED)
    allocations: Fact[tuple[AllocationFact, ...]] = Unknown(NOT_ASKED)
    present: Fact[bool] = Unknown(NOT_ASKED)
    databases: Fact[tuple[str, ...]] = Unknown(NOT_ASKED)
    loose_jobs: Fact[tuple[str, ...]] = Unknown(NOT_ASKED)
    sessions: Fact[Mapping[str, SessionFact]] = Unknown(NOT_ASKED)


class Verdict(msgspec.Struct, frozen=True):
    """The next step; `why` says what a WAIT waits for, or what CHANGED."""

    step: Step
    why: str = ""


def next_step(orphan: Orphan, look: Look, now: datetime, policy: Policy) -> Verdict:
    """The one thing to do now."""
    if look.owned:
        return Verdict(Step.OWNED)
    found = orphan.found
    match found.kind:
        case Kind.JOB:
            return _job(found, look, now, policy)
        case Kind.VARIABLES:
            return _after_job(look, now, policy, Step.DELETE_VARIABLES)
        case Kind.INSTANCE:
            return _after_job(look, now, policy, Step.DEREGISTER)
        case Kind.NAMESPACE:
            return _namespace(found, look)
        case Kind.DATABASE:
            return _database(found, look)
        case Kind.SESSION:
            if isinstance(look.sessions, Known):
                there = found.name in look.sessions.value
                return Verdict(Step.DELETE_SESSION if there else Step.GONE)
            return Verdict(Step.WAIT, f"the container does not answer ({_why(look.sessions)})")


def _job(found: Found, look: Look, now: datetime, policy: Policy) -> Verdict:
    job, alive = look.job, _alive(look, now, policy)
    if isinstance(job, Unknown) or isinstance(alive, Unknown):
        return Verdict(Step.WAIT, f"Nomad does not answer ({_why(job, alive)})")
    if isinstance(job, Known) and not job.value.stopped:
        if str(job.value.modify_index) != found.fingerprint:
            return Verdict(Step.CHANGED, "somebody registered the job again since the yes")
        return Verdict(Step.STOP_JOB)
    if alive.value:
        return Verdict(Step.WAIT, f"allocation {alive.value[0]} may still run")
    return Verdict(Step.PURGE_JOB if isinstance(job, Known) else Step.GONE)


def _after_job(look: Look, now: datetime, policy: Policy, step: Step) -> Verdict:
    alive = _alive(look, now, policy)
    if isinstance(look.present, Missing):
        return Verdict(Step.GONE)
    if isinstance(look.present, Unknown) or isinstance(look.job, Unknown) or isinstance(alive, Unknown):
        return Verdict(Step.WAIT, f"it cannot be seen ({_why(look.present, look.job, alive)})")
    if isinstance(look.job, Known):
        return Verdict(Step.WAIT, "its job is there; that one goes first")
    if alive.value:
        return Verdict(Step.WAIT, f"allocation {alive.value[0]} may still run")
    return Verdict(step)


def _namespace(found: Found, look: Look) -> Verdict:
    if not isinstance(look.databases, Known):
        return Verdict(Step.WAIT, f"the storage does not answer ({_why(look.databases)})")
    if not look.databases.value:
        return Verdict(Step.GONE)
    if not isinstance(look.loose_jobs, Known):
        return Verdict(Step.WAIT, f"Nomad does not answer ({_why(look.loose_jobs)})")
    if look.loose_jobs.value:
        return Verdict(Step.WAIT, f"{look.loose_jobs.value[0]} has no owner either and may use it")
    new = set(look.databases.value) - set(found.fingerprint.split(","))
    if new:
        return Verdict(Step.CHANGED, f"it has {len(new)} databases more than when the yes was given")
    return Verdict(Step.DROP_NAMESPACE)


def _database(found: Found, look: Look) -> Verdict:
    if not isinstance(look.databases, Known):
        return Verdict(Step.WAIT, f"the storage does not answer ({_why(look.databases)})")
    if found.name not in look.databases.value:
        return Verdict(Step.GONE)
    if isinstance(look.sessions, Unknown):
        return Verdict(Step.WAIT, f"the container does not answer ({look.sessions.why})")
    session = session_name(chip_of_database(found.name) or "")
    if isinstance(look.sessions, Known) and session in look.sessions.value:
        return Verdict(Step.WAIT, "its session is there; that one goes first")
    return Verdict(Step.DROP_DATABASE)


def _alive(look: Look, now: datetime, policy: Policy) -> Known[tuple[str, ...]] | Unknown:
    """Ids of allocations that may still run."""
    allocations = look.allocations
    if not isinstance(allocations, Known):
        return Unknown(getattr(allocations, "why", "not_listed"))
    alive = tuple(one.id for one in allocations.value if is_possibly_alive(one, now, policy))
    return Known(alive, allocations.at)


def _why(*facts: object) -> str:
    return next((fact.why for fact in facts if isinstance(fact, Unknown)), "nothing to ask")
