"""Rows that have said what they had to say: closed by what is known now, and forgotten when old.

Every call is one short transaction under the lease of whoever keeps house, touches at most `limit` rows, and
may be called again at once while it does. All ages by PostgreSQL's clock.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import ARRAY, all_, and_, any_, bindparam, delete, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.health import DROP_WINDOW
from core.store import leases
from core.store.engine import transaction
from core.store.interface import Lease
from core.store.month_usage import this_month
from core.store.notify import OBSERVED
from core.store.status import lock_containers
from core.store.status_statements import EVENTS_LOOKED_AT, WITHDRAW
from core.store.tables import (
    audit_log,
    chip_events,
    exits,
    idempotency_keys,
    placements,
    port_ledger,
    proxy_usage,
    quota_notices,
    usage_batches,
)

# Younger entries are left alone, whatever a list says.
FORGOTTEN_AFTER_S: Final = 300.0


class ClosedEntry(msgspec.Struct, frozen=True):
    """A ledger entry that was closed, because Nomad knows its allocation no more."""

    user_id: str
    allocation_id: str
    address: str
    port: int


class Housekeeping(Protocol):
    """All methods raise StaleWrite when the lease was lost, and Unavailable."""

    async def close_forgotten(
        self,
        lease: Lease,
        alive: Collection[str],
        *,
        listing_age_s: float,
        min_age_s: float = FORGOTTEN_AFTER_S,
    ) -> tuple[ClosedEntry, ...]:
        """Close the open ledger entries of allocations that are not in `alive`.

        `alive`: every allocation of ours that Nomad lists, less those whose own client reported their end.
        It must be a whole listing: a list that failed is Unknown and no reason to call. `listing_age_s`: how
        long ago the listing was *begun*, by the caller's monotonic clock. An entry opened (or opened again)
        later than `min_age_s` before that is left alone: the list may be older than it looks. An endpoint
        stored on a closed entry's port is withdrawn, and its owner is no longer at rest.
        """

    async def prune_ledger(self, lease: Lease, *, older_than_s: float, limit: int = 1000) -> int:
        """Remove entries closed longer ago than that; how many."""

    async def prune_placements(self, lease: Lease, *, older_than_s: float, limit: int = 1000) -> int:
        """Remove placements made longer ago than that; never the current one, never one a guard may hold."""

    async def prune_events(
        self, lease: Lease, *, older_than_s: float, keep_per_chip: int, limit: int = 5000
    ) -> int:
        """Remove chip events older than that or beyond the newest `keep_per_chip`; how many.

        What a health score looks at stays in any case.
        """

    async def prune_keys(self, lease: Lease, *, older_than_s: float, limit: int = 1000) -> int:
        """Remove answers kept for an `Idempotency-Key` that was first used longer ago than that; how many."""

    async def prune_audit(self, lease: Lease, *, older_than_s: float, limit: int = 5000) -> int:
        """Remove lines of the audit log that are older than that; how many."""

    async def prune_exits(self, lease: Lease, *, older_than_s: float, limit: int = 5000) -> int:
        """Remove lines of chips' history of exits that were seen last longer ago than that; how many."""

    async def prune_usage(self, lease: Lease, *, months: int, limit: int = 5000) -> int:
        """Remove what was used of proxies, and who was told of it, before that many whole months; how many."""

    async def prune_batches(self, lease: Lease, *, older_than_s: float, limit: int = 5000) -> int:
        """Forget batches of usage that came longer ago than that, and might be counted again; how many."""


class PostgresHousekeeping:
    """`Housekeeping` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def close_forgotten(
        self,
        lease: Lease,
        alive: Collection[str],
        *,
        listing_age_s: float,
        min_age_s: float = FORGOTTEN_AFTER_S,
    ) -> tuple[ClosedEntry, ...]:
        known = bindparam("alive", sorted(alive), type_=ARRAY(port_ledger.c.allocation_id.type))
        forgotten = and_(
            port_ledger.c.closed_at.is_(None),
            port_ledger.c.opened_at < _ago(listing_age_s + min_age_s),
            port_ledger.c.allocation_id != all_(known),
        )
        entries = select(port_ledger.c.allocation_id).where(forgotten).order_by(port_ledger.c.allocation_id)
        chosen = bindparam("chosen", type_=ARRAY(port_ledger.c.allocation_id.type))
        closed = (
            update(port_ledger)
            .where(port_ledger.c.allocation_id == any_(chosen), forgotten)
            .values(closed_at=func.clock_timestamp())
            .returning(
                port_ledger.c.user_id,
                port_ledger.c.allocation_id,
                port_ledger.c.address,
                port_ledger.c.port,
            )
        )
        async with transaction(self._engine) as connection:
            await leases.guard(connection, lease)
            ids = list((await connection.execute(entries)).scalars())
            if not ids:
                return ()
            # Before the entries, as passes do.
            await lock_containers(connection, ids)
            rows = (await connection.execute(closed, {"chosen": ids})).all()
            if rows:
                # The port is free for others from now on: nobody may be sent there any more.
                released = [row.allocation_id for row in rows]
                values = {"whose": None, "released": released, "channel": OBSERVED}
                await connection.execute(WITHDRAW.statement, values)
        found = (ClosedEntry(row.user_id, row.allocation_id, row.address, row.port) for row in rows)
        return tuple(sorted(found, key=lambda entry: entry.allocation_id))

    async def prune_ledger(self, lease: Lease, *, older_than_s: float, limit: int = 1000) -> int:
        old = select(port_ledger.c.id).where(port_ledger.c.closed_at < _ago(older_than_s)).limit(limit)
        return await self._delete(
            lease, delete(port_ledger).where(port_ledger.c.id.in_(old), port_ledger.c.closed_at.is_not(None))
        )

    async def prune_placements(self, lease: Lease, *, older_than_s: float, limit: int = 1000) -> int:
        free = or_(placements.c.lease_until.is_(None), placements.c.lease_until <= func.clock_timestamp())
        dead = and_(~placements.c.is_current, free)
        old = select(placements.c.id).where(dead, placements.c.created_at < _ago(older_than_s)).limit(limit)
        # Asked again where the row is locked: it may have come back meanwhile.
        return await self._delete(lease, delete(placements).where(placements.c.id.in_(old), dead))

    async def prune_events(
        self, lease: Lease, *, older_than_s: float, keep_per_chip: int, limit: int = 5000
    ) -> int:
        age_s = max(older_than_s, DROP_WINDOW.total_seconds())
        old = select(chip_events.c.id).where(chip_events.c.created_at < _ago(age_s)).limit(limit)
        removed = await self._delete(lease, delete(chip_events).where(chip_events.c.id.in_(old)))
        if removed >= limit:
            return removed
        keep = max(keep_per_chip, EVENTS_LOOKED_AT)
        crowded = select(chip_events.c.chip_id).group_by(chip_events.c.chip_id).having(func.count() > keep)
        rank = func.row_number().over(partition_by=chip_events.c.chip_id, order_by=chip_events.c.id.desc())
        ranked = (
            select(chip_events.c.id, rank.label("rank"))
            .where(chip_events.c.chip_id.in_(crowded.limit(100)))
            .subquery()
        )
        beyond = select(ranked.c.id).where(ranked.c.rank > keep).limit(limit - removed)
        return removed + await self._delete(lease, delete(chip_events).where(chip_events.c.id.in_(beyond)))

    async def prune_keys(self, lease: Lease, *, older_than_s: float, limit: int = 1000) -> int:
        before = idempotency_keys.c.created_at < _ago(older_than_s)
        old = select(idempotency_keys.c.id).where(before).limit(limit)
        # Asked again where the row is locked: the key may have been claimed anew meanwhile.
        return await self._delete(
            lease, delete(idempotency_keys).where(idempotency_keys.c.id.in_(old), before)
        )

    async def prune_audit(self, lease: Lease, *, older_than_s: float, limit: int = 5000) -> int:
        old = select(audit_log.c.id).where(audit_log.c.at < _ago(older_than_s)).limit(limit)
        return await self._delete(lease, delete(audit_log).where(audit_log.c.id.in_(old)))

    async def prune_exits(self, lease: Lease, *, older_than_s: float, limit: int = 5000) -> int:
        before = exits.c.seen_until < _ago(older_than_s)
        old = select(exits.c.id).where(before).limit(limit)
        # Asked again where the row is locked: it may have been seen anew meanwhile.
        return await self._delete(lease, delete(exits).where(exits.c.id.in_(old), before))

    async def prune_usage(self, lease: Lease, *, months: int, limit: int = 5000) -> int:
        oldest = this_month() - func.make_interval(0, months)
        removed = 0
        for table in (proxy_usage, quota_notices):
            key = tuple_(*table.primary_key.columns)
            old = select(*table.primary_key.columns).where(table.c.month < oldest).limit(limit)
            removed += await self._delete(lease, delete(table).where(key.in_(old)))
        return removed

    async def prune_batches(self, lease: Lease, *, older_than_s: float, limit: int = 5000) -> int:
        old = select(usage_batches.c.batch_id).where(usage_batches.c.received_at < _ago(older_than_s))
        return await self._delete(
            lease, delete(usage_batches).where(usage_batches.c.batch_id.in_(old.limit(limit)))
        )

    async def _delete(self, lease: Lease, statement: Any) -> int:
        async with transaction(self._engine) as connection:
            await leases.guard(connection, lease)
            return int((await connection.execute(statement)).rowcount)


async def forget_placements(connection: AsyncConnection, user_id: str) -> None:
    """Remove a user's placements with the container; one that a guard may still hold stays, no more current.

    Or the next container's placement would be given a lease beside it.
    """
    held = placements.c.lease_until > func.clock_timestamp()
    mine = placements.c.user_id == user_id
    await connection.execute(select(placements.c.id).where(mine).order_by(placements.c.id).with_for_update())
    await connection.execute(update(placements).where(mine, held).values(is_current=False))
    await connection.execute(delete(placements).where(mine, ~func.coalesce(held, False)))


def _ago(seconds: float) -> Any:
    return func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)
