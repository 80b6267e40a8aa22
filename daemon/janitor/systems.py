"""What the janitor reads and changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from core.clients.discovery import Discovery
from core.clients.scheduler import Scheduler
from core.clients.storage import Storages
from core.store.interface import ReconcileStore
from core.store.orphans import OrphanStore


class Deregistering(Protocol):
    """The one thing that the janitor changes in Consul."""

    async def deregister(self, service_id: str) -> None:
        """Take an instance out of the catalog; no error when it is gone already."""


class Catalog(Discovery, Deregistering, Protocol):
    """Service discovery that one instance can be taken out of."""


@dataclass(frozen=True)
class Systems:
    """All but WAHA, which is found through these."""

    scheduler: Scheduler
    discovery: Catalog
    storages: Storages
    store: ReconcileStore
    orphans: OrphanStore
