"""Labels of chips and what was seen through them; the rules are those of `ReconcileStore`.

All labels are given one after another, under a lock of the providers: so nobody counts a sub-user's labels while
another one comes, and no two chips get the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from sqlalchemy import and_, case, exists, func, insert, null, select, update
from sqlalchemy.dialects.postgresql import insert as insert_or_update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain import labels as label_rules
from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Upstream
from core.domain.label_plan import Give, Held, Keep, ProviderStanding, SubUserStanding, label_plan
from core.domain.providers import Template
from core.domain.routes import ChipRoute, LabelWhy, NoRoute, Reading
from core.errors import StaleWrite
from core.provider_templates import templates
from core.store import leases
from core.store.engine import SYSTEM, reading, transaction
from core.store.interface import Lease
from core.store.tables import chips, exits, labels, providers, sub_users
from core.store.upstreams import (
    UPSTREAM_COLUMNS,
    OpenPassword,
    encoded_routes,
    joined,
    route_of,
    trouble_of,
    unusable,
    upstream_of,
)

_CLOCK = func.clock_timestamp()
# A ledger line that another exit of the same label began: by the provider's doing.
PROVIDER_CHANGED_IT = "provider"


async def assign(
    engine: AsyncEngine, lease: Lease, chip_id: str, why: LabelWhy, secret: bytes
) -> ChipRoute | NoRoute:
    """See `ReconcileStore.assign_label`. `secret`: what labels are made from."""
    if not secret:
        raise ValueError("labels are made from a secret, and there is none")
    async with transaction(engine) as connection:
        await leases.guard(connection, lease)
        # Before the chip, as whoever counts usage does.
        made_with = await _locked_templates(connection)
        owned = select(chips.c.id).where(chips.c.id == chip_id, chips.c.user_id == lease.key)
        if (await connection.execute(owned.with_for_update(key_share=True))).one_or_none() is None:
            raise StaleWrite(SYSTEM, f"chip {chip_id} is no chip of the lease's user")
        held = await _held(connection, chip_id)
        plan = label_plan(held, await _providers(connection), await _sub_users(connection, chip_id))
        if isinstance(plan, Keep):
            kept = update(labels).where(labels.c.chip_id == chip_id)
            # Whoever has its exit by now had it before.
            await connection.execute(kept.values(released_at=None, exit_since=_CLOCK))
        elif isinstance(plan, Give):
            label = await _free_label(connection, chip_id, plan, made_with, secret)
            if label is None:
                return NoRoute(EgressError.NO_UPSTREAM)
            await connection.execute(_given(lease.key, chip_id, plan, label, why))
        else:
            return plan
        found = await connection.scalar(encoded_routes().where(labels.c.chip_id == chip_id))
    route = route_of(found)
    assert route is not None
    return route


async def release(engine: AsyncEngine, lease: Lease, chip_id: str) -> None:
    """See `ReconcileStore.release_label`."""
    async with transaction(engine) as connection:
        await leases.guard(connection, lease)
        live = and_(
            labels.c.chip_id == chip_id, labels.c.user_id == lease.key, labels.c.released_at.is_(None)
        )
        await connection.execute(update(labels).where(live).values(released_at=_CLOCK))


async def upstream(engine: AsyncEngine, chip_id: str, opened: OpenPassword) -> Upstream | NoRoute:
    """See `ReconcileStore.upstream`."""
    query = select(*UPSTREAM_COLUMNS, unusable().label("unusable")).select_from(joined())
    async with reading(engine) as connection:
        row = (await connection.execute(query.where(labels.c.chip_id == chip_id))).one_or_none()
    if row is None:
        return NoRoute(EgressError.NO_UPSTREAM)
    if row.unusable is not None:
        return NoRoute(EgressError(row.unusable))
    return upstream_of(row, opened)


async def record_reading(
    engine: AsyncEngine, lease: Lease, chip_id: str, generation: int, seen: Reading
) -> None:
    """See `ReconcileStore.record_reading`."""
    values: dict[str, Any] = {"checked_at": _CLOCK}
    if seen.exit_ip is not None:
        same = labels.c.exit_ip == seen.exit_ip
        values |= {
            "exit_ip": seen.exit_ip,
            "exit_at": _CLOCK,
            "exit_since": case((same, labels.c.exit_since), else_=_CLOCK),
            "failure": null(),
            "failures": 0,
            "failing_since": null(),
        }
    else:
        values |= {
            "failure": (seen.failure or EgressError.PROXY_UNREACHABLE).value,
            "failures": labels.c.failures + 1,
            "failing_since": func.coalesce(labels.c.failing_since, _CLOCK),
        }
    changed = (
        update(labels)
        .where(
            labels.c.chip_id == chip_id,
            labels.c.user_id == lease.key,
            labels.c.generation == generation,
            labels.c.released_at.is_(None),
        )
        .values(values)
        .returning(*labels.c)
    )
    async with transaction(engine) as connection:
        await leases.guard(connection, lease)
        row = (await connection.execute(changed)).one_or_none()
        if row is not None and seen.exit_ip is not None:
            await _note_exit(connection, row)


async def _note_exit(connection: AsyncConnection, row: Any) -> None:
    newest = select(exits.c.id, exits.c.label_generation, exits.c.provider_slug, exits.c.exit_ip).where(
        exits.c.chip_id == row.chip_id
    )
    before = (await connection.execute(newest.order_by(exits.c.id.desc()).limit(1))).one_or_none()
    same_label = before is not None and (before.label_generation, before.provider_slug) == (
        row.generation,
        row.provider_slug,
    )
    if before is not None and same_label and before.exit_ip == row.exit_ip:
        moved = update(exits).where(exits.c.id == before.id).values(seen_until=row.exit_at)
        await connection.execute(moved)
        return
    await connection.execute(
        insert(exits).values(
            chip_id=row.chip_id,
            user_id=row.user_id,
            provider_slug=row.provider_slug,
            label=row.label,
            label_generation=row.generation,
            exit_ip=row.exit_ip,
            seen_from=row.exit_at,
            seen_until=row.exit_at,
            why=PROVIDER_CHANGED_IT if same_label else row.why,
        )
    )


async def _locked_templates(connection: AsyncConnection) -> Mapping[str, str]:
    """The template of each provider, whose rows stay locked."""
    locked = select(providers.c.slug, providers.c.template).order_by(providers.c.slug)
    rows = await connection.execute(locked.with_for_update(key_share=True))
    return {row.slug: row.template for row in rows}


async def _held(connection: AsyncConnection, chip_id: str) -> Held | None:
    query = select(labels).where(labels.c.chip_id == chip_id).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    return Held(
        provider=row.provider_slug,
        sub_user_id=row.sub_user_id,
        generation=row.generation,
        released=row.released_at is not None,
        requested=row.requested_generation > row.generation,
        taken=await _is_taken(connection, chip_id, row.provider_slug, row.label),
    )


async def _providers(connection: AsyncConnection) -> list[ProviderStanding]:
    query = select(
        providers.c.slug, providers.c.enabled, providers.c.is_default, trouble_of(providers).label("trouble")
    )
    return [
        ProviderStanding(row.slug, row.enabled, row.is_default, _error(row.trouble))
        for row in await connection.execute(query)
    ]


async def _sub_users(connection: AsyncConnection, chip_id: str) -> list[SubUserStanding]:
    live = (
        select(func.count())
        .select_from(labels)
        .where(
            labels.c.sub_user_id == sub_users.c.id,
            labels.c.released_at.is_(None),
            labels.c.chip_id != chip_id,
        )
        .scalar_subquery()
    )
    query = select(
        sub_users.c.id,
        sub_users.c.provider_slug,
        sub_users.c.enabled,
        sub_users.c.max_labels,
        live.label("live"),
        trouble_of(sub_users).label("trouble"),
    )
    return [
        SubUserStanding(row.id, row.provider_slug, row.enabled, row.live, row.max_labels, _error(row.trouble))
        for row in await connection.execute(query.order_by(sub_users.c.id))
    ]


async def _free_label(
    connection: AsyncConnection, chip_id: str, plan: Give, made_with: Mapping[str, str], secret: bytes
) -> tuple[int, str] | None:
    template = templates().get(made_with[plan.provider])
    if template is None:
        return None
    for generation in itertools.count(plan.generation):
        label = _cut(label_rules.label(secret, chip_id, generation), template)
        if label is None:
            return None
        if not await _is_taken(connection, chip_id, plan.provider, label):
            return generation, label
    raise AssertionError("generations never end")


async def _is_taken(connection: AsyncConnection, chip_id: str, provider: str, label: str) -> bool:
    taken = exists().where(
        labels.c.provider_slug == provider,
        labels.c.label == label,
        labels.c.released_at.is_(None),
        labels.c.chip_id != chip_id,
    )
    return bool(await connection.scalar(select(taken)))


def _cut(label: str, template: Template) -> str | None:
    try:
        return label_rules.cut(label, template)
    except ValueError:
        return None


def _given(user_id: str, chip_id: str, plan: Give, made: tuple[int, str], why: LabelWhy) -> Any:
    values: dict[str, Any] = {
        "provider_slug": plan.provider,
        "sub_user_id": plan.sub_user_id,
        "generation": made[0],
        "label": made[1],
        "why": why.value,
        "assigned_at": _CLOCK,
        "released_at": null(),
        "exit_ip": null(),
        "exit_since": null(),
        "exit_at": null(),
        "checked_at": null(),
        "failure": null(),
        "failures": 0,
        "failing_since": null(),
    }
    made_row = insert_or_update(labels).values(chip_id=chip_id, user_id=user_id, **values)
    return made_row.on_conflict_do_update(index_elements=[labels.c.chip_id], set_=values)


def _error(value: str | None) -> EgressError | None:
    return None if value is None else EgressError(value)
