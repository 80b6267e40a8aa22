"""Accounts: who may log in, on which plan. Statements only; the rules stand in `core/domain/accounts.py`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Row, Select, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.actor import Actor
from core.errors import Conflict, InvalidInput
from core.store.audit import record_change
from core.store.engine import AlreadyThere, reading, transaction
from core.store.tables import plans, users

EMAIL_TAKEN: Final = "email_taken"
UNKNOWN_PLAN: Final = "unknown_plan"
CHANGEABLE: Final = frozenset({"name", "phone", "company_name", "document"})


class Account(msgspec.Struct, frozen=True):
    """A user with the plan.

    Attributes:
        phone: E.164. document: digits of a CPF or CNPJ.
        plan_title: the plan's name for people.
        role: `user` or `operator`.
    """

    id: str
    email: str
    name: str
    phone: str
    company_name: str | None
    document: str | None
    credits: int
    plan_slug: str
    plan_title: str
    api_access: bool
    role: str
    is_active: bool
    is_verified: bool
    suspended: bool
    created_at: datetime
    updated_at: datetime


class NewAccount(msgspec.Struct, frozen=True):
    """What registering takes; every field already in its stored form."""

    id: str
    email: str
    name: str
    phone: str
    company_name: str | None
    document: str | None
    password_hash: str
    plan_slug: str

    def __repr__(self) -> str:
        return f"NewAccount(id={self.id!r})"


async def find(engine: AsyncEngine, user_id: str) -> Account | None:
    """One account by id. Raises Unavailable."""
    async with reading(engine) as connection:
        row = (await connection.execute(_accounts().where(users.c.id == user_id))).one_or_none()
    return None if row is None else account_of(row)


async def find_login(engine: AsyncEngine, email: str) -> tuple[Account, str | None] | None:
    """The account of a lower-case e-mail with its password hash (None = it has no password yet)."""
    query = _accounts().add_columns(users.c.password_hash).where(users.c.email == email)
    async with reading(engine) as connection:
        row = (await connection.execute(query)).one_or_none()
    return None if row is None else (account_of(row), row.password_hash)


async def require_plan(connection: AsyncConnection, plan_slug: str) -> None:
    """Raises InvalidInput (code `unknown_plan`) for a plan that is not there."""
    if await connection.scalar(select(plans.c.slug).where(plans.c.slug == plan_slug)) is None:
        raise InvalidInput("Plano selecionado é inválido.", code=UNKNOWN_PLAN)


async def find_id(engine: AsyncEngine, email: str) -> str | None:
    """The id behind a lower-case e-mail."""
    async with reading(engine) as connection:
        found: str | None = await connection.scalar(select(users.c.id).where(users.c.email == email))
    return found


async def create(engine: AsyncEngine, new: NewAccount, *, actor: Actor) -> Account:
    """Write a new account.

    Raises InvalidInput (code `unknown_plan`) and Conflict (code `email_taken`), in this order.
    """
    try:
        async with transaction(engine) as connection:
            await require_plan(connection, new.plan_slug)
            await connection.execute(insert(users).values(**msgspec.structs.asdict(new)))
            asked = {"plan_slug": new.plan_slug}
            await record_change(connection, actor, "account.register", user_id=new.id, detail=asked)
            row = (await connection.execute(_accounts().where(users.c.id == new.id))).one()
    except AlreadyThere as error:
        # Only the database can say it without a race between two registrations.
        if error.constraint != "uq_users_email":
            raise
        raise Conflict("Este email já está cadastrado.", code=EMAIL_TAKEN) from error
    return account_of(row)


async def change(
    engine: AsyncEngine, user_id: str, changes: Mapping[str, str | None], *, actor: Actor
) -> Account | None:
    """Write the given fields (of `CHANGEABLE`), none of them being no change; None for an unknown user."""
    if not set(changes) <= CHANGEABLE:
        raise ValueError("only fields of CHANGEABLE are changed here")
    if not changes:
        return await find(engine, user_id)
    async with transaction(engine) as connection:
        await connection.execute(
            update(users).where(users.c.id == user_id).values(**changes, updated_at=func.clock_timestamp())
        )
        row = (await connection.execute(_accounts().where(users.c.id == user_id))).one_or_none()
        if row is not None:
            # Which fields, not what they hold: that is somebody's name and number.
            asked = {"fields": sorted(changes)}
            await record_change(connection, actor, "account.change", user_id=user_id, detail=asked)
    return None if row is None else account_of(row)


async def record_login(
    engine: AsyncEngine, user_id: str, *, better_hash: tuple[str, str] | None = None, actor: Actor
) -> None:
    """Keep that somebody logged in.

    `better_hash`: the hash that was compared and a better one of the same password, which takes its place unless
    the password was changed meanwhile.
    """
    async with transaction(engine) as connection:
        if better_hash is not None:
            old, new = better_hash
            same = (users.c.id == user_id, users.c.password_hash == old)
            await connection.execute(update(users).where(*same).values(password_hash=new))
        await record_change(connection, actor, "account.login", user_id=user_id)


async def record_refused_login(engine: AsyncEngine, user_id: str | None, *, code: str, actor: Actor) -> None:
    """Keep that somebody was refused. `user_id`: None when nobody has the e-mail that was typed; `code`: why.

    The e-mail itself is not kept: people type passwords into that field.
    """
    async with transaction(engine) as connection:
        await record_change(
            connection, actor, "account.login_refused", user_id=user_id, detail={"code": code}
        )


def account_columns() -> tuple[ColumnElement[Any], ...]:
    """What `account_of` reads, of `users` and `plans`."""
    return (
        users.c.id,
        users.c.email,
        users.c.name,
        users.c.phone,
        users.c.company_name,
        users.c.document,
        users.c.credits,
        users.c.plan_slug,
        users.c.role,
        users.c.is_active,
        users.c.is_verified,
        users.c.suspended_at,
        users.c.created_at,
        users.c.updated_at,
        plans.c.title,
        plans.c.api_access,
    )


def _accounts() -> Select[Any]:
    return select(*account_columns()).join_from(users, plans, users.c.plan_slug == plans.c.slug)


def account_of(row: Row[Any]) -> Account:
    """An account from the columns of `account_columns`."""
    return Account(
        id=row.id,
        email=row.email,
        name=row.name,
        phone=row.phone,
        company_name=row.company_name,
        document=row.document,
        credits=row.credits,
        plan_slug=row.plan_slug,
        plan_title=row.title,
        api_access=row.api_access,
        role=row.role,
        is_active=row.is_active,
        is_verified=row.is_verified,
        suspended=row.suspended_at is not None,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
