"""Providers of proxies, as operators make, change and remove them. Each act is in the audit log, no secret ever."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Select,
    Text,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.accounts import FieldError
from core.domain.actor import Actor
from core.domain.provider_rules import FIELD_NAMES, clean_slug, gateway_problems
from core.domain.providers import Template
from core.errors import Conflict, InvalidInput, NotFound
from core.provider_templates import templates
from core.store.audit import record_change
from core.store.engine import AlreadyThere, reading, transaction
from core.store.fleet_control import EVERYBODY
from core.store.month_usage import this_month
from core.store.notify import INTENTS, notify
from core.store.tables import labels, providers, proxy_usage, sub_users

_DEFAULT_LOCK: Final = 0x77_61_68_61_64_65_66  # any number that nothing else locks


class ProviderRow(msgspec.Struct, frozen=True):
    """A provider.

    Attributes:
        host, port: None = the template's own.
        cost_per_gb: R$ a GiB.
        trouble: an EgressError that concerns all of it, as it was last told.
        sub_users: how many there are. labels: live ones. room: how many more its enabled sub-users carry.
    """

    slug: str
    title: str
    template: str
    scheme: str
    host: str | None
    port: int | None
    country: str
    minutes: int
    cost_per_gb: Decimal
    enabled: bool
    is_default: bool
    trouble: str | None
    trouble_at: datetime | None
    created_at: datetime
    updated_at: datetime
    sub_users: int
    labels: int
    room: int


class ProviderWish(msgspec.Struct, frozen=True):
    """A new provider; every field in its stored form, a cost as text."""

    slug: str
    title: str
    template: str
    scheme: str
    host: str | None
    port: int | None
    country: str
    minutes: int
    cost_per_gb: str
    enabled: bool


async def list_providers(engine: AsyncEngine) -> tuple[ProviderRow, ...]:
    """All of them, by slug. Raises Unavailable."""
    async with reading(engine) as connection:
        return tuple(_row(row) for row in await connection.execute(_rows().order_by(providers.c.slug)))


async def read_provider(engine: AsyncEngine, slug: str) -> ProviderRow:
    """One of them. Raises NotFound (`provider_not_found`), Unavailable."""
    async with reading(engine) as connection:
        return await _read(connection, slug)


async def create_provider(engine: AsyncEngine, wish: ProviderWish, *, actor: Actor) -> ProviderRow:
    """Make one; the first that is enabled becomes the default.

    Raises InvalidInput for what its template does not take, Conflict (`provider_exists`), Unavailable.
    """
    template = known_template(wish.template)
    _refuse(gateway_problems(template, wish.scheme, wish.host, wish.port))
    values = msgspec.structs.asdict(wish)
    try:
        async with transaction(engine) as connection:
            await _alone(connection)
            chosen = await connection.scalar(select(exists().where(providers.c.is_default)))
            made = insert(providers).values(
                **{**values, "cost_per_gb": Decimal(wish.cost_per_gb)},
                is_default=wish.enabled and not chosen,
            )
            await connection.execute(made)
            await _changed(connection, actor, "provider.create", wish.slug, values)
            return await _read(connection, wish.slug)
    except AlreadyThere as error:
        raise Conflict(
            f"Já existe um provedor {wish.slug}; altere esse ou escolha outro nome.", code="provider_exists"
        ) from error


async def change_provider(
    engine: AsyncEngine, slug: str, changes: Mapping[str, Any], *, actor: Actor
) -> ProviderRow:
    """Change the given columns, each in its stored form. Its chips keep their labels.

    Raises NotFound (`provider_not_found`), InvalidInput for what its template does not take, Unavailable.
    """
    async with transaction(engine) as connection:
        before = await _locked(connection, slug)
        after = {name: changes.get(name, getattr(before, name)) for name in ("scheme", "host", "port")}
        _refuse(gateway_problems(known_template(before.template), **after))
        stored = dict(changes)
        if "cost_per_gb" in stored:
            stored["cost_per_gb"] = Decimal(stored["cost_per_gb"])
        told = {name: changes[name] for name in changes if stored[name] != getattr(before, name)}
        if told:
            changed = update(providers).where(providers.c.slug == slug)
            await connection.execute(changed.values(**stored, updated_at=func.clock_timestamp()))
            await _changed(connection, actor, "provider.change", slug, told)
        return await _read(connection, slug)


async def set_default(engine: AsyncEngine, slug: str, *, actor: Actor) -> ProviderRow:
    """Have new labels be this provider's; those that chips have stay where they are.

    Raises NotFound (`provider_not_found`), Conflict (`provider_disabled`), Unavailable.
    """
    async with transaction(engine) as connection:
        await _alone(connection)
        row = await _locked(connection, slug)
        if not row.enabled:
            raise Conflict(
                f"O provedor {slug} está desabilitado; habilite-o antes de torná-lo o padrão.",
                code="provider_disabled",
            )
        if not row.is_default:
            await connection.execute(update(providers).where(providers.c.is_default).values(is_default=False))
            await connection.execute(
                update(providers).where(providers.c.slug == slug).values(is_default=True)
            )
            await _changed(connection, actor, "provider.default", slug)
        return await _read(connection, slug)


async def clear_provider_trouble(engine: AsyncEngine, slug: str, *, actor: Actor) -> ProviderRow:
    """Forget what was last told against it, so that chips try again. Raises NotFound, Unavailable."""
    async with transaction(engine) as connection:
        row = await _locked(connection, slug)
        if row.trouble is not None:
            gone = update(providers).where(providers.c.slug == slug)
            await connection.execute(gone.values(trouble=None, trouble_at=None))
            await _changed(connection, actor, "provider.clear_trouble", slug, {"trouble": row.trouble})
        return await _read(connection, slug)


async def remove_provider(engine: AsyncEngine, slug: str, *, actor: Actor) -> None:
    """Remove one, with its sub-users. Labels of disconnected chips stay: they are moved when these come back.

    Raises NotFound (`provider_not_found`); Conflict (`provider_in_use`) while chips go out through it, and
    (`provider_has_usage`) when it carried traffic this month, whose cost nobody could tell any more; Unavailable.
    """
    async with transaction(engine) as connection:
        await _locked(connection, slug)
        row = await _read(connection, slug)
        if row.labels:
            raise Conflict(in_use(f"O provedor {slug}", row.labels), code="provider_in_use")
        used = exists().where(proxy_usage.c.provider_slug == slug, proxy_usage.c.month == this_month())
        if await connection.scalar(select(used)):
            raise Conflict(
                f"O provedor {slug} teve tráfego neste mês e o custo depende dele; "
                "desabilite-o agora e exclua-o no próximo mês.",
                code="provider_has_usage",
            )
        await connection.execute(delete(sub_users).where(sub_users.c.provider_slug == slug))
        await connection.execute(delete(providers).where(providers.c.slug == slug))
        await _changed(connection, actor, "provider.remove", slug, {"sub_users": row.sub_users})


def in_use(what: str, number: int) -> str:
    """Why something with live labels is not removed."""
    chips = "1 chip" if number == 1 else f"{number} chips"
    return f"{what} ainda atende {chips}; desabilite-o, espere os chips mudarem para outro e exclua-o depois."


def known_template(slug: str) -> Template:
    """Raises InvalidInput for one that there is not."""
    found = templates().get(slug)
    if found is None:
        _refuse(
            {"template": f"Não há o modelo {slug[:40]}; use um destes: {', '.join(sorted(templates()))}."}
        )
        raise AssertionError
    return found


def may_be_slug(text: str) -> bool:
    """Whether a path may name a provider: what cannot be one is an unknown one."""
    try:
        return clean_slug(text) == text
    except FieldError:
        return False


def unknown_provider() -> NotFound:
    return NotFound("Provedor não encontrado.", code="provider_not_found")


def _refuse(problems: Mapping[str, str]) -> None:
    if problems:
        detail = " | ".join(f"{FIELD_NAMES[name]}: {text}" for name, text in problems.items())
        raise InvalidInput(detail, fields=problems)


async def _alone(connection: AsyncConnection) -> None:
    # One of them is the default: who becomes it, or might be the first, waits for the others, before there is any row.
    await connection.execute(select(func.pg_advisory_xact_lock(_DEFAULT_LOCK)))


async def held(connection: AsyncConnection, slug: str) -> Row[Any]:
    """The provider's row, which stays until the transaction ends. Raises NotFound (`provider_not_found`)."""
    return await _locked(connection, slug, shared=True)


async def _locked(connection: AsyncConnection, slug: str, *, shared: bool = False) -> Row[Any]:
    query = select(providers).where(providers.c.slug == slug).with_for_update(read=shared)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise unknown_provider()
    return row


async def _read(connection: AsyncConnection, slug: str) -> ProviderRow:
    row = (await connection.execute(_rows().where(providers.c.slug == slug))).one_or_none()
    if row is None:
        raise unknown_provider()
    return _row(row)


async def _changed(
    connection: AsyncConnection, actor: Actor, action: str, slug: str, detail: Mapping[str, Any] | None = None
) -> None:
    await record_change(connection, actor, action, target=slug, detail=detail)
    await tell_daemons(connection, labels.c.provider_slug == slug)


async def tell_daemons(connection: AsyncConnection, whose: ColumnElement[bool]) -> None:
    """Have them look at whoever goes out through these labels, and at everybody who is on the way.

    Those may have to leave what they have; these may wait for what there is now. Readings that failed say nothing any
    more of what was changed, and nobody waits for the next one.
    """
    failed = update(labels).where(whose, labels.c.failure.is_not(None))
    await connection.execute(failed.values(checked_at=None, failure=None, failures=0, failing_since=None))
    concerned = select(labels.c.user_id).where(whose, labels.c.released_at.is_(None)).distinct().subquery()
    await connection.execute(select(func.pg_notify(INTENTS, cast(concerned.c.user_id, Text))))
    await notify(connection, INTENTS, EVERYBODY)


def _rows() -> Select[Any]:
    mine = sub_users.c.provider_slug == providers.c.slug
    live = labels.c.released_at.is_(None)
    count = select(func.count()).select_from(sub_users).where(mine).scalar_subquery()
    used = (
        select(func.count())
        .select_from(labels)
        .where(labels.c.provider_slug == providers.c.slug, live)
        .scalar_subquery()
    )
    of_one = (
        select(func.count()).select_from(labels).where(labels.c.sub_user_id == sub_users.c.id, live)
    ).scalar_subquery()
    free = func.greatest(sub_users.c.max_labels - of_one, 0)
    all_free = cast(func.coalesce(func.sum(free), 0), BigInteger)
    room = select(all_free).where(mine, sub_users.c.enabled).scalar_subquery()
    return select(
        providers,
        count.label("sub_users"),
        used.label("labels"),
        case((providers.c.enabled, room), else_=0).label("room"),
    )


def _row(row: Row[Any]) -> ProviderRow:
    return ProviderRow(**{name: getattr(row, name) for name in ProviderRow.__struct_fields__})
