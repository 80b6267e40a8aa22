"""What the pure world keeps: allocations, jobs, sessions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from core.domain.desired import SpecHashes
from core.domain.facts import ClientStatus, WahaStatus
from core.domain.policy import Policy

START = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = SpecHashes(spec="s1", restart="r1")
STOP_S = 10
POLICY = Policy(egress="direct", empty_grace_s=20, teardown_deadline_s=20)
DEAD = (ClientStatus.COMPLETE, ClientStatus.FAILED)


@dataclass
class Allocation:
    id: str
    user: str
    host: str
    port: int
    index: int
    created: datetime
    desired: str = "run"
    client: ClientStatus = ClientStatus.PENDING
    modified: datetime = START
    passing: bool = False
    really_runs: bool = False
    born: int = 0
    waits: bool = True
    dies_at: datetime | None = None
    stops_at: datetime | None = None
    listed: bool = True  # a purge takes it out of every list while its container may still run
    refuses_key: bool = False
    restarts: int = 0


@dataclass
class Session:
    status: WahaStatus = WahaStatus.STOPPED
    me: str | None = None
    starts: int = 0
    dead: bool = False  # its credentials are kept and worth nothing: FAILED again and again (WAHA, NOWEB)
    deaf: bool = False  # WORKING in name only
    quiet: bool = False  # nobody writes to it
    activity_at: datetime | None = None
    proxy: tuple[str | None, int] | None = None  # allocation and label generation that its config names


@dataclass
class Job:
    modify_index: int
    stopped: bool = False
    forgotten: bool = False  # its container ended and no evaluation is made: nothing is placed before one
    evaluation_failed: bool = False
    evaluation_index: int = 0
    born: int = 0  # index of the incarnation: a stop and a new register forget older allocations
    skip_wait: bool = False  # an extra evaluation makes Nomad forget the stop-on-disconnect wait
