"""What the store itself need not keep: entries of allocations that Nomad forgot, and old history."""

from __future__ import annotations

from typing import Final

import structlog

from core.clock import Clock
from core.domain.endpoints import CLIENT_ENDED
from core.domain.facts import Known
from core.domain.sweep import Listing
from core.settings import LoopSettings
from core.store.housekeeping import Housekeeping
from core.store.idempotency import KEPT_S
from daemon.lease import HeldLease

_DAY_S: Final = 86_400.0
PRUNED_EVERY_S: Final = 3600.0
# This month, and the same one of the year before.
USAGE_KEPT_MONTHS: Final = 12
# A guard tells a batch again within seconds. There are many: one of each host every ten of them.
BATCHES_KEPT_S: Final = _DAY_S
# Statements of one round; the next one goes on.
_MOST_BATCHES: Final = 20

_log = structlog.get_logger(__name__)


class Housekeeper:
    """Closes and removes rows under the lease `fleet`. How long what is kept is in the settings."""

    def __init__(self, store: Housekeeping, clock: Clock, settings: LoopSettings) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._pruned_at: float | None = None

    async def run(self, held: HeldLease, listing: Listing) -> None:
        """One round. Raises StaleWrite when the lease is lost, Unavailable when the store is away."""
        await self._close_forgotten(held, listing)
        now = self._clock.monotonic()
        if self._pruned_at is None or now - self._pruned_at >= PRUNED_EVERY_S:
            await self._prune(held)
            self._pruned_at = now

    async def _close_forgotten(self, held: HeldLease, listing: Listing) -> None:
        """Free the ports of allocations that are no longer listed; a list that failed frees none."""
        allocations = listing.allocations
        if not isinstance(allocations, Known):
            return
        alive = {one.allocation.id for one in allocations.value if one.allocation.client not in CLIENT_ENDED}
        since_read_s = max(0.0, (self._clock.now() - allocations.at).total_seconds())
        closed = await self._store.close_forgotten(
            held.lease, alive, listing_age_s=since_read_s + listing.read_s
        )
        for entry in closed:
            _log.info(
                "port_entry_closed",
                user_id=entry.user_id,
                allocation_id=entry.allocation_id,
                address=entry.address,
                port=entry.port,
            )

    async def _prune(self, held: HeldLease) -> None:
        kept = self._settings
        removed: dict[str, int] = {}
        for _ in range(_MOST_BATCHES):
            lease = held.lease
            batch = {
                "ledger": await self._store.prune_ledger(lease, older_than_s=kept.ledger_keep_days * _DAY_S),
                "placements": await self._store.prune_placements(
                    lease, older_than_s=kept.placements_keep_days * _DAY_S
                ),
                "events": await self._store.prune_events(
                    lease, older_than_s=kept.events_keep_days * _DAY_S, keep_per_chip=kept.events_per_chip
                ),
                "keys": await self._store.prune_keys(lease, older_than_s=KEPT_S),
                "audit": await self._store.prune_audit(lease, older_than_s=kept.audit_keep_days * _DAY_S),
                "exits": await self._store.prune_exits(lease, older_than_s=kept.exits_keep_days * _DAY_S),
                "usage": await self._store.prune_usage(lease, months=USAGE_KEPT_MONTHS),
                "batches": await self._store.prune_batches(lease, older_than_s=BATCHES_KEPT_S),
            }
            removed = {what: removed.get(what, 0) + count for what, count in batch.items()}
            if not any(batch.values()):
                break
        if any(removed.values()):
            _log.info("pruned", **removed)
