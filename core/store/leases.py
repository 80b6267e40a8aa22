"""Leases: whose turn it is, by PostgreSQL's clock.

`clock_timestamp()` everywhere, never `now()`: the latter is the start of the transaction, and a claim that
waited for a lock would compare with the past. Rows are never removed: a token that starts again at 1
would let a very old write pass for a new one.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    CTE,
    Float,
    String,
    and_,
    bindparam,
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
from core.store.engine import SYSTEM
from core.store.interface import Answered, Busy, Lease
from core.store.tables import leases

_CLOCK: Final = func.clock_timestamp()
_FREE: Final = ""  # no owner has this name


def _claim() -> Any:
    ends = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, bindparam("ttl_s"))
    made = insert(leases).values(
        key=bindparam("key"),
        owner=bindparam("owner"),
        token=literal(1),
        expires_at=ends,
        claimed_at=_CLOCK,
    )
    return made.on_conflict_do_update(
        index_elements=[leases.c.key],
        # Evaluated once the row is ours to look at, after any wait for its lock.
        set_={
            "owner": made.excluded.owner,
            "token": leases.c.token + 1,
            "expires_at": ends,
            "claimed_at": _CLOCK,
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


_CLAIM: Final = _claim()
_LEFT: Final = select(
    func.extract("epoch", leases.c.expires_at - _CLOCK),
    _answered(bindparam("owner", type_=String)),
    leases.c.owner,
).where(leases.c.key == bindparam("key"))

_MATCHES: Final = (
    leases.c.key == bindparam("lease_key"),
    leases.c.token == bindparam("lease_token"),
    leases.c.owner == bindparam("lease_owner"),
)
_GUARD: Final = select(leases.c.key).where(*_MATCHES).with_for_update(read=True)


async def claim(
    connection: AsyncConnection, key: str, owner: str, ttl_s: float, news_age_s: float | None = None
) -> int | Busy | Answered:
    """The new token, or why there is none.

    One statement inserts the row, takes an expired one or renews the owner's own.
    """
    values = {"key": key, "owner": owner, "ttl_s": ttl_s, "news_age_s": news_age_s}
    token = (await connection.execute(_CLAIM, values)).scalar_one_or_none()
    if token is not None:
        return int(token)
    seen = {"key": key, "owner": owner, "news_age_s": news_age_s}
    row = (await connection.execute(_LEFT, seen)).one_or_none()
    if row is None:
        return Busy(retry_after_s=0.0)
    left, answered, holder = row
    return Answered() if answered else Busy(retry_after_s=max(0.0, float(left)), owner=holder)


async def extend(connection: AsyncConnection, lease: Lease) -> bool:
    """Give the lease its full life again.

    An expired lease that nobody claimed meanwhile is still its owner's: the token proves it.
    """
    ends = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, lease.ttl_s)
    done = await connection.execute(update(leases).where(*_is(lease)).values(expires_at=ends))
    return done.rowcount == 1


def freed(lease: Lease, *, looked: bool = False) -> CTE:
    """Part of a statement: frees the key; one row when the lease was still its owner's.

    The owner goes too, so that a heartbeat on its way cannot bring the lease back to life. `looked`: keep
    who looked, and since when what was seen is true: since the claim.
    """
    values: dict[str, Any] = {"owner": _FREE, "expires_at": _CLOCK}
    if looked:
        values |= {"looked_by": lease.owner, "looked_at": leases.c.claimed_at}
    return update(leases).where(*_is(lease)).values(values).returning(leases.c.key).cte("freed")


def held(lease: Lease) -> CTE:
    """Part of a statement: one row while the lease is its owner's, locked until the statement is committed.

    A claim changes that row, so it waits for us, or we see what it wrote.
    """
    return select(leases.c.key).where(*_is(lease)).with_for_update(read=True).cte("held")


def held_by_parameters() -> CTE:
    """As `held`, in a statement that is built once and run with `as_parameters`."""
    return _GUARD.cte("held")


async def guard(connection: AsyncConnection, lease: Lease) -> None:
    """Keep the lease from changing hands until this transaction ends. Raises StaleWrite when it has."""
    if (await connection.execute(_GUARD, as_parameters(lease))).one_or_none() is None:
        raise stale(lease)


def is_ours() -> Any:
    """Part of a statement run with `as_parameters`: whether the lease is still its owner's; locks nothing."""
    return exists().where(*_MATCHES)


def as_parameters(lease: Lease) -> dict[str, Any]:
    return {"lease_key": lease.key, "lease_token": lease.token, "lease_owner": lease.owner}


def stale(lease: Lease) -> StaleWrite:
    return StaleWrite(SYSTEM, f"the lease of {lease.key} (token {lease.token}) is somebody else's by now")


def _is(lease: Lease) -> tuple[Any, ...]:
    return leases.c.key == lease.key, leases.c.token == lease.token, leases.c.owner == lease.owner
