"""Accounts that another backend tells of: made on first sight, and brought up to date from then on."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import Float, Select, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.profiles import Profile
from core.errors import Forbidden, StaleWrite
from core.store.accounts import Account, account_columns, account_of
from core.store.engine import SYSTEM, AlreadyThere, reading, transaction
from core.store.notify import INTENTS, notify
from core.store.tables import plans, users

PLAN_NOT_KNOWN: Final = (
    "O plano desta conta ainda não está disponível neste serviço. Entre em contato com o suporte."
)


class KnownAccount(msgspec.Struct, frozen=True):
    """An account and since when its profile is as it is told.

    Attributes:
        age_s: seconds since the upstream last told of it, by PostgreSQL's clock; None if it never did.
    """

    account: Account
    age_s: float | None


async def find(engine: AsyncEngine, user_id: str) -> KnownAccount | None:
    """One account by id, in one statement. Raises Unavailable."""
    age = func.extract("epoch", func.clock_timestamp() - users.c.profile_at).cast(Float).label("age_s")
    query: Select[Any] = (
        select(*account_columns(), age)
        .join_from(users, plans, users.c.plan_slug == plans.c.slug)
        .where(users.c.id == user_id)
    )
    async with reading(engine) as connection:
        row = (await connection.execute(query)).one_or_none()
    return None if row is None else KnownAccount(account_of(row), row.age_s)


async def remember(engine: AsyncEngine, profile: Profile, *, told: bool) -> Account:
    """Store what is known of a user now, and give the account.

    `told`: by the upstream, just now; otherwise by a token, and the upstream's own turn is not put off. An e-mail
    that was another account's is that one's no longer: only the upstream knows whose it is. Daemons are told of a
    changed plan. Raises Forbidden (`plan_not_known`) for a plan that has no row here, StaleWrite, Unavailable.
    """
    values: dict[str, Any] = {
        name: getattr(profile, name)
        for name in ("email", "name", "phone", "company_name", "document", "plan_slug", "is_active")
    }
    if told:
        values["profile_at"] = func.clock_timestamp()
    try:
        async with transaction(engine) as connection:
            known_plan = select(plans.c.slug).where(plans.c.slug == profile.plan_slug)
            if await connection.scalar(known_plan) is None:
                raise Forbidden(PLAN_NOT_KNOWN, code="plan_not_known")
            await connection.execute(
                update(users)
                .where(users.c.email == profile.email, users.c.id != profile.user_id)
                .values(email=func.concat(users.c.id, "@replaced.invalid"))
            )
            before = await connection.scalar(
                select(users.c.plan_slug).where(users.c.id == profile.user_id).with_for_update()
            )
            made = insert(users).values(id=profile.user_id, is_verified=True, **values)
            await connection.execute(
                made.on_conflict_do_update(
                    index_elements=[users.c.id],
                    set_={**values, "updated_at": func.clock_timestamp()},
                )
            )
            if before is not None and before != profile.plan_slug:
                await notify(connection, INTENTS, profile.user_id)
            row = (
                await connection.execute(
                    select(*account_columns())
                    .join_from(users, plans, users.c.plan_slug == plans.c.slug)
                    .where(users.c.id == profile.user_id)
                )
            ).one()
    except AlreadyThere as error:
        # Another new user with the same e-mail was faster; the next try sees that one.
        raise StaleWrite(SYSTEM, "another transaction was faster; look again") from error
    return account_of(row)
