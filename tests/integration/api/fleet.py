"""The daemon's half of the store, played by a test: it writes what a pass would have seen."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from core.crypto import Sealer
from core.domain.actions import ChipStatus, ContainerStatus, Placed
from core.domain.evidence import Evidence
from core.domain.facts import Endpoint
from core.settings import Settings
from core.store.interface import Lease, UserSnapshot, Written
from core.store.reconcile import PostgresReconcileStore


class FakeDaemon:
    """Writes statuses through the store that the real daemon uses."""

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        keys = tuple(key.reveal() for key in settings.store.secret_keys)
        secret = settings.guard.secret.reveal().encode()
        self.store = PostgresReconcileStore(engine, Sealer(keys), label_secret=secret)
        self.allocation = str(uuid.uuid4())
        self.node = str(uuid.uuid4())

    async def saw(
        self,
        user_id: str,
        *,
        phase: str = "ready",
        reason: str | None = None,
        port: int | None = 3100,
        endpoint: bool | int = True,
        allocation: str | None = None,
        chips: dict[str, ChipStatus] | None = None,
        loaded: UserSnapshot | None = None,
        evidence: Evidence | None = None,
    ) -> UserSnapshot:
        """One pass over a user whose container is placed on `port` of 127.0.0.1.

        `endpoint`: whether it may be asked, or the port where WAHA is said to answer. `loaded`: what the
        pass knew when it began; now, unless given.
        """
        lease = await self.store.claim(user_id, "test", 60)
        assert isinstance(lease, Lease)
        snapshot = loaded or await self.store.load(user_id)
        assert snapshot is not None
        allocation = allocation or self.allocation
        placed = None
        where: dict[str, Any] = {}
        if port is not None:
            placed = Placed(allocation, self.node, "host-1", "127.0.0.1", port)
            where = {
                "placed": placed,
                "allocation_id": allocation,
                "node_name": "host-1",
                "address": "127.0.0.1",
                "port": port,
            }
            if endpoint:
                answers_at = port if endpoint is True else endpoint
                where["endpoint"] = Endpoint("127.0.0.1", answers_at, allocation)
        written = await self.store.write_status(
            lease,
            ContainerStatus(phase=phase, reason=reason, **where),
            chips or {},
            {chip.id: chip.generation for chip in snapshot.chips if chip.id in (chips or {})},
            snapshot.container.generation,
            evidence=evidence,
        )
        assert isinstance(written, Written)
        await self.store.release(lease)
        return snapshot


QR = ChipStatus(phase="qr", status="WAITING_QR", waha_status="SCAN_QR_CODE")
STARTING = ChipStatus(phase="starting", status="WAITING_QR", waha_status="STARTING")
WORKING = ChipStatus(
    phase="connected",
    status="CONNECTED",
    waha_status="WORKING",
    phone_number="+5511988887777",
    connected_now=True,
)
PARKED = ChipStatus(phase="parked", status="WAITING_QR", reason="qr_spent", waha_status="STOPPED")
DISCONNECTED = ChipStatus(phase="disconnected", status="DISCONNECTED", waha_status="STOPPED")
