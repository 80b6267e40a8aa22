"""Accounts: read again only when they changed, and each request asks whether they did."""

from __future__ import annotations

import asyncio
from typing import Final

from api.deadline import in_time
from api.kept import Kept
from api.standings import Standings
from core.store import accounts
from core.store.accounts import Account
from core.store.engine import Engine
from core.store.standings import Standing

_LIMIT: Final = 5000


class AccountCache:
    """As `accounts.find`, at the cost of a standing. A suspended user is out with the next request."""

    def __init__(self, engine: Engine, standings: Standings) -> None:
        self._engine = engine
        self._standings = standings
        self._kept: Kept[Account] = Kept(_LIMIT)

    async def find(self, user_id: str) -> tuple[Account, Standing] | None:
        """The account and its standing; None when there is no such user.

        Raises Unavailable, after `deadline.STORE_S` at the latest.
        """
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        standing = await self._standings.of(user_id)
        if standing is None:
            return None
        account = self._kept.get(user_id, standing.account)
        if account is None:
            spent_s = loop.time() - began_at
            account = await in_time(accounts.find(self._engine, user_id), spent_s=spent_s)
            if account is None:
                return None
            self._kept.put(user_id, standing.account, account)
        return account, standing
