"""Objects of the double's state: immutable, named as in Nomad's JSON.

A job stays a plain JSON object (`Json`): its shape belongs to whoever registers it, and the double must give
back what it did not understand. Nothing ever changes a stored job in place.
"""

from __future__ import annotations

from typing import Any

import msgspec

Json = dict[str, Any]

_UPPER = {"id": "ID", "tg": "TG", "cpu": "CPU", "mb": "MB", "ip": "IP"}


def nomad_name(field: str) -> str:
    """`create_index` -> `CreateIndex`, `job_id` -> `JobID`."""
    return "".join(_UPPER.get(word, word.capitalize()) for word in field.split("_"))


CLIENT_TERMINAL = frozenset({"complete", "failed", "lost"})
EVAL_TERMINAL = frozenset({"complete", "failed", "canceled"})


class _Object(msgspec.Struct, frozen=True, kw_only=True, rename=nomad_name, omit_defaults=True):
    pass


class Evaluation(_Object, frozen=True):
    """A request to the scheduler to look at one job (Nomad API docs, /v1/evaluation)."""

    id: str
    namespace: str = ""
    priority: int = 50
    type: str = "service"
    triggered_by: str = ""
    job_id: str = ""
    job_modify_index: int = 0
    node_id: str = ""
    node_modify_index: int = 0
    deployment_id: str = ""
    status: str = ""
    status_description: str = ""
    wait_until: str | None = None
    previous_eval: str = ""
    blocked_eval: str = ""
    failed_tg_allocs: Json | None = None
    class_eligibility: Json | None = None
    queued_allocations: dict[str, int] | None = None
    snapshot_index: int = 0
    create_index: int = 0
    modify_index: int = 0
    create_time: int = 0
    modify_time: int = 0

    @property
    def terminal(self) -> bool:
        return self.status in EVAL_TERMINAL


class RescheduleEvent(_Object, frozen=True, omit_defaults=False):
    reschedule_time: int
    prev_alloc_id: str
    prev_node_id: str
    delay: int


class RescheduleTracker(_Object, frozen=True, omit_defaults=False):
    events: list[RescheduleEvent] = []
    last_reschedule: str = ""


class DesiredTransition(_Object, frozen=True, omit_defaults=False):
    migrate: bool | None = None
    reschedule: bool | None = None
    force_reschedule: bool | None = None
    no_shutdown_delay: bool | None = None


class TaskState(_Object, frozen=True, omit_defaults=False):
    """What the client says of one task; events are plain objects with Nomad's many empty fields."""

    state: str = "pending"
    failed: bool = False
    restarts: int = 0
    last_restart: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    events: list[Json] = []
    paused: str = ""


class DeploymentStatus(_Object, frozen=True, omit_defaults=False):
    healthy: bool | None = None
    timestamp: str | None = None
    canary: bool = False
    modify_index: int = 0


class Allocation(_Object, frozen=True):
    """One placed task group (Nomad API docs, /v1/allocation)."""

    id: str
    namespace: str
    eval_id: str
    name: str
    node_id: str
    node_name: str
    job_id: str
    job: Json
    task_group: str
    allocated_resources: Json
    metrics: Json
    desired_status: str = "run"
    desired_description: str = ""
    desired_transition: DesiredTransition = DesiredTransition()
    client_status: str = "pending"
    client_description: str = ""
    task_states: dict[str, TaskState] | None = None
    deployment_id: str = ""
    deployment_status: DeploymentStatus | None = None
    previous_allocation: str = ""
    next_allocation: str = ""
    followup_eval_id: str = ""
    alloc_states: list[Json] | None = None
    """Changes of the client's status that the servers made themselves: {Field, Value, Time}."""
    reschedule_tracker: RescheduleTracker | None = None
    signing_key_id: str = ""
    create_index: int = 0
    modify_index: int = 0
    alloc_modify_index: int = 0
    create_time: int = 0
    modify_time: int = 0

    @property
    def client_terminal(self) -> bool:
        """The client says that nothing of it runs any more (or the server has given it up)."""
        return self.client_status in CLIENT_TERMINAL

    @property
    def server_terminal(self) -> bool:
        return self.desired_status in ("stop", "evict")

    @property
    def terminal(self) -> bool:
        return self.server_terminal or self.client_terminal

    @property
    def ports(self) -> list[Json]:
        return list(self.allocated_resources["Shared"]["Ports"] or ())

    @property
    def index(self) -> int:
        """The number in `job.group[number]`."""
        return int(self.name[self.name.rindex("[") + 1 : -1])


class Deployment(_Object, frozen=True, omit_defaults=False):
    """The rollout of one job version (Nomad API docs, /v1/deployment)."""

    id: str
    namespace: str
    job_id: str
    job_version: int
    job_modify_index: int
    job_spec_modify_index: int
    job_create_index: int
    task_groups: Json
    status: str = "running"
    status_description: str = "Deployment is running"
    is_multiregion: bool = False
    eval_priority: int = 50
    create_index: int = 0
    modify_index: int = 0
    create_time: int = 0
    modify_time: int = 0

    @property
    def active(self) -> bool:
        return self.status in ("running", "paused", "pending", "blocked", "unblocking", "initializing")


class Node(_Object, frozen=True, omit_defaults=False):
    """One client (Nomad API docs, /v1/node); capacity and ports as Nomad fingerprints them."""

    id: str
    name: str
    address: str
    datacenter: str
    node_pool: str
    node_class: str
    attributes: dict[str, str]
    meta: dict[str, str]
    cpu_mhz: int
    memory_mb: int
    disk_mb: int
    min_dynamic_port: int
    max_dynamic_port: int
    reserved_ports: list[int]
    drivers: list[str]
    max_kill_timeout_ns: int
    status: str = "ready"
    status_description: str = ""
    scheduling_eligibility: str = "eligible"
    drain_strategy: Json | None = None
    last_drain: Json | None = None
    events: list[Json] = []
    status_updated_at: int = 0
    last_alloc_update_index: int = 0
    last_missed_heartbeat_index: int = 0
    create_index: int = 0
    modify_index: int = 0

    @property
    def ready(self) -> bool:
        """May new allocations be placed here."""
        return self.status == "ready" and self.scheduling_eligibility == "eligible"


class Variable(_Object, frozen=True, omit_defaults=False):
    """A Nomad variable; `items` are its secret key-value pairs."""

    namespace: str
    path: str
    items: dict[str, str]
    lock: None = None
    create_index: int = 0
    create_time: int = 0
    modify_index: int = 0
    modify_time: int = 0

    def metadata(self) -> Json:
        return {
            "Namespace": self.namespace,
            "Path": self.path,
            "Lock": None,
            "CreateIndex": self.create_index,
            "CreateTime": self.create_time,
            "ModifyIndex": self.modify_index,
            "ModifyTime": self.modify_time,
        }

    def decrypted(self) -> Json:
        return {**self.metadata(), "Items": dict(self.items)}
