"""Logins that may be refreshed. Statements only; what a token is worth is decided in `core/domain/refresh.py`."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.actor import Actor
from core.domain.refresh import Family, Verdict, judge
from core.store.audit import record_change
from core.store.engine import transaction
from core.store.tables import refresh_families, users

# Each login leaves one row and takes away up to so many that are over, so none stay for ever.
_SWEPT: Final = 20


class Token(msgspec.Struct, frozen=True):
    """A refresh token as the store knows it.

    Attributes:
        jti_hash: SHA-256 of its id; the id itself is 122 random bits or an HMAC, and is kept nowhere.
    """

    family_id: str
    jti_hash: bytes
    expires_at: datetime


async def begin(engine: AsyncEngine, user_id: str, token: Token, *, password_hash: str | None) -> bool:
    """Keep the family of a new login, which is on record as such. Raises Unavailable.

    `password_hash`: what the password was just proved against. False when the user has another one by now: whoever
    changed it has ended all logins, and this one would outlive that.
    """
    over = (
        select(refresh_families.c.id)
        .where(refresh_families.c.expires_at < func.clock_timestamp())
        .order_by(refresh_families.c.expires_at)
        .limit(_SWEPT)
        .with_for_update(skip_locked=True)
    )
    # Held until the end, so a change of the password is either seen here or sees the row below.
    proved = select(users.c.password_hash).where(users.c.id == user_id).with_for_update(read=True)
    async with transaction(engine) as connection:
        if password_hash is None or await connection.scalar(proved) != password_hash:
            return False
        await connection.execute(delete(refresh_families).where(refresh_families.c.id.in_(over)))
        await connection.execute(
            insert(refresh_families).values(
                id=token.family_id,
                user_id=user_id,
                newest_hash=token.jti_hash,
                expires_at=token.expires_at,
            )
        )
    return True


async def refresh(
    engine: AsyncEngine, user_id: str, presented: Token, successor: Token, *, actor: Actor
) -> Verdict:
    """Use up a token of `user_id`, and put `successor` in its place if it may be used.

    A token that was used up earlier ends its family. The family of a user who is suspended or inactive stays as it
    is: `REFUSED`. Two at once wait for each other. Raises Unavailable.
    """
    row = refresh_families.c
    found = (
        select(*row, users.c.is_active, users.c.suspended_at, func.clock_timestamp().label("now"))
        .join_from(refresh_families, users, users.c.id == row.user_id)
        .where(row.id == presented.family_id, row.user_id == user_id)
        .with_for_update(of=refresh_families)
    )
    async with transaction(engine) as connection:
        kept = (await connection.execute(found)).one_or_none()
        if kept is None or not kept.is_active or kept.suspended_at is not None:
            return Verdict.REFUSED
        # `now` was taken before the row was free: a twin that waited is younger than it looks, which is the mild side.
        family = Family(
            newest=kept.newest_hash,
            before=kept.before_hash,
            rotated_at=kept.rotated_at,
            expires_at=kept.expires_at,
            ended=kept.ended_at is not None,
        )
        verdict = judge(family, presented.jti_hash, kept.now)
        mine = update(refresh_families).where(row.id == presented.family_id)
        if verdict is Verdict.ROTATE:
            await connection.execute(
                mine.values(
                    newest_hash=successor.jti_hash,
                    before_hash=presented.jti_hash,
                    rotated_at=func.clock_timestamp(),
                    expires_at=successor.expires_at,
                )
            )
            await record_change(
                connection, actor, "account.refresh", user_id=user_id, target=presented.family_id
            )
        elif verdict is Verdict.REUSED:
            await connection.execute(mine.values(ended_at=func.clock_timestamp()))
            await record_change(
                connection, actor, "account.token_reused", user_id=user_id, target=presented.family_id
            )
    return verdict


async def end(engine: AsyncEngine, user_id: str, family_id: str, *, actor: Actor) -> bool:
    """End one login of the user; False when it has ended already, or is nobody's. Raises Unavailable."""
    ended = (
        update(refresh_families)
        .where(
            refresh_families.c.id == family_id,
            refresh_families.c.user_id == user_id,
            refresh_families.c.ended_at.is_(None),
        )
        .values(ended_at=func.clock_timestamp())
    )
    async with transaction(engine) as connection:
        if not (await connection.execute(ended)).rowcount:
            return False
        await record_change(connection, actor, "account.logout", user_id=user_id, target=family_id)
    return True


async def end_all(connection: AsyncConnection, user_id: str) -> int:
    """End every login of the user, inside the change that is the reason; how many there were."""
    ended = (
        update(refresh_families)
        .where(refresh_families.c.user_id == user_id, refresh_families.c.ended_at.is_(None))
        .values(ended_at=func.clock_timestamp())
    )
    return int((await connection.execute(ended)).rowcount)
