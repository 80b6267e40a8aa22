"""Bring the schema up to date. Safe to call from several processes at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from core.errors import Unavailable
from core.store.engine import SYSTEM, Timeouts, connect_arguments, parse_url, translated

T = TypeVar("T")

# Any constant does, as long as nothing else on the same database takes it.
_LOCK_KEY: Final = 0x77616861_66_6C_74  # "wahaflt"
_LOCK_WAIT_S: Final = 300.0
_LOCK_POLL_S: Final = 0.2
# A migration may rewrite a table: no limit on a statement, a short one on reaching the server.
_TIMEOUTS: Final = Timeouts(connect_s=5, statement_s=0, command_s=3600, idle_in_transaction_s=0)


def upgrade(database_url: str, revision: str = "head") -> str:
    """Run all migrations up to `revision` and return the schema's revision.

    A PostgreSQL advisory lock lets one caller migrate while others wait, at most 5 minutes. For sync code:
    do not call it where an event loop runs (`await asyncio.to_thread(upgrade, url)` there). Raises
    Unavailable when the database cannot be reached or the wait was too long, Rejected on an unreadable URL.
    """

    async def locked(connection: AsyncConnection) -> str:
        await _lock(connection)
        await connection.run_sync(lambda sync: command.upgrade(_config(sync), revision))
        return await connection.run_sync(_revision) or ""

    return asyncio.run(_connected(database_url, locked))


def downgrade(database_url: str, revision: str) -> None:
    """Undo migrations down to `revision` (`base` = all). What they added is lost."""

    async def locked(connection: AsyncConnection) -> None:
        await _lock(connection)
        await connection.run_sync(lambda sync: command.downgrade(_config(sync), revision))

    asyncio.run(_connected(database_url, locked))


def current(database_url: str) -> str | None:
    """The schema's revision; None for a database that was never migrated. Raises as `upgrade`."""

    async def read(connection: AsyncConnection) -> str | None:
        return await connection.run_sync(_revision)

    return asyncio.run(_connected(database_url, read))


def head() -> str:
    """The revision that this program expects."""
    return ScriptDirectory.from_config(_config(None)).get_current_head() or ""


def _config(connection: Connection | None) -> Config:
    config = Config()
    # A path of the installed package, so that it works from a wheel as well as from a checkout. Alembic
    # takes % for an interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


async def _connected(database_url: str, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    engine = create_async_engine(
        parse_url(database_url),
        poolclass=NullPool,
        connect_args=connect_arguments("wahafleet migrate", _TIMEOUTS),
    )
    try:
        with translated():
            async with engine.connect() as connection:
                return await work(connection)
    finally:
        await engine.dispose()


async def _lock(connection: AsyncConnection) -> None:
    """Take the lock for this session; PostgreSQL frees it when the connection ends, however it ends."""
    give_up_at = time.monotonic() + _LOCK_WAIT_S
    # Asked again and again rather than waited for: a waiting statement holds a snapshot, and a migration
    # that builds an index concurrently would wait for that snapshot in turn.
    while not await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK_KEY}):
        await connection.commit()
        if time.monotonic() >= give_up_at:
            raise Unavailable(SYSTEM, "another migration still runs after 5 minutes; look at that one first")
        await asyncio.sleep(_LOCK_POLL_S)
    await connection.commit()
