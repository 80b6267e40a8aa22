"""WAHA's storage on a PostgreSQL server: databases named after the namespace they belong to.

The role in the address is WAHA's own: it may create databases and owns all of these (WAHA storage docs),
so it may drop them. `DROP DATABASE ... WITH (FORCE)` needs PostgreSQL 13.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final
from urllib.parse import urlsplit

import asyncpg

from core.clients.storage_names import SYSTEM, checked_database, checked_namespace
from core.domain.jobspec import with_sslmode
from core.domain.names import main_database, namespace_of_database
from core.errors import AppError, DependencyError, Rejected, Unavailable
from core.settings import Secret

_CONNECTIONS: Final = 4
_IDLE_S: Final = 30.0
_LISTED: Final = "SELECT datname FROM pg_database WHERE starts_with(datname, 'waha_u')"
_SIZE: Final = (
    "SELECT sum(pg_database_size(datname))::bigint FROM pg_database WHERE datname = ANY($1::text[])"
)


class ServerStorage:
    """`core.clients.storage.Storage` on a PostgreSQL server; connections are opened when needed."""

    def __init__(self, dsn: Secret, *, timeout_s: float = 10.0) -> None:
        """Raises Rejected, without the address, when it cannot be read."""
        try:
            parts = urlsplit(dsn.reveal())
            _ = parts.port  # a password with a / in it shows here
        except ValueError:
            parts = None
        if parts is None or parts.scheme not in ("postgres", "postgresql"):
            raise Rejected(
                SYSTEM,
                "the storage's address cannot be read; write it as postgres://user:password@host/database "
                "and percent-encode what is special in the password",
            )
        self.timeout_s = timeout_s
        self._dsn = dsn
        self._pool: asyncpg.Pool | None = None

    async def databases(self, namespace: str) -> tuple[str, ...]:
        checked_namespace(namespace)
        async with self._connection() as connection:
            return tuple(await _owned(connection, namespace))

    async def namespaces(self) -> tuple[str, ...]:
        found = {namespace_of_database(name) for name in await self.listing()}
        return tuple(sorted(name for name in found if name is not None))

    async def listing(self) -> tuple[str, ...]:
        async with self._connection() as connection:
            return tuple(await _listed(connection))

    async def size(self, namespace: str) -> int | None:
        names = await self.databases(namespace)
        try:
            async with self._connection() as connection:
                return int(await connection.fetchval(_SIZE, list(names)) or 0)
        except Rejected:
            return None  # a role that may not connect to a database may not measure it either

    async def drop(self, namespace: str, database: str | None = None) -> None:
        checked_namespace(namespace)
        named = None if database is None else checked_database(namespace, database)
        async with self._connection() as connection:
            doomed = [named] if named is not None else await _owned(connection, namespace)
            # The main database last, so that what is left half-way still shows whose it is.
            for name in sorted(doomed, key=main_database(namespace).__eq__):
                # Checked above to hold our own pattern; quoted all the same. No parameter may stand here.
                quoted = name.replace('"', '""')
                await connection.execute(f'DROP DATABASE IF EXISTS "{quoted}" WITH (FORCE)')

    async def aclose(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        with _translated():
            async with asyncio.timeout(self.timeout_s):
                pool = await self._opened()
                async with pool.acquire() as connection:
                    yield connection

    async def _opened(self) -> asyncpg.Pool:
        if self._pool is None:
            self._pool = asyncpg.create_pool(
                with_sslmode(self._dsn.reveal()),
                min_size=0,
                max_size=_CONNECTIONS,
                max_inactive_connection_lifetime=_IDLE_S,
                timeout=self.timeout_s,
                command_timeout=self.timeout_s,
                statement_cache_size=0,
                server_settings={
                    "application_name": "wahafleet storage",
                    # What we gave up on must not be carried out later, when the lease is somebody else's.
                    "statement_timeout": f"{self.timeout_s * 1000:.0f}",
                },
            )
        return await self._pool


async def _listed(connection: asyncpg.Connection) -> list[str]:
    names = [str(row["datname"]) for row in await connection.fetch(_LISTED)]
    return sorted(name for name in names if namespace_of_database(name) is not None)


async def _owned(connection: asyncpg.Connection, namespace: str) -> list[str]:
    return [name for name in await _listed(connection) if namespace_of_database(name) == namespace]


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of driver and socket as ours. Messages name roles and databases, never the password."""
    try:
        yield
    except AppError:
        raise
    except TimeoutError as error:
        raise Unavailable(SYSTEM, "the storage server does not answer in time") from error
    except asyncpg.PostgresError as error:
        raise _refused(error) from error
    except OSError as error:
        raise Unavailable(SYSTEM, "the storage server cannot be reached") from error
    except (asyncpg.InterfaceError, ValueError):
        # The driver's words on an address that it cannot use may repeat parts of it.
        raise Unavailable(SYSTEM, "the storage server's address or connection cannot be used") from None


def _refused(error: asyncpg.PostgresError) -> DependencyError:
    state = error.sqlstate or ""
    told = f"{str(error).splitlines()[0] if str(error) else 'refused'} (SQLSTATE {state})"
    if state in ("28000", "28P01"):
        return Rejected(SYSTEM, told, code="storage_login_refused")
    if state == "42501":
        return Rejected(SYSTEM, told, code="storage_not_owned")
    # Connection, resources, an object in use, intervention and system (PostgreSQL manual, appendix A).
    if state[:2] in ("08", "53", "55", "57", "58") or state == "3D000":
        return Unavailable(SYSTEM, told)
    return Rejected(SYSTEM, told)
