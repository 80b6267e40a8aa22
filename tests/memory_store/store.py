"""The store itself: what a pass reads and records, put together with the other parts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec

from core.clock import Clock
from core.domain.desired import Registered, Wanted
from core.domain.facts import Group, Peers
from core.domain.host_use import HostUse
from core.domain.states import ChipPhase
from core.errors import StaleWrite
from core.store.inbox import Mail
from core.store.interface import VARIABLES_LOST, ChipRow, ContainerRow, Lease, UserSnapshot, UserSummary
from core.store.notify import OBSERVED
from core.store.peers import FAILING
from tests.memory_store.database import SYSTEM
from tests.memory_store.housekeeping import Housekeeping
from tests.memory_store.labels import Labels
from tests.memory_store.leases import stale
from tests.memory_store.rollouts import Rollouts
from tests.memory_store.rows import Chip, Container, SeatRow
from tests.memory_store.starts import Starts
from tests.memory_store.wishes import Wishes

_INBOX_LIMIT = 1000


class MemoryStore(Housekeeping, Labels, Rollouts, Starts, Wishes):
    """`core.store.interface.ReconcileStore` and `core.store.housekeeping.Housekeeping`, with the wishes of users and the inbox beside it.

    Every call is one transaction: nothing is awaited inside, so callers on one event loop never see half of
    one. Use it from one thread.
    """

    def seen_by(self, clock: Clock) -> MemoryStore:
        """The same store as a daemon with a clock of its own uses it: its leases count from that clock."""
        return _Seen(self, clock)

    async def load(self, user_id: str, lease: Lease | None = None) -> UserSnapshot | None:
        self.up()
        row = self.containers.get(user_id)
        if row is None:
            return None
        if row.snapshot is None:
            seat = self.seats.get(user_id)
            row.snapshot = UserSnapshot(
                _container_row(row),
                tuple(map(_chip_row, row.chips)),
                seat.seat if seat is not None else None,
                self.releases[-1].release if self.releases else None,
            )
        snapshot = self.with_routes(row.snapshot) if self.labels else row.snapshot
        return msgspec.structs.replace(snapshot, fleet_paused=True) if self.fleet_paused else snapshot

    async def is_fleet_paused(self) -> bool:
        self.up()
        return self.fleet_paused

    async def user_ids(self) -> tuple[str, ...]:
        self.up()
        return tuple(sorted(self.containers))

    async def summaries(self) -> tuple[UserSummary, ...]:
        self.up()
        now = self.clock.now()
        return tuple(
            [
                _summary(self.containers[user_id], self.seats.get(user_id), now)
                for user_id in sorted(self.containers)
            ]
        )

    async def peers(self, user_id: str, window_s: float) -> Peers:
        self.up()
        row, now = self.containers.get(user_id), self.clock.now()
        host = None if row is None else row.observed.node_name
        host_counts, all_counts, provider_counts = [0, 0, 0], [0, 0, 0], [0, 0, 0]
        ours = {one.provider for one in self.labels.values() if one.user_id == user_id and one.is_live}
        for chip in self.chips.values():
            seen = chip.observed
            paired = seen.connected_at is not None and seen.unlinked_generation is None
            if chip.user_id == user_id or chip.wanted is not Wanted.CONNECTED or not paired:
                continue
            fails = seen.phase in FAILING
            lately = fails and (now - seen.since).total_seconds() < window_s
            beside = host is not None and self.containers[chip.user_id].observed.node_name == host
            through = self.provider_of(chip.id) in ours
            for place, holds in enumerate((fails, lately, seen.phase == ChipPhase.CONNECTED)):
                all_counts[place] += holds
                host_counts[place] += holds and beside
                provider_counts[place] += holds and through
        return Peers(Group(*host_counts), Group(*all_counts), Group(*provider_counts))

    async def record_registered(self, lease: Lease, registered: Registered | None) -> None:
        row = self._guarded(lease)
        row.registered, row.snapshot = registered, None

    async def record_variables(self, lease: Lease, hash_: str | None) -> None:
        row = self._guarded(lease)
        row.variables_hash, row.snapshot = hash_, None

    async def variables_lost(self, fleet: Lease, user_ids: Collection[str]) -> None:
        self.guard(fleet)
        for user_id in user_ids:
            row = self.containers.get(user_id)
            if row is not None and row.variables_hash is not None:
                row.variables_hash, row.snapshot = VARIABLES_LOST, None

    async def record_hosts(self, fleet: Lease, uses: Sequence[HostUse]) -> None:
        self.guard(fleet)
        self.host_uses = tuple(uses)

    async def record_renewal(self, lease: Lease, allocation_id: str) -> None:
        row = self._guarded(lease)
        row.observed = msgspec.structs.replace(row.observed, key_renewed_for=allocation_id)
        row.snapshot = None

    async def record_restart_begun(self, lease: Lease, restarts: int) -> None:
        row = self._guarded(lease)
        row.observed = msgspec.structs.replace(row.observed, restart_mark=restarts)
        row.snapshot = None

    async def record_restarted(self, lease: Lease, generation: int) -> None:
        row = self._guarded(lease)
        newest = max(row.observed.restarted_generation, generation)
        row.observed = msgspec.structs.replace(row.observed, restarted_generation=newest, restart_mark=None)
        row.snapshot = None

    async def remove_chip(self, lease: Lease, chip_id: str, generation: int) -> None:
        self.guard(lease)
        known = self.containers.get(lease.key)
        if known is not None and known.generation > generation:
            raise StaleWrite(SYSTEM, f"a wish came since generation {generation}: look again")
        chip = self.chips.get(chip_id)
        if chip is None or chip.user_id != lease.key:
            return  # removed by an earlier pass that was stopped before it could say so
        if chip.wanted is not Wanted.DELETED:
            raise StaleWrite(SYSTEM, f"chip {chip_id} is wanted: only a deleted one is removed")
        container = self.containers[chip.user_id]
        container.chips.remove(chip)
        container.snapshot = None
        del self.chips[chip_id]
        self.labels.pop(chip_id, None)

    async def remove_container(self, lease: Lease) -> bool:
        self.guard(lease)
        row = self.containers.get(lease.key)
        if row is None:
            return True
        if row.chips or (row.pinned and row.deleted_at is None):
            return False
        for allocation_id, entry in list(self.entries.items()):
            if entry.entry.user_id == lease.key:
                if entry.entry.is_open:
                    self.close_entry(entry, self.clock.now())
                del self.entries[allocation_id]
        self._forget_placements(lease.key)
        self.forget_seat(lease.key)
        del self.containers[lease.key]
        self.statuses.pop(lease.key, None)
        self.tell(OBSERVED, lease.key)
        return True

    # --- the inbox -----------------------------------------------------------------------------------
    async def waiting(self) -> tuple[Mail, ...]:
        self.up()
        oldest = sorted(self.mail.items(), key=lambda item: item[1][0])[:_INBOX_LIMIT]
        return tuple(Mail(user_id, times[-1]) for user_id, times in oldest)

    async def mark_processed(self, user_id: str, up_to: datetime) -> int:
        self.up()
        times = self.mail.get(user_id, [])
        later = [at for at in times if at > up_to]
        if later:
            self.mail[user_id] = later
        else:
            self.mail.pop(user_id, None)
        return len(times) - len(later)

    # --- inner ---------------------------------------------------------------------------------------
    def _guarded(self, lease: Lease) -> Container:
        self.guard(lease)
        row = self.containers.get(lease.key)
        if row is None:
            raise stale(lease)
        return row

    def _forget_placements(self, user_id: str) -> None:
        # A guard that may still forward keeps its row, or the next container's would get a lease beside it.
        user, now = self.users[user_id], self.clock.now()
        kept = []
        for placement in user.placements:
            placement.is_current = False
            if placement.lease_until is not None and placement.lease_until > now:
                kept.append(placement)
            else:
                del self.placement_of[placement.allocation_id]
        user.placements = kept


class _Seen(MemoryStore):
    __slots__ = ("_claimer",)

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self.__dict__ = store.__dict__  # one store: what one of its daemons writes, all read
        self._claimer = clock

    def sent_at(self) -> float:
        return self._claimer.monotonic()


def _container_row(row: Container) -> ContainerRow:
    seen = row.observed
    return ContainerRow(
        user_id=row.user_id,
        email=row.email,
        plan_slug=row.plan.slug,
        resources=row.plan.resources,
        max_chips=row.plan.max_chips,
        generation=row.generation,
        pinned=row.pinned,
        deleted=row.deleted_at is not None,
        namespace=row.namespace,
        storage_id=row.storage_id,
        created_at=row.created_at,
        phase=seen.phase,
        reason=seen.reason,
        since=seen.since,
        registered=row.registered,
        variables_hash=row.variables_hash,
        current_allocation=row.current.allocation_id if row.current is not None else None,
        empty_since=seen.empty_since,
        secrets=row.secrets,
        paused=row.paused,
        isolated_at=seen.isolated_at,
        key_renewed_for=seen.key_renewed_for,
        restart_generation=row.restart_generation,
        restart_allocation=row.restart_allocation,
        restarted_generation=seen.restarted_generation,
        restart_mark=seen.restart_mark,
        start_order=row.plan.start_order,
    )


def _chip_row(chip: Chip) -> ChipRow:
    seen = chip.observed
    return ChipRow(
        id=chip.id,
        wanted=chip.wanted,
        generation=chip.generation,
        intent_at=chip.intent_at,
        created_at=chip.created_at,
        connected_at=seen.connected_at,
        unlinked_generation=seen.unlinked_generation,
        tries=seen.tries,
        phase=seen.phase,
        reason=seen.reason,
        status=seen.status,
        since=seen.since,
        consent=chip.consent,
        banned=chip.banned_at is not None,
        released_generation=chip.released_generation,
        memory=seen.memory,
        last_activity_at=seen.last_activity_at,
        waiting_since=seen.waiting_since,
    )


def _summary(row: Container, seat: SeatRow | None, now: datetime) -> UserSummary:
    seen = row.observed
    live = any(chip.deleted_at is None for chip in row.chips)
    return UserSummary(
        user_id=row.user_id,
        namespace=row.namespace,
        storage_id=row.storage_id,
        deleted=row.deleted_at is not None,
        wanted=row.deleted_at is None and (live or row.pinned),
        generation=row.generation,
        observed_generation=seen.observed_generation,
        phase=seen.phase,
        reason=seen.reason,
        since=seen.since,
        observed_at=seen.observed_at,
        registered=row.registered,
        variables_hash=row.variables_hash,
        current_allocation=row.current.allocation_id if row.current is not None else None,
        allocation_id=seen.allocation_id,
        endpoint=seen.endpoint,
        empty_since=seen.empty_since,
        at_rest=seen.at_rest,
        seat_release=seat.release if seat is not None and seat.seat.is_open else None,
        looked_s=None if seen.looked_at is None else max(0.0, (now - seen.looked_at).total_seconds()),
    )
