"""What operators and the sandbox do with accounts, beside the API's own registration."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Row, Select, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.actor import Actor
from core.errors import Conflict
from core.store.accounts import EMAIL_TAKEN, NewAccount, require_plan
from core.store.audit import record_change
from core.store.engine import AlreadyThere, reading, transaction
from core.store.notify import INTENTS, notify
from core.store.refresh_families import end_all
from core.store.tables import chips, users


async def ensure_user(
    engine: AsyncEngine,
    *,
    email: str,
    password_hash: str,
    name: str,
    phone: str,
    plan_slug: str,
    role: str = "user",
    actor: Actor,
) -> str:
    """The id of the user with this e-mail, who is created when there is none; an existing one stays as is.

    The e-mail is kept in lower case. Safe to call from several processes at once. Raises InvalidInput for
    an unknown plan, Unavailable.
    """
    email = email.strip().lower()
    async with transaction(engine) as connection:
        await require_plan(connection, plan_slug)
        made = insert(users).values(
            id=str(uuid.uuid4()),
            email=email,
            password_hash=password_hash,
            name=name,
            phone=phone,
            plan_slug=plan_slug,
            role=role,
            is_verified=True,
        )
        once = made.on_conflict_do_nothing(index_elements=[users.c.email]).returning(users.c.id)
        new_id = await connection.scalar(once)
        if new_id is not None:
            asked = {"plan_slug": plan_slug, "role": role}
            await record_change(connection, actor, "account.create", user_id=new_id, detail=asked)
            return str(new_id)
        found = await connection.execute(select(users.c.id).where(users.c.email == email))
        return str(found.scalar_one())


async def set_password(engine: AsyncEngine, email: str, password_hash: str, *, actor: Actor) -> bool:
    """Give the user another password and end every login; False when nobody has this e-mail.

    Access tokens live on until they expire: nobody looks them up.
    """
    changed = (
        update(users)
        .where(users.c.email == email.strip().lower())
        .values(password_hash=password_hash, updated_at=func.clock_timestamp())
        .returning(users.c.id)
    )
    async with transaction(engine) as connection:
        user_id = await connection.scalar(changed)
        if user_id is None:
            return False
        ended = await end_all(connection, user_id)
        detail = {"logins_ended": ended}
        await record_change(
            connection, actor, "account.password", user_id=user_id, target=user_id, detail=detail
        )
    return True


async def create_user(engine: AsyncEngine, new: NewAccount, *, role: str, actor: Actor) -> str:
    """Make an account for somebody; its id.

    Raises InvalidInput (`unknown_plan`), Conflict (`email_taken`), Unavailable.
    """
    try:
        async with transaction(engine) as connection:
            await require_plan(connection, new.plan_slug)
            made = insert(users).values(**msgspec.structs.asdict(new), role=role, is_verified=True)
            await connection.execute(made)
            asked = {"plan_slug": new.plan_slug, "role": role}
            await record_change(connection, actor, "account.create", user_id=new.id, detail=asked)
    except AlreadyThere as error:
        raise Conflict("Este email já está cadastrado.", code=EMAIL_TAKEN) from error
    return new.id


async def set_suspended(engine: AsyncEngine, user_id: str, *, suspended: bool, actor: Actor) -> bool:
    """Shut a user out of the API, or let them in again; False when it is so already. Chips go on as they are.

    A suspension ends every login as well.
    """
    standing = users.c.suspended_at.is_(None) if suspended else users.c.suspended_at.is_not(None)
    changed = (
        update(users)
        .where(users.c.id == user_id, standing)
        .values(suspended_at=func.clock_timestamp() if suspended else None, updated_at=func.clock_timestamp())
    )
    async with transaction(engine) as connection:
        if not (await connection.execute(changed)).rowcount:
            return False
        if suspended:
            await end_all(connection, user_id)
        action = "account.suspend" if suspended else "account.unsuspend"
        await record_change(connection, actor, action, user_id=user_id)
    return True


async def set_plan_of(engine: AsyncEngine, user_id: str, plan_slug: str, *, actor: Actor) -> bool:
    """Put a user on another plan, and have a daemon look; False when it is so already.

    Raises InvalidInput (`unknown_plan`), Unavailable.
    """
    changed = (
        update(users)
        .where(users.c.id == user_id, users.c.plan_slug != plan_slug)
        .values(plan_slug=plan_slug, updated_at=func.clock_timestamp())
    )
    async with transaction(engine) as connection:
        await require_plan(connection, plan_slug)
        if not (await connection.execute(changed)).rowcount:
            return False
        await record_change(
            connection, actor, "account.plan", user_id=user_id, detail={"plan_slug": plan_slug}
        )
        await notify(connection, INTENTS, user_id)
    return True


async def set_role(engine: AsyncEngine, user_id: str, role: str, *, actor: Actor) -> bool:
    """Make a user an operator (`operator`) or no operator (`user`); False when it is so already."""
    changed = (
        update(users)
        .where(users.c.id == user_id, users.c.role != role)
        .values(role=role, updated_at=func.clock_timestamp())
    )
    async with transaction(engine) as connection:
        if not (await connection.execute(changed)).rowcount:
            return False
        await record_change(connection, actor, "account.role", user_id=user_id, detail={"role": role})
    return True


class UserRow(msgspec.Struct, frozen=True):
    """A user as operators see one. `chips`: how many there are, tombstones not counted."""

    id: str
    email: str
    name: str
    phone: str
    company_name: str | None
    document: str | None
    plan_slug: str
    role: str
    is_active: bool
    suspended_at: datetime | None
    profile_at: datetime | None
    created_at: datetime
    chips: int


async def list_users(
    engine: AsyncEngine, *, plan_slug: str | None = None, text: str = "", limit: int = 100
) -> tuple[UserRow, ...]:
    """Users by e-mail, at most `limit`; those whose e-mail or name contains `text`, in any letter case."""
    query = _rows().order_by(users.c.email).limit(limit)
    if plan_slug is not None:
        query = query.where(users.c.plan_slug == plan_slug)
    if text:
        wanted = text.lower()
        query = query.where(
            or_(
                users.c.email.contains(wanted, autoescape=True),
                func.lower(users.c.name).contains(wanted, autoescape=True),
            )
        )
    async with reading(engine) as connection:
        return tuple(_row(row) for row in await connection.execute(query))


async def read_user(engine: AsyncEngine, user_id: str) -> UserRow | None:
    """One user; None when there is none. Raises Unavailable."""
    async with reading(engine) as connection:
        row = (await connection.execute(_rows().where(users.c.id == user_id))).one_or_none()
    return None if row is None else _row(row)


def _rows() -> Select[Any]:
    alive = (
        select(func.count())
        .select_from(chips)
        .where(chips.c.user_id == users.c.id, chips.c.deleted_at.is_(None))
        .scalar_subquery()
    )
    return select(users, alive.label("chips"))


def _row(row: Row[Any]) -> UserRow:
    return UserRow(**{name: getattr(row, name) for name in UserRow.__struct_fields__})


async def find_user_id(engine: AsyncEngine, id_or_email: str) -> str | None:
    """The user's id from an id or an e-mail, as operators type either; None when there is no such user."""
    wanted = id_or_email.strip().lower()
    column: Any = users.c.email
    if "@" not in wanted:
        try:
            wanted = str(uuid.UUID(wanted))
        except ValueError:
            return None
        column = users.c.id
    async with reading(engine) as connection:
        found: str | None = await connection.scalar(select(users.c.id).where(column == wanted))
    return found
