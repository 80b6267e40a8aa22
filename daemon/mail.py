"""Webhooks as hints: which users have some that no pass has answered, and ticking them off.

A pass answers the webhooks that were in the inbox before it began to look, and no others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeAlias

from core.store.inbox import Mail

ReadInbox: TypeAlias = Callable[[], Awaitable[tuple[Mail, ...]]]
TickOff: TypeAlias = Callable[[str, datetime], Awaitable[object]]


class Mailroom:
    """Both callables raise core.errors.Unavailable when the store is away."""

    def __init__(self, read_inbox: ReadInbox, tick_off: TickOff) -> None:
        self._read_inbox = read_inbox
        self._tick_off = tick_off
        self._expected: set[str] = set()

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._expected

    def expect(self, user_id: str) -> None:
        """The user has mail, or may have."""
        self._expected.add(user_id)

    def forget(self, user_id: str) -> None:
        """There is no such user any more."""
        self._expected.discard(user_id)

    async def waiting(self) -> tuple[Mail, ...]:
        """Everybody's unanswered mail."""
        return await self._read_inbox()

    async def before_look(self, user_id: str) -> datetime | None:
        """Up to when the user's mail is answered by a look that begins now; None when none is expected."""
        if user_id not in self._expected:
            return None
        waiting = {mail.user_id: mail.newest_at for mail in await self._read_inbox()}
        # Only now: had the read failed, the mail would still be expected.
        self._expected.discard(user_id)
        return waiting.get(user_id)

    async def answered(self, user_id: str, up_to: datetime) -> None:
        """The look is over and what it saw is written."""
        await self._tick_off(user_id, up_to)
