"""How a pass begins: its claim, and with it what it loads.

One statement sees the moment at which it began, while its claim waits for whoever has the key's row locked. So what
it read counts only where nobody can have written under a lease in between: the key was free, or not known, as the
statement saw it, and its claim is the very next. Else it is read anew. Wishes need no lease; one that comes behind
this moment is one that comes behind a load. What was seen is true since the statement came, not since the claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Select, and_, bindparam, func, or_, select, true

from core.store import leases, snapshots
from core.store.direct import Direct, Prepared
from core.store.interface import Answered, Busy
from core.store.tables import leases as lease_rows


class Begun(msgspec.Struct, frozen=True):
    """A claimed user's key. `rows`: what `snapshots.of_user` gives; None where it has to be read now."""

    token: int
    rows: Sequence[Any] | None


async def begin(
    direct: Direct, user_id: str, owner: str, ttl_s: float, news_age_s: float | None
) -> Begun | Busy | Answered:
    """Claim the key of a user, and read the user where that is safe."""
    values = leases.claim_parameters(user_id, owner, ttl_s, news_age_s)
    rows = (await direct.execute(_BEGIN, values | {"user_id": user_id})).all()
    if not rows:
        return await leases.not_claimed(direct, values)
    token = int(rows[0].claimed_token)
    if not rows[0].untouched:
        return Begun(token, None)
    return Begun(token, [] if rows[0].user_id is None else rows)


def _begin() -> Select[Any]:
    claimed = leases.claiming(func.statement_timestamp()).cte("claimed")
    before = lease_rows.alias("before")
    user = snapshots.of_user().subquery("loaded")
    untouched = or_(
        and_(before.c.key.is_(None), claimed.c.token == 1),
        and_(before.c.owner == leases.FREE, claimed.c.token == before.c.token + 1),
    )
    return (
        select(
            claimed.c.token.label("claimed_token"),
            func.coalesce(untouched, False).label("untouched"),
            *user.c,
        )
        .select_from(claimed.outerjoin(before, before.c.key == bindparam("key")).outerjoin(user, true()))
        .order_by(user.c.chip_created_at, user.c.chip_id)
    )


_BEGIN: Final = Prepared(_begin())
