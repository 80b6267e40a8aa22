"""The statements of a status write, built and compiled once: that takes longer than PostgreSQL needs to answer."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    JSON,
    Integer,
    Select,
    Text,
    all_,
    and_,
    any_,
    bindparam,
    case,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    type_coerce,
    union,
    update,
)

from core.domain.events import STATUS_CHANGE
from core.domain.health import DROP_WINDOW
from core.domain.states import ChipPhase, ChipStatusWord
from core.store import leases
from core.store.direct import Prepared
from core.store.tables import chip_events, chips, containers, evidence, looks, users
from core.store.tables import placements as placement_rows
from core.store.tables import port_ledger as ledger_rows

# A drop of the connection counts for the health score; these phases are the owner's own doing.
_WISHED: Final = (ChipPhase.DISCONNECTING, ChipPhase.DISCONNECTED, ChipPhase.DELETING)
EVENTS_LOOKED_AT: Final = 50


def _drops() -> Any:
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
        newest.c.code != all_(literal([phase.value for phase in _WISHED], ARRAY(Text))),
        newest.c.extra_data["from"].astext == connected,
        newest.c.extra_data["to"].astext != connected,
    )
    return drops.scalar_subquery()


def _entries() -> Any:
    """The open entries of these allocations and on these ports."""
    ids = bindparam("allocations", type_=ARRAY(ledger_rows.c.allocation_id.type))
    addresses = bindparam("addresses", type_=ARRAY(Text))
    ports = bindparam("ports", type_=ARRAY(Integer))
    place = func.unnest(addresses, ports).table_valued("address", "port").render_derived("place")
    still_open = ledger_rows.c.closed_at.is_(None)
    columns = [ledger_rows.c[name] for name in ("user_id", "allocation_id", "address", "port")]
    found = union(
        select(*columns).where(still_open, ledger_rows.c.allocation_id == any_(ids)),
        select(*columns).join(
            place,
            and_(still_open, ledger_rows.c.address == place.c.address, ledger_rows.c.port == place.c.port),
        ),
    ).subquery("found")
    listed = func.json_build_array(found.c.user_id, found.c.allocation_id, found.c.address, found.c.port)
    return func.coalesce(select(func.json_agg(listed)).scalar_subquery(), literal_column("'[]'::json"))


_CHIP_COLUMNS: Final = (
    *("id", "wanted", "generation", "phase", "reason", "status", "status_since", "waha_status"),
    *("phone_number", "push_name", "connected_at", "last_activity_at", "unlinked_generation"),
    *("tries_generation", "tries_failures", "tries_qr_rounds", "tries_last_at"),
    *("health_score", "observed_generation", "memory", "waiting_since", "starts_at"),
)


def _standing() -> Select[Any]:
    current = and_(placement_rows.c.user_id == containers.c.user_id, placement_rows.c.is_current)
    return (
        select(
            *_STORED,
            placement_rows.c.epoch,
            placement_rows.c.allocation_id.label("current_allocation"),
            leases.is_ours().label("is_ours"),
            func.clock_timestamp().label("now"),
            type_coerce(_entries(), JSON).label("entries"),
            looks.c.digest.label("look_digest"),
            evidence.c.digest.label("evidence_digest"),
            # Read where it will be replaced alone: it is the one large column here.
            case((evidence.c.digest != bindparam("evidence_digest"), evidence.c.body)).label("evidence_body"),
            *(chips.c[name].label(f"chip_{name}") for name in _CHIP_COLUMNS),
            _drops().label("chip_drops"),
        )
        .select_from(containers)
        .outerjoin(placement_rows, current)
        .outerjoin(evidence, evidence.c.user_id == containers.c.user_id)
        .outerjoin(looks, looks.c.user_id == containers.c.user_id)
        .outerjoin(chips, chips.c.user_id == containers.c.user_id)
        .where(containers.c.user_id == bindparam("user_id"))
        .order_by(chips.c.id)
    )


_STORED: Final = tuple(
    containers.c[name]
    for name in (
        *("generation", "phase", "reason", "status_since", "allocation_id", "node_name", "address", "port"),
        *("endpoint_address", "endpoint_port", "endpoint_allocation_id", "empty_since"),
        *("observed_generation", "observed_at", "looked_at", "at_rest", "isolated_at", "key_renewed_for"),
        *("restarted_generation", "restart_mark"),
    )
)


# Built once: putting such a statement together takes longer than PostgreSQL needs to answer it.
STANDING: Final = Prepared(_standing())
_RELEASED: Final = bindparam("released", type_=ARRAY(ledger_rows.c.allocation_id.type))
LOCK_USER: Final = Prepared(
    select(users.c.id).where(users.c.id == bindparam("user_id")).with_for_update(read=True, key_share=True)
)
# A write that ends other users' entries changes their rows too. Two passes that took over each other's port
# would wait for each other for ever, were these not all taken in one order before anything is written.
LOCK_CONTAINERS: Final = Prepared(
    select(containers.c.user_id)
    .where(
        or_(
            containers.c.user_id == bindparam("user_id", type_=containers.c.user_id.type),
            containers.c.endpoint_allocation_id == any_(_RELEASED),
            containers.c.user_id.in_(
                select(ledger_rows.c.user_id).where(ledger_rows.c.allocation_id == any_(_RELEASED))
            ),
        )
    )
    .order_by(containers.c.user_id)
    .with_for_update(key_share=True)
)
LOCK_CHIPS: Final = Prepared(
    select(chips.c.id)
    .where(chips.c.user_id == bindparam("user_id"))
    .order_by(chips.c.id)
    .with_for_update(key_share=True)
)
# The one write into another user's row: from now on another's container answers on that port. Only behind
# LOCK_CONTAINERS.
WITHDRAW: Final = Prepared(
    update(containers)
    .where(
        containers.c.user_id.is_distinct_from(bindparam("whose", type_=containers.c.user_id.type)),
        containers.c.endpoint_allocation_id == any_(_RELEASED),
    )
    .values(endpoint_address=None, endpoint_port=None, endpoint_allocation_id=None, at_rest=False)
    .returning(containers.c.user_id, func.pg_notify(bindparam("channel"), cast(containers.c.user_id, Text)))
)
