"""Bodies and answers of the operators' routes over all containers and the fleet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Final

import msgspec

from api.bodies import Body
from core.domain import accounts as rules
from core.domain.accounts import FieldError

REASON_LIMIT: Final = 200


def _reason(text: str) -> str:
    if len(text) > REASON_LIMIT or rules.has_control_characters(text):
        raise FieldError(f"Use até {REASON_LIMIT} caracteres, sem quebras de linha.")
    return text


class ContainerGoing(msgspec.Struct, frozen=True):
    """A container that was deleted.

    Attributes:
        status: `removing` until nothing of it is left.
        chips_deleted: ids of the chips that went with it.
    """

    user_id: str
    container_name: str
    status: str
    chips_deleted: list[str]
    message: str


class OrphanItem(msgspec.Struct, frozen=True):
    """Something of ours that no row explains.

    Attributes:
        kind: `job`, `variables`, `instance`, `session`, `namespace` or `database`.
        place: where it is, by kind; null for none.
        user_id: as its name says; there is no such container, or it explains nothing.
        state: `waiting` for a yes; `approved` once it was given.
        costs: what it holds, such as `bytes`.
    """

    id: int
    kind: str
    name: str
    place: str | None
    user_id: str | None
    state: str
    costs: dict[str, str | int]
    first_seen: datetime
    last_seen: datetime


class Cleanup(msgspec.Struct, frozen=True):
    """What the janitor found, and whether its removal was approved by this call.

    Attributes:
        dry_run: nothing was approved.
        items: those that wait for a yes, or that got it now; `count` of them.
        others: how many are in other states: `seen` (too young to judge), `approved`, `removing`, `failed`, `kept`.
        observed_at: when one of them was seen last; null when nothing is on record.
    """

    dry_run: bool
    count: int
    items: list[OrphanItem]
    others: dict[str, int]
    observed_at: datetime | None


class PauseReason(Body, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Why, in the operator's words; up to 200 characters."""

    reason: str | None = None

    LABELS: ClassVar[Mapping[str, str]] = {"reason": "Motivo"}
    RULES: ClassVar[Mapping[str, Callable[[str], Any]]] = {"reason": _reason}


class FleetPaused(msgspec.Struct, frozen=True):
    """Whether the fleet is paused; `since`, `by` and `reason` are of the newest change, null before any."""

    paused: bool
    since: datetime | None
    by: str | None
    reason: str | None


class HostSummary(msgspec.Struct, frozen=True):
    """A host that carries containers.

    Attributes:
        containers: that run or start there, as Nomad lists them.
        chips, chips_connected: of the users whose containers the store has there.
        ports_used, ports_free: of the host's range; `capacity` is its size, as the settings say.
        memory_mb: reserved by our containers; null where Nomad's list does not say.
        observed_at: of the sweep that saw it; null when no sweep has, and the figures are the store's.
    """

    name: str
    address: str | None
    containers: int
    chips: int
    chips_connected: int
    capacity: int
    ports_used: int
    ports_free: int
    memory_mb: int | None
    observed_at: datetime | None


class FleetQueue(msgspec.Struct, frozen=True):
    """Who waits.

    Attributes:
        users_moving: users who are not at rest: something of theirs is on its way.
        users_unseen: of those, users with a wish that no pass has seen yet.
        chips_waiting: chips in line for a start token.
        oldest_wait_s: how long the first of the line has waited for its connection; null without a line.
        capacity_waiting: containers that no host has room for.
    """

    users_moving: int
    users_unseen: int
    chips_waiting: int
    oldest_wait_s: float | None
    capacity_waiting: int


class RolloutSummary(msgspec.Struct, frozen=True):
    """How the newest settings reach the containers; counts are users."""

    release: str
    state: str
    since: datetime
    why: str | None
    waiting: int
    moving: int
    ok: int
    failed: int


class SharedExitChip(msgspec.Struct, frozen=True):
    """A live chip. `since`: since when its label has that exit."""

    chip_id: str
    user_id: str
    alias: str
    provider: str
    label: str
    since: datetime | None


class SharedExit(msgspec.Struct, frozen=True):
    """An address that several live chips go out under; the first of them keeps it, the others get other labels."""

    exit_ip: str
    chips: list[SharedExitChip]


class FleetSummary(msgspec.Struct, frozen=True):
    """The fleet as the store has it.

    Attributes:
        containers: how many by phase. chips: how many by status, upper case. reasons: containers by reason code.
        at_rest: users of whom everything is as it should be.
        capacity: containers that the listed hosts have ports for; `free` of them.
        swept_at: of the newest sweep, null before the first; `oldest_look_at`: the user not looked at for longest.
        shared_exits: what must not be: live chips with one exit, of 200 chips at most.
        observed_at: when the store was read for this answer.
    """

    containers: dict[str, int]
    chips: dict[str, int]
    reasons: dict[str, int]
    users: int
    at_rest: int
    hosts: list[HostSummary]
    capacity: int
    free: int
    queue: FleetQueue
    control: FleetPaused
    rollout: RolloutSummary | None
    shared_exits: list[SharedExit]
    swept_at: datetime | None
    oldest_look_at: datetime | None
    observed_at: datetime


class PlanItem(msgspec.Struct, frozen=True):
    """One thing that a pass would do.

    Attributes:
        chip_id: null for what concerns the container.
        action: its name, such as `RegisterJob` or `StartSession`.
        reason: a reason code for why it does not happen at once, or that the pass would show; null for none.
        not_before: when it is due at the earliest; null = with the user's next pass.
        observed_at: of what it was decided on; null for a user whom no pass has looked at yet.
    """

    user_id: str
    container_name: str
    chip_id: str | None
    action: str
    reason: str | None
    not_before: datetime | None
    observed_at: datetime | None


class FleetPlan(msgspec.Struct, frozen=True):
    """What the next passes would do, decided on what the last ones saw. Nothing was changed.

    Attributes:
        paused: nothing of it happens before the pause ends.
        acting: users on this page whose last pass sent something whose outcome is yet to be seen: what follows
            is decided by their next look, so nothing is said of them.
    """

    paused: bool
    items: list[PlanItem]
    acting: int
