"""The port ledger: one open entry per live allocation, and no two open ones on the same (address, port)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Row, and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from core.domain.ports import Claim
from core.errors import StaleWrite
from core.store.engine import SYSTEM
from core.store.interface import PortTaken
from core.store.tables import port_ledger

_ATTEMPTS: Final = 3


class Held(Exception):
    """Another allocation's entry is open on the same (address, port)."""

    def __init__(self, taken: PortTaken) -> None:
        super().__init__("the port's ledger entry belongs to another allocation")
        self.taken = taken


async def close(connection: AsyncConnection, allocation_ids: Collection[str]) -> tuple[str, ...]:
    """Close the open entries of these allocations and name those that were open until now."""
    if not allocation_ids:
        return ()
    done = await connection.execute(
        update(port_ledger)
        .where(port_ledger.c.closed_at.is_(None), port_ledger.c.allocation_id.in_(sorted(allocation_ids)))
        .values(closed_at=func.clock_timestamp())
        .returning(port_ledger.c.allocation_id)
    )
    return tuple(sorted(row.allocation_id for row in done))


async def open_(connection: AsyncConnection, user_id: str, claim: Claim) -> None:
    """Open the entry of a live allocation, or find it open. Raises Held when another's is open there."""
    for _ in range(_ATTEMPTS):
        made = (
            insert(port_ledger)
            .values(
                user_id=user_id, allocation_id=claim.allocation_id, address=claim.address, port=claim.port
            )
            .on_conflict_do_nothing()
            .returning(port_ledger.c.id)
        )
        # Waits for a neighbour who is writing the same port at this moment.
        if (await connection.execute(made)).one_or_none() is not None:
            return
        rows = (await connection.execute(_in_the_way(claim))).all()
        if any(_same(row, claim) for row in rows):
            return
        for row in rows:
            if row.allocation_id != claim.allocation_id:
                raise Held(PortTaken(claim.address, claim.port, row.user_id, row.allocation_id))
        if rows and await _reopened(connection, claim):
            return
    raise StaleWrite(SYSTEM, "the port's ledger entry changes hands at this moment; look again")


def _in_the_way(claim: Claim) -> Any:
    on_the_port = and_(
        port_ledger.c.address == claim.address,
        port_ledger.c.port == claim.port,
        port_ledger.c.closed_at.is_(None),
    )
    return select(port_ledger).where(or_(on_the_port, port_ledger.c.allocation_id == claim.allocation_id))


async def _reopened(connection: AsyncConnection, claim: Claim) -> bool:
    """Open the allocation's closed entry again: it was taken for gone and lives. False = lost a race."""
    try:
        async with connection.begin_nested():
            await connection.execute(
                update(port_ledger)
                .where(port_ledger.c.allocation_id == claim.allocation_id)
                .values(
                    address=claim.address,
                    port=claim.port,
                    opened_at=func.clock_timestamp(),
                    closed_at=None,
                )
            )
    except IntegrityError:
        return False
    return True


def _same(row: Row[Any], claim: Claim) -> bool:
    return (
        row.closed_at is None
        and row.allocation_id == claim.allocation_id
        and row.address == claim.address
        and row.port == claim.port
    )
