"""The newest look at a user, in a form that can be kept and decided on again: what `GET /fleet/plan` rests on.

No rule of the loop reads it. Nothing in it moves while a user is at rest: it holds no time of a look and no sign of
life, so rest costs no write. Texts of outside systems are cut and cleaned as in `evidence.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

import msgspec

from core.domain.desired import Desired, SpecHashes
from core.domain.endpoints import CLIENT_ENDED, newest
from core.domain.excerpts import excerpt
from core.domain.facts import (
    NOT_ASKED,
    AllocationFact,
    EvaluationFact,
    Fact,
    JobFact,
    Known,
    Missing,
    Observation,
    Peers,
    Probe,
    ServiceInstance,
    SessionFact,
    Unknown,
)
from core.domain.states import Reason

T = TypeVar("T")

_EVENTS_KEPT: Final = 5
# To be raised when the structs below, or those of `facts.py` that they hold, change.
_SHAPE: Final = b"look 2"


class StoredFact(msgspec.Struct, Generic[T], frozen=True, omit_defaults=True):
    """A fact without the time of its reading: `value` where it is Known, `why` where it is Unknown, else Missing."""

    value: T | None = None
    why: str | None = None


class Look(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a pass saw and rested on.

    Attributes:
        hashes, variables_hash, renderable, release: of the job as that pass wanted it; see `DesiredContainer`.
        acted: effects that it sent, in the words of `actions.py`: their outcome is yet to be seen.
    """

    hashes: SpecHashes
    variables_hash: str
    renderable: bool
    release: str
    job: StoredFact[JobFact]
    allocations: StoredFact[tuple[AllocationFact, ...]]
    evaluation: StoredFact[EvaluationFact]
    instances: StoredFact[tuple[ServiceInstance, ...]]
    sessions: StoredFact[dict[str, SessionFact]]
    storage: StoredFact[tuple[str, ...]]
    peers: StoredFact[Peers]
    probes: dict[str, StoredFact[Probe]] = {}
    acted: tuple[str, ...] = ()


def look_of(
    desired: Desired, seen: Observation, acted: Sequence[str] = (), secrets: Collection[str] = ()
) -> Look:
    """What is kept of a pass. `secrets`: values that must not show up in any text."""
    container = desired.container
    sessions: Fact[dict[str, SessionFact]]
    sessions = (
        Known(_still(seen.sessions.value), seen.sessions.at)
        if isinstance(seen.sessions, Known)
        else seen.sessions
    )
    allocations: Fact[tuple[AllocationFact, ...]] = seen.allocations
    if isinstance(allocations, Known):
        allocations = Known(_telling(allocations.value, secrets), allocations.at)
    instances: Fact[tuple[ServiceInstance, ...]] = seen.instances
    if isinstance(instances, Known):
        bare = tuple([msgspec.structs.replace(one, output="") for one in instances.value])
        instances = Known(bare, instances.at)
    return Look(
        hashes=container.wanted_hashes,
        variables_hash=container.wanted_variables_hash,
        renderable=container.renderable,
        release=container.release,
        job=_stored(seen.job),
        allocations=_stored(allocations),
        evaluation=_stored(seen.evaluation),
        instances=_stored(instances),
        sessions=_stored(sessions),
        storage=_stored(seen.storage),
        peers=_stored(seen.peers),
        probes={chip: _stored(_silent(fact)) for chip, fact in sorted(seen.probes.items())},
        acted=tuple(acted),
    )


def digest(look: Look) -> str:
    """A fingerprint, 32 hex characters: the same one means that there is nothing to keep."""
    text = msgspec.json.encode(look, order="sorted")
    return hashlib.blake2b(text, digest_size=16, person=_SHAPE).hexdigest()


def restored(body: object) -> Look | None:
    """What was kept, from its JSON; None for nothing, and for what another version kept in another shape."""
    try:
        return None if body is None else msgspec.convert(body, Look)
    except msgspec.ValidationError:
        return None


def observation_of(look: Look | None, at: datetime) -> Observation:
    """The observation again, as if it were read at `at`; of a user whom nobody looked at: there is nothing yet."""
    if look is None:
        return Observation(
            job=Missing(at),
            allocations=Known((), at),
            evaluation=Unknown(NOT_ASKED),
            instances=Known((), at),
            sessions=Unknown(Reason.WAHA_NOT_READY),
        )
    return Observation(
        job=_fact(look.job, at),
        allocations=_fact(look.allocations, at),
        evaluation=_fact(look.evaluation, at),
        instances=_fact(look.instances, at),
        sessions=_fact(look.sessions, at),
        storage=_fact(look.storage, at),
        peers=_fact(look.peers, at),
        probes={chip: _fact(fact, at) for chip, fact in look.probes.items()},
    )


def _stored(fact: Fact[T]) -> StoredFact[T]:
    match fact:
        case Known(value=value):
            return StoredFact(value=value)
        case Unknown(why=why):
            return StoredFact(why=str(why))
        case Missing():
            return StoredFact()


def _fact(stored: StoredFact[Any], at: datetime) -> Any:
    if stored.value is not None:
        return Known(stored.value, at)
    return Missing(at) if stored.why is None else Unknown(stored.why)


def _still(sessions: Any) -> dict[str, SessionFact]:
    """Without signs of life, which move all the time and decide nothing but what is probed."""
    return {
        name: session if session.activity_at is None else msgspec.structs.replace(session, activity_at=None)
        for name, session in sorted(sessions.items())
    }


def _silent(fact: Fact[Probe]) -> Fact[Probe]:
    if isinstance(fact, Known):
        return Known(msgspec.structs.replace(fact.value, activity_at=None), fact.at)
    return fact


def _telling(allocations: Sequence[AllocationFact], secrets: Collection[str]) -> tuple[AllocationFact, ...]:
    """The newest one and all that may still be alive, oldest first; others are over and decide nothing."""
    last = newest(allocations)
    return tuple(
        [_cleaned(one, secrets) for one in allocations if one is last or one.client not in CLIENT_ENDED]
    )


def _cleaned(one: AllocationFact, secrets: Collection[str]) -> AllocationFact:
    if not one.events:
        return one
    events = tuple(
        [
            msgspec.structs.replace(event, message=excerpt(event.message, secrets))
            for event in one.events[-_EVENTS_KEPT:]
        ]
    )
    return msgspec.structs.replace(one, events=events)
