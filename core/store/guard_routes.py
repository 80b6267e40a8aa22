"""What the chips of granted allocations go out through, as their host's guard is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ARRAY, and_, any_, bindparam, select
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Route
from core.domain.routes import NoRoute
from core.domain.usage_rules import left_bytes
from core.store.direct import Prepared, statements
from core.store.month_usage import used_bytes
from core.store.schema import Id
from core.store.tables import chips, labels, placements, plans, providers, sub_users, users
from core.store.upstreams import UPSTREAM_COLUMNS, OpenPassword, gone, upstream_of


async def read(
    engine: AsyncEngine, node_id: str, allocation_ids: Sequence[str], opened: OpenPassword
) -> tuple[Route, ...]:
    """A route of each chip of these allocations of the node, of those that are deleted as well: they say goodbye.

    In the order of allocation and chip. Trouble of a provider closes nothing: whoever runs goes on trying, and shows
    when it ends. Raises Unavailable, SecretUnreadable.
    """
    if not allocation_ids:
        return ()
    values = {"node_id": node_id, "allocation_ids": sorted(allocation_ids)}
    async with statements(engine) as connection:
        quotas = {row.id: row for row in await connection.execute(_QUOTAS, values)}
        rows = (await connection.execute(_ROUTES, values)).all()
    left = {id_: left_bytes(row.proxy_gb_limit, row.used) for id_, row in quotas.items()}
    return tuple(_route(row, left.get(row.user_id), opened) for row in rows)


def _route(row: Any, quota_left: int | None, opened: OpenPassword) -> Route:
    upstream = NoRoute(EgressError.NO_UPSTREAM) if row.is_gone else upstream_of(row, opened)
    route = Route(
        allocation_id=row.allocation_id,
        user_id=row.user_id,
        chip_id=row.chip_id,
        label_generation=row.generation or 0,
        label=row.label or "",
        upstream=None,
        quota_left_bytes=quota_left,
    )
    if isinstance(upstream, NoRoute):
        return msgspec.structs.replace(route, why=upstream.why)
    return msgspec.structs.replace(route, upstream=upstream, sub_user_id=row.sub_user_id)


def _asked() -> Any:
    return and_(
        placements.c.allocation_id == any_(bindparam("allocation_ids", type_=ARRAY(Id))),
        placements.c.node_id == bindparam("node_id", type_=Id),
    )


_ROUTES = Prepared(
    select(
        placements.c.allocation_id,
        placements.c.user_id,
        chips.c.id.label("chip_id"),
        labels.c.generation,
        labels.c.sub_user_id,
        gone().label("is_gone"),
        *UPSTREAM_COLUMNS,
    )
    .join_from(placements, chips, chips.c.user_id == placements.c.user_id)
    .outerjoin(labels, labels.c.chip_id == chips.c.id)
    .outerjoin(providers, providers.c.slug == labels.c.provider_slug)
    .outerjoin(
        sub_users,
        and_(sub_users.c.id == labels.c.sub_user_id, sub_users.c.provider_slug == labels.c.provider_slug),
    )
    .where(_asked())
    .order_by(placements.c.allocation_id, chips.c.id)
)

_QUOTAS = Prepared(
    select(users.c.id, plans.c.proxy_gb_limit, used_bytes(users.c.id).label("used"))
    .join(plans, plans.c.slug == users.c.plan_slug)
    .where(
        users.c.id.in_(select(placements.c.user_id).where(_asked())),
        plans.c.proxy_gb_limit > 0,
    )
)
