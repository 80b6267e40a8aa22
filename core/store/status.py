"""Writing what a pass saw, in one transaction, guarded by the lease.

Locks are taken in one order everywhere: lease, user, containers by user id, chips by id; then placements,
ledger and events, which only the holder of their container's lock writes. A pass that saw nothing new finds that out with one
statement, without any lock, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain import looks
from core.domain.actions import ChipStatus, ContainerStatus, Placed
from core.domain.desired import Wanted
from core.domain.evidence import Evidence, digest, merged, restored
from core.domain.looks import Look
from core.domain.observed import (
    ChipColumns,
    ChipMove,
    ContainerColumns,
    merge_chip,
    merge_container,
    touched,
)
from core.domain.ports import Claim, Entry, Settled, Taken, claims_of, settle
from core.store import direct, leases, placements, port_ledger
from core.store import status_rows as rows
from core.store import status_statements as statements
from core.store.direct import Direct
from core.store.interface import Lease, PortTaken, Release, Written
from core.store.notify import OBSERVED
from core.store.status_write import WRITE, WRITE_FIRST_PLACE

_NOTHING: Final = Settled()


class Seen(msgspec.Struct, frozen=True):
    """The arguments of one status write."""

    container: ContainerStatus
    chips: Mapping[str, ChipStatus]
    generations: Mapping[str, int]
    container_generation: int
    release_ports_of: tuple[str, ...]
    evidence: Evidence | None = None
    look: Look | None = None
    release: Release | None = None


class _Chip(msgspec.Struct, frozen=True):
    """A stored chip and what becomes of it."""

    id: str
    live: bool
    generation: int
    before: ChipColumns
    move: ChipMove
    bump: bool

    @property
    def differs(self) -> bool:
        return self.bump or self.move.after != self.before


class _Kept(msgspec.Struct, frozen=True):
    """A row to keep of what was seen. `body`: JSON."""

    observed_at: datetime
    digest: str
    body: str


class _Plan(msgspec.Struct, frozen=True):
    """Everything that the write would change, and the generation of the wishes that it rests on."""

    before: ContainerColumns
    after: ContainerColumns
    chips: tuple[_Chip, ...]
    epoch: int | None
    placed: Placed | None
    ledger: Settled
    rests_on: int
    now: datetime
    generation: int
    evidence: _Kept | None
    look: _Kept | None

    @property
    def is_narrow(self) -> bool:
        """Whether it is all in the rows of the container and its chips."""
        return self.placed is None and self.ledger == _NOTHING

    @property
    def is_first_place(self) -> bool:
        """Whether it adds a placement or a port to them and changes none that is there."""
        first = self.placed is None or self.epoch is None
        return first and not self.ledger.closes and len(self.ledger.opens) < 2

    @property
    def is_empty(self) -> bool:
        return not (
            self.after is not self.before
            or self.placed is not None
            or self.ledger != _NOTHING
            or self.evidence
            or self.look
            or any(chip.differs for chip in self.chips)
        )

    @property
    def is_news(self) -> bool:
        return (
            self.before.news() != self.after.news()
            or self.placed is not None
            or any(chip.bump for chip in self.chips if chip.live)
        )


class _WishCame(Exception):
    """Something was wished, or the lease lost, since the plan was made; or it rests on rows that are not as they were."""


async def write_status(engine: AsyncEngine, lease: Lease, seen: Seen) -> Written | PortTaken:
    """See `ReconcileStore.write_status`.

    Planned from one read without locks. Only the holder of the lease writes what a plan rests on, but for
    wishes, and each of those raises the container's generation: so the write asks for lease and generation
    in its first statement, and only when a wish came in between is it all planned again under locks. So it is
    when another user took the port meanwhile, or placements of an earlier life are in the way.
    """
    try:
        async with direct.statements(engine) as connection:
            plan = await _planned(connection, lease, seen)
            if isinstance(plan, PortTaken):
                return plan
            if plan.is_empty:
                return Written(epoch=plan.epoch, generation=plan.generation, changed=False)
            try:
                if not seen.release_ports_of:
                    if plan.is_narrow:
                        return await _apply(connection, lease, seen, plan)
                    if plan.is_first_place:
                        return await _apply_first_place(connection, lease, seen, plan)
                async with connection.transaction():
                    return await _apply(connection, lease, seen, plan)
            except _WishCame:
                async with connection.transaction():
                    await _lock(connection, lease, seen)
                    again = await _planned(connection, lease, seen)
                    if isinstance(again, PortTaken):
                        return again
                    return await _apply(connection, lease, seen, again)
    except port_ledger.Held as held:
        return held.taken
    except _WishCame:
        raise leases.stale(lease) from None


async def _lock(connection: Direct, lease: Lease, seen: Seen) -> None:
    await leases.guard_directly(connection, lease)
    whose = {"user_id": lease.key}
    await connection.execute(statements.LOCK_USER, whose)
    released = sorted(seen.release_ports_of)
    await connection.execute(statements.LOCK_CONTAINERS, {"user_id": lease.key, "released": released})
    await connection.execute(statements.LOCK_CHIPS, whose)


async def lock_containers(connection: AsyncConnection, released: Collection[str]) -> None:
    """Lock the containers of whoever these allocations' ports are booked for, by user id."""
    values = {"user_id": None, "released": sorted(released)}
    await connection.execute(statements.LOCK_CONTAINERS.statement, values)


async def _planned(connection: Direct, lease: Lease, seen: Seen) -> _Plan | PortTaken:
    claims = claims_of(seen.container)
    own, others = seen.container.closed_allocations, seen.release_ports_of
    fingerprint = digest(seen.evidence) if seen.evidence is not None else None
    values = {
        "user_id": lease.key,
        "evidence_digest": fingerprint,
        "allocations": [*own, *others, *(claim.allocation_id for claim in claims)],
        "addresses": [claim.address for claim in claims],
        "ports": [claim.port for claim in claims],
    }
    found = (await connection.execute(statements.STANDING, values | leases.as_parameters(lease))).all()
    if not found or not found[0].is_ours:
        raise leases.stale(lease)
    row = found[0]
    ledger = _settled(lease.key, claims, seen, row)
    if isinstance(ledger, Taken):
        return PortTaken(ledger.address, ledger.port, ledger.holder.user_id, ledger.holder.allocation_id)
    before = rows.container_columns(row)
    after = merge_container(before, seen.container, seen.container_generation, row.now)
    shown_moved = before.shown_in_chips() != after.shown_in_chips()
    placed = seen.container.placed
    if placed is not None and placed.allocation_id == row.current_allocation:
        placed = None
    return _Plan(
        before=before,
        after=after,
        chips=tuple(_chip(chip, seen, shown_moved, row.now) for chip in found if chip.chip_id is not None),
        epoch=row.epoch,
        placed=placed,
        ledger=ledger,
        rests_on=row.generation,
        now=row.now,
        generation=max(row.generation, *(chip.chip_generation or 0 for chip in found)),
        evidence=_kept(seen.evidence, fingerprint, row),
        look=_kept_look(seen.look, row),
    )


def _kept(seen: Evidence | None, fingerprint: str | None, row: Any) -> _Kept | None:
    """The row of evidence to write; None when it says nothing new."""
    if seen is None or fingerprint is None or fingerprint == row.evidence_digest:
        return None
    return _Kept(row.now, fingerprint, _json(merged(restored(row.evidence_body), seen, row.now)))


def _kept_look(look: Look | None, row: Any) -> _Kept | None:
    if look is None:
        return None
    fingerprint = looks.digest(look)
    return None if fingerprint == row.look_digest else _Kept(row.now, fingerprint, _json(look))


def _settled(user_id: str, claims: Sequence[Claim], seen: Seen, row: Any) -> Settled | Taken:
    entries = [Entry(owner, id_, address, port, True) for owner, id_, address, port in row.entries]
    by_allocation = {entry.allocation_id: entry for entry in entries}
    by_port = {(entry.address, entry.port): entry for entry in entries}
    return settle(
        user_id,
        claims,
        own_ended=seen.container.closed_allocations,
        others_ended=seen.release_ports_of,
        entry=by_allocation.get,
        holder=lambda address, port: by_port.get((address, port)),
    )


async def _apply(connection: Direct, lease: Lease, seen: Seen, plan: _Plan) -> Written:
    """What the plan says; inside a transaction unless one statement holds all of it."""
    user_id = lease.key
    if seen.release_ports_of:
        await _lock(connection, lease, seen)
    row = (await connection.execute(WRITE, _values(lease, seen, plan))).first()
    if row is None:
        raise _WishCame
    closed = await port_ledger.close(connection, plan.ledger.closes)
    if closed and seen.release_ports_of:
        others = sorted(set(closed) & set(seen.release_ports_of))
        await connection.execute(
            statements.WITHDRAW, {"whose": user_id, "released": others, "channel": OBSERVED}
        )
    for claim in plan.ledger.opens:
        await port_ledger.open_(connection, user_id, claim)
    epoch = plan.epoch
    if plan.placed is not None:
        epoch = await placements.move(connection, user_id, plan.placed)
    return Written(
        epoch=epoch,
        generation=plan.generation,
        changed=plan.is_news,
        closed=closed,
        released=bool(row.freed),
    )


async def _apply_first_place(connection: Direct, lease: Lease, seen: Seen, plan: _Plan) -> Written:
    """What the plan says, in one statement."""
    try:
        found = await connection.execute(WRITE_FIRST_PLACE, _values(lease, seen, plan) | _place_values(plan))
    except asyncpg.IntegrityConstraintViolationError:
        raise _WishCame from None
    row = found.first()
    if row is None:
        raise _WishCame
    epoch = plan.epoch if plan.placed is None else int(row.epoch)
    return Written(
        epoch=epoch, generation=plan.generation, changed=plan.is_news, closed=(), released=bool(row.freed)
    )


def _place_values(plan: _Plan) -> dict[str, Any]:
    placed, opens = plan.placed, plan.ledger.opens
    return {
        "placed_allocation": placed.allocation_id if placed else None,
        "placed_node_id": placed.node_id if placed else None,
        "placed_node_name": placed.node_name if placed else None,
        "opened_allocation": opens[0].allocation_id if opens else None,
        "opened_address": opens[0].address if opens else None,
        "opened_port": opens[0].port if opens else None,
    }


def _values(lease: Lease, seen: Seen, plan: _Plan) -> dict[str, Any]:
    user_id = lease.key
    now_looked = (
        plan.after if plan.after is not plan.before else touched(plan.before, seen.container, plan.now)
    )
    moved = [chip for chip in plan.chips if chip.differs]
    told = [_event_values(user_id, chip, seen) for chip in moved if chip.live and chip.move.event]
    return {
        "whose": user_id,
        "rests_on": plan.rests_on,
        "news": plan.is_news,
        "channel": OBSERVED,
        "frees": seen.release is not None,
        "looked": seen.release is Release.LOOKED,
        "chips": _json([rows.chip_values(chip.id, chip.move.after, bump=chip.bump) for chip in moved]),
        "events": _json(told),
        **leases.as_parameters(lease),
        **rows.container_values(now_looked),
        **_kept_values("evidence", plan.evidence),
        **_kept_values("looks", plan.look),
    }


def _kept_values(name: str, row: _Kept | None) -> dict[str, Any]:
    at, digest_, body = (row.observed_at, row.digest, row.body) if row is not None else (None, None, None)
    return {f"{name}_at": at, f"{name}_digest": digest_, f"{name}_body": body}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _chip(row: Any, seen: Seen, shown_moved: bool, now: datetime) -> _Chip:
    before = rows.chip_columns(row)
    move = ChipMove(before, None)
    if row.chip_id in seen.chips:
        move = merge_chip(
            before,
            seen.chips[row.chip_id],
            loaded_generation=seen.generations[row.chip_id],
            stored_generation=row.chip_generation,
            drops=row.chip_drops,
            now=now,
        )
    live = row.chip_wanted != Wanted.DELETED
    bump = (shown_moved and live) or move.after.rendered() != before.rendered()
    return _Chip(row.chip_id, live, row.chip_generation, before, move, bump)


def _event_values(user_id: str, chip: _Chip, seen: Seen) -> dict[str, Any]:
    event = chip.move.event
    assert event is not None
    return {
        "chip_id": chip.id,
        "user_id": user_id,
        "generation": seen.generations[chip.id],
        "type": event.type,
        "code": event.code,
        "description": event.description,
        "extra_data": event.extra_data,
    }
