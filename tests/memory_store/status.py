"""Writing what a pass saw; see core/store/status.py for the order of things."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from core.domain.actions import ChipStatus, ContainerStatus, Placed
from core.domain.desired import Wanted
from core.domain.evidence import Evidence, merged
from core.domain.health import DROP_WINDOW
from core.domain.looks import Look
from core.domain.observed import ChipMove, merge_chip, merge_container, touched
from core.domain.ports import Claim, Entry, Settled, Taken, claims_of, settle
from core.store.interface import Lease, PortTaken, Release, Written
from core.store.notify import OBSERVED
from core.store.status_statements import EVENTS_LOOKED_AT
from tests.memory_store.leases import Leases, stale
from tests.memory_store.rows import Chip, Container, KeptEvidence, LedgerRow, Placement


class StatusWrites(Leases):
    async def write_status(
        self,
        lease: Lease,
        container: ContainerStatus,
        chips: Mapping[str, ChipStatus],
        generations: Mapping[str, int],
        container_generation: int,
        *,
        release_ports_of: tuple[str, ...] = (),
        evidence: Evidence | None = None,
        look: Look | None = None,
        release: Release | None = None,
    ) -> Written | PortTaken:
        self.guard(lease)
        row = self.containers.get(lease.key)
        if row is None:
            raise stale(lease)
        now = self.clock.now()
        change: Settled | Taken = Settled()
        claims = claims_of(container)
        if claims or container.closed_allocations or release_ports_of:
            change = settle(
                lease.key,
                claims,
                own_ended=container.closed_allocations,
                others_ended=release_ports_of,
                entry=self.entry,
                holder=self.holder,
            )
        if isinstance(change, Taken):
            held = change.holder
            return PortTaken(change.address, change.port, held.user_id, held.allocation_id)
        kept = row.kept if evidence is not None else None
        news = evidence is not None and (kept is None or kept.seen != evidence)
        if evidence is not None and news:
            body = merged(kept.body if kept else None, evidence, now)
            row.kept = KeptEvidence(evidence, body, now)
        if look is not None and row.look != look:
            row.look, news = look, True
        done, wrote = self._apply(
            row, container, chips, generations, container_generation, change, now, wrote=news
        )
        if release is None or not wrote:
            return done
        self.free(lease, looked=release is Release.LOOKED)
        return msgspec.structs.replace(done, released=True)

    def _apply(
        self,
        row: Container,
        seen: ContainerStatus,
        chips: Mapping[str, ChipStatus],
        generations: Mapping[str, int],
        container_generation: int,
        change: Settled,
        now: datetime,
        *,
        wrote: bool = False,
    ) -> tuple[Written, bool]:
        """What was written, and whether anything was."""
        self.settle_ledger(row.user_id, change, now)
        self.withdraw_endpoints(row.user_id, change.closes)
        placed = seen.placed
        moves = placed is not None and (
            row.current is None or placed.allocation_id != row.current.allocation_id
        )
        if placed is not None and moves:
            self._move(row, placed, now)
        wrote |= bool(moves or change.closes or change.opens)
        before = row.observed
        after = row.observed = merge_container(before, seen, container_generation, now)
        shown_moved = before is not after and before.shown_in_chips() != after.shown_in_chips()
        news = moves or (before is not after and before.news() != after.news())
        for chip in sorted(row.chips, key=_by_id) if len(row.chips) > 1 else row.chips:
            told = self._write_chip(chip, chips.get(chip.id), generations, shown_moved, now)
            wrote |= told is not None
            news |= bool(told)
        if wrote and after is before:
            row.observed = touched(before, seen, now)
        if after is not before or moves:
            row.snapshot = None
        self.statuses[row.user_id] = seen
        if news:
            self.tell(OBSERVED, row.user_id)
        epoch = row.current.epoch if row.current is not None else None
        done = Written(epoch, self.newest(row.user_id), bool(news), tuple(sorted(change.closes)))
        return done, wrote or after is not before

    def _write_chip(
        self,
        chip: Chip,
        seen: ChipStatus | None,
        generations: Mapping[str, int],
        shown_moved: bool,
        now: datetime,
    ) -> bool | None:
        """Whether its owner sees something new; None when nothing was written."""
        before = chip.observed
        move = ChipMove(before, None)
        if seen is not None:
            move = merge_chip(
                before,
                seen,
                loaded_generation=generations[chip.id],
                stored_generation=chip.generation,
                drops=self._drops(chip, now),
                now=now,
            )
        live = chip.wanted is not Wanted.DELETED
        after = move.after
        same = after == before
        bump = (shown_moved and live) or (not same and after.rendered() != before.rendered())
        if not same:
            chip.observed = after
            self.containers[chip.user_id].snapshot = None
        if bump:
            chip.revision += 1
            chip.updated_at = now
        if live and move.event is not None:
            told = move.event
            loaded = generations[chip.id]
            self.record_event(
                chip, now, loaded, told.type, told.code, told.description, dict(told.extra_data)
            )
        return None if same and not bump else bump and live

    def _drops(self, chip: Chip, now: datetime) -> int:
        if not chip.drops:
            return 0
        since = now - DROP_WINDOW
        oldest = chip.events[-min(EVENTS_LOOKED_AT, len(chip.events))]
        return sum([drop.id >= oldest.id and drop.created_at > since for drop in chip.drops])

    def settle_ledger(self, user_id: str, change: Settled, now: datetime) -> None:
        for allocation_id in change.closes:
            self.close_entry(self.entries[allocation_id], now)
        for claim in change.opens:
            row = self.entries.get(claim.allocation_id)
            owner = user_id if row is None else row.entry.user_id
            entry = Entry(owner, claim.allocation_id, claim.address, claim.port, is_open=True)
            if row is None:
                row = self.entries[claim.allocation_id] = LedgerRow(entry, now)
            else:
                self.open_ports.pop((row.entry.address, row.entry.port), None) if row.entry.is_open else None
                row.entry, row.opened_at, row.closed_at = entry, now, None
            self.open_ports[claim.address, claim.port] = row

    def withdraw_endpoints(self, user_id: str | None, allocation_ids: tuple[str, ...]) -> None:
        """Other users' endpoints on ports that are given on: another's container answers there from now."""
        for allocation_id in allocation_ids:
            other = self.containers.get(self.entries[allocation_id].entry.user_id)
            if other is None or other.user_id == user_id:
                continue
            endpoint = other.observed.endpoint
            if endpoint is not None and endpoint.allocation_id == allocation_id:
                other.observed = msgspec.structs.replace(other.observed, endpoint=None, at_rest=False)
                self.tell(OBSERVED, other.user_id)

    def hold_port(self, user_id: str, allocation_id: str, address: str, port: int) -> None:
        """An entry that an earlier pass opened and that nothing closed since."""
        self.settle_ledger(user_id, Settled(opens=(Claim(allocation_id, address, port),)), self.clock.now())

    def close_entry(self, row: LedgerRow, now: datetime) -> None:
        entry = row.entry
        del self.open_ports[entry.address, entry.port]
        row.closed_at = now
        row.entry = Entry(entry.user_id, entry.allocation_id, entry.address, entry.port, is_open=False)

    def _move(self, row: Container, placed: Placed, now: datetime) -> None:
        user = self.users[row.user_id]
        epoch = max((p.epoch for p in user.placements), default=0) + 1
        if row.current is not None:
            row.current.is_current = False
        found = self.placement_of.get(placed.allocation_id)
        if found is None:
            found = Placement(
                row.user_id, placed.allocation_id, placed.node_id, placed.node_name, epoch, True, now
            )
            self.placement_of[placed.allocation_id] = found
            user.placements.append(found)
        else:
            found.epoch, found.is_current = epoch, True
            user.placements.sort(key=lambda one: one.epoch)
        row.current = found


def _by_id(chip: Chip) -> str:
    return chip.id
