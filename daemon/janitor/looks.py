"""Reading: everything of ours outside for a round, and one orphan again right before something is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Final, Protocol, TypeVar

import structlog

from core.clock import Clock
from core.domain import facts
from core.domain.belongings import Kind, Listings, Owners, is_explained
from core.domain.endpoints import is_possibly_alive
from core.domain.facts import (
    NOT_ASKED,
    AllocationFact,
    Fact,
    JobFact,
    Known,
    Observation,
    SessionFact,
    Unknown,
)
from core.domain.names import (
    chip_of_database,
    chip_of_session,
    job_id,
    namespace_of_database,
    user_of_job,
)
from core.domain.orphans import Orphan, State
from core.domain.policy import Policy
from core.domain.removals import Look
from core.domain.sweep import Listing
from core.errors import DependencyError, Missing
from core.store.interface import ContainerRow
from daemon.janitor.systems import Systems

T = TypeVar("T")
GONE: Final = "gone"

_log = structlog.get_logger(__name__)


class Observing(Protocol):
    """What a pass sees of one user. `daemon.observe.Observer` is one."""

    async def observe(self, row: ContainerRow) -> Observation:
        """Never raises for a dependency."""


class Looks:
    """All of the janitor's reading. Whatever fails stands as Unknown in the answer."""

    def __init__(self, systems: Systems, observer: Observing, clock: Clock, policy: Policy) -> None:
        self._scheduler = systems.scheduler
        self._discovery = systems.discovery
        self._storages = systems.storages
        self._observer = observer
        self._store = systems.store
        self._orphans = systems.orphans
        self._clock = clock
        self._policy = policy

    async def everything(self, listing: Listing, rows: Iterable[Orphan]) -> Listings:
        """What `listing` lacks is read now: databases, and the sessions on record."""
        storage = {id_: await self._fact(self._storages.on(id_).listing()) for id_ in self._storages.ids}
        users = {
            row.found.place
            for row in rows
            if row.found.kind is Kind.SESSION and row.state is not State.REMOVED
        }
        return Listings(
            jobs=listing.jobs,
            allocations=listing.allocations,
            instances=listing.instances,
            variables=listing.variables,
            storage=storage,
            sessions={user: await self._sessions(user) for user in sorted(users)},
        )

    async def owners_of(self, listings: Listings) -> Owners:
        """The rows that could explain what was listed; to be called after the listings were read."""
        return await self._orphans.owners(_chips_in(listings))

    async def size(self, storage_id: str, namespace: str) -> int | None:
        """Bytes that the namespace takes; None when that cannot be told."""
        try:
            return await self._storages.on(storage_id).size(namespace)
        except DependencyError as error:
            _log.info("storage_not_measured", storage_id=storage_id, code=error.code)
            return None

    async def at(self, orphan: Orphan) -> Look:
        """One orphan as it is now. Rows are read last: what has a row by then is not touched."""
        found = orphan.found
        match found.kind:
            case Kind.JOB | Kind.VARIABLES | Kind.INSTANCE:
                look = await self._of_user(orphan)
            case Kind.NAMESPACE:
                look = await self._of_namespace(orphan)
            case Kind.DATABASE:
                look = await self._of_database(orphan)
            case Kind.SESSION:
                sessions = await self._sessions_by_name(found.place)
                look = Look(owned=False, sessions=sessions)
        if await self._is_owned(orphan, look):
            return Look(owned=True)
        return look

    async def _is_owned(self, orphan: Orphan, look: Look) -> bool:
        found = orphan.found
        if found.kind is Kind.INSTANCE:
            # Its job is what explains it, and that was just asked for.
            return isinstance(look.job, Known) and not look.job.value.stopped
        chip = chip_of_session(found.name) if found.kind is Kind.SESSION else chip_of_database(found.name)
        owners = await self._orphans.owners([chip] if chip else [])
        return is_explained(found, owners)

    async def _of_user(self, orphan: Orphan) -> Look:
        found = orphan.found
        job = job_id(found.user_id or "")
        present: Fact[bool] = Unknown(NOT_ASKED)
        if found.kind is Kind.VARIABLES:
            paths = await self._fact(self._scheduler.variable_paths())
            present = _present(paths, lambda all_paths: found.name in all_paths)
        if found.kind is Kind.INSTANCE:
            instances = await self._fact(self._discovery.instances(found.user_id))
            present = _present(instances, lambda some: any(one.service_id == found.name for one in some))
        return Look(
            owned=False,
            present=present,
            job=await self._fact(self._scheduler.job(job)),
            allocations=await self._fact(self._scheduler.allocations(job)),
        )

    async def _of_namespace(self, orphan: Orphan) -> Look:
        found = orphan.found
        databases = await self._databases(found.place, found.name)
        jobs = await self._fact(self._scheduler.jobs())
        allocations = await self._fact(self._scheduler.all_allocations())
        if not isinstance(jobs, Known) or not isinstance(allocations, Known):
            why = next((f.why for f in (jobs, allocations) if isinstance(f, Unknown)), GONE)
            return Look(owned=False, databases=databases, loose_jobs=Unknown(why))
        now = self._clock.now()
        owners = await self._orphans.owners(())
        alive = [one.job_id for one in jobs.value if not one.stopped]
        alive += [
            one.job_id for one in allocations.value if is_possibly_alive(one.allocation, now, self._policy)
        ]
        loose = sorted({job for job in alive if user_of_job(job) not in owners.containers})
        return Look(owned=False, databases=databases, loose_jobs=Known(tuple(loose), jobs.at))

    async def _of_database(self, orphan: Orphan) -> Look:
        found = orphan.found
        namespace = namespace_of_database(found.name) or ""
        databases = await self._databases(found.place, namespace)
        user = (await self._orphans.owners(())).namespaces.get(namespace)
        if user is None:
            return Look(owned=True)  # its namespace lost its owner: that one is an orphan as a whole
        return Look(owned=False, databases=databases, sessions=await self._sessions_by_name(user))

    async def _databases(self, storage_id: str, namespace: str) -> Fact[tuple[str, ...]]:
        try:
            storage = self._storages.on(storage_id)
        except DependencyError as error:
            return Unknown(error.code)
        return await self._fact(storage.databases(namespace))

    async def _sessions(self, user_id: str) -> Fact[tuple[SessionFact, ...]]:
        by_name = await self._sessions_by_name(user_id)
        if isinstance(by_name, Unknown):
            return by_name
        sessions = by_name.value if isinstance(by_name, Known) else {}
        return Known(tuple(sessions[name] for name in sorted(sessions)), by_name.at)

    async def _sessions_by_name(self, user_id: str) -> Fact[Mapping[str, SessionFact]]:
        """Missing when there is no container of the user that could have any."""
        snapshot = await self._store.load(user_id)
        if snapshot is None:
            return facts.Missing(self._clock.now())
        seen = await self._observer.observe(snapshot.container)
        if isinstance(seen.sessions, Unknown) and _runs_nothing(
            seen.job, seen.allocations, self._clock, self._policy
        ):
            return facts.Missing(self._clock.now())
        return seen.sessions

    async def _fact(self, read: Awaitable[T]) -> Fact[T]:
        try:
            value = await read
        except Missing:
            return facts.Missing(self._clock.now())
        except DependencyError as error:
            return Unknown(f"{error.system}: {error.code}")
        return Known(value, self._clock.now())


def _present(fact: Fact[T], test: Callable[[T], bool]) -> Fact[bool]:
    if isinstance(fact, Known):
        return Known(True, fact.at) if test(fact.value) else facts.Missing(fact.at)
    return fact


def _runs_nothing(
    job: Fact[JobFact], allocations: Fact[tuple[AllocationFact, ...]], clock: Clock, policy: Policy
) -> bool:
    if isinstance(job, Unknown) or not isinstance(allocations, Known):
        return False
    if isinstance(job, Known) and not job.value.stopped:
        return False
    return not any(is_possibly_alive(one, clock.now(), policy) for one in allocations.value)


def _chips_in(listings: Listings) -> Collection[str]:
    databases = [name for fact in listings.storage.values() if isinstance(fact, Known) for name in fact.value]
    sessions = [
        one.name for fact in listings.sessions.values() if isinstance(fact, Known) for one in fact.value
    ]
    found = [*map(chip_of_database, databases), *map(chip_of_session, sessions)]
    return {chip for chip in found if chip is not None}
