"""Everything of ours outside, and which rows explain it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Final, Self, TypeAlias

import msgspec

from core.domain.endpoints import CLIENT_ENDED
from core.domain.facts import (
    ClientStatus,
    Fact,
    Known,
    ListedAllocation,
    ListedJob,
    ServiceInstance,
    SessionFact,
    WahaStatus,
)
from core.domain.names import (
    VARIABLE_PREFIX,
    chip_of_database,
    chip_of_session,
    job_id,
    namespace_of_database,
    user_of_job,
)

ENDED: Final = (*CLIENT_ENDED, ClientStatus.LOST)


class Kind(StrEnum):
    """What an orphan is. Names and places:

    job         a Nomad job; its id
    variables   the Nomad Variable of a job; its path
    instance    an instance of our service in Consul; its service id, the allocation in `place`
    session     a WAHA session; its name, the user's id in `place`
    namespace   all databases of a container; the namespace, the storage id in `place`
    database    one session's database; its name, the storage id in `place`
    """

    JOB = "job"
    VARIABLES = "variables"
    INSTANCE = "instance"
    SESSION = "session"
    NAMESPACE = "namespace"
    DATABASE = "database"


Key: TypeAlias = tuple[Kind, str, str]


class Found(msgspec.Struct, frozen=True):
    """One thing of ours as a listing showed it.

    Attributes:
        user_id: whose it would be, as far as its name says.
        fingerprint: what must not change between the yes and the removal: a job's JobModifyIndex, the
            names of a namespace's databases.
        costs: what it takes or is, for people; never a secret.
        alive: it may be serving somebody right now, so that no setting says yes for an operator.
    """

    kind: Kind
    name: str
    place: str = ""
    user_id: str | None = None
    fingerprint: str = ""
    costs: Mapping[str, str | int] = msgspec.field(default_factory=dict)
    alive: bool = False

    @property
    def key(self) -> Key:
        return self.kind, self.name, self.place


class Owner(msgspec.Struct, frozen=True):
    """A container row, a tombstone too: it explains what it owns until the last of it is gone."""

    user_id: str
    namespace: str
    storage_id: str


class Owners(msgspec.Struct, frozen=True):
    """All rows that explain anything: containers by user, whose each chip is (tombstones too).

    Attributes:
        namespaces: user id by namespace.
    """

    containers: Mapping[str, Owner]
    chips: Mapping[str, str]
    namespaces: Mapping[str, str]

    @classmethod
    def of(cls, containers: Iterable[Owner], chips: Mapping[str, str]) -> Self:
        found = tuple(containers)
        return cls(
            {owner.user_id: owner for owner in found},
            chips,
            {owner.namespace: owner.user_id for owner in found},
        )


class Listings(msgspec.Struct, frozen=True):
    """Everything of ours outside. What could not be read, or not wholly, is Unknown.

    Attributes:
        storage: names of all our databases by storage id.
        sessions: of the containers that were asked, by user id.
    """

    jobs: Fact[tuple[ListedJob, ...]]
    allocations: Fact[tuple[ListedAllocation, ...]]
    variables: Fact[tuple[str, ...]]
    instances: Fact[tuple[ServiceInstance, ...]]
    storage: Mapping[str, Fact[tuple[str, ...]]]
    sessions: Mapping[str, Fact[tuple[SessionFact, ...]]]


def namespace_of(found: Found) -> str:
    """The storage namespace of a namespace or of a database; "" for anything else."""
    if found.kind is Kind.DATABASE:
        return namespace_of_database(found.name) or ""
    return found.name if found.kind is Kind.NAMESPACE else ""


def seen(listings: Listings) -> dict[Key, Found]:
    """Everything that can be an orphan at all, whether something explains it or not."""
    all_found = [*_of_nomad(listings), *_of_consul(listings), *_of_storage(listings), *_of_waha(listings)]
    return {found.key: found for found in all_found}


def is_complete(key: Key, listings: Listings) -> bool:
    """Whether the listings would have shown it: only then does its absence say something."""
    kind, _, place = key
    match kind:
        case Kind.JOB:
            return isinstance(listings.jobs, Known)
        case Kind.VARIABLES:
            return isinstance(listings.variables, Known)
        case Kind.INSTANCE:
            return isinstance(listings.instances, Known) and isinstance(listings.jobs, Known)
        case Kind.NAMESPACE | Kind.DATABASE:
            return isinstance(listings.storage.get(place), Known)
        case Kind.SESSION:
            return isinstance(listings.sessions.get(place), Known)


def job_ids(listings: Listings) -> frozenset[str] | None:
    """Ids of all listed jobs; None when they could not be listed."""
    jobs = listings.jobs
    return frozenset(job.job_id for job in jobs.value) if isinstance(jobs, Known) else None


def is_explained(found: Found, owners: Owners, jobs: Collection[str] | None = None) -> bool:
    """Whether a row explains it; for an instance whether one of `jobs` does.

    What cannot be told counts as explained.
    """
    match found.kind:
        case Kind.JOB | Kind.VARIABLES:
            return found.user_id in owners.containers
        case Kind.INSTANCE:
            return found.user_id is None or jobs is None or job_id(found.user_id) in jobs
        case Kind.NAMESPACE:
            return found.name in owners.namespaces
        case Kind.DATABASE:
            namespace, chip = namespace_of_database(found.name), chip_of_database(found.name)
            owner = owners.namespaces.get(namespace or "")
            # Without an owner it is part of the namespace's own entry.
            return owner is None or chip is None or owners.chips.get(chip) == owner
        case Kind.SESSION:
            chip = chip_of_session(found.name)
            return chip is None or owners.chips.get(chip) == found.place


def _of_nomad(listings: Listings) -> list[Found]:
    found: list[Found] = []
    live: dict[str, list[ListedAllocation]] = {}
    for one in listings.allocations.value if isinstance(listings.allocations, Known) else ():
        if one.allocation.client not in ENDED:
            live.setdefault(one.job_id, []).append(one)
    if isinstance(listings.jobs, Known):
        for job in listings.jobs.value:
            user = user_of_job(job.job_id)
            if user is None:
                continue
            running = live.get(job.job_id, ())
            costs: dict[str, str | int] = {"status": "stopped" if job.stopped else job.status}
            costs["allocations"] = len(running)
            for each in running:
                costs["node"] = each.allocation.node_name
                if each.allocation.port is not None:
                    costs["port"] = each.allocation.port
            memory_mb = sum(each.memory_mb or 0 for each in running)
            if memory_mb:
                costs["memory_mb"] = memory_mb
            found.append(
                Found(Kind.JOB, job.job_id, user_id=user, fingerprint=str(job.modify_index), costs=costs)
            )
    if isinstance(listings.variables, Known):
        for path in listings.variables.value:
            user = user_of_job(path.removeprefix(VARIABLE_PREFIX))
            if user is not None:
                found.append(Found(Kind.VARIABLES, path, user_id=user))
    return found


def _of_consul(listings: Listings) -> list[Found]:
    if not isinstance(listings.instances, Known):
        return []
    return [
        Found(
            Kind.INSTANCE,
            one.service_id,
            one.allocation_id,
            user_id=one.user_id,
            costs={
                "endpoint": f"{one.address}:{one.port}",
                "checks": "passing" if one.passing else "critical",
            },
        )
        for one in listings.instances.value
        if user_of_job(job_id(one.user_id)) is not None
    ]


def _of_storage(listings: Listings) -> list[Found]:
    found = []
    for storage_id, fact in listings.storage.items():
        if not isinstance(fact, Known):
            continue
        by_namespace: dict[str, list[str]] = {}
        for database in fact.value:
            namespace = namespace_of_database(database)
            if namespace is not None:
                by_namespace.setdefault(namespace, []).append(database)
                if chip_of_database(database) is not None:
                    found.append(Found(Kind.DATABASE, database, storage_id))
        for namespace, databases in by_namespace.items():
            found.append(
                Found(
                    Kind.NAMESPACE,
                    namespace,
                    storage_id,
                    fingerprint=",".join(sorted(databases)),
                    costs={"databases": len(databases)},
                )
            )
    return found


def found_session(user_id: str, session: SessionFact) -> Found:
    """A session in the container of this user."""
    return Found(
        Kind.SESSION,
        session.name,
        user_id,
        user_id=user_id,
        costs={"status": session.status.value},
        alive=session.status is WahaStatus.WORKING,
    )


def _of_waha(listings: Listings) -> list[Found]:
    return [
        found_session(user_id, session)
        for user_id, fact in listings.sessions.items()
        if isinstance(fact, Known)
        for session in fact.value
        if chip_of_session(session.name) is not None
    ]
