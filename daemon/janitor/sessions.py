"""Sessions that no chip explains: what passes tell of them, and how one is deleted."""

from __future__ import annotations

from typing import Protocol

import structlog

from core.domain.belongings import found_session
from core.domain.endpoints import endpoint_of
from core.domain.facts import Known, Observation
from core.domain.names import chip_of_session, job_id
from core.errors import DependencyError, Unavailable
from core.store.interface import UserSnapshot
from daemon.janitor.systems import Systems
from daemon.waha import WahaContainers

_log = structlog.get_logger(__name__)


class Strangers(Protocol):
    """Who hears of sessions that no chip explains."""

    async def heard(self, snapshot: UserSnapshot, observation: Observation) -> None:
        """A pass saw this. Never raises for a dependency."""


class Sessions:
    """`Strangers` that notes them as orphans; costs nothing while every session has its chip.

    Passes see the sessions of their user anyway, so nobody has to ask every WAHA for this alone.
    """

    def __init__(self, systems: Systems, waha: WahaContainers) -> None:
        self._scheduler = systems.scheduler
        self._discovery = systems.discovery
        self._waha = waha
        self._store = systems.store
        self._orphans = systems.orphans

    async def heard(self, snapshot: UserSnapshot, observation: Observation) -> None:
        """A pass saw this. The snapshot was read before it: a session that came between is told again later."""
        if not isinstance(observation.sessions, Known):
            return
        known = {chip.id for chip in snapshot.chips}
        user_id = snapshot.container.user_id
        strange = [
            found_session(user_id, session)
            for session in observation.sessions.value.values()
            if (chip := chip_of_session(session.name)) is not None and chip not in known
        ]
        if not strange:
            return
        try:
            await self._orphans.saw_sessions(user_id, strange)
        except DependencyError as error:
            _log.info("strangers_not_noted", user_id=user_id, code=error.code)

    async def delete(self, user_id: str, session: str) -> None:
        """Log the session out and forget it. Raises DependencyError."""
        snapshot = await self._store.load(user_id)
        if snapshot is None:
            raise Unavailable("waha", "its container has no row any more")
        allocations = await self._scheduler.allocations(job_id(user_id))
        endpoint = endpoint_of(allocations, await self._discovery.instances(user_id))
        if endpoint is None:
            raise Unavailable("waha", "its container has no endpoint")
        waha = self._waha.at(endpoint.address, endpoint.port, snapshot.container.secrets.api_key)
        await waha.delete(session)
