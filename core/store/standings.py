"""Whether anything that a user sees has changed: one cheap statement for many users, instead of their rows.

A row's version is its `xmin`, the transaction that wrote it as it is now: every write changes it, whoever
made it and whichever columns it changed, and no writer has to remember to count. What two versions have in
common is that nothing was written between them. Of a container, which each pass writes to, the version is what its
chips show of it (`views.StoredContainer`). Transaction numbers begin anew behind a restored backup or
a failover, so the server's start is part of every version: both come with a server that was started later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Self, TypeAlias

import asyncpg
import msgspec

from core.settings import StoreSettings
from core.store.engine import Timeouts, connect_arguments, parse_url, translated

Connection: TypeAlias = asyncpg.Connection

# What stands between us and the server may forget a connection that was silent for longer.
_IDLE_S: Final = 300.0


class Standing(msgspec.Struct, frozen=True):
    """Versions of what is stored of one user. Equal ones stand for equal rows, and say nothing else.

    Attributes:
        account: of the account and its plan.
        chips: of all chips that are not deleted, and of what their container shows in them.
    """

    account: str
    chips: str


_STANDINGS: Final = """
    SELECT u.id::text,
           concat_ws(' ', s.started, u.xmin, p.xmin),
           concat_ws(' ', s.started, concat(k.phase, '|', k.reason, '|', k.port, '|', k.node_name), c.versions)
      FROM (SELECT extract(epoch FROM pg_postmaster_start_time())::text AS started) AS s
           CROSS JOIN users AS u
           JOIN plans AS p ON p.slug = u.plan_slug
           LEFT JOIN containers AS k ON k.user_id = u.id
           CROSS JOIN LATERAL (
               SELECT string_agg(concat_ws(':', id, xmin), ' ' ORDER BY id) AS versions
                 FROM chips WHERE user_id = u.id AND deleted_at IS NULL
           ) AS c
     WHERE u.id = ANY($1::uuid[])
"""


class StandingReader:
    """Reads standings on `connections` connections of its own: this is the statement of every request.

    Straight through the driver, where it takes a third of the time that it takes through SQLAlchemy, and
    planned once: for a list of users PostgreSQL would plan anew each time, which takes longer than to answer.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], connections: int) -> None:
        self._connect = connect
        self._free = asyncio.Semaphore(connections)
        self._open: set[Connection] = set()
        self._idle: list[tuple[float, Connection]] = []  # since when; the one used last stands last

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, settings: StoreSettings, *, connections: int, application_name: str
    ) -> AsyncIterator[Self]:
        """Connects with the first read; at the end connections are cut. Raises Rejected on an unreadable URL."""
        url = parse_url(settings.database_url.reveal())
        _, address = url.get_dialect()().create_connect_args(url)
        arguments = connect_arguments(application_name, Timeouts())
        arguments["server_settings"]["plan_cache_mode"] = "force_generic_plan"
        reader = cls(lambda: asyncpg.connect(**address, **arguments), connections)
        try:
            yield reader
        finally:
            for connection in tuple(reader._open):
                reader._cut(connection)

    async def read(self, user_ids: Sequence[str]) -> dict[str, Standing]:
        """The standing of each user there is, as of one moment after the call. Raises Unavailable."""
        with translated():
            async with self._free:
                connection = await self._taken()
                try:
                    rows = await connection.fetch(_STANDINGS, user_ids)
                except BaseException:
                    # Cut and not closed: a server that says nothing would be waited for once more.
                    self._cut(connection)
                    raise
                self._idle.append((asyncio.get_running_loop().time(), connection))
        return {id_: Standing(account, chips) for id_, account, chips in rows}

    async def _taken(self) -> Connection:
        """One that is at hand, or a new one. The driver's own pool takes longer to lend one than the read takes."""
        oldest = asyncio.get_running_loop().time() - _IDLE_S
        while self._idle:
            since, connection = self._idle.pop()
            if since > oldest and not connection.is_closed():
                return connection
            self._cut(connection)
        connection = await self._connect()
        self._open.add(connection)
        return connection

    def _cut(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.terminate()
