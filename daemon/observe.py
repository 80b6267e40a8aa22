"""Look at everything that concerns one user. Reads only; what cannot be read is Unknown, with why."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

import structlog

from core.clients.discovery import Discovery
from core.clients.scheduler import Scheduler
from core.clients.storage import Storages
from core.clients.waha_models import WahaProxy, WahaSession
from core.clock import Clock
from core.domain import facts
from core.domain.desired import Desired
from core.domain.endpoints import endpoint_of, newest_live
from core.domain.facts import (
    NOT_ASKED,
    AllocationFact,
    Endpoint,
    EvaluationFact,
    Fact,
    JobFact,
    Known,
    Observation,
    Peers,
    Probe,
    SessionFact,
    Unknown,
)
from core.domain.names import job_id, session_name
from core.domain.peers import asks_for_peers
from core.domain.policy import Policy
from core.domain.rhythm import suspects
from core.domain.states import ContainerPhase, Reason
from core.errors import DependencyError
from core.store.interface import ContainerRow
from daemon.outages import Outages
from daemon.waha import WahaContainers
from daemon.ways_out import Guards, place_of

T = TypeVar("T")

_log = structlog.get_logger(__name__)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Caches(Protocol):
    """Cached answers that a pass drops when they may have become wrong. Never raises."""

    async def endpoint_changed(self, user_id: str) -> None:
        """Forget where the user's WAHA answers."""

    async def chips_changed(self, chip_ids: tuple[str, ...]) -> None:
        """Forget the QR codes of these chips."""


class PeersStore(Protocol):
    """The store, as far as a look asks it."""

    async def peers(self, user_id: str, window_s: float) -> Peers:
        """See `ReconcileStore.peers`."""


class Observer:
    """Reads Nomad and Consul side by side, and WAHA where both agree that it answers."""

    def __init__(
        self,
        scheduler: Scheduler,
        discovery: Discovery,
        waha: WahaContainers,
        caches: Caches,
        clock: Clock,
        outages: Outages,
        storages: Storages | None = None,
        *,
        peers: PeersStore | None = None,
        policy: Policy | None = None,
        guards: Guards | None = None,
    ) -> None:
        """`storages`: the servers that hold WAHA's sessions; without them nothing is looked up there.

        `peers`, `policy`: of the rules that ask further questions; without them none is asked. `guards`: what chips go
        out through; without them no session is said to be routed.
        """
        self._scheduler = scheduler
        self._discovery = discovery
        self._waha = waha
        self._caches = caches
        self._clock = clock
        self._outages = outages
        self._storages = storages
        self._peers = peers
        self._policy = policy or Policy()
        self._guards = guards

    async def observe(self, row: ContainerRow, desired: Desired | None = None) -> Observation:
        """Never raises for a dependency: what failed stands as Unknown in the observation.

        `desired`: what the user wants, for the questions that only some wishes raise.
        """
        user_id = row.user_id
        job = job_id(user_id)
        nomad, consul = Reason.DEPENDENCY_NOMAD, Reason.DEPENDENCY_CONSUL
        # What they say is at least as new as this; none of them goes on behind the back of a look that failed.
        began, fact_of = self._clock.now(), self._outages.fact_of
        of_job, of_allocations, of_instances = await asyncio.gather(
            self._scheduler.job(job),
            self._scheduler.allocations(job),
            self._discovery.instances(user_id),
            return_exceptions=True,
        )
        seen_job = fact_of(of_job, "nomad", nomad, began)
        allocations = fact_of(of_allocations, "nomad", nomad, began)
        instances = fact_of(of_instances, "consul", consul, began)
        evaluation: Fact[EvaluationFact] = Unknown(NOT_ASKED)
        if _may_wait_for_a_place(seen_job, allocations):
            evaluation = await self._outages.fact(self._scheduler.newest_placement(job), "nomad", nomad)
        endpoint = None
        if isinstance(allocations, Known) and isinstance(instances, Known):
            endpoint = endpoint_of(allocations.value, instances.value)
        wanted = self._proxies(desired, allocations, endpoint)
        sessions = await self._sessions(row, endpoint, wanted)
        return Observation(
            job=seen_job,
            # A list has no "no such thing": a 404 here is not Nomad's, or Consul's, own answer.
            allocations=_never_missing(allocations, nomad),
            evaluation=evaluation,
            instances=_never_missing(instances, consul),
            sessions=sessions,
            storage=await self._stored(row, seen_job, sessions),
            peers=await self._peers_of(row, desired, sessions),
            probes=await self._probed(row, endpoint, desired, sessions),
        )

    async def _peers_of(
        self, row: ContainerRow, desired: Desired | None, sessions: Fact[Mapping[str, SessionFact]]
    ) -> Fact[Peers]:
        asked = desired is not None and isinstance(sessions, Known) and asks_for_peers(desired, self._policy)
        if self._peers is None or not asked:
            return Unknown(NOT_ASKED)
        try:
            found = await self._peers.peers(row.user_id, self._policy.peer_window_s)
        except DependencyError as error:
            _log.warning("peers_not_read", code=error.code, error=error.message)
            return Unknown(NOT_ASKED)
        return Known(found, self._clock.now())

    async def _probed(
        self,
        row: ContainerRow,
        endpoint: Endpoint | None,
        desired: Desired | None,
        sessions: Fact[Mapping[str, SessionFact]],
    ) -> dict[str, Fact[Probe]]:
        """One live call for each chip that is silent beyond its rhythm, one after the other: they are few."""
        if desired is None or endpoint is None:
            return {}
        found: dict[str, Fact[Probe]] = {}
        for chip_id in suspects(desired, sessions, self._clock.now(), self._policy):
            waha = self._waha.at(endpoint.address, endpoint.port, row.secrets.api_key)
            try:
                said = await waha.probe(session_name(chip_id))
            except DependencyError as error:
                _log.warning("session_not_probed", chip_id=chip_id, code=error.code, error=error.message)
                found[chip_id] = Unknown(Reason.DEPENDENCY_WAHA)
                continue
            live = _session_fact(said.session)
            probe = Probe(live.status, said.connected, live.activity_at)
            found[chip_id] = Known(probe, self._clock.now())
        return found

    async def _stored(
        self, row: ContainerRow, job: Fact[JobFact], sessions: Fact[Mapping[str, SessionFact]]
    ) -> Fact[tuple[str, ...]]:
        if self._storages is None:
            return facts.Missing(self._clock.now())
        unproved = row.isolated_at is None and isinstance(sessions, Known) and bool(sessions.value)
        if not unproved and not _storage_is_left(row, job):
            return Unknown(NOT_ASKED)
        try:
            databases = await self._storages.on(row.storage_id).databases(row.namespace)
        except DependencyError as error:
            self._outages.failed("storage", error)
        else:
            self._outages.worked("storage")
            return Known(databases, self._clock.now())
        return Unknown(Reason.DEPENDENCY_STORAGE)

    def _proxies(
        self,
        desired: Desired | None,
        allocations: Fact[tuple[AllocationFact, ...]],
        endpoint: Endpoint | None,
    ) -> dict[str, WahaProxy]:
        """What the config of each chip that has a label should name at this endpoint, by session name."""
        if self._guards is None or desired is None or endpoint is None or not isinstance(allocations, Known):
            return {}
        place = place_of(allocations.value, endpoint.allocation_id)
        if place is None:
            return {}
        return {
            session_name(chip.id): self._guards.proxy(place, chip.id, chip.route.generation)
            for chip in desired.chips
            if chip.route is not None
        }

    async def _sessions(
        self, row: ContainerRow, endpoint: Endpoint | None, proxies: Mapping[str, WahaProxy]
    ) -> Fact[Mapping[str, SessionFact]]:
        if endpoint is None:
            return Unknown(Reason.WAHA_NOT_READY)
        try:
            waha = self._waha.at(endpoint.address, endpoint.port, row.secrets.api_key)
            listed = await waha.sessions()
        except DependencyError as error:
            _log.warning("waha_not_read", code=error.code, error=error.message)
            # Whoever else still uses this endpoint should look it up again.
            await self._caches.endpoint_changed(row.user_id)
            rejected = error.code == Reason.WAHA_KEY_REJECTED
            if rejected and row.key_renewed_for not in (None, endpoint.allocation_id):
                _log.error("waha_key_rejected", allocation_id=endpoint.allocation_id)
            return Unknown(Reason.WAHA_KEY_REJECTED if rejected else Reason.DEPENDENCY_WAHA)
        return Known(
            {one.name: _session_fact(one, proxies.get(one.name)) for one in listed}, self._clock.now()
        )


def _may_wait_for_a_place(job: Fact[JobFact], allocations: Fact[tuple[AllocationFact, ...]]) -> bool:
    """Whether there is something that an evaluation explains: it should run and nothing is placed.

    A third of all reads is saved that way, since most users have a container that runs.
    """
    if not isinstance(job, Known) or job.value.stopped or not isinstance(allocations, Known):
        return False
    return newest_live(allocations.value) is None


def _storage_is_left(row: ContainerRow, job: Fact[JobFact]) -> bool:
    """Whether storage is all that may be left of a container that is being removed."""
    removing = row.phase == ContainerPhase.STOPPING and row.variables_hash is None
    return removing and isinstance(job, facts.Missing)


def _never_missing(fact: Fact[T], why: Reason) -> Fact[T]:
    return Unknown(why) if isinstance(fact, facts.Missing) else fact


def _session_fact(session: WahaSession, wanted: WahaProxy | None = None) -> SessionFact:
    return SessionFact(
        name=session.name,
        status=session.status,
        me=session.me_id,
        push_name=session.me_push_name,
        activity_at=_moment(session.activity_ms),
        routed=wanted is not None and session.config.proxy == wanted,
    )


def _moment(milliseconds: int | None) -> datetime | None:
    """UTC time of milliseconds since 1970; None for none and for what is no time."""
    if milliseconds is None or not 0 < milliseconds < 10**14:
        return None
    return _EPOCH + timedelta(milliseconds=milliseconds)
