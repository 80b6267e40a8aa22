"""The port ledger: one open entry per live allocation, and no two open ones on the same (address, port)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import asyncpg
from sqlalchemy import ARRAY, and_, any_, bindparam, func, null, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from core.domain.ports import Claim
from core.errors import StaleWrite
from core.store.direct import Direct, Prepared
from core.store.engine import SYSTEM
from core.store.interface import PortTaken
from core.store.tables import port_ledger

_ATTEMPTS: Final = 3


class Held(Exception):
    """Another allocation's entry is open on the same (address, port)."""

    def __init__(self, taken: PortTaken) -> None:
        super().__init__("the port's ledger entry belongs to another allocation")
        self.taken = taken


async def close(connection: Direct, allocation_ids: Collection[str]) -> tuple[str, ...]:
    """Close the open entries of these allocations and name those that were open until now."""
    if not allocation_ids:
        return ()
    done = await connection.execute(_CLOSE, {"allocations": sorted(allocation_ids)})
    return tuple(sorted(row.allocation_id for row in done))


async def open_(connection: Direct, user_id: str, claim: Claim) -> None:
    """Open the entry of a live allocation, or find it open. Raises Held when another's is open there."""
    place = {"allocation": claim.allocation_id, "at_address": claim.address, "at_port": claim.port}
    for _ in range(_ATTEMPTS):
        # Waits for a neighbour who is writing the same port at this moment.
        if (await connection.execute(_OPEN, place | {"whose": user_id})).first() is not None:
            return
        rows = (await connection.execute(_IN_THE_WAY, place)).all()
        if any(_same(row, claim) for row in rows):
            return
        for row in rows:
            if row.allocation_id != claim.allocation_id:
                raise Held(PortTaken(claim.address, claim.port, row.user_id, row.allocation_id))
        if rows and await _reopened(connection, place):
            return
    raise StaleWrite(SYSTEM, "the port's ledger entry changes hands at this moment; look again")


async def _reopened(connection: Direct, place: Mapping[str, Any]) -> bool:
    """Open the allocation's closed entry again: it was taken for gone and lives. False = lost a race."""
    try:
        async with connection.savepoint():
            await connection.execute(_REOPEN, place)
    except asyncpg.IntegrityConstraintViolationError:
        return False
    return True


def _same(row: Any, claim: Claim) -> bool:
    return (
        row.closed_at is None
        and row.allocation_id == claim.allocation_id
        and row.address == claim.address
        and row.port == claim.port
    )


_ALLOCATION: Final = bindparam("allocation", type_=port_ledger.c.allocation_id.type)
_ADDRESS: Final = bindparam("at_address", type_=port_ledger.c.address.type)
_PORT: Final = bindparam("at_port", type_=port_ledger.c.port.type)
_OPEN: Final = Prepared(
    insert(port_ledger)
    .values(user_id=bindparam("whose"), allocation_id=_ALLOCATION, address=_ADDRESS, port=_PORT)
    .on_conflict_do_nothing()
    .returning(port_ledger.c.id)
)
_CLOSE: Final = Prepared(
    update(port_ledger)
    .where(
        port_ledger.c.closed_at.is_(None),
        port_ledger.c.allocation_id
        == any_(bindparam("allocations", type_=ARRAY(port_ledger.c.allocation_id.type))),
    )
    .values(closed_at=func.clock_timestamp())
    .returning(port_ledger.c.allocation_id)
)
_IN_THE_WAY: Final = Prepared(
    select(port_ledger).where(
        or_(
            and_(
                port_ledger.c.address == _ADDRESS,
                port_ledger.c.port == _PORT,
                port_ledger.c.closed_at.is_(None),
            ),
            port_ledger.c.allocation_id == _ALLOCATION,
        )
    )
)
_REOPEN: Final = Prepared(
    update(port_ledger)
    .where(port_ledger.c.allocation_id == _ALLOCATION)
    .values(address=_ADDRESS, port=_PORT, opened_at=func.clock_timestamp(), closed_at=null())
)
