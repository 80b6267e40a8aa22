"""Where WAHA keeps its sessions, by storage id: what is there of a namespace, and its removal.

A container's namespace owns one main database `waha_<namespace>` and one a session,
`waha_<namespace>_<session>` (WAHA storage docs, 2026.3.1 and later). On the simulator's folder the same
names stand for a namespace's folder and for the files of its sessions' credentials.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from core.clients.storage_folder import FolderStorage
from core.clients.storage_names import SYSTEM
from core.clients.storage_server import ServerStorage
from core.errors import Rejected
from core.settings import JobSettings, Secret


class Storage(Protocol):
    """One storage server. Every method raises Unavailable or Rejected, and nothing else of its own.

    `timeout_s`: the longest that one call may take, which is what a lease must outlive before a `drop`.
    """

    timeout_s: float

    async def databases(self, namespace: str) -> tuple[str, ...]:
        """Names of the databases that belong to this namespace and no other, sorted."""

    async def namespaces(self) -> tuple[str, ...]:
        """Every namespace of our shape that has a database here, sorted."""

    async def listing(self) -> tuple[str, ...]:
        """Names of all databases that belong to a namespace of our shape, sorted."""

    async def size(self, namespace: str) -> int | None:
        """Bytes that the namespace's databases take; None when nobody can tell."""

    async def drop(self, namespace: str, database: str | None = None) -> None:
        """Remove all databases of the namespace, or the one named; no error when it is gone already.

        Whoever is connected is cut off. Raises Rejected for what is no namespace of our shape and for a
        database of another namespace; nothing is removed then.
        """

    async def aclose(self) -> None:
        """Close what is open. Other calls must not follow."""


class Storages:
    """All storage servers that the settings name."""

    def __init__(self, servers: Mapping[str, Storage]) -> None:
        self._servers = dict(servers)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._servers)

    def on(self, storage_id: str) -> Storage:
        """The server with this id. Raises Rejected (code `storage_unknown`) when none is set up."""
        try:
            return self._servers[storage_id]
        except KeyError:
            raise Rejected(
                SYSTEM,
                f"storage {storage_id!r} is not set up: name it in WAHAFLEET_STORAGE_ID or WAHAFLEET_STORAGES",
                code="storage_unknown",
            ) from None

    async def aclose(self) -> None:
        for server in self._servers.values():
            await server.aclose()


def storages(settings: JobSettings, *, timeout_s: float = 10.0) -> Storages:
    """Clients of every storage server in the settings; nothing is opened yet.

    `timeout_s`: the longest that one call to any of them may take. Raises Rejected, without the address
    (it may hold a password), when one of them cannot be read.
    """
    return Storages({id_: storage(dsn, timeout_s=timeout_s) for id_, dsn in settings.storages().items()})


def storage(dsn: Secret, *, timeout_s: float = 10.0) -> Storage:
    """The client for an address: a PostgreSQL URL, or the absolute path of a simulator's folder."""
    plain = dsn.reveal()
    if plain.startswith("/"):
        return FolderStorage(plain, timeout_s=timeout_s)
    if plain.startswith(("postgres://", "postgresql://")):
        return ServerStorage(dsn, timeout_s=timeout_s)
    raise Rejected(
        SYSTEM, "the address of a storage is a URL postgres://user:password@host/database or a folder's path"
    )
