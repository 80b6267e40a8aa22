"""What operators and users see of labels, exits and usage. Nothing is written here."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, Row, Select, case, cast, func, select, true
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.quota import GIB
from core.store.engine import reading
from core.store.month_usage import this_month
from core.store.tables import chips, exits, labels, plans, providers, proxy_usage, users
from core.store.upstreams import EXIT_KNOWN_S, ago, joined, unusable

SHARED_EXITS_LIMIT: Final = 200
_BYTES: Final = proxy_usage.c.bytes_in + proxy_usage.c.bytes_out


class ChipProxyRow(msgspec.Struct, frozen=True):
    """A chip's label and what is known of it; all None without one.

    Attributes:
        generation: of the label. requested_generation: beyond it when another one was asked for.
        unusable: why the label carries nothing now. failure: of the newest reading. Both are EgressErrors.
        bytes_this_month: both directions, through whichever provider.
    """

    provider: str | None
    country: str | None
    label: str | None
    generation: int | None
    requested_generation: int | None
    assigned_at: datetime | None
    released_at: datetime | None
    exit_ip: str | None
    exit_since: datetime | None
    unusable: str | None
    failure: str | None
    bytes_this_month: int


class ExitRow(msgspec.Struct, frozen=True):
    """One exit that a label of a chip had. `number` rises with each."""

    number: int
    provider: str
    label: str
    label_generation: int
    exit_ip: str
    seen_from: datetime
    seen_until: datetime
    why: str


class UsageFigures(msgspec.Struct, frozen=True):
    """`cost`: in R$; None when the provider is no more and with it its price."""

    provider: str
    bytes_in: int
    bytes_out: int
    tunnels: int
    cost: Decimal | None
    errors: dict[str, int] = {}


class UserUsage(msgspec.Struct, frozen=True):
    """What one user's chips used through each provider. `email`: None for an account that is no more."""

    user_id: str
    email: str | None
    figures: tuple[UsageFigures, ...]


class MonthUsage(msgspec.Struct, frozen=True):
    """A month of the fleet; `providers` is everybody's, `users` one page."""

    month: date
    providers: tuple[UsageFigures, ...]
    users: tuple[UserUsage, ...]


class SharedExitChip(msgspec.Struct, frozen=True):
    """A live chip whose exit another one has too."""

    exit_ip: str
    chip_id: str
    user_id: str
    alias: str
    provider: str
    label: str
    exit_since: datetime | None


async def chip_proxy(engine: AsyncEngine, chip_id: str) -> ChipProxyRow | None:
    """None for a deleted or an unknown chip; whose it is has been asked before. Raises Unavailable."""
    used = (
        select(func.coalesce(func.sum(_BYTES), 0))
        .where(proxy_usage.c.chip_id == chip_id, proxy_usage.c.month == this_month())
        .scalar_subquery()
    )
    query = (
        select(
            labels.c.provider_slug.label("provider"),
            providers.c.country,
            labels.c.label,
            labels.c.generation,
            labels.c.requested_generation,
            labels.c.assigned_at,
            labels.c.released_at,
            labels.c.exit_ip,
            labels.c.exit_since,
            case((labels.c.released_at.is_(None), unusable())).label("unusable"),
            labels.c.failure,
            cast(used, BigInteger).label("bytes_this_month"),
        )
        .select_from(chips.outerjoin(joined(), labels.c.chip_id == chips.c.id))
        .where(chips.c.id == chip_id, chips.c.deleted_at.is_(None))
    )
    async with reading(engine) as connection:
        row = (await connection.execute(query)).one_or_none()
    return None if row is None else ChipProxyRow(**row._mapping)


async def list_exits(
    engine: AsyncEngine, chip_id: str, *, before: int | None, limit: int
) -> tuple[ExitRow, ...]:
    """A chip's exits, newest first, those older than number `before`. Raises Unavailable."""
    query = (
        select(
            exits.c.id.label("number"),
            exits.c.provider_slug.label("provider"),
            exits.c.label,
            exits.c.label_generation,
            exits.c.exit_ip,
            exits.c.seen_from,
            exits.c.seen_until,
            exits.c.why,
        )
        .where(exits.c.chip_id == chip_id)
        .order_by(exits.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(exits.c.id < before)
    async with reading(engine) as connection:
        return tuple(ExitRow(**row._mapping) for row in await connection.execute(query))


async def usage_of_user(engine: AsyncEngine, user_id: str) -> tuple[int, Decimal, Decimal]:
    """This month's bytes, their cost in R$, and the GiB that the user's plan allows (0 = no limit).

    A provider that carried traffic this month cannot be removed, so every byte has its price. Raises Unavailable.
    """
    limit = (
        select(plans.c.proxy_gb_limit)
        .join_from(users, plans, users.c.plan_slug == plans.c.slug)
        .where(users.c.id == user_id)
    )
    used = _figures().where(proxy_usage.c.user_id == user_id, proxy_usage.c.month == this_month())
    async with reading(engine) as connection:
        found = [_read(row) for row in await connection.execute(used)]
        limit_gb: Decimal = (await connection.execute(limit)).scalar_one()
    cost = sum((one.cost for one in found if one.cost is not None), Decimal(0))
    return sum(one.bytes_in + one.bytes_out for one in found), cost, limit_gb


async def usage_of_month(
    engine: AsyncEngine, month: date | None, *, user_id: str | None, after: str | None, limit: int
) -> MonthUsage:
    """A month, this one by default; the users with usage, by id, `limit` of them behind `after`. Raises Unavailable.

    `user_id`: that user alone.
    """
    async with reading(engine) as connection:
        chosen = month or await connection.scalar(select(this_month()))
        assert chosen is not None
        in_month = proxy_usage.c.month == chosen
        mine = in_month if user_id is None else in_month & (proxy_usage.c.user_id == user_id)
        errors = await _errors(connection, mine)
        everybody = [
            msgspec.structs.replace(one, errors=errors.get(one.provider, {}))
            for one in [_read(row) for row in await connection.execute(_figures().where(mine))]
        ]
        page = select(proxy_usage.c.user_id).where(mine).distinct().order_by(proxy_usage.c.user_id)
        if after is not None:
            page = page.where(proxy_usage.c.user_id > after)
        ids = list((await connection.execute(page.limit(limit))).scalars())
        by_user = (
            _figures()
            .add_columns(proxy_usage.c.user_id)
            .where(in_month, proxy_usage.c.user_id.in_(ids))
            .group_by(proxy_usage.c.user_id)
        )
        figures: defaultdict[str, list[UsageFigures]] = defaultdict(list)
        for row in await connection.execute(by_user):
            figures[row.user_id].append(_read(row))
        named = select(users.c.id, users.c.email).where(users.c.id.in_(ids))
        emails = {row.id: row.email for row in await connection.execute(named)}
    shown = tuple(UserUsage(one, emails.get(one), tuple(figures[one])) for one in ids)
    return MonthUsage(chosen, tuple(everybody), shown)


def cut_to(found: MonthUsage, users_shown: int) -> MonthUsage:
    """The same month with its first users alone."""
    return msgspec.structs.replace(found, users=found.users[:users_shown])


async def shared_exits_on(connection: AsyncConnection) -> tuple[SharedExitChip, ...]:
    """Live chips that share an exit with another one, by exit, at most `SHARED_EXITS_LIMIT`."""
    live = labels.c.released_at.is_(None) & (labels.c.exit_at > ago(EXIT_KNOWN_S))
    shared = select(labels.c.exit_ip).where(live).group_by(labels.c.exit_ip).having(func.count() > 1)
    query = (
        select(
            labels.c.exit_ip,
            labels.c.chip_id,
            labels.c.user_id,
            chips.c.alias,
            labels.c.provider_slug.label("provider"),
            labels.c.label,
            labels.c.exit_since,
        )
        .join_from(labels, chips, chips.c.id == labels.c.chip_id)
        .where(live, labels.c.exit_ip.in_(shared))
        .order_by(labels.c.exit_ip, labels.c.exit_since, labels.c.chip_id)
        .limit(SHARED_EXITS_LIMIT)
    )
    return tuple(SharedExitChip(**row._mapping) for row in await connection.execute(query))


def _figures() -> Select[Any]:
    return (
        select(
            proxy_usage.c.provider_slug.label("provider"),
            cast(func.sum(proxy_usage.c.bytes_in), BigInteger).label("bytes_in"),
            cast(func.sum(proxy_usage.c.bytes_out), BigInteger).label("bytes_out"),
            cast(func.sum(proxy_usage.c.tunnels), BigInteger).label("tunnels"),
            func.max(providers.c.cost_per_gb).label("cost_per_gb"),
        )
        .join_from(proxy_usage, providers, providers.c.slug == proxy_usage.c.provider_slug, isouter=True)
        .group_by(proxy_usage.c.provider_slug)
        .order_by(proxy_usage.c.provider_slug)
    )


def _read(row: Row[Any]) -> UsageFigures:
    used: int = row.bytes_in + row.bytes_out
    cost = None if row.cost_per_gb is None else row.cost_per_gb * used / GIB
    return UsageFigures(row.provider, row.bytes_in, row.bytes_out, row.tunnels, cost)


async def _errors(connection: AsyncConnection, which: Any) -> dict[str, dict[str, int]]:
    """Refused tunnels by provider and reason."""
    told = func.jsonb_each_text(proxy_usage.c.errors).table_valued("key", "value")
    query = (
        select(
            proxy_usage.c.provider_slug, told.c.key, func.sum(cast(told.c.value, BigInteger)).label("number")
        )
        .select_from(proxy_usage)
        .join(told, onclause=true())
        .where(which)
        .group_by(proxy_usage.c.provider_slug, told.c.key)
        .order_by(proxy_usage.c.provider_slug, told.c.key)
    )
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in await connection.execute(query):
        found[row.provider_slug][row.key] = int(row.number)
    return found
