"""News between processes. It only ever says *look again*: who misses it lists again and loses nothing."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# Payload of all three: a user id.
INTENTS: Final = "intents"  # somebody wants something else
OBSERVED: Final = "observed"  # a pass wrote something that people see
INBOX: Final = "inbox"  # a webhook was recorded


async def notify(connection: AsyncConnection, channel: str, user_id: str) -> None:
    """Tell listeners of `channel` once this transaction commits; nothing is sent when it rolls back."""
    await connection.execute(_NOTIFY, {"channel": channel, "payload": user_id})


_NOTIFY: Final = text("SELECT pg_notify(:channel, :payload)")
