"""Whose turn it is, by the store's own clock; see core/store/leases.py."""

from __future__ import annotations

import msgspec

from core.errors import StaleWrite
from core.store.interface import Answered, Busy, Lease
from tests.memory_store.database import SYSTEM, Database
from tests.memory_store.rows import LeaseRow


class Leases(Database):
    async def claim(
        self, key: str, owner: str, ttl_s: float, *, news_age_s: float | None = None
    ) -> Lease | Busy | Answered:
        sent_at = self.sent_at()
        self.up()
        now = self.clock.monotonic()
        row = self.leases.get(key)
        if row is None:
            row = self.leases[key] = LeaseRow(owner, 0, now)
        elif _answered(row, owner, now, news_age_s):
            return Answered()
        elif row.expires_at > now and row.owner != owner:
            return Busy(retry_after_s=row.expires_at - now, owner=row.owner)
        row.owner, row.token = owner, row.token + 1
        row.claimed_at, row.expires_at = now, now + ttl_s
        return Lease(key, owner, row.token, sent_at, ttl_s)

    async def extend(self, lease: Lease) -> Lease | None:
        sent_at = self.sent_at()
        self.up()
        if not self.holds(lease):
            return None
        self.leases[lease.key].expires_at = self.clock.monotonic() + lease.ttl_s
        return msgspec.structs.replace(lease, sent_at=sent_at)

    async def release(self, lease: Lease, *, looked: bool = False) -> int | None:
        self.up()
        if not self.holds(lease):
            return None
        self.free(lease, looked=looked)
        return self.newest(lease.key)

    def free(self, lease: Lease, *, looked: bool) -> None:
        row = self.leases[lease.key]
        if looked:
            row.looked_by, row.looked_at = row.owner, row.claimed_at
        row.owner, row.expires_at = "", self.clock.monotonic()

    def sent_at(self) -> float:
        """The claimer's monotonic clock; the store's own unless `seen_by` said otherwise."""
        return self.clock.monotonic()

    def steal(self, key: str) -> None:
        """Another daemon claims the key, as it may once the lease has run out."""
        row = self.leases[key]
        row.owner, row.token, row.expires_at = "thief", row.token + 1, self.clock.monotonic() + 60

    def expire(self, key: str) -> None:
        """The lease runs out at this moment."""
        self.leases[key].expires_at = self.clock.monotonic()

    def holds(self, lease: Lease) -> bool:
        row = self.leases.get(lease.key)
        return row is not None and row.token == lease.token and row.owner == lease.owner

    def guard(self, lease: Lease) -> None:
        """Raises StaleWrite when the lease is somebody else's by now; run out is not lost."""
        self.up()
        if not self.holds(lease):
            raise stale(lease)


def _answered(row: LeaseRow, owner: str, now: float, news_age_s: float | None) -> bool:
    """Whether another owner began a whole look after the news."""
    if news_age_s is None or row.looked_by is None or row.looked_by == owner:
        return False
    return row.looked_at >= now - news_age_s


def stale(lease: Lease) -> StaleWrite:
    return StaleWrite(SYSTEM, f"the lease of {lease.key} (token {lease.token}) is somebody else's by now")
