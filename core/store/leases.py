"""Leases: whose turn it is, by PostgreSQL's clock.

`clock_timestamp()` everywhere, never `now()`: the latter is the start of the transaction, and a claim that
waited for a lock would compare with the past. Rows are never removed: a token that starts again at 1
would let a very old write pass for a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import (
    CTE,
    Boolean,
    ColumnElement,
    Float,
    String,
    and_,
    bindparam,
    case,
    exists,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.errors import StaleWrite
from core.store.direct import Direct, Prepared
from core.store.engine import SYSTEM
from core.store.interface import Answered, Busy, Lease
from core.store.tables import leases

_CLOCK: Final = func.clock_timestamp()
FREE: Final = ""  # no owner has this name


def claiming(claimed_at: ColumnElement[Any] = _CLOCK) -> Any:
    """A statement, or a part of one: takes the key where it may be taken, and gives its new token.

    `claimed_at`: since when what is seen under this lease is true, by the server's clock.
    """
    ends = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, bindparam("ttl_s"))
    made = insert(leases).values(
        key=bindparam("key"),
        owner=bindparam("owner"),
        token=literal(1),
        expires_at=ends,
        claimed_at=claimed_at,
    )
    return made.on_conflict_do_update(
        index_elements=[leases.c.key],
        # Evaluated once the row is ours to look at, after any wait for its lock.
        set_={
            "owner": made.excluded.owner,
            "token": leases.c.token + 1,
            "expires_at": ends,
            "claimed_at": claimed_at,
        },
        where=and_(
            or_(leases.c.expires_at <= _CLOCK, leases.c.owner == made.excluded.owner),
            not_(_answered(made.excluded.owner)),
        ),
    ).returning(leases.c.token)


def _answered(owner: Any) -> Any:
    """Whether another owner began a whole look after the news; never for a claim without news."""
    age = func.make_interval(0, 0, 0, 0, 0, 0, bindparam("news_age_s", type_=Float))
    others = leases.c.looked_by != owner
    return func.coalesce(and_(others, leases.c.looked_at >= _CLOCK - age), false())


_CLAIM: Final = Prepared(claiming())
_LEFT: Final = Prepared(
    select(
        func.extract("epoch", leases.c.expires_at - _CLOCK).label("left_s"),
        _answered(bindparam("owner", type_=String)).label("answered"),
        leases.c.owner,
    ).where(leases.c.key == bindparam("key"))
)

_MATCHES: Final = (
    leases.c.key == bindparam("lease_key"),
    leases.c.token == bindparam("lease_token"),
    leases.c.owner == bindparam("lease_owner"),
)
_GUARD: Final = select(leases.c.key).where(*_MATCHES).with_for_update(read=True)
_GUARD_DIRECTLY: Final = Prepared(_GUARD)
_EXTEND: Final = Prepared(
    update(leases)
    .where(*_MATCHES)
    .values(expires_at=_CLOCK + func.make_interval(0, 0, 0, 0, 0, 0, bindparam("ttl_s", type_=Float)))
    .returning(leases.c.key)
)


async def claim(
    direct: Direct, key: str, owner: str, ttl_s: float, news_age_s: float | None = None
) -> int | Busy | Answered:
    """The new token, or why there is none.

    One statement inserts the row, takes an expired one or renews the owner's own.
    """
    values = claim_parameters(key, owner, ttl_s, news_age_s)
    claimed = (await direct.execute(_CLAIM, values)).first()
    if claimed is not None:
        return int(claimed.token)
    return await not_claimed(direct, values)


def claim_parameters(key: str, owner: str, ttl_s: float, news_age_s: float | None) -> dict[str, Any]:
    return {"key": key, "owner": owner, "ttl_s": ttl_s, "news_age_s": news_age_s}


async def not_claimed(direct: Direct, values: Mapping[str, Any]) -> Busy | Answered:
    """Why a claim with these parameters was given no token."""
    row = (await direct.execute(_LEFT, values)).first()
    if row is None:
        return Busy(retry_after_s=0.0)
    return Answered() if row.answered else Busy(retry_after_s=max(0.0, float(row.left_s)), owner=row.owner)


async def extend(direct: Direct, lease: Lease) -> bool:
    """Give the lease its full life again.

    An expired lease that nobody claimed meanwhile is still its owner's: the token proves it.
    """
    return (await direct.execute(_EXTEND, {"ttl_s": lease.ttl_s} | as_parameters(lease))).first() is not None


def freed(*, looked: bool) -> CTE:
    """Part of a statement run with `as_parameters`: frees the key; one row when the lease was still its owner's.

    The owner goes too, so that a heartbeat on its way cannot bring the lease back to life. `looked`: keep
    who looked, and since when what was seen is true: since the claim.
    """
    values: dict[str, Any] = {"owner": FREE, "expires_at": _CLOCK}
    if looked:
        values |= {"looked_by": bindparam("lease_owner"), "looked_at": leases.c.claimed_at}
    return update(leases).where(*_MATCHES).values(values).returning(leases.c.key).cte("freed")


def freed_after(done: ColumnElement[bool], frees: ColumnElement[bool]) -> CTE:
    """As `freed`, once `done` holds and if `frees`; parameter `looked` says whether to keep who looked."""
    looked = bindparam("looked", type_=Boolean)
    values = {
        "owner": FREE,
        "expires_at": _CLOCK,
        "looked_by": case((looked, bindparam("lease_owner", type_=String)), else_=leases.c.looked_by),
        "looked_at": case((looked, leases.c.claimed_at), else_=leases.c.looked_at),
    }
    return update(leases).where(*_MATCHES, done, frees).values(values).returning(leases.c.key).cte("freed")


def held() -> CTE:
    """Part of a statement run with `as_parameters`: one row while the lease is its owner's, locked until the
    statement is committed.

    A claim changes that row, so it waits for us, or we see what it wrote.
    """
    return _GUARD.cte("held")


async def guard(connection: AsyncConnection, lease: Lease) -> None:
    """Keep the lease from changing hands until this transaction ends. Raises StaleWrite when it has."""
    if (await connection.execute(_GUARD, as_parameters(lease))).one_or_none() is None:
        raise stale(lease)


async def guard_directly(direct: Direct, lease: Lease) -> None:
    """As `guard`."""
    if (await direct.execute(_GUARD_DIRECTLY, as_parameters(lease))).first() is None:
        raise stale(lease)


def is_ours() -> Any:
    """Part of a statement run with `as_parameters`: whether the lease is still its owner's; locks nothing."""
    return exists().where(*_MATCHES)


def as_parameters(lease: Lease) -> dict[str, Any]:
    return {"lease_key": lease.key, "lease_token": lease.token, "lease_owner": lease.owner}


def stale(lease: Lease) -> StaleWrite:
    return StaleWrite(SYSTEM, f"the lease of {lease.key} (token {lease.token}) is somebody else's by now")
