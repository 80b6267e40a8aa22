"""Writing what a pass saw, in one transaction, guarded by the lease.

Locks are taken in one order everywhere: lease, user, container, chips by id; then placements, ledger and
events, which only their container's holder writes. A pass that saw nothing new finds that out without any
lock and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, and_, bindparam, case, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.actions import ChipStatus, ContainerStatus
from core.domain.desired import Tries, Wanted
from core.domain.events import STATUS_CHANGE
from core.domain.facts import Endpoint
from core.domain.health import DROP_WINDOW
from core.domain.observed import ChipColumns, ChipMove, ContainerColumns, merge_chip, merge_container
from core.domain.states import ChipPhase, ChipStatusWord
from core.store import leases, placements, port_ledger
from core.store.engine import reading, transaction
from core.store.interface import Lease, PortTaken, Written
from core.store.notify import OBSERVED, notify
from core.store.tables import chip_events, chips, containers, users
from core.store.tables import placements as placement_rows

# A drop of the connection counts for the health score; these phases are the owner's own doing.
_WISHED: Final = (ChipPhase.DISCONNECTING, ChipPhase.DISCONNECTED, ChipPhase.DELETING)
EVENTS_LOOKED_AT: Final = 50


class Seen(msgspec.Struct, frozen=True):
    """The arguments of one status write."""

    container: ContainerStatus
    chips: Mapping[str, ChipStatus]
    generations: Mapping[str, int]
    container_generation: int
    release_ports_of: tuple[str, ...]


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


class _Plan(msgspec.Struct, frozen=True):
    """Everything that the write would change."""

    before: ContainerColumns
    after: ContainerColumns
    chips: tuple[_Chip, ...]
    epoch: int | None
    move_placement: bool
    close_own: tuple[str, ...]
    close_others: tuple[str, ...]
    open_claims: tuple[port_ledger.Claim, ...]
    generation: int

    @property
    def is_empty(self) -> bool:
        return not (
            self.after is not self.before
            or self.move_placement
            or self.close_own
            or self.close_others
            or self.open_claims
            or any(chip.differs for chip in self.chips)
        )

    @property
    def is_news(self) -> bool:
        return (
            self.before.news() != self.after.news()
            or self.move_placement
            or any(chip.bump for chip in self.chips if chip.live)
        )


async def write_status(engine: AsyncEngine, lease: Lease, seen: Seen) -> Written | PortTaken:
    """See `ReconcileStore.write_status`."""
    async with reading(engine) as connection:
        plan = await _planned(connection, lease, seen, lock=False)
    if plan.is_empty:
        return Written(epoch=plan.epoch, generation=plan.generation, changed=False)
    try:
        async with transaction(engine) as connection:
            await leases.guard(connection, lease)
            # Foreign keys look at this row: taken here, in the order in which wishes take it too.
            await connection.execute(
                select(users.c.id).where(users.c.id == lease.key).with_for_update(read=True, key_share=True)
            )
            return await _apply(connection, lease, seen, await _planned(connection, lease, seen, lock=True))
    except port_ledger.Held as held:
        return held.taken


async def _planned(connection: AsyncConnection, lease: Lease, seen: Seen, *, lock: bool) -> _Plan:
    whose = {"user_id": lease.key}
    stored = await connection.execute(
        _LOCK_CONTAINER if lock else _CONTAINER, whose | leases.as_parameters(lease)
    )
    row = stored.one_or_none()
    if row is None or not row.is_ours:
        raise leases.stale(lease)
    chip_rows = (await connection.execute(_LOCK_CHIPS if lock else _CHIPS, whose)).all()
    claims = port_ledger.claims_of(seen.container)
    own, others = seen.container.closed_allocations, seen.release_ports_of
    entries = await port_ledger.entries(
        connection, {*own, *others, *(claim.allocation_id for claim in claims)}
    )
    before = _container_columns(row)
    after = merge_container(before, seen.container, seen.container_generation, row.now)
    shown_moved = before.shown_in_chips() != after.shown_in_chips()
    placed = seen.container.placed
    return _Plan(
        before=before,
        after=after,
        chips=tuple(_chip(chip, seen, shown_moved, row.now) for chip in chip_rows),
        epoch=row.epoch,
        move_placement=placed is not None and placed.allocation_id != row.current_allocation,
        close_own=entries.open_among(own),
        close_others=entries.open_among(others),
        open_claims=tuple(claim for claim in claims if not entries.is_open(claim)),
        generation=max(row.generation, *(chip.generation for chip in chip_rows), 0),
    )


async def _apply(connection: AsyncConnection, lease: Lease, seen: Seen, plan: _Plan) -> Written:
    user_id = lease.key
    closed = await port_ledger.close(connection, user_id, own=plan.close_own, others=plan.close_others)
    for claim in plan.open_claims:
        await port_ledger.open_(connection, user_id, claim)
    epoch = plan.epoch
    if plan.move_placement and seen.container.placed is not None:
        epoch = await placements.move(connection, user_id, seen.container.placed)
    if plan.after is not plan.before:
        await connection.execute(_UPDATE_CONTAINER, {"whose": user_id, **_container_values(plan.after)})
    moved = [chip for chip in plan.chips if chip.differs]
    if moved:
        await connection.execute(_UPDATE_CHIP, [_chip_values(chip) for chip in moved])
    told = [_event_values(user_id, chip, seen) for chip in moved if chip.live and chip.move.event]
    if told:
        await connection.execute(_INSERT_EVENT, told)
    if plan.is_news:
        await notify(connection, OBSERVED, user_id)
    return Written(epoch=epoch, generation=plan.generation, changed=plan.is_news, closed=closed)


def _container_query() -> Select[Any]:
    current = and_(placement_rows.c.user_id == containers.c.user_id, placement_rows.c.is_current)
    return select(
        containers,
        select(placement_rows.c.epoch).where(current).scalar_subquery().label("epoch"),
        select(placement_rows.c.allocation_id).where(current).scalar_subquery().label("current_allocation"),
        leases.is_ours().label("is_ours"),
        func.clock_timestamp().label("now"),
    ).where(containers.c.user_id == bindparam("user_id"))


def _chips_query() -> Select[Any]:
    newest = (
        select(chip_events.c.type, chip_events.c.code, chip_events.c.extra_data, chip_events.c.created_at)
        .where(chip_events.c.chip_id == chips.c.id)
        .order_by(chip_events.c.id.desc())
        .limit(EVENTS_LOOKED_AT)  # history grows for ever, the score cannot fall below its floor
        .subquery()
    )
    connected = ChipStatusWord.CONNECTED.value
    drops = select(func.count()).where(
        newest.c.type == STATUS_CHANGE,
        newest.c.created_at > func.clock_timestamp() - DROP_WINDOW,
        newest.c.code.not_in([phase.value for phase in _WISHED]),
        newest.c.extra_data["from"].astext == connected,
        newest.c.extra_data["to"].astext != connected,
    )
    return (
        select(chips, drops.scalar_subquery().label("drops"))
        .where(chips.c.user_id == bindparam("user_id"))
        .order_by(chips.c.id)
    )


# Built once: putting such a statement together takes longer than PostgreSQL needs to answer it.
_CONTAINER: Final = _container_query()
_CHIPS: Final = _chips_query()
_LOCK_CONTAINER: Final = _CONTAINER.with_for_update(of=containers, key_share=True)
_LOCK_CHIPS: Final = _CHIPS.with_for_update(of=chips, key_share=True)
_LOCK_USER: Final = (
    select(users.c.id).where(users.c.id == bindparam("user_id")).with_for_update(read=True, key_share=True)
)
_UPDATE_CONTAINER: Final = update(containers).where(containers.c.user_id == bindparam("whose"))
_INSERT_EVENT: Final = insert(chip_events)


def _container_columns(row: Row[Any]) -> ContainerColumns:
    endpoint = None
    if row.endpoint_address is not None:
        endpoint = Endpoint(row.endpoint_address, row.endpoint_port, row.endpoint_allocation_id)
    return ContainerColumns(
        phase=row.phase,
        reason=row.reason,
        since=row.status_since,
        allocation_id=row.allocation_id,
        node_name=row.node_name,
        address=row.address,
        port=row.port,
        endpoint=endpoint,
        empty_since=row.empty_since,
        isolated_at=row.isolated_at,
        key_renewed_for=row.key_renewed_for,
        observed_generation=row.observed_generation,
        observed_at=row.observed_at,
        looked_at=row.looked_at,
        at_rest=row.at_rest,
    )


def _container_values(columns: ContainerColumns) -> dict[str, Any]:
    endpoint = columns.endpoint
    return {
        "phase": columns.phase,
        "reason": columns.reason,
        "status_since": columns.since,
        "allocation_id": columns.allocation_id,
        "node_name": columns.node_name,
        "address": columns.address,
        "port": columns.port,
        "endpoint_address": endpoint.address if endpoint else None,
        "endpoint_port": endpoint.port if endpoint else None,
        "endpoint_allocation_id": endpoint.allocation_id if endpoint else None,
        "empty_since": columns.empty_since,
        "isolated_at": columns.isolated_at,
        "key_renewed_for": columns.key_renewed_for,
        "observed_generation": columns.observed_generation,
        "observed_at": columns.observed_at,
        "looked_at": columns.looked_at,
        "at_rest": columns.at_rest,
    }


def _chip(row: Row[Any], seen: Seen, shown_moved: bool, now: datetime) -> _Chip:
    before = ChipColumns(
        phase=row.phase,
        reason=row.reason,
        status=row.status,
        since=row.status_since,
        waha_status=row.waha_status,
        phone_number=row.phone_number,
        push_name=row.push_name,
        connected_at=row.connected_at,
        last_activity_at=row.last_activity_at,
        unlinked_generation=row.unlinked_generation,
        tries=Tries(row.tries_generation, row.tries_failures, row.tries_qr_rounds, row.tries_last_at),
        health_score=row.health_score,
        observed_generation=row.observed_generation,
    )
    move = ChipMove(before, None)
    if row.id in seen.chips:
        move = merge_chip(
            before,
            seen.chips[row.id],
            loaded_generation=seen.generations[row.id],
            stored_generation=row.generation,
            drops=row.drops,
            now=now,
        )
    live = row.wanted != Wanted.DELETED
    bump = (shown_moved and live) or move.after.rendered() != before.rendered()
    return _Chip(row.id, live, row.generation, before, move, bump)


def _chip_values(chip: _Chip) -> dict[str, Any]:
    after = chip.move.after
    return {
        "chip_id": chip.id,
        "bump": int(chip.bump),
        "phase": after.phase,
        "reason": after.reason,
        "status": after.status,
        "status_since": after.since,
        "waha_status": after.waha_status,
        "phone_number": after.phone_number,
        "push_name": after.push_name,
        "connected_at": after.connected_at,
        "last_activity_at": after.last_activity_at,
        "unlinked_generation": after.unlinked_generation,
        "tries_generation": after.tries.generation,
        "tries_failures": after.tries.failures,
        "tries_qr_rounds": after.tries.qr_rounds,
        "tries_last_at": after.tries.last_at,
        "health_score": after.health_score,
        "observed_generation": after.observed_generation,
    }


_COLUMNS: Final = (
    *("phase", "reason", "status", "status_since", "waha_status", "phone_number", "push_name"),
    *("connected_at", "last_activity_at", "unlinked_generation"),
    *("tries_generation", "tries_failures", "tries_qr_rounds", "tries_last_at"),
    *("health_score", "observed_generation"),
)
_BUMP: Final = bindparam("bump", type_=chips.c.revision.type)
_UPDATE_CHIP: Final = (
    update(chips)
    .where(chips.c.id == bindparam("chip_id"))
    .values(
        **{name: bindparam(name) for name in _COLUMNS},
        revision=chips.c.revision + _BUMP,
        updated_at=case((_BUMP == 1, func.clock_timestamp()), else_=chips.c.updated_at),
    )
)


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
