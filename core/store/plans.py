"""Plans: what an account may have. Written by operators alone."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.actor import Actor
from core.errors import InvalidInput
from core.store.audit import record_change
from core.store.engine import reading, transaction
from core.store.tables import plans, users

# Of a plan that says nothing of it: as the plans that a new store begins with.
DEFAULTS: Final[Mapping[str, Any]] = {
    "api_access": False,
    "cpu_mhz": 200,
    "memory_mb": 300,
    "memory_max_mb": 1024,
    "proxy_gb_limit": Decimal(0),
    "start_order": 20,
}
# Daemons look at whoever has a container on the plan.
_TELL: Final = text(
    "SELECT pg_notify('intents', c.user_id::text) FROM containers c JOIN users u ON u.id = c.user_id "
    "WHERE u.plan_slug = :slug"
)


class PlanRow(msgspec.Struct, frozen=True):
    """A plan.

    Attributes:
        title: what people see. api_access: whether its users may have API keys.
        cpu_mhz, memory_mb, memory_max_mb: of a container. proxy_gb_limit: GiB a month, 0 = no limit.
        start_order: lower starts first. users: how many are on it.
    """

    slug: str
    title: str
    max_chips: int
    api_access: bool
    cpu_mhz: int
    memory_mb: int
    memory_max_mb: int
    proxy_gb_limit: Decimal
    start_order: int
    users: int


async def list_plans(engine: AsyncEngine) -> tuple[PlanRow, ...]:
    """All plans, those with fewer chips first. Raises Unavailable."""
    count = select(func.count()).select_from(users).where(users.c.plan_slug == plans.c.slug).scalar_subquery()
    query = select(plans, count.label("users")).order_by(plans.c.max_chips, plans.c.slug)
    async with reading(engine) as connection:
        rows = (await connection.execute(query)).all()
    return tuple(PlanRow(**{name: getattr(row, name) for name in PlanRow.__struct_fields__}) for row in rows)


async def set_plan(engine: AsyncEngine, slug: str, changes: Mapping[str, Any], *, actor: Actor) -> bool:
    """Change the given columns of a plan, or make it when there is none; True when it was made.

    Raises InvalidInput for a new plan without `title` or `max_chips`, and for less memory at most than at least;
    Unavailable.
    """
    async with transaction(engine) as connection:
        found = (
            (await connection.execute(select(plans).where(plans.c.slug == slug).with_for_update()))
            .mappings()
            .one_or_none()
        )
        if found is None and not {"title", "max_chips"} <= changes.keys():
            raise InvalidInput("Um plano novo precisa de nome e limite de chips.", code="unknown_plan")
        after = {**DEFAULTS, **(found or {}), **changes}
        if after["memory_max_mb"] < after["memory_mb"]:
            raise InvalidInput("A memória máxima não pode ser menor que a reservada.")
        if found is None:
            made = insert(plans).values(slug=slug, **{**DEFAULTS, **changes})
            await connection.execute(made)
        elif changes:
            await connection.execute(update(plans).where(plans.c.slug == slug).values(**changes))
            await connection.execute(_TELL, {"slug": slug})
        asked = {name: str(value) if isinstance(value, Decimal) else value for name, value in changes.items()}
        await record_change(connection, actor, "plan.set", target=slug, detail=asked)
    return found is None
