"""A store in memory with the rules that passes rely on: leases, guarded writes, generations, the port ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from core.clock import Clock
from core.domain.actions import ChipStatus, ContainerStatus
from core.domain.desired import Registered, Resources, Tries, Wanted
from core.errors import StaleWrite, Unavailable
from core.store.inbox import Mail
from core.store.interface import (
    Busy,
    ChipRow,
    ContainerRow,
    ContainerSecrets,
    Lease,
    PortTaken,
    UserSnapshot,
    Written,
)


@dataclass
class _LeaseRow:
    owner: str
    token: int
    expires_at: float


@dataclass
class MemoryStore:
    """`ReconcileStore`. `down`: every call raises Unavailable; `calls`: names of calls in order."""

    clock: Clock
    containers: dict[str, ContainerRow] = field(default_factory=dict)
    chips: dict[str, tuple[str, ChipRow]] = field(default_factory=dict)
    statuses: dict[str, ContainerStatus] = field(default_factory=dict)
    chip_statuses: dict[str, ChipStatus] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    ledger: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    leases: dict[str, _LeaseRow] = field(default_factory=dict)
    mail: dict[str, datetime] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    down: bool = False

    # --- what users wish -----------------------------------------------------------------------------
    def add_chip(self, user_id: str, chip_id: str) -> None:
        now = self.clock.now()
        row = self.containers.get(user_id)
        if row is None:
            row = _new_container(user_id, now)
        generation = row.generation + 1
        self.containers[user_id] = msgspec.structs.replace(row, generation=generation)
        chip = ChipRow(
            id=chip_id,
            wanted=Wanted.CONNECTED,
            generation=generation,
            intent_at=now,
            created_at=now,
            connected_at=None,
            unlinked_generation=None,
            tries=Tries(),
            phase="queued",
            reason=None,
            status="WAITING_QR",
            since=now,
        )
        self.chips[chip_id] = (user_id, chip)

    def wish(self, chip_id: str, wanted: Wanted) -> None:
        user_id, chip = self.chips[chip_id]
        row = self.containers[user_id]
        self.containers[user_id] = msgspec.structs.replace(row, generation=row.generation + 1)
        changes = {"wanted": wanted, "generation": row.generation + 1, "intent_at": self.clock.now()}
        self.chips[chip_id] = (user_id, msgspec.structs.replace(chip, **changes))

    def chip(self, chip_id: str) -> ChipRow | None:
        found = self.chips.get(chip_id)
        return found[1] if found else None

    async def waiting(self) -> tuple[Mail, ...]:
        self._up("waiting")
        return tuple(Mail(user, at) for user, at in self.mail.items())

    async def mark_processed(self, user_id: str, up_to: datetime) -> None:
        self._up("mark_processed")
        if self.mail.get(user_id) is not None and self.mail[user_id] <= up_to:
            del self.mail[user_id]

    # --- leases --------------------------------------------------------------------------------------
    async def claim(self, key: str, owner: str, ttl_s: float) -> Lease | Busy:
        self._up("claim")
        now = self.clock.monotonic()
        row = self.leases.get(key)
        if row is not None and row.expires_at > now and row.owner != owner:
            return Busy(row.expires_at - now)
        token = row.token + 1 if row else 1
        self.leases[key] = _LeaseRow(owner, token, now + ttl_s)
        return Lease(key, owner, token, now, ttl_s)

    async def extend(self, lease: Lease) -> Lease | None:
        self._up("extend")
        now = self.clock.monotonic()
        if not self._holds(lease):
            return None
        self.leases[lease.key].expires_at = now + lease.ttl_s
        return msgspec.structs.replace(lease, sent_at=now)

    async def release(self, lease: Lease) -> int | None:
        self._up("release")
        if not self._holds(lease):
            return None
        row = self.leases[lease.key]
        row.owner, row.expires_at = "", self.clock.monotonic()
        return self._newest(lease.key)

    def steal(self, key: str) -> None:
        """Another daemon claims the key, as it may once the lease has run out."""
        row = self.leases[key]
        self.leases[key] = _LeaseRow("thief", row.token + 1, self.clock.monotonic() + 60)

    # --- reading and recording -----------------------------------------------------------------------
    async def load(self, user_id: str) -> UserSnapshot | None:
        self._up("load")
        row = self.containers.get(user_id)
        if row is None:
            return None
        return UserSnapshot(row, tuple(chip for owner, chip in self.chips.values() if owner == user_id))

    async def user_ids(self) -> tuple[str, ...]:
        self._up("user_ids")
        return tuple(self.containers)

    async def record_registered(self, lease: Lease, registered: Registered | None) -> None:
        self._guard("record_registered", lease)
        self._container(lease.key, registered=registered)

    async def record_variables(self, lease: Lease, hash_: str | None) -> None:
        self._guard("record_variables", lease)
        self._container(lease.key, variables_hash=hash_)

    async def record_tries(self, lease: Lease, tries: Mapping[str, Tries]) -> None:
        self._guard("record_tries", lease)
        for chip_id, spent in tries.items():
            user_id, chip = self.chips[chip_id]
            self.chips[chip_id] = (user_id, msgspec.structs.replace(chip, tries=spent))

    async def write_status(
        self,
        lease: Lease,
        container: ContainerStatus,
        chips: Mapping[str, ChipStatus],
        generations: Mapping[str, int],
        container_generation: int,
        *,
        release_ports_of: tuple[str, ...] = (),
    ) -> Written | PortTaken:
        self._guard("write_status", lease)
        user_id = lease.key
        closing = {*container.closed_allocations, *release_ports_of}
        ledger = {place: entry for place, entry in self.ledger.items() if entry[1] not in closing}
        claims = [(container.address, container.port, container.allocation_id)]
        if container.placed is not None:
            claims.append((container.placed.address, container.placed.port, container.placed.allocation_id))
        for address, port, allocation in claims:
            if address is None or port is None or allocation is None:
                continue
            holder = ledger.get((address, port))
            if holder is not None and holder[1] != allocation:
                return PortTaken(address, port, *holder)
            ledger[address, port] = (user_id, allocation)
        self.ledger = ledger
        changed = self._moved(user_id, container) | self._write_chips(chips, generations)
        return Written(self.epochs.get(user_id), self._newest(user_id), changed)

    async def remove_chip(self, lease: Lease, chip_id: str) -> None:
        self._guard("remove_chip", lease)
        if chip_id in self.chips and self.chips[chip_id][1].wanted is not Wanted.DELETED:
            raise StaleWrite("postgres", "it is wanted")
        self.chips.pop(chip_id, None)
        self.chip_statuses.pop(chip_id, None)

    async def remove_container(self, lease: Lease) -> bool:
        self._guard("remove_container", lease)
        if any(owner == lease.key for owner, _ in self.chips.values()):
            return False
        self.containers.pop(lease.key, None)
        self.ledger = {place: entry for place, entry in self.ledger.items() if entry[0] != lease.key}
        return True

    # --- inner ---------------------------------------------------------------------------------------
    def _up(self, call: str) -> None:
        self.calls.append(call)
        if self.down:
            raise Unavailable("postgres", "down")

    def _guard(self, call: str, lease: Lease) -> None:
        self._up(call)
        if not self._holds(lease):
            raise StaleWrite("postgres", "the lease is somebody else's")

    def _holds(self, lease: Lease) -> bool:
        row = self.leases.get(lease.key)
        return row is not None and (row.owner, row.token) == (lease.owner, lease.token)

    def _newest(self, user_id: str) -> int:
        mine = [chip.generation for owner, chip in self.chips.values() if owner == user_id]
        row = self.containers.get(user_id)
        return max([row.generation if row else 0, *mine])

    def _container(self, user_id: str, **changes: object) -> None:
        self.containers[user_id] = msgspec.structs.replace(self.containers[user_id], **changes)

    def _moved(self, user_id: str, status: ContainerStatus) -> bool:
        row = self.containers[user_id]
        same = (row.phase, row.reason) == (status.phase, status.reason)
        current = row.current_allocation
        if status.placed is not None and status.placed.allocation_id != current:
            current = status.placed.allocation_id
            self.epochs[user_id] = self.epochs.get(user_id, 0) + 1
        self._container(
            user_id,
            phase=str(status.phase),
            reason=status.reason,
            since=row.since if same else self.clock.now(),
            empty_since=status.empty_since,
            current_allocation=current,
        )
        changed = self.statuses.get(user_id) != status
        self.statuses[user_id] = status
        return changed

    def _write_chips(self, chips: Mapping[str, ChipStatus], generations: Mapping[str, int]) -> bool:
        changed = False
        for chip_id, status in chips.items():
            user_id, row = self.chips[chip_id]
            if row.generation > generations[chip_id]:
                continue
            same = (row.phase, row.reason, row.status) == (status.phase, status.reason, status.status)
            changed = changed or not same
            now = self.clock.now()
            first = status.connected_now and row.phase != "connected"
            self.chip_statuses[chip_id] = status
            changes: dict[str, object] = {
                "phase": str(status.phase),
                "reason": status.reason,
                "status": str(status.status),
                "since": row.since if same else now,
                "tries": status.tries,
                "unlinked_generation": status.unlinked_generation,
                "connected_at": now if first else row.connected_at,
            }
            self.chips[chip_id] = (user_id, msgspec.structs.replace(row, **changes))
        return changed


def _new_container(user_id: str, now: datetime) -> ContainerRow:
    return ContainerRow(
        user_id=user_id,
        email="dono@example.com",
        plan_slug="enterprise",
        resources=Resources(cpu_mhz=200, memory_mb=300, memory_max_mb=1024),
        max_chips=10,
        generation=0,
        pinned=False,
        deleted=False,
        namespace="u" + user_id.replace("-", "")[:15],
        storage_id="main",
        created_at=now,
        phase="absent",
        reason=None,
        since=now,
        registered=None,
        variables_hash=None,
        current_allocation=None,
        empty_since=None,
        secrets=ContainerSecrets(api_key=f"key of {user_id}", hook_key="a" * 64),
    )
