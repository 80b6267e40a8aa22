"""Logins at providers, as operators make, change and remove them. Passwords come in, are sealed, and stay."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.crypto import Sealer
from core.domain.actor import Actor
from core.domain.labels import LENGTH
from core.domain.provider_rules import FIELD_NAMES, max_labels_of, said
from core.domain.providers import CredentialRefused, SubUser, Unusable, credential
from core.errors import Conflict, InvalidInput, NotFound
from core.store.audit import record_change
from core.store.engine import AlreadyThere, reading, transaction
from core.store.providers_admin import held, in_use, known_template, read_provider, tell_daemons
from core.store.tables import labels, sub_users

# As long as one is before its template cuts it.
_ANY_LABEL: Final = "0" * LENGTH


class SubUserRow(msgspec.Struct, frozen=True):
    """A login without its password. `labels`: live ones, of at most `max_labels`."""

    id: str
    provider_slug: str
    login: str
    max_labels: int
    labels: int
    enabled: bool
    trouble: str | None
    trouble_at: datetime | None
    created_at: datetime


async def list_sub_users(engine: AsyncEngine, slug: str) -> tuple[SubUserRow, ...]:
    """A provider's, by login. Raises NotFound (`provider_not_found`), Unavailable."""
    await read_provider(engine, slug)
    query = _rows().where(sub_users.c.provider_slug == slug).order_by(sub_users.c.login)
    async with reading(engine) as connection:
        return tuple(_row(row) for row in await connection.execute(query))


async def create_sub_user(
    engine: AsyncEngine,
    sealer: Sealer,
    slug: str,
    sub_user: SubUser,
    *,
    max_labels: int | None,
    enabled: bool,
    actor: Actor,
) -> SubUserRow:
    """Make one; `max_labels` None = as many as the template's tunnels allow.

    Raises NotFound (`provider_not_found`), InvalidInput for a login that the provider would not understand,
    Conflict (`sub_user_exists`), Unavailable.
    """
    new_id = str(uuid.uuid4())
    try:
        async with transaction(engine) as connection:
            provider = await held(connection, slug)
            _refuse_unusable(provider, sub_user)
            most = max_labels or max_labels_of(known_template(provider.template))
            await connection.execute(
                insert(sub_users).values(
                    id=new_id,
                    provider_slug=slug,
                    login=sub_user.login,
                    sealed_password=sealer.seal(sub_user.password),
                    max_labels=most,
                    enabled=enabled,
                )
            )
            told = {"provider": slug, "login": sub_user.login, "max_labels": most, "enabled": enabled}
            await _changed(connection, actor, "sub_user.create", new_id, told)
            return await _read(connection, slug, new_id)
    except AlreadyThere as error:
        raise Conflict(
            f"O provedor {slug} já tem o login {sub_user.login}; altere esse sub-usuário.",
            code="sub_user_exists",
        ) from error


async def change_sub_user(
    engine: AsyncEngine,
    sealer: Sealer,
    slug: str,
    sub_user_id: str,
    changes: Mapping[str, Any],
    *,
    actor: Actor,
) -> SubUserRow:
    """Change any of `password`, `max_labels` and `enabled`. A new password ends what was told against the login.

    Raises NotFound (`provider_not_found`, `sub_user_not_found`), InvalidInput for a password that the provider would
    not understand, Unavailable.
    """
    async with transaction(engine) as connection:
        provider = await held(connection, slug)
        before = await _locked(connection, slug, sub_user_id)
        stored = {name: changes[name] for name in ("max_labels", "enabled") if name in changes}
        told = {name: value for name, value in stored.items() if value != getattr(before, name)}
        if "password" in changes:
            _refuse_unusable(provider, SubUser(before.login, changes["password"]))
            stored |= {
                "sealed_password": sealer.seal(changes["password"]),
                "trouble": None,
                "trouble_at": None,
            }
            told["password"] = "changed"  # noqa: S105 - a word, for the audit log
        if told:
            await connection.execute(update(sub_users).where(sub_users.c.id == sub_user_id).values(**stored))
            told |= {"provider": slug, "login": before.login}
            await _changed(connection, actor, "sub_user.change", sub_user_id, told)
        return await _read(connection, slug, sub_user_id)


async def clear_sub_user_trouble(
    engine: AsyncEngine, slug: str, sub_user_id: str, *, actor: Actor
) -> SubUserRow:
    """Forget what was last told against it, so that chips try again. Raises NotFound, Unavailable."""
    async with transaction(engine) as connection:
        before = await _locked(connection, slug, sub_user_id)
        if before.trouble is not None:
            gone = update(sub_users).where(sub_users.c.id == sub_user_id)
            await connection.execute(gone.values(trouble=None, trouble_at=None))
            told = {"provider": slug, "login": before.login, "trouble": before.trouble}
            await _changed(connection, actor, "sub_user.clear_trouble", sub_user_id, told)
        return await _read(connection, slug, sub_user_id)


async def remove_sub_user(engine: AsyncEngine, slug: str, sub_user_id: str, *, actor: Actor) -> None:
    """Remove one. Raises NotFound; Conflict (`sub_user_in_use`) while chips go out through it; Unavailable."""
    async with transaction(engine) as connection:
        before = await _locked(connection, slug, sub_user_id)
        row = await _read(connection, slug, sub_user_id)
        if row.labels:
            raise Conflict(in_use(f"O sub-usuário {before.login}", row.labels), code="sub_user_in_use")
        await connection.execute(delete(sub_users).where(sub_users.c.id == sub_user_id))
        told = {"provider": slug, "login": before.login}
        await _changed(connection, actor, "sub_user.remove", sub_user_id, told)


async def sub_user_for_dry_run(
    engine: AsyncEngine, slug: str, sub_user_id: str | None
) -> tuple[SubUserRow, bytes] | None:
    """A sub-user with its password, still sealed: that one, else the enabled one with the fewest labels.

    None when the provider has no enabled one. Raises NotFound (`sub_user_not_found`), Unavailable.
    """
    query = _rows().add_columns(sub_users.c.sealed_password).where(sub_users.c.provider_slug == slug)
    if sub_user_id is None:
        query = query.where(sub_users.c.enabled).order_by("labels", sub_users.c.login).limit(1)
    else:
        query = query.where(sub_users.c.id == sub_user_id)
    async with reading(engine) as connection:
        row = (await connection.execute(query)).one_or_none()
    if row is None and sub_user_id is not None:
        raise unknown_sub_user()
    return None if row is None else (_row(row), row.sealed_password)


def _refuse_unusable(provider: Row[Any], sub_user: SubUser) -> None:
    """Raises InvalidInput for a login or a password that the provider would not understand."""
    template = known_template(provider.template)
    try:
        credential(template, sub_user, _ANY_LABEL, provider.country, provider.minutes, scheme=provider.scheme)
    except CredentialRefused as error:
        field = "password" if error.why in (Unusable.PASSWORD, Unusable.LENGTH) else "login"
        told = said(error.why, template)
        raise InvalidInput(f"{FIELD_NAMES[field]}: {told}", fields={field: told}) from None


def unknown_sub_user() -> NotFound:
    return NotFound("Sub-usuário não encontrado.", code="sub_user_not_found")


async def _locked(connection: AsyncConnection, slug: str, sub_user_id: str) -> Row[Any]:
    query = (
        select(sub_users)
        .where(sub_users.c.provider_slug == slug, sub_users.c.id == sub_user_id)
        .with_for_update()
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise unknown_sub_user()
    return row


async def _read(connection: AsyncConnection, slug: str, sub_user_id: str) -> SubUserRow:
    query = _rows().where(sub_users.c.provider_slug == slug, sub_users.c.id == sub_user_id)
    return _row((await connection.execute(query)).one())


async def _changed(
    connection: AsyncConnection, actor: Actor, action: str, target: str, detail: Mapping[str, Any]
) -> None:
    await record_change(connection, actor, action, target=target, detail=detail)
    await tell_daemons(connection, labels.c.sub_user_id == target)


def _rows() -> Select[Any]:
    live = (
        select(func.count())
        .select_from(labels)
        .where(labels.c.sub_user_id == sub_users.c.id, labels.c.released_at.is_(None))
        .scalar_subquery()
    )
    names = [name for name in SubUserRow.__struct_fields__ if name != "labels"]
    return select(*(sub_users.c[name] for name in names), live.label("labels"))


def _row(row: Row[Any]) -> SubUserRow:
    return SubUserRow(**{name: getattr(row, name) for name in SubUserRow.__struct_fields__})
