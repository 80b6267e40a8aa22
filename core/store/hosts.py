"""The hosts as the newest sweep saw them: written by the holder of the lease `fleet` alone."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.host_use import HostUse
from core.store import leases
from core.store.engine import transaction
from core.store.interface import Lease
from core.store.notify import FLEET, notify
from core.store.tables import hosts


async def record(engine: AsyncEngine, fleet: Lease, uses: Sequence[HostUse]) -> None:
    """See `ReconcileStore.record_hosts`."""
    async with transaction(engine) as connection:
        await leases.guard(connection, fleet)
        await connection.execute(delete(hosts).where(hosts.c.name.not_in([one.name for one in uses])))
        if uses:
            made = insert(hosts).values(
                [{**msgspec.structs.asdict(one), "observed_at": func.transaction_timestamp()} for one in uses]
            )
            moved = {column.name: made.excluded[column.name] for column in hosts.c if not column.primary_key}
            await connection.execute(made.on_conflict_do_update(index_elements=[hosts.c.name], set_=moved))
        await notify(connection, FLEET, "hosts")
