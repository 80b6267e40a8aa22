"""The errand `rollout`: admits users whose containers a changed setting restarts, a few at a time.

What it reads and writes is in the store alone. Passes ask for seats and tell how each move ended; who is
admitted is named on channel `intents`, and the next pass registers.
"""

from __future__ import annotations

from typing import Final

import structlog

from core.domain.rollout import WINDOW, Limits, RolloutState, View, plan
from core.settings import LoopSettings
from core.store.rollouts import RolloutStore
from daemon.lease import HeldLease
from daemon.metrics import Metrics

# While somebody waits or moves, and while nobody does.
BUSY_S: Final = 3.0
IDLE_S: Final = 10.0
_STORE_TIMEOUT_S: Final = 10.0

_log = structlog.get_logger(__name__)


def limits_of(settings: LoopSettings) -> Limits:
    """How careful the settings want a rollout to be."""
    return Limits(
        users=settings.rollout_users,
        least=settings.rollout_least,
        failures=settings.rollout_failures,
        deadline_s=settings.rollout_deadline_s,
    )


class Rollout:
    """`daemon.fleet.Errand`."""

    name = "rollout"

    def __init__(
        self,
        store: RolloutStore,
        limits: Limits,
        *,
        metrics: Metrics | None = None,
        busy_s: float = BUSY_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self._store = store
        self._limits = limits
        self._metrics = metrics or Metrics()
        self._busy_s = busy_s
        self._idle_s = idle_s
        self._busy = False

    @property
    def every_s(self) -> float:
        return self._busy_s if self._busy else self._idle_s

    async def run(self, held: HeldLease, /) -> None:
        """One step. Raises StaleWrite when the lease is lost, Unavailable when the store is away."""
        view = await self._store.rollout_view()
        self._busy = view is not None and bool(view.waiting or view.moving)
        if view is None:
            return
        self._tell(view)
        if await self._store.is_fleet_paused():
            return  # nobody is admitted, and nobody who could not move is late
        before, step = view.control, plan(view, self._limits)
        if not (step.admit or step.late or step.state is not before.state):
            return
        if not held.allows(_STORE_TIMEOUT_S):
            return
        async with held.effect():
            admitted = await self._store.apply_rollout(held.lease, before, step)
        if admitted:
            _log.info("rollout_admitted", release=before.release, user_ids=admitted)
        if step.late:
            _log.info("rollout_late", release=before.release, user_ids=step.late)
        if step.state is RolloutState.PAUSED is not before.state:
            failed = sum(not one.ok for one in view.settled[:WINDOW]) + len(step.late)
            _log.warning(
                "rollout_paused", release=before.release, failed_moves=failed, waiting=len(view.waiting)
            )

    def _tell(self, view: View) -> None:
        failed = sum(not one.ok for one in view.settled[:WINDOW])
        self._metrics.set_rollout(waiting=len(view.waiting), moving=len(view.moving), failed=failed)
        self._metrics.rollout_paused.set(view.control.state is RolloutState.PAUSED)
