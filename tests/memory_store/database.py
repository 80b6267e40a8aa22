"""Tables in memory, and what every part of the store asks of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from itertools import count
from types import MappingProxyType
from typing import Final

from core.clock import Clock
from core.domain.actions import ContainerStatus
from core.domain.desired import Resources, Tries
from core.domain.events import STATUS_CHANGE
from core.domain.guard_grants import ServerView
from core.domain.host_use import HostUse
from core.domain.observed import ChipColumns, ContainerColumns
from core.domain.pacing import Bucket
from core.domain.ports import Entry
from core.domain.states import ChipPhase, ChipStatusWord
from core.errors import Unavailable
from core.store.interface import ContainerSecrets
from tests.memory_store.rows import (
    Chip,
    Container,
    Event,
    ExitRow,
    LabelRow,
    LeaseRow,
    LedgerRow,
    Place,
    Placement,
    Plan,
    ProviderRow,
    ReleaseRow,
    SeatRow,
    SubUserRow,
    User,
)

SYSTEM: Final = "postgres"  # the name of the dependency that this store stands for

PLANS: Final = MappingProxyType(
    {
        "free": Plan("free", 1, Resources(200, 300, 1024), 20),
        "business": Plan("business", 3, Resources(200, 300, 1024), 10),
        "enterprise": Plan("enterprise", 10, Resources(200, 300, 2048), 0),
    }
)
_WISHED: Final = frozenset({ChipPhase.DISCONNECTING, ChipPhase.DISCONNECTED, ChipPhase.DELETING})


class Database:
    """Everything that is stored. `down`: every call raises Unavailable.

    Attributes:
        clock: the store's own; leases run out by its monotonic half, rows carry its wall time.
        on_news: called with channel and user id when a change is committed that others listen for.
        statuses: the container status that was written last, per user.
        mail: when the webhooks were recorded that no pass has taken into account, per user, oldest first.
        server_started_at: another time here is another server, as after a restore or a failover.
        granted_after, guards_saw: see core/store/guard_leases.py. grant_numbers: never given twice, not even by a
            server that forgot some.
        fleet_paused, fleet_resumed_at: see core/store/fleet_control.py.
        buckets, line: start tokens; see core/store/starts.py.
        labels, exits: by chip; see core/store/labels.py.
        proxy_bytes: of this month, by user.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.down = False
        self.on_news: Callable[[str, str], None] | None = None
        self.users: dict[str, User] = {}
        self.containers: dict[str, Container] = {}
        self.chips: dict[str, Chip] = {}
        self.leases: dict[str, LeaseRow] = {}
        self.mail: dict[str, list[datetime]] = {}
        self.placement_of: dict[str, Placement] = {}
        self.entries: dict[str, LedgerRow] = {}
        self.open_ports: dict[tuple[str, int], LedgerRow] = {}
        self.statuses: dict[str, ContainerStatus] = {}
        self.server_started_at = clock.now()
        self.granted_after: datetime | None = None
        self.guards_saw: ServerView | None = None
        self.grant_numbers = count(1)
        self.buckets: dict[str, Bucket] = {}
        self.line: dict[str, Place] = {}
        self.releases: list[ReleaseRow] = []
        self.seats: dict[str, SeatRow] = {}
        self.fleet_paused = False
        self.host_uses: tuple[HostUse, ...] = ()
        self.fleet_resumed_at: datetime | None = None
        self.label_secret = b"the secret of labels in memory"
        self.providers: dict[str, ProviderRow] = {}
        self.sub_users: dict[str, SubUserRow] = {}
        self.labels: dict[str, LabelRow] = {}
        self.exits: dict[str, list[ExitRow]] = {}
        self.proxy_bytes: dict[str, int] = {}
        self._event_id = 0

    # --- what tests look at ----------------------------------------------------------------------------
    @property
    def epochs(self) -> dict[str, int]:
        """Epoch of each user's current placement."""
        return {c.user_id: c.current.epoch for c in self.containers.values() if c.current is not None}

    @property
    def ledger(self) -> dict[tuple[str, int], tuple[str, str]]:
        """User and allocation of each open entry, by (address, port)."""
        return {place: (row.entry.user_id, row.entry.allocation_id) for place, row in self.open_ports.items()}

    def provider_of(self, chip_id: str) -> str | None:
        """Of the chip's live label."""
        row = self.labels.get(chip_id)
        return row.provider if row is not None and row.is_live else None

    def chip(self, chip_id: str) -> Chip | None:
        return self.chips.get(chip_id)

    # --- what the parts share --------------------------------------------------------------------------
    def up(self) -> None:
        if self.down:
            raise Unavailable(SYSTEM, "down")

    def tell(self, channel: str, user_id: str) -> None:
        if self.on_news is not None:
            self.on_news(channel, user_id)

    def entry(self, allocation_id: str) -> Entry | None:
        row = self.entries.get(allocation_id)
        return None if row is None else row.entry

    def holder(self, address: str, port: int) -> Entry | None:
        row = self.open_ports.get((address, port))
        return None if row is None else row.entry

    def newest(self, user_id: str) -> int:
        """The user's highest generation; 0 for a key that is no user's."""
        container = self.containers.get(user_id)
        if container is None:
            return 0
        return max([container.generation, *[chip.generation for chip in container.chips]])

    def record_event(
        self,
        chip: Chip,
        now: datetime,
        generation: int,
        type_: str,
        code: str,
        description: str,
        extra: dict[str, object],
    ) -> None:
        self._event_id += 1
        event = Event(self._event_id, type_, code, description, generation, extra, now)
        chip.events.append(event)
        if is_drop(event):
            chip.drops.append(event)


def is_drop(event: Event) -> bool:
    """Whether the connection was lost without its owner's wish; see core/domain/health.py."""
    connected = ChipStatusWord.CONNECTED
    return (
        event.type == STATUS_CHANGE
        and event.code not in _WISHED
        and event.extra_data.get("from") == connected
        and event.extra_data.get("to") != connected
    )


def api_key_of(user_id: str) -> str:
    """What the user's WAHA answers to."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def new_container(user: User, now: datetime) -> Container:
    """A container row as the API makes it; namespace and keys repeat with the user's id."""
    key = api_key_of(user.id)
    return Container(
        user_id=user.id,
        email=user.email,
        plan=user.plan,
        namespace="u" + key[:15],
        storage_id="main",
        secrets=ContainerSecrets(
            api_key=key, hook_key=hashlib.sha256(f"hook {user.id}".encode()).hexdigest()
        ),
        created_at=now,
        observed=ContainerColumns(
            phase="absent",
            reason=None,
            since=now,
            allocation_id=None,
            node_name=None,
            address=None,
            port=None,
            endpoint=None,
            empty_since=None,
            observed_generation=0,
            observed_at=None,
        ),
    )


def new_chip_columns(now: datetime) -> ChipColumns:
    return ChipColumns(
        phase="queued",
        reason=None,
        status="WAITING_QR",
        since=now,
        waha_status=None,
        phone_number=None,
        push_name=None,
        connected_at=None,
        last_activity_at=None,
        unlinked_generation=None,
        tries=Tries(),
        health_score=0,
        observed_generation=0,
    )
