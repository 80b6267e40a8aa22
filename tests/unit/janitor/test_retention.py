"""How long the store keeps history is what the settings say."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
import pytest

from core.clock import SystemClock
from core.domain.facts import Unknown
from core.domain.sweep import Listing
from core.settings import LoopSettings
from core.store.housekeeping import ClosedEntry
from core.store.interface import Lease
from daemon.janitor.housekeeping import Housekeeper
from daemon.lease import HeldLease
from tests.unit.daemon.system import LOOP

DAY_S = 86_400.0
BLIND = Unknown("dependency_nomad")
NOTHING = Listing(BLIND, BLIND, BLIND, BLIND, (), read_s=0.0)


class Asked:
    """A store that remembers what it was asked to forget."""

    def __init__(self) -> None:
        self.calls: dict[str, dict[str, Any]] = {}

    async def close_forgotten(
        self, lease: Lease, alive: Collection[str], **_: Any
    ) -> tuple[ClosedEntry, ...]:
        raise AssertionError("the list of allocations could not be read")

    async def prune_ledger(self, lease: Lease, **options: Any) -> int:
        self.calls["ledger"] = options
        return 0

    async def prune_placements(self, lease: Lease, **options: Any) -> int:
        self.calls["placements"] = options
        return 0

    async def prune_events(self, lease: Lease, **options: Any) -> int:
        self.calls["events"] = options
        return 0

    async def prune_keys(self, lease: Lease, **options: Any) -> int:
        self.calls["keys"] = options
        return 0

    async def prune_audit(self, lease: Lease, **options: Any) -> int:
        self.calls["audit"] = options
        return 0

    async def prune_exits(self, lease: Lease, **options: Any) -> int:
        self.calls["exits"] = options
        return 0

    async def prune_usage(self, lease: Lease, **options: Any) -> int:
        self.calls["usage"] = options
        return 0

    async def prune_batches(self, lease: Lease, **options: Any) -> int:
        self.calls["batches"] = options
        return 0


@pytest.mark.parametrize(
    ("settings", "ledger", "placements", "events", "per_chip", "audit", "exits"),
    [
        (LOOP, 30, 90, 90, 1000, 365, 180),
        (
            msgspec.structs.replace(
                LOOP,
                ledger_keep_days=1,
                placements_keep_days=2,
                events_keep_days=3.5,
                events_per_chip=50,
                audit_keep_days=4,
                exits_keep_days=5,
            ),
            *(1, 2, 3.5, 50, 4, 5),
        ),
    ],
)
async def test_each_kind_of_history_has_its_own_age(
    settings: LoopSettings,
    ledger: float,
    placements: float,
    events: float,
    per_chip: int,
    audit: float,
    exits: float,
) -> None:
    store, clock = Asked(), SystemClock()
    lease = Lease("fleet", "one", 1, clock.monotonic(), 60.0)
    held = HeldLease(lease, clock, deadline_at=float("inf"))
    await Housekeeper(store, clock, settings).run(held, NOTHING)
    assert store.calls == {
        "ledger": {"older_than_s": ledger * DAY_S},
        "placements": {"older_than_s": placements * DAY_S},
        "events": {"older_than_s": events * DAY_S, "keep_per_chip": per_chip},
        "keys": {"older_than_s": DAY_S},
        "audit": {"older_than_s": audit * DAY_S},
        "exits": {"older_than_s": exits * DAY_S},
        "usage": {"months": 12},
        "batches": {"older_than_s": DAY_S},
    }
