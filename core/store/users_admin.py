"""What operators and the sandbox do with accounts, beside the API's own registration."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.actor import Actor
from core.errors import InvalidInput
from core.store.audit import record_change
from core.store.engine import reading, transaction
from core.store.refresh_families import end_all
from core.store.tables import plans, users


async def ensure_user(
    engine: AsyncEngine,
    *,
    email: str,
    password_hash: str,
    name: str,
    phone: str,
    plan_slug: str,
    role: str = "user",
) -> str:
    """The id of the user with this e-mail, who is created when there is none; an existing one stays as is.

    The e-mail is kept in lower case. Safe to call from several processes at once. Raises InvalidInput for
    an unknown plan, Unavailable.
    """
    email = email.strip().lower()
    async with transaction(engine) as connection:
        if await connection.scalar(select(plans.c.slug).where(plans.c.slug == plan_slug)) is None:
            raise InvalidInput("Plano selecionado é inválido.", code="unknown_plan")
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
        await connection.execute(made.on_conflict_do_nothing(index_elements=[users.c.email]))
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
            connection, actor, "user.password", user_id=user_id, target=user_id, detail=detail
        )
    return True


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
