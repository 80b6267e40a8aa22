"""Removing one orphan: claim, look again, one step at a time, see that it is gone, write it down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from core.clients.waha import WRITE_TIMEOUT_S
from core.clock import Clock
from core.domain.backoff import delay
from core.domain.belongings import Found, Kind, namespace_of
from core.domain.orphans import Forgot, Orphan, State
from core.domain.policy import Policy
from core.domain.removals import EFFECTS, Step, Verdict, next_step
from core.errors import DependencyError, Unavailable
from core.settings import LoopSettings
from core.store.interface import Lease
from core.store.orphans import Tried
from daemon import announce
from daemon.announce import Steps
from daemon.janitor.looks import Looks
from daemon.janitor.sessions import Sessions
from daemon.janitor.systems import Systems
from daemon.lease import HeldLease, kept

WAIT_S: Final = 10.0
RETRY_BASE_S: Final = 5.0
RETRY_CAP_S: Final = 600.0
LOOK_TIMEOUT_S: Final = 60.0
# Longest chain of steps of one kind: stop, purge, and the look that finds it gone.
_MOST_STEPS: Final = 4

_log = structlog.get_logger(__name__)


class Remover:
    """Takes approved orphans one step further.

    An effect starts only while both leases outlive it: `fleet`'s, and that of the user whose it would be.
    """

    def __init__(
        self,
        systems: Systems,
        *,
        owner: str,
        looks: Looks,
        sessions: Sessions,
        clock: Clock,
        steps: Steps,
        policy: Policy,
        settings: LoopSettings,
        discovery_timeout_s: float = 10.0,
    ) -> None:
        # Another name than that of the passes of this same process: they must be kept out as well.
        self._owner = f"{owner}:janitor"
        self._looks = looks
        self._sessions = sessions
        self._scheduler = systems.scheduler
        self._discovery = systems.discovery
        self._storages = systems.storages
        self._store = systems.store
        self._orphans = systems.orphans
        self._clock = clock
        self._steps = steps
        self._policy = policy
        self._settings = settings
        self._discovery_timeout_s = discovery_timeout_s

    async def remove(self, fleet: HeldLease, orphan: Orphan) -> None:
        """As many steps as may be done now; what is left is the next round's.

        Raises StaleWrite when the fleet's lease is lost, Unavailable when the store is away.
        """
        user_id = await self._user_of(orphan)
        if user_id is None:
            await self._steps_of(orphan, fleet, fleet)
            return
        async with self._claimed(user_id) as held:
            if held is None:
                note = "a pass is looking at its user"
                await self._orphans.tried(fleet.lease, orphan.id, Tried(State.REMOVING, note, WAIT_S))
                return
            await self._steps_of(orphan, fleet, held)

    async def _steps_of(self, orphan: Orphan, fleet: HeldLease, held: HeldLease) -> None:
        log = _log.bind(kind=orphan.found.kind.value, orphan=orphan.found.name, orphan_id=orphan.id)
        for _ in range(_MOST_STEPS):
            try:
                async with asyncio.timeout(LOOK_TIMEOUT_S):
                    look = await self._looks.at(orphan)
            except TimeoutError:
                verdict = Verdict(Step.WAIT, "looking at it took too long")
            else:
                verdict = next_step(orphan, look, self._clock.now(), self._policy)
            self._steps.announce(announce.Step.OBSERVED, held.lease.key, verdict.step.value)
            if verdict.step not in EFFECTS:
                await self._end(orphan, verdict, fleet, log)
                return
            if await self._store.is_fleet_paused():
                waits = Tried(State.REMOVING, "the fleet is paused", WAIT_S, orphan.attempts)
                await self._orphans.tried(fleet.lease, orphan.id, waits)
                return
            timeout_s = self._timeout_s(orphan, verdict.step)
            if not (fleet.allows(timeout_s) and held.allows(timeout_s)):
                await self._orphans.tried(fleet.lease, orphan.id, Tried(State.REMOVING, "out of time", 0.0))
                return
            try:
                # Cut off at the time that the leases were asked for; one that is may still be going on, so
                # it stays counted and neither lease is given back before its end.
                async with asyncio.timeout(timeout_s), fleet.effect(), held.effect():
                    await self._do(orphan, verdict.step)
            except (DependencyError, TimeoutError) as error:
                await self._failed(orphan, verdict.step, error, fleet, log)
                return
            self._steps.announce(announce.Step.EFFECT_DONE, held.lease.key, verdict.step.value)
            log.info("orphan_step_done", step=verdict.step.value, approved_by=orphan.decided_by)
            await self._orphans.tried(fleet.lease, orphan.id, Tried(State.REMOVING))
            self._steps.announce(announce.Step.EFFECT_RECORDED, held.lease.key, verdict.step.value)

    async def _end(
        self, orphan: Orphan, verdict: Verdict, fleet: HeldLease, log: structlog.stdlib.BoundLogger
    ) -> None:
        match verdict.step:
            case Step.OWNED:
                # Whatever state it is in by now: nothing of it may be removed any more.
                forgotten = [Forgot(orphan.id, state, "it has an owner") for state in State]
                await self._orphans.apply(fleet.lease, forgotten)
                log.info("orphan_owned_again")
            case Step.GONE:
                await self._orphans.tried(fleet.lease, orphan.id, Tried(State.REMOVED))
                log.info("orphan_removed", approved_by=orphan.decided_by)
            case Step.CHANGED:
                await self._orphans.tried(fleet.lease, orphan.id, Tried(State.WAITING, verdict.why))
                log.warning("orphan_changed", why=verdict.why)
            case _:
                await self._orphans.tried(
                    fleet.lease, orphan.id, Tried(State.REMOVING, verdict.why, WAIT_S, orphan.attempts)
                )
                log.info("orphan_waits", why=verdict.why)

    async def _failed(
        self,
        orphan: Orphan,
        step: Step,
        error: DependencyError | TimeoutError,
        fleet: HeldLease,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """Tried again for ever, ever less often, and shown."""
        if isinstance(error, TimeoutError):
            error = Unavailable("janitor", f"{step.value} took too long")
        attempts = orphan.attempts + 1
        again_in_s = delay(attempts, RETRY_BASE_S, RETRY_CAP_S)
        note = f"{step.value}: {error.message}"
        await self._orphans.tried(fleet.lease, orphan.id, Tried(State.FAILED, note, again_in_s, attempts))
        log.warning(
            "orphan_not_removed",
            step=step.value,
            attempts=attempts,
            again_in_s=again_in_s,
            code=error.code,
            error=error.message,
        )

    async def _do(self, orphan: Orphan, step: Step) -> None:
        found = orphan.found
        match step:
            case Step.STOP_JOB:
                await self._scheduler.stop(found.name)
            case Step.PURGE_JOB:
                await self._scheduler.purge(found.name)
            case Step.DELETE_VARIABLES:
                await self._scheduler.delete_variables(found.name)
            case Step.DEREGISTER:
                await self._discovery.deregister(found.name)
            case Step.DELETE_SESSION:
                await self._sessions.delete(found.place, found.name)
            case Step.DROP_NAMESPACE:
                await self._storages.on(found.place).drop(found.name)
            case Step.DROP_DATABASE:
                await self._storages.on(found.place).drop(namespace_of(found), found.name)
            case _:  # pragma: no cover - the other steps do nothing outside
                raise AssertionError(step)

    def _timeout_s(self, orphan: Orphan, step: Step) -> float:
        """The longest that the effect may take, above what the client itself allows."""
        match step:
            case Step.DELETE_SESSION:
                return WRITE_TIMEOUT_S
            case Step.DEREGISTER:
                return self._discovery_timeout_s
            case Step.DROP_NAMESPACE | Step.DROP_DATABASE:
                return self._storage_timeout_s(orphan.found)
            case _:
                return self._scheduler.timeout_s + 2

    def _storage_timeout_s(self, found: Found) -> float:
        try:
            return self._storages.on(found.place).timeout_s + 1
        except DependencyError:
            return 1.0  # it is not set up any more: the drop says so

    async def _user_of(self, orphan: Orphan) -> str | None:
        """Whose lease to take: passes over that user must not act meanwhile. None when nobody's."""
        if orphan.found.kind is Kind.DATABASE:
            return (await self._orphans.owners(())).namespaces.get(namespace_of(orphan.found))
        return orphan.found.user_id

    @asynccontextmanager
    async def _claimed(self, user_id: str) -> AsyncIterator[HeldLease | None]:
        """The user's lease for as long as a pass may take; None when somebody else has it."""
        claim = await self._store.claim(user_id, self._owner, self._settings.lease_ttl_s)
        if not isinstance(claim, Lease):
            yield None
            return
        deadline_at = self._clock.monotonic() + self._settings.pass_deadline_s
        held = HeldLease(claim, self._clock, deadline_at=deadline_at)
        try:
            async with kept(held, self._store, self._settings.lease_heartbeat_s):
                yield held
        finally:
            await held.give_back(self._store)
