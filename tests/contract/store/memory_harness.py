"""The contract on the store in memory."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from core.clock import Clock, SystemClock
from core.domain.desired import Wanted
from core.store.guard_leases import GuardLeases
from core.store.housekeeping import Housekeeping as Housekeeper
from core.store.interface import Lease, ReconcileStore
from tests.contract.store.harness import Entry, Event, Placement
from tests.memory_store import MemoryGuardLeases, MemoryStore


class MovableClock:
    """The machine's clock, moved on by hand."""

    def __init__(self) -> None:
        self._real = SystemClock()
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead_s)

    def monotonic(self) -> float:
        return self._real.monotonic() + self.ahead_s

    async def sleep(self, seconds: float) -> None:
        await self._real.sleep(seconds)


class MemoryHarness:
    """`Harness` over `MemoryStore`."""

    def __init__(self) -> None:
        self.clock = MovableClock()
        self.memory = MemoryStore(self.clock)
        self.store: ReconcileStore = self.memory
        self.housekeeping: Housekeeper = self.memory

    def guards(self, ttl_s: float, clock: Clock | None = None) -> GuardLeases:
        return MemoryGuardLeases(self.memory, ttl_s=ttl_s, clock=clock)

    async def restart_server(self) -> None:
        self.memory.server_started_at += timedelta(seconds=5)

    async def age(self, seconds: float) -> None:
        """Everything stored is that much older."""
        step = timedelta(seconds=seconds)
        for entry in self.memory.entries.values():
            entry.opened_at -= step
            entry.closed_at = entry.closed_at and entry.closed_at - step
        for placement in self.memory.placement_of.values():
            placement.created_at -= step
            placement.lease_until = placement.lease_until and placement.lease_until - step
        for chip in self.memory.chips.values():
            for event in chip.events:
                event.created_at -= step
        if self.memory.granted_after is not None:
            self.memory.granted_after -= step

    async def user(self, plan: str = "enterprise") -> str:
        user_id = str(uuid.uuid4())
        self.memory.add_user(user_id, plan, f"{user_id}@example.com")
        return user_id

    async def container(self, user_id: str, *, pinned: bool = False) -> None:
        self.memory.ensure_container(user_id)
        if pinned:
            self.memory.containers[user_id].pinned = True
            self.memory.containers[user_id].snapshot = None

    async def chip(self, user_id: str, alias: str = "") -> str:
        chip_id = str(uuid.uuid4())
        self.memory.create_chip(user_id, chip_id, alias or chip_id)
        self.memory.chips[chip_id].events.clear()  # as the harness of PostgreSQL: rows alone
        return chip_id

    async def wish(self, chip_id: str, wanted: str) -> int:
        chip = self.memory.chips[chip_id]
        self.memory.force_wish(chip, Wanted(wanted))
        return chip.generation

    async def expire(self, lease: Lease) -> None:
        self.memory.leases[lease.key].expires_at = self.clock.monotonic() - 1

    async def now(self) -> datetime:
        return self.clock.now()

    async def chip_columns(self, chip_id: str) -> dict[str, Any] | None:
        chip = self.memory.chips.get(chip_id)
        if chip is None:
            return None
        seen = chip.observed
        return {
            "id": chip.id,
            "user_id": chip.user_id,
            "alias": chip.alias,
            "wanted": str(chip.wanted),
            "generation": chip.generation,
            "deleted_at": chip.deleted_at,
            "revision": chip.revision,
            "updated_at": chip.updated_at,
            "status_since": seen.since,
            "tries_generation": seen.tries.generation,
            "tries_failures": seen.tries.failures,
            "tries_qr_rounds": seen.tries.qr_rounds,
            "tries_last_at": seen.tries.last_at,
            **_plain(seen, "since", "tries"),
        }

    async def container_columns(self, user_id: str) -> dict[str, Any] | None:
        row = self.memory.containers.get(user_id)
        if row is None:
            return None
        seen, registered, endpoint = row.observed, row.registered, row.observed.endpoint
        return {
            "user_id": user_id,
            "generation": row.generation,
            "pinned": row.pinned,
            "paused": row.paused,
            "deleted_at": row.deleted_at,
            "status_since": seen.since,
            "spec_hash": registered.hashes.spec if registered else None,
            "spec_restart_hash": registered.hashes.restart if registered else None,
            "job_modify_index": registered.modify_index if registered else None,
            "spec_release": (registered.release or None) if registered else None,
            "variables_hash": row.variables_hash,
            "endpoint_address": endpoint.address if endpoint else None,
            "endpoint_port": endpoint.port if endpoint else None,
            "endpoint_allocation_id": endpoint.allocation_id if endpoint else None,
            **_plain(seen, "since", "endpoint"),
        }

    async def events(self, chip_id: str) -> list[Event]:
        chip = self.memory.chips.get(chip_id)
        if chip is None:
            return []
        return [
            Event(one.id, one.type, one.code, one.description, one.generation, one.extra_data)
            for one in chip.events
        ]

    async def placements(self, user_id: str) -> list[Placement]:
        return [
            Placement(one.allocation_id, one.epoch, one.is_current, one.lease_until, one.grant_number)
            for one in self.memory.users[user_id].placements
        ]

    async def ledger(self) -> list[Entry]:
        rows = [row.entry for row in self.memory.entries.values()]
        return [Entry(e.user_id, e.allocation_id, e.address, e.port, e.is_open) for e in rows]


def _plain(columns: Any, *left_out: str) -> dict[str, Any]:
    return {name: getattr(columns, name) for name in columns.__struct_fields__ if name not in left_out}
