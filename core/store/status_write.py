"""The one statement that a status write mostly is: a pass writes several times, and each statement is a round trip.

Its parts happen together and see the same moment, so what has to come after another is made to depend on it: all
on the container's row, which is locked with the lease and the user behind it; events on their chip's row, since
the ids of one chip's events must be committed in their order (streams go on from them); the lease's end on all.

A user's first placement and the entry of its port fit in too: no row is there that has to change before. Where one is,
an index refuses the whole statement, and nothing of it was written.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Integer,
    Select,
    Table,
    Text,
    bindparam,
    case,
    cast,
    column,
    exists,
    func,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert

from core.store import leases
from core.store.direct import Prepared, json_rows
from core.store.tables import (
    chip_events,
    chips,
    containers,
    evidence,
    looks,
    placements,
    port_ledger,
    users,
)

CONTAINER_VALUES: Final = (
    *("phase", "reason", "status_since", "allocation_id", "node_name", "address", "port"),
    *("endpoint_address", "endpoint_port", "endpoint_allocation_id", "empty_since"),
    *("observed_generation", "observed_at", "looked_at", "at_rest", "isolated_at", "key_renewed_for"),
    *("restarted_generation", "restart_mark"),
)
CHIP_VALUES: Final = (
    *("phase", "reason", "status", "status_since", "waha_status", "phone_number", "push_name"),
    *("connected_at", "last_activity_at", "unlinked_generation"),
    *("tries_generation", "tries_failures", "tries_qr_rounds", "tries_last_at"),
    *("health_score", "observed_generation", "memory", "waiting_since", "starts_at"),
)
_EVENT: Final = ("chip_id", "user_id", "generation", "type", "code", "description", "extra_data")


def _container() -> Any:
    owner = select(users.c.id).where(users.c.id == bindparam("whose"))
    # Foreign keys look at this row: taken here, in the order in which wishes take it too.
    known = owner.with_for_update(read=True, key_share=True).cte("owner")
    held = leases.held()
    told = case(
        (
            bindparam("news", type_=Boolean),
            cast(func.pg_notify(bindparam("channel"), bindparam("whose", type_=Text)), Text),
        )
    )
    return (
        update(containers)
        .where(
            containers.c.user_id == bindparam("whose"),
            containers.c.generation == bindparam("rests_on"),
            exists(select(held.c.key)),
            exists(select(known.c.id)),
        )
        .values({name: bindparam(name) for name in CONTAINER_VALUES})
        .returning(containers.c.user_id, told.label("told"))
        .cte("container")
    )


def _kept(table: Table, container: Any) -> Any:
    """The row of evidence, or of the look; none without a digest."""
    name = table.name
    digest = bindparam(f"{name}_digest", type_=table.c.digest.type)
    values = (
        container.c.user_id,
        bindparam(f"{name}_at", type_=table.c.observed_at.type),
        digest,
        cast(bindparam(f"{name}_body", type_=Text), JSONB),
    )
    columns = ("user_id", "observed_at", "digest", "body")
    made = upsert(table).from_select(columns, select(*values).where(digest.is_not(None)))
    moved = {one: made.excluded[one] for one in columns[1:]}
    return made.on_conflict_do_update(index_elements=[table.c.user_id], set_=moved).cte(f"kept_{name}")


def _chips(container: Any) -> Any:
    columns = (column(name, chips.c[name].type) for name in CHIP_VALUES)
    moved = json_rows(
        "chips", (column("chip_id", chips.c.id.type), column("bump", Integer), *columns), "moved"
    )
    return (
        update(chips)
        .where(chips.c.id == moved.c.chip_id, _is_written(container))
        .values(
            **{name: moved.c[name] for name in CHIP_VALUES},
            revision=chips.c.revision + moved.c.bump,
            updated_at=case((moved.c.bump == 1, func.clock_timestamp()), else_=chips.c.updated_at),
        )
        .returning(chips.c.id)
        .cte("written_chips")
    )


def _events(written: Any) -> Any:
    told = json_rows("events", (column(name, chip_events.c[name].type) for name in _EVENT), "events")
    found = select(*(told.c[name] for name in _EVENT)).join_from(
        told, written, written.c.id == told.c.chip_id
    )
    return insert(chip_events).from_select(_EVENT, found).cte("written_events")


def _placed(container: Any) -> Any:
    """The first placement that is current, with the next epoch; none without an allocation."""
    allocation = bindparam("placed_allocation", type_=placements.c.allocation_id.type)
    mine = placements.c.user_id == bindparam("whose")
    epoch = select(func.coalesce(func.max(placements.c.epoch), 0) + 1).where(mine).scalar_subquery()
    values = {
        "user_id": container.c.user_id,
        "allocation_id": allocation,
        "node_id": bindparam("placed_node_id", type_=placements.c.node_id.type),
        "node_name": bindparam("placed_node_name", type_=Text),
        "epoch": epoch,
        "is_current": true(),
    }
    made = insert(placements).from_select(
        list(values), select(*values.values()).where(allocation.is_not(None))
    )
    return made.returning(placements.c.epoch).cte("placed")


def _opened(container: Any) -> Any:
    """The ledger's entry of one port; none without an allocation."""
    allocation = bindparam("opened_allocation", type_=port_ledger.c.allocation_id.type)
    values = {
        "user_id": container.c.user_id,
        "allocation_id": allocation,
        "address": bindparam("opened_address", type_=Text),
        "port": bindparam("opened_port", type_=Integer),
    }
    found = select(*values.values()).where(allocation.is_not(None))
    return insert(port_ledger).from_select(list(values), found).cte("opened")


def _is_written(container: Any) -> ColumnElement[bool]:
    return exists(select(container.c.user_id))


def _write(*, places: bool) -> Select[Any]:
    container = _container()
    written = _chips(container)
    freed = leases.freed_after(_is_written(container), bindparam("frees", type_=Boolean))
    count = select(func.count()).select_from(freed).scalar_subquery()
    told = [container.c.user_id, container.c.told, count.label("freed")]
    parts = [_kept(evidence, container), _kept(looks, container), written, _events(written)]
    if places:
        placed = _placed(container)
        told.append(select(placed.c.epoch).scalar_subquery().label("epoch"))
        parts += [placed, _opened(container)]
    return select(*told).add_cte(*parts)


WRITE: Final = Prepared(_write(places=False))
WRITE_FIRST_PLACE: Final = Prepared(_write(places=True))
