"""Start tokens; see core/store/starts.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import msgspec

from core.domain.desired import Tries, Wanted
from core.domain.pacing import (
    COMING_FROM,
    FLEET,
    Ask,
    Counts,
    Group,
    Pace,
    Turns,
    Waits,
    admit,
    in_order,
    waits_of,
)
from core.domain.states import ChipPhase
from core.store.interface import Lease
from tests.memory_store.leases import Leases
from tests.memory_store.rows import Chip, Place

_Rank: TypeAlias = tuple[int, Any, str]


class Starts(Leases):
    async def take_starts(
        self, lease: Lease, asks: Sequence[Ask], pace: Pace, tries: Mapping[str, Tries]
    ) -> Turns | None:
        self.guard(lease)
        if self.fleet_paused:
            return None
        now = self.clock.now()
        ordered = in_order(asks, now)
        ahead = _counts(ordered, self._in_line(now)) if self.line else {}
        admission = admit(ordered, ahead, self.buckets, pace, now)
        waited = {}
        for chip_id in admission.granted:
            place = self.line.pop(chip_id, None)
            waited[chip_id] = 0.0 if place is None else (now - place.asked_at).total_seconds()
        for chip_id in [id_ for id_, place in self.line.items() if place.expires_at <= now]:
            del self.line[chip_id]
        self.buckets |= admission.buckets
        for chip_id in admission.granted:
            self._record_tries(lease.key, chip_id, tries.get(chip_id))
        waiting = [ask for ask in ordered if ask.chip_id in admission.passed]
        waits: dict[str, Waits] = {}
        if waiting:
            coming = _counts(waiting, self._coming())
            waits = waits_of(waiting, ahead, coming, admission, pace)
        for ask in waiting:
            before = self.line.get(ask.chip_id)
            asked_at = now if before is None else before.asked_at
            until = waits[ask.chip_id].counts_until(now)
            self.line[ask.chip_id] = Place(lease.key, ask, asked_at, until)
        return Turns(waited, waits, admission.tokens[FLEET], len(self.line))

    def _record_tries(self, user_id: str, chip_id: str, spent: Tries | None) -> None:
        chip = self.chips.get(chip_id)
        if spent is not None and chip is not None and chip.user_id == user_id:
            chip.observed = msgspec.structs.replace(chip.observed, tries=spent)
            self.containers[user_id].snapshot = None

    def _in_line(self, now: datetime) -> list[tuple[_Rank, Group]]:
        return [(_rank(p.ask), p.ask.group) for p in self.line.values() if p.expires_at > now]

    def _coming(self) -> list[tuple[_Rank, Group]]:
        return [
            (
                (row.plan.start_order, chip.observed.waiting_since, chip.id),
                (row.observed.node_name, self.provider_of(chip.id)),
            )
            for row in self.containers.values()
            if row.observed.phase in COMING_FROM and row.observed.reason is None
            for chip in row.chips
            if _is_coming(chip) and chip.id not in self.line
        ]


def _is_coming(chip: Chip) -> bool:
    seen = chip.observed
    waits = seen.waiting_since is not None and chip.wanted is Wanted.CONNECTED
    return waits and seen.phase == ChipPhase.QUEUED and seen.reason is None


def _rank(ask: Ask) -> _Rank:
    return ask.start_order, ask.waiting_since, ask.chip_id


def _counts(asks: Sequence[Ask], others: Iterable[tuple[_Rank, Group]]) -> Counts:
    own = {ask.chip_id for ask in asks}
    rest = [(rank, group) for rank, group in others if rank[2] not in own]
    counted: dict[str, dict[Group, int]] = {}
    for ask in asks:
        rank = _rank(ask)
        found = counted.setdefault(ask.chip_id, {})
        for other, group in rest:
            if other < rank:
                found[group] = found.get(group, 0) + 1
    return counted
