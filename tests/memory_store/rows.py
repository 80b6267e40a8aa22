"""The rows of the store in memory. They change in place; what leaves the store is always a frozen copy."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from core.domain.desired import Consent, Registered, Resources, Wanted
from core.domain.egress_errors import EgressError
from core.domain.evidence import Evidence
from core.domain.looks import Look
from core.domain.observed import ChipColumns, ContainerColumns
from core.domain.pacing import Ask
from core.domain.ports import Entry
from core.domain.rollout import Control, RolloutState
from core.domain.routes import LabelWhy
from core.domain.seat import Seat, SeatState, SeatWhy
from core.store.interface import ContainerSecrets, UserSnapshot


@dataclass(slots=True)
class Plan:
    slug: str
    max_chips: int
    resources: Resources
    start_order: int
    proxy_gb_limit: Decimal = Decimal(0)


@dataclass(slots=True)
class LeaseRow:
    """`expires_at` by the store's own monotonic clock. Rows stay for ever, so tokens never start again."""

    owner: str
    token: int
    expires_at: float
    claimed_at: float = 0.0
    looked_by: str | None = None
    looked_at: float = 0.0


@dataclass(slots=True)
class Event:
    id: int
    type: str
    code: str
    description: str
    generation: int
    extra_data: dict[str, Any]
    created_at: datetime


@dataclass(slots=True)
class Chip:
    """Desired columns, and the observed ones in `observed`, which is replaced and never changed."""

    id: str
    user_id: str
    alias: str
    generation: int
    intent_at: datetime
    created_at: datetime
    updated_at: datetime
    observed: ChipColumns
    wanted: Wanted = Wanted.CONNECTED
    deleted_at: datetime | None = None
    consent: Consent = Consent.NONE
    banned_at: datetime | None = None
    released_generation: int = 0
    revision: int = 1
    events: list[Event] = field(default_factory=list)
    drops: list[Event] = field(default_factory=list)  # those of them that may count against its health

    @property
    def phase(self) -> str:
        return self.observed.phase

    @property
    def reason(self) -> str | None:
        return self.observed.reason

    @property
    def status(self) -> str:
        return self.observed.status


@dataclass(slots=True)
class Placement:
    """`lease_until`: until when a guard may forward for it, by the store's wall clock."""

    user_id: str
    allocation_id: str
    node_id: str
    node_name: str
    epoch: int
    is_current: bool
    created_at: datetime
    lease_until: datetime | None = None
    grant_number: int = 0


@dataclass(slots=True)
class LedgerRow:
    entry: Entry
    opened_at: datetime
    closed_at: datetime | None = None


@dataclass(slots=True)
class KeptEvidence:
    """`seen`: by the last pass whose look differed; `body`: what is kept of it and of those before."""

    seen: Evidence
    body: Evidence
    observed_at: datetime


@dataclass(slots=True)
class Container:
    """Desired columns, and the observed ones in `observed`, which is replaced and never changed."""

    user_id: str
    email: str
    plan: Plan
    namespace: str
    storage_id: str
    secrets: ContainerSecrets
    created_at: datetime
    observed: ContainerColumns
    generation: int = 1
    pinned: bool = False
    paused: bool = False
    restart_generation: int = 0
    restart_allocation: str | None = None
    deleted_at: datetime | None = None
    registered: Registered | None = None
    variables_hash: str | None = None
    chips: list[Chip] = field(default_factory=list)  # oldest first, as a pass gets them
    current: Placement | None = None
    kept: KeptEvidence | None = None
    look: Look | None = None
    snapshot: UserSnapshot | None = None  # what `load` answers, until something changes

    @property
    def phase(self) -> str:
        return self.observed.phase

    @property
    def reason(self) -> str | None:
        return self.observed.reason


@dataclass(slots=True)
class Place:
    """A chip's place in the line for start tokens."""

    user_id: str
    ask: Ask
    asked_at: datetime
    expires_at: datetime


@dataclass(slots=True)
class User:
    id: str
    email: str
    plan: Plan
    placements: list[Placement] = field(default_factory=list)  # by epoch


@dataclass(slots=True)
class ReleaseRow:
    release: str
    announced_at: datetime
    state_since: datetime
    counted_from: datetime
    state: RolloutState = RolloutState.RUNNING
    why: str | None = None
    decided_by: str | None = None

    @property
    def control(self) -> Control:
        return Control(self.release, self.state, self.state_since, self.why, self.decided_by)


@dataclass(slots=True)
class SeatRow:
    user_id: str
    release: str
    restart_hash: str
    asked_at: datetime
    state: SeatState = SeatState.WAITING
    broken: bool = False
    connected: list[str] = field(default_factory=list)
    moved_from: str | None = None
    admitted_at: datetime | None = None
    settled_at: datetime | None = None
    why: SeatWhy | None = None

    @property
    def seat(self) -> Seat:
        return Seat(
            release=self.release,
            restart_hash=self.restart_hash,
            state=self.state,
            broken=self.broken,
            connected=tuple(self.connected),
            moved_from=self.moved_from,
            admitted_at=self.admitted_at,
        )


@dataclass(slots=True)
class ProviderRow:
    slug: str
    template: str = "generic"
    scheme: str = "socks5"
    host: str | None = None
    port: int | None = None
    enabled: bool = True
    is_default: bool = False
    trouble: EgressError | None = None
    trouble_at: datetime | None = None


@dataclass(slots=True)
class SubUserRow:
    id: str
    provider: str
    login: str
    password: str
    max_labels: int = 1000
    enabled: bool = True
    trouble: EgressError | None = None
    trouble_at: datetime | None = None


@dataclass(slots=True)
class LabelRow:
    chip_id: str
    user_id: str
    provider: str
    sub_user_id: str
    generation: int
    label: str
    why: LabelWhy
    assigned_at: datetime
    requested_generation: int = 0
    released_at: datetime | None = None
    exit_ip: str | None = None
    exit_since: datetime | None = None
    exit_at: datetime | None = None
    checked_at: datetime | None = None
    failure: EgressError | None = None
    failures: int = 0
    failing_since: datetime | None = None

    @property
    def is_live(self) -> bool:
        return self.released_at is None


@dataclass(slots=True)
class ExitRow:
    provider: str
    label: str
    label_generation: int
    exit_ip: str
    seen_from: datetime
    seen_until: datetime
    why: str
