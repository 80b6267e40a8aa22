"""Whether anything that a user sees has changed: one cheap statement for many users, instead of their rows.

A row's version is its `xmin`, the transaction that wrote it as it is now: every write changes it, whoever
made it and whichever columns it changed, and no writer has to remember to count. What two versions have in
common is that nothing was written between them. Transaction numbers begin anew behind a restored backup or
a failover, so the server's start is part of every version: both come with a server that was started later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from core.store.engine import reading


class Standing(msgspec.Struct, frozen=True):
    """Versions of what is stored of one user. Equal ones stand for equal rows, and say nothing else.

    Attributes:
        account: of the account and its plan.
        chips: of all chips that are not deleted, and of what their container shows in them.
    """

    account: str
    chips: str


_STANDINGS: Final = text(
    """
    SELECT u.id,
           concat_ws(' ', s.started, u.xmin, p.xmin) AS account,
           concat_ws(' ', s.started, k.xmin, c.versions) AS chips
      FROM (SELECT extract(epoch FROM pg_postmaster_start_time())::text AS started) AS s
           CROSS JOIN users AS u
           JOIN plans AS p ON p.slug = u.plan_slug
           LEFT JOIN containers AS k ON k.user_id = u.id
           CROSS JOIN LATERAL (
               SELECT string_agg(concat_ws(':', id, xmin), ' ' ORDER BY id) AS versions
                 FROM chips WHERE user_id = u.id AND deleted_at IS NULL
           ) AS c
     WHERE u.id = ANY(CAST(:user_ids AS uuid[]))
    """
)


async def read_standings(engine: AsyncEngine, user_ids: Sequence[str]) -> dict[str, Standing]:
    """The standing of each user there is, as of one moment after the call. Raises Unavailable."""
    async with reading(engine) as connection:
        rows = await connection.execute(_STANDINGS, {"user_ids": list(user_ids)})
        return {str(id_): Standing(account, chips) for id_, account, chips in rows}
