"""What was seen of the outside world in one pass, and how sure we are of it.

Each outside fact is one of three things, and only the first two are knowledge:

    Known(value, at)   it was read, and this is what it said
    Missing(at)        it was read, and there is no such thing
    Unknown(why)       it could not be read; nothing may be concluded from that
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, Generic, TypeAlias, TypeVar

import msgspec

T = TypeVar("T")


class Known(msgspec.Struct, Generic[T], frozen=True):
    """A fact that was read at `at`."""

    value: T
    at: datetime


class Missing(msgspec.Struct, frozen=True):
    """The outside system answered that there is no such thing."""

    at: datetime


class Unknown(msgspec.Struct, frozen=True):
    """The fact could not be read.

    Attributes:
        why: a reason code, such as `dependency_nomad` or `waha_not_ready`.
    """

    why: str


# Why a fact is Unknown that nobody needed in this pass: it costs a request and says nothing of an outage.
NOT_ASKED: Final = "not_asked"

Fact: TypeAlias = Known[T] | Missing | Unknown


class ClientStatus(StrEnum):
    """What Nomad's client last reported of an allocation."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    LOST = "lost"
    UNKNOWN = "unknown"


class WahaStatus(StrEnum):
    """WAHA's own word for a session (OpenAPI 2026.7.1)."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    SCAN_QR_CODE = "SCAN_QR_CODE"
    PASSKEY_REQUIRED = "PASSKEY_REQUIRED"
    PASSKEY_CONFIRMATION_REQUIRED = "PASSKEY_CONFIRMATION_REQUIRED"
    WORKING = "WORKING"
    FAILED = "FAILED"


class JobFact(msgspec.Struct, frozen=True):
    """A job as Nomad holds it.

    Attributes:
        modify_index: JobModifyIndex; moves only when the specification changes.
        stopped: the job was stopped and its record is still there.
        status: `pending`, `running` or `dead`.
        spec: the spec hash that it was registered with, "" when it carries none.
        first: its specification is still the one that it was created with.
    """

    modify_index: int
    stopped: bool
    status: str
    spec: str = ""
    first: bool = False


class ListedJob(msgspec.Struct, frozen=True):
    """A job as a list of all jobs shows it.

    Attributes:
        job_id: begins with our prefix; a job that is none of ours in the rest of its name is listed too.
        submitted_at: when its specification last changed.
    """

    job_id: str
    modify_index: int
    stopped: bool
    status: str
    submitted_at: datetime


class TaskEvent(msgspec.Struct, frozen=True):
    """One line of what happened to a task, newest last (`Driver Failure`, `Terminated`, ...)."""

    type: str
    message: str
    at: datetime


class AllocationFact(msgspec.Struct, frozen=True):
    """One allocation of the user's job.

    Attributes:
        desired: `run`, `stop` or `evict`.
        address, port: the host address with its dynamic port; None until placed with a port.
        followup_evaluation: id of the evaluation that will replace it, "" when none.
        modified_at: when its client status last changed.
        restarts: restarts in place of its task.
    """

    id: str
    node_id: str
    node_name: str
    desired: str
    client: ClientStatus
    create_index: int
    created_at: datetime
    modified_at: datetime
    address: str | None = None
    port: int | None = None
    followup_evaluation: str = ""
    restarts: int = 0
    task_state: str = ""
    events: tuple[TaskEvent, ...] = ()


class ListedAllocation(msgspec.Struct, frozen=True):
    """An allocation as a list of all allocations shows it: with its port, without task state and events.

    `memory_mb`: what it reserves on its host, None when the list does not say.
    """

    job_id: str
    allocation: AllocationFact
    memory_mb: int | None = None


class PlacementFailure(msgspec.Struct, frozen=True):
    """Why Nomad could not place the group (AllocMetric of the evaluation).

    Attributes:
        dimensions: exhausted dimension -> nodes, such as `network: dynamic port selection failed` -> 2.
        constraints: filtering constraint -> nodes.
    """

    nodes_evaluated: int
    nodes_filtered: int
    nodes_exhausted: int
    dimensions: Mapping[str, int] = msgspec.field(default_factory=dict)
    constraints: Mapping[str, int] = msgspec.field(default_factory=dict)


class EvaluationFact(msgspec.Struct, frozen=True):
    """The newest evaluation of the job that says something about placement."""

    id: str
    status: str
    triggered_by: str
    create_index: int
    failure: PlacementFailure | None = None
    blocked_evaluation: str = ""


class ServiceInstance(msgspec.Struct, frozen=True):
    """One instance of service `waha-plus` as Consul lists it; user, allocation and spec come from its meta.

    `output`: what its failing checks say, "" while all pass and in lists of everybody's instances.
    """

    service_id: str
    user_id: str
    allocation_id: str
    address: str
    port: int
    passing: bool
    spec_hash: str | None = None
    output: str = ""


class SessionFact(msgspec.Struct, frozen=True):
    """One WAHA session.

    Attributes:
        me: WhatsApp id such as `5511999999999@c.us`; None when not paired.
        activity_at: last sign of life, None when WAHA gives none.
        routed: its config leads through the guard of the allocation's host, with the credential that the chip has
            there now. Compared where it is read: no rule ever sees a credential.
    """

    name: str
    status: WahaStatus
    me: str | None = None
    push_name: str | None = None
    activity_at: datetime | None = None
    routed: bool = False


class Group(msgspec.Struct, frozen=True):
    """Paired chips of other users that are wanted connected.

    Attributes:
        failing: on their ladder, or at its end, however long; `lately`: those of them since a short while.
        connected: those that work.
    """

    failing: int = 0
    lately: int = 0
    connected: int = 0


class Peers(msgspec.Struct, frozen=True):
    """The chips that share something with a user's: its host, its engine version, its proxy provider."""

    host: Group = Group()
    engine: Group = Group()
    provider: Group = Group()


class Probe(msgspec.Struct, frozen=True):
    """What one live call said of a session that says WORKING.

    Attributes:
        connected: whether the engine itself has a connection; None when this engine does not tell.
        activity_at: as in `SessionFact`, read anew.
    """

    status: WahaStatus
    connected: bool | None
    activity_at: datetime | None = None


class Endpoint(msgspec.Struct, frozen=True):
    """Where a user's WAHA answers: the host's address with the dynamic port, and the allocation behind it."""

    address: str
    port: int
    allocation_id: str

    @property
    def base_url(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}"


class Observation(msgspec.Struct, frozen=True):
    """Everything one pass saw of one user's container.

    Attributes:
        allocations: all that Nomad still lists for the job id, oldest first; never Missing (an empty
            tuple is the answer when there are none).
        evaluation: the newest one that placed or failed to place.
        instances: all of the user's, passing or not.
        sessions: by session name; Unknown while there is no endpoint to ask.
        storage: names of WAHA's databases for this container; Missing where no storage server was given
            to the daemon, `Unknown(NOT_ASKED)` while no rule depends on it.
        peers: asked of the store for a chip whose tries are spent alone.
        probes: by chip id, of the connected chips that are silent beyond their rhythm.
    """

    job: Fact[JobFact]
    allocations: Fact[tuple[AllocationFact, ...]]
    evaluation: Fact[EvaluationFact]
    instances: Fact[tuple[ServiceInstance, ...]]
    sessions: Fact[Mapping[str, SessionFact]]
    storage: Fact[tuple[str, ...]] = Unknown(NOT_ASKED)
    peers: Fact[Peers] = Unknown(NOT_ASKED)
    probes: Mapping[str, Fact[Probe]] = msgspec.field(default_factory=dict)
