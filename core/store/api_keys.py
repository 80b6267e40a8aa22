"""API keys. Statements only; a key's form stands in `core/domain/api_keys.py`, its hash in `core/crypto.py`."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, and_, func, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core.crypto import hashed_access_key, new_access_key
from core.domain.actor import Actor
from core.domain.api_keys import KeyRole, prefix_of
from core.domain.names import parse_id
from core.errors import NotFound
from core.store.accounts import Account, account_columns, account_of
from core.store.audit import record_change
from core.store.engine import AlreadyThere, reading, transaction
from core.store.tables import api_keys, plans, users

KEY_NOT_FOUND: Final = "API Key não encontrada."
USED_EVERY_S: Final = 60
# Two of 2**32 prefixes are rarely the same.
_TRIES: Final = 5


class ApiKey(msgspec.Struct, frozen=True):
    """A key without its secret. `last_used_at` to the minute; `owner` is an e-mail, None for who is no user."""

    id: str
    user_id: str | None
    role: str
    name: str
    prefix: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    owner: str | None = None


class LiveKey(msgspec.Struct, frozen=True):
    """A key that was shown and is not revoked.

    Attributes:
        account: whose it is; None for a service's or an operator's.
        use_is_old: its last use was recorded a minute ago or more.
    """

    id: str
    role: str
    key_hash: bytes
    account: Account | None
    use_is_old: bool

    def __repr__(self) -> str:
        return f"LiveKey(id={self.id!r})"


async def create(
    engine: AsyncEngine, *, name: str, actor: Actor, role: KeyRole = KeyRole.USER, user_id: str | None = None
) -> tuple[ApiKey, str]:
    """A new key, and its text, which is kept nowhere. `user_id`: for role `user` and no other. Raises Unavailable."""
    for _ in range(_TRIES - 1):
        try:
            return await _created(engine, name, actor, role, user_id)
        except AlreadyThere:
            continue
    return await _created(engine, name, actor, role, user_id)


async def _created(
    engine: AsyncEngine, name: str, actor: Actor, role: KeyRole, user_id: str | None
) -> tuple[ApiKey, str]:
    plain = new_access_key()
    key_id = str(uuid.uuid4())
    async with transaction(engine) as connection:
        await connection.execute(
            insert(api_keys).values(
                id=key_id,
                user_id=user_id,
                role=role.value,
                name=name,
                prefix=prefix_of(plain),
                key_hash=hashed_access_key(plain),
            )
        )
        detail = {"name": name, "role": role.value}
        await record_change(
            connection, actor, "api_key.create", user_id=user_id, target=key_id, detail=detail
        )
        row = (await connection.execute(_keys().where(api_keys.c.id == key_id))).one()
    return _key(row), plain


async def list_of(
    engine: AsyncEngine, user_id: str, *, limit: int, after: str | None = None
) -> tuple[ApiKey, ...]:
    """The user's keys, newest first, those after the key `after`; revoked ones too. Raises Unavailable."""
    query = (
        _keys()
        .where(api_keys.c.user_id == user_id)
        .order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc())
    )
    if after is not None:
        place = select(api_keys.c.created_at, api_keys.c.id).where(
            api_keys.c.id == after, api_keys.c.user_id == user_id
        )
        query = query.where(tuple_(api_keys.c.created_at, api_keys.c.id) < place.scalar_subquery())
    async with reading(engine) as connection:
        return tuple(_key(row) for row in await connection.execute(query.limit(limit)))


async def list_all(engine: AsyncEngine, *, users_too: bool) -> tuple[ApiKey, ...]:
    """Keys of services and operators, oldest first; those of users as well if asked for. Raises Unavailable."""
    query = _keys().order_by(api_keys.c.created_at, api_keys.c.id)
    if not users_too:
        query = query.where(api_keys.c.user_id.is_(None))
    async with reading(engine) as connection:
        return tuple(_key(row) for row in await connection.execute(query))


async def revoke(engine: AsyncEngine, user_id: str, key_id: str, *, actor: Actor) -> None:
    """End one of the user's keys; a second time changes nothing. Raises NotFound."""
    mine = and_(api_keys.c.id == key_id, api_keys.c.user_id == user_id)
    if parse_id(key_id) is None or await _revoked(engine, mine, actor) is None:
        raise NotFound(KEY_NOT_FOUND, code="api_key_not_found")


async def revoke_any(engine: AsyncEngine, id_or_prefix: str, *, actor: Actor) -> ApiKey | None:
    """End a key, whoever it belongs to, by its id or prefix; None when there is none. Raises Unavailable."""
    named: Any = api_keys.c.prefix == id_or_prefix
    if parse_id(id_or_prefix) is not None:
        named = or_(named, api_keys.c.id == id_or_prefix)
    return await _revoked(engine, named, actor)


async def _revoked(engine: AsyncEngine, which: Any, actor: Actor) -> ApiKey | None:
    async with transaction(engine) as connection:
        ended = (
            update(api_keys)
            .where(which, api_keys.c.revoked_at.is_(None))
            .values(revoked_at=func.clock_timestamp())
            .returning(api_keys.c.id, api_keys.c.user_id)
        )
        changed = (await connection.execute(ended)).one_or_none()
        if changed is not None:
            await record_change(
                connection, actor, "api_key.revoke", user_id=changed.user_id, target=changed.id
            )
        row = (await connection.execute(_keys().where(which))).one_or_none()
    return None if row is None else _key(row)


async def find_live(engine: AsyncEngine, prefix: str) -> LiveKey | None:
    """The key with this prefix, in one statement with its account; None for an unknown or a revoked one."""
    query = _LIVE.where(api_keys.c.prefix == prefix)
    async with reading(engine) as connection:
        row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    account = None if row.id is None else account_of(row)
    return LiveKey(row.key_id, row.key_role, row.key_hash, account, row.use_is_old)


async def used(engine: AsyncEngine, key_id: str) -> None:
    """Record that the key was used, unless somebody did within the last minute. Raises Unavailable."""
    told = update(api_keys).where(api_keys.c.id == key_id, _use_is_old())
    async with reading(engine) as connection:
        await connection.execute(told.values(last_used_at=func.clock_timestamp()))


def _use_is_old() -> Any:
    age = func.make_interval(0, 0, 0, 0, 0, 0, USED_EVERY_S)
    return or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at <= func.clock_timestamp() - age)


def _live() -> Select[Any]:
    return (
        select(
            api_keys.c.id.label("key_id"),
            api_keys.c.role.label("key_role"),
            api_keys.c.key_hash,
            _use_is_old().label("use_is_old"),
            *account_columns(),
        )
        .join_from(api_keys, users, users.c.id == api_keys.c.user_id, isouter=True)
        .join(plans, plans.c.slug == users.c.plan_slug, isouter=True)
        .where(api_keys.c.revoked_at.is_(None))
    )


_LIVE: Final = _live()


def _keys() -> Select[Any]:
    return select(api_keys, users.c.email.label("owner")).join_from(
        api_keys, users, users.c.id == api_keys.c.user_id, isouter=True
    )


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        user_id=row.user_id,
        role=row.role,
        name=row.name,
        prefix=row.prefix,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
        owner=row.owner,
    )
