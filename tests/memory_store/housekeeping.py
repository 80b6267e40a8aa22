"""What is closed by what is known now, and forgotten when old; see core/store/housekeeping.py."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from core.domain.health import DROP_WINDOW
from core.store.housekeeping import FORGOTTEN_AFTER_S, ClosedEntry
from core.store.interface import Lease
from core.store.status_statements import EVENTS_LOOKED_AT
from tests.memory_store.database import is_drop
from tests.memory_store.status import StatusWrites


class Housekeeping(StatusWrites):
    async def close_forgotten(
        self,
        lease: Lease,
        alive: Collection[str],
        *,
        listing_age_s: float,
        min_age_s: float = FORGOTTEN_AFTER_S,
    ) -> tuple[ClosedEntry, ...]:
        self.guard(lease)
        now, known = self.clock.now(), set(alive)
        young = now - timedelta(seconds=listing_age_s + min_age_s)
        gone = [
            row
            for row in self.open_ports.values()
            if row.opened_at < young and row.entry.allocation_id not in known
        ]
        closed = []
        for row in gone:
            self.close_entry(row, now)
            entry = row.entry
            closed.append(ClosedEntry(entry.user_id, entry.allocation_id, entry.address, entry.port))
        self.withdraw_endpoints(None, tuple(entry.allocation_id for entry in closed))
        return tuple(sorted(closed, key=lambda entry: entry.allocation_id))

    async def prune_ledger(self, lease: Lease, *, older_than_s: float, limit: int = 1000) -> int:
        self.guard(lease)
        before = self.clock.now() - timedelta(seconds=older_than_s)
        old = [
            id_ for id_, row in self.entries.items() if row.closed_at is not None and row.closed_at < before
        ]
        for allocation_id in old[:limit]:
            del self.entries[allocation_id]
        return len(old[:limit])

    async def prune_placements(self, lease: Lease, *, older_than_s: float, limit: int = 1000) -> int:
        self.guard(lease)
        now = self.clock.now()
        before = now - timedelta(seconds=older_than_s)
        old = [
            row
            for row in self.placement_of.values()
            if not row.is_current
            and (row.lease_until is None or row.lease_until <= now)
            and row.created_at < before
        ]
        for row in old[:limit]:
            del self.placement_of[row.allocation_id]
            self.users[row.user_id].placements.remove(row)
        return len(old[:limit])

    async def prune_events(
        self, lease: Lease, *, older_than_s: float, keep_per_chip: int, limit: int = 5000
    ) -> int:
        self.guard(lease)
        before = self.clock.now() - max(timedelta(seconds=older_than_s), DROP_WINDOW)
        keep = max(keep_per_chip, EVENTS_LOOKED_AT)
        removed = 0
        for chip in self.chips.values():
            young = [event for event in chip.events if event.created_at >= before][-keep:]
            surplus = min(len(chip.events) - len(young), limit - removed)
            del chip.events[:surplus]
            chip.drops = [event for event in chip.events if is_drop(event)]
            removed += surplus
        return removed

    async def prune_keys(self, lease: Lease, *, older_than_s: float, limit: int = 1000) -> int:
        """Keys and the audit log are the API's side: none of them is kept here."""
        self.guard(lease)
        return 0

    async def prune_audit(self, lease: Lease, *, older_than_s: float, limit: int = 5000) -> int:
        self.guard(lease)
        return 0

    async def prune_exits(self, lease: Lease, *, older_than_s: float, limit: int = 5000) -> int:
        self.guard(lease)
        before, removed = self.clock.now() - timedelta(seconds=older_than_s), 0
        for lines in self.exits.values():
            young = [line for line in lines if line.seen_until >= before]
            surplus = min(len(lines) - len(young), limit - removed)
            del lines[:surplus]
            removed += surplus
        return removed

    async def prune_usage(self, lease: Lease, *, months: int, limit: int = 5000) -> int:
        """What guards report is the API's side as well."""
        self.guard(lease)
        return 0

    async def prune_batches(self, lease: Lease, *, older_than_s: float, limit: int = 5000) -> int:
        self.guard(lease)
        return 0
