"""The contract on the store in memory."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from core.clock import Clock, SystemClock
from core.domain.desired import Wanted
from core.domain.host_use import HostUse
from core.domain.looks import Look
from core.domain.pacing import Bucket
from core.store.guard_leases import GuardLeases
from core.store.housekeeping import Housekeeping as Housekeeper
from core.store.interface import Lease, ReconcileStore
from core.store.look_ins import LookIns
from tests.contract.store.harness import Entry, Event, Exit, Heard, Kept, Placement, watched
from tests.memory_store import MemoryGuardLeases, MemoryLookIns, MemoryStore
from tests.memory_store.rows import ProviderRow, SubUserRow


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
        self.looks = MemoryLookIns(self.memory)
        self.look_ins: LookIns = self.looks
        self._guards: list[MemoryGuardLeases] = []

    def guards(self, ttl_s: float, clock: Clock | None = None) -> GuardLeases:
        made = MemoryGuardLeases(self.memory, ttl_s=ttl_s, clock=clock)
        self._guards.append(made)
        return made

    async def restart_server(self) -> None:
        self.memory.server_started_at += timedelta(seconds=5)

    async def age(self, seconds: float) -> None:
        """Everything stored is that much older, and so is whoever watches the clock."""
        step = timedelta(seconds=seconds)
        watched(self._guards, step)
        for entry in self.memory.entries.values():
            entry.opened_at -= step
            entry.closed_at = entry.closed_at and entry.closed_at - step
        for placement in self.memory.placement_of.values():
            placement.created_at -= step
            placement.lease_until = placement.lease_until and placement.lease_until - step
        for chip in self.memory.chips.values():
            for event in chip.events:
                event.created_at -= step
        self.looks.age(step)
        for key, bucket in self.memory.buckets.items():
            self.memory.buckets[key] = Bucket(bucket.tokens, bucket.refilled_at - step)
        for place in self.memory.line.values():
            place.asked_at -= step
            place.expires_at -= step
        for provider in self.memory.providers.values():
            provider.trouble_at = provider.trouble_at and provider.trouble_at - step
        for sub_user in self.memory.sub_users.values():
            sub_user.trouble_at = sub_user.trouble_at and sub_user.trouble_at - step
        for label in self.memory.labels.values():
            label.assigned_at -= step
            for name in ("released_at", "exit_since", "exit_at", "checked_at", "failing_since"):
                at = getattr(label, name)
                setattr(label, name, at and at - step)
        for lines in self.memory.exits.values():
            for line in lines:
                line.seen_from -= step
                line.seen_until -= step
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

    async def reconnect(self, chip_id: str, *, fresh: bool = False) -> None:
        self.memory.reconnect_chip(self.memory.chips[chip_id].user_id, chip_id, fresh=fresh)

    async def disconnect(self, chip_id: str) -> None:
        self.memory.disconnect_chip(self.memory.chips[chip_id].user_id, chip_id)

    async def ban(self, chip_id: str, *, banned: bool = True) -> bool:
        return self.memory.ban_chip(chip_id, banned=banned, by="ana")

    async def release(self, chip_id: str) -> bool:
        return self.memory.release_chip(chip_id, by="ana")

    async def restart(self, user_id: str) -> int | None:
        return self.memory.restart(user_id)

    async def provider(self, slug: str, *, is_default: bool = True, template: str = "generic") -> None:
        self.memory.add_provider(ProviderRow(slug, template, is_default=is_default))

    async def sub_user(self, provider: str, login: str, *, max_labels: int = 1000) -> str:
        id_ = str(uuid.uuid4())
        self.memory.add_sub_user(SubUserRow(id_, provider, login, f"secret of {login}", max_labels))
        return id_

    async def change_provider(self, slug: str, **columns: Any) -> None:
        for name, value in columns.items():
            setattr(self.memory.providers[slug], name, value)

    async def change_sub_user(self, id_: str, **columns: Any) -> None:
        for name, value in columns.items():
            setattr(self.memory.sub_users[id_], name, value)

    async def remove_sub_user(self, id_: str) -> None:
        del self.memory.sub_users[id_]

    async def uses(self, user_id: str, bytes_in: int) -> None:
        self.memory.proxy_bytes[user_id] = self.memory.proxy_bytes.get(user_id, 0) + bytes_in

    async def limit_traffic(self, user_id: str, gb: Decimal) -> None:
        user = self.memory.users[user_id]
        user.plan = dataclasses.replace(user.plan, proxy_gb_limit=gb)

    async def request_label(self, chip_id: str) -> None:
        self.memory.request_label(chip_id)

    async def exits(self, chip_id: str) -> list[Exit]:
        return [
            Exit(one.provider, one.label, one.label_generation, one.exit_ip, one.why)
            for one in self.memory.exits.get(chip_id, [])
        ]

    async def seen_until(self, chip_id: str) -> list[datetime]:
        return [one.seen_until for one in self.memory.exits.get(chip_id, [])]

    async def pause_fleet(self, *, paused: bool = True) -> bool:
        return self.memory.pause_fleet(paused=paused)

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncIterator[Heard]:
        told: list[str] = []

        def hear(on: str, user_id: str) -> None:
            if on == channel:
                told.append(user_id)

        async def heard() -> list[str]:
            found = list(told)
            told.clear()
            return found

        before, self.memory.on_news = self.memory.on_news, hear
        try:
            yield heard
        finally:
            self.memory.on_news = before

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
            "consent": str(chip.consent),
            "banned_at": chip.banned_at,
            "released_generation": chip.released_generation,
            "memory": msgspec.to_builtins(seen.memory),
            "revision": chip.revision,
            "updated_at": chip.updated_at,
            "status_since": seen.since,
            "tries_generation": seen.tries.generation,
            "tries_failures": seen.tries.failures,
            "tries_qr_rounds": seen.tries.qr_rounds,
            "tries_last_at": seen.tries.last_at,
            **_plain(seen, "since", "tries", "memory"),
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
            "restart_generation": row.restart_generation,
            "restart_allocation_id": row.restart_allocation,
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

    async def hosts(self) -> list[HostUse]:
        return list(self.memory.host_uses)

    async def look(self, user_id: str) -> Look | None:
        return self.memory.containers[user_id].look

    async def kept(self, user_id: str) -> Kept | None:
        row = self.memory.containers.get(user_id)
        kept = row.kept if row is not None else None
        return None if kept is None else Kept(kept.body, kept.observed_at)


def _plain(columns: Any, *left_out: str) -> dict[str, Any]:
    return {name: getattr(columns, name) for name in columns.__struct_fields__ if name not in left_out}
