"""What a pass decided to do, as data. `daemon/act.py` turns each into one effect."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, TypeAlias

import msgspec

from core.domain.desired import Memory, SpecHashes, Tries
from core.domain.facts import Endpoint
from core.domain.routes import LabelWhy
from core.domain.seat import SeatWhy


class WriteVariables(msgspec.Struct, frozen=True, tag=True):
    """Put the container's secrets where its task may read them; always before a register."""

    hash: str


class RegisterJob(msgspec.Struct, frozen=True, tag=True):
    """Register the job if its JobModifyIndex is still `expected_index` (0 = it must not exist)."""

    expected_index: int
    hashes: SpecHashes


class AdoptJob(msgspec.Struct, frozen=True, tag=True):
    """Book the job that stands in Nomad as the one we registered: we did, and died before we could book it."""

    modify_index: int
    hashes: SpecHashes


class ReplaceAllocation(msgspec.Struct, frozen=True, tag=True):
    """Have Nomad stop this allocation and place another; the new one starts when the old one is dead.

    `key_refused`: it is done because its WAHA refuses our key, which is done once and remembered first.
    """

    allocation_id: str
    key_refused: bool = False


class RestartAllocation(msgspec.Struct, frozen=True, tag=True):
    """Have the container's process started again in place: same allocation, same port.

    `restarts`: how often its task was restarted before, which is remembered first. `generation`: of the wish.
    """

    allocation_id: str
    generation: int
    restarts: int


class EvaluateJob(msgspec.Struct, frozen=True, tag=True):
    """Have Nomad look at the job again: its container ended and nobody places another."""


class StopJob(msgspec.Struct, frozen=True, tag=True):
    """Stop the job; its record stays until no allocation is alive."""


class PurgeJob(msgspec.Struct, frozen=True, tag=True):
    """Remove the record of a stopped job."""


class DeleteVariables(msgspec.Struct, frozen=True, tag=True):
    """Remove the container's secrets from Nomad; only after the job is gone."""


class DeleteStorage(msgspec.Struct, frozen=True, tag=True):
    """Remove what WAHA stored for the container; only after nothing can run from it any more."""


class RemoveContainer(msgspec.Struct, frozen=True, tag=True):
    """Nothing is left outside: forget the container."""


class CreateSession(msgspec.Struct, frozen=True, tag=True):
    """Create the session; `start` is always sent explicitly, since an omitted one means no (WAHA code)."""

    chip_id: str
    start: bool


class StartSession(msgspec.Struct, frozen=True, tag=True):
    chip_id: str


class RestartSession(msgspec.Struct, frozen=True, tag=True):
    chip_id: str


class RewriteSession(msgspec.Struct, frozen=True, tag=True):
    """Write the session's whole config anew, which stops and starts one that runs; credentials stay (WAHA PUT)."""

    chip_id: str


class RouteSession(msgspec.Struct, frozen=True, tag=True):
    """Write its way out into the config of a stopped session, which starts nothing."""

    chip_id: str


class LogoutSession(msgspec.Struct, frozen=True, tag=True):
    """Wipe the credentials; one that runs starts again and asks for a QR. Only ever with its owner's consent."""

    chip_id: str


class StopSession(msgspec.Struct, frozen=True, tag=True):
    chip_id: str


class DeleteSession(msgspec.Struct, frozen=True, tag=True):
    """Log out and forget the session; only ever for a chip that its owner deleted."""

    chip_id: str


class RemoveChip(msgspec.Struct, frozen=True, tag=True):
    """The tombstone owns nothing any more: remove the row."""

    chip_id: str


class AssignLabel(msgspec.Struct, frozen=True, tag=True):
    """Give the chip a label at a provider: its first, the one that it had, or another one, and why."""

    chip_id: str
    why: LabelWhy


class ReadExit(msgspec.Struct, frozen=True, tag=True):
    """Read the address under which the chip's label leaves its provider, and record it."""

    chip_id: str


class ReleaseLabel(msgspec.Struct, frozen=True, tag=True):
    """Its session is stopped and stays so: the label takes up no room at its provider until it is wanted again."""

    chip_id: str


class AskSeat(msgspec.Struct, frozen=True, tag=True):
    """Ask for a seat in the rollout of `release`: the wanted job restarts the container."""

    release: str
    restart_hash: str


class LeaveSeat(msgspec.Struct, frozen=True, tag=True):
    """Give the seat back: nothing is to be moved any more."""


class SettleSeat(msgspec.Struct, frozen=True, tag=True):
    """Tell how the move of this user ended; `why` when it failed."""

    ok: bool
    why: SeatWhy | None = None


SeatAction: TypeAlias = AskSeat | LeaveSeat | SettleSeat
ContainerAction: TypeAlias = (
    WriteVariables
    | RegisterJob
    | AdoptJob
    | ReplaceAllocation
    | RestartAllocation
    | EvaluateJob
    | StopJob
    | PurgeJob
    | DeleteVariables
    | DeleteStorage
    | RemoveContainer
    | SeatAction
)
ChipAction: TypeAlias = (
    CreateSession
    | StartSession
    | RestartSession
    | RewriteSession
    | RouteSession
    | LogoutSession
    | StopSession
    | DeleteSession
    | RemoveChip
    | AssignLabel
    | ReadExit
    | ReleaseLabel
)
LabelAction: TypeAlias = AssignLabel | ReadExit | ReleaseLabel
Action: TypeAlias = ContainerAction | ChipAction

# What may start a session. Each takes a start token first (`pacing.py`) and is recorded as a try.
STARTS: Final = (CreateSession, StartSession, RestartSession, RewriteSession, LogoutSession)

# What concerns a chip's label alone: nothing of Nomad, Consul or WAHA changes by it.
OF_LABELS: Final = (AssignLabel, ReadExit, ReleaseLabel)

DESTRUCTIVE = (
    ReplaceAllocation,
    RestartAllocation,
    StopJob,
    PurgeJob,
    DeleteVariables,
    DeleteStorage,
    RemoveContainer,
    StopSession,
    LogoutSession,
    DeleteSession,
    RemoveChip,
)


def is_start(action: Action) -> bool:
    """Whether a session starts by it: a session may also be created without."""
    return isinstance(action, STARTS) and (not isinstance(action, CreateSession) or action.start)


class Placed(msgspec.Struct, frozen=True):
    """The allocation that may speak for the user, as Nomad reports it: desired run and running."""

    allocation_id: str
    node_id: str
    node_name: str
    address: str | None
    port: int | None


class ContainerStatus(msgspec.Struct, frozen=True):
    """What a pass writes about the container.

    Attributes:
        phase, reason: from the tables in `states.py`.
        placed: moves `is_current` there; None leaves the placement as it is.
        address, port, node_name: of the newest live allocation, from the moment it is placed.
        endpoint: set only when the rule of `endpoints.py` holds; None withdraws it.
        blind: Nomad could not be asked: allocation, node, address and port stay as stored; the endpoint
            is withdrawn all the same.
        empty_since: see `DesiredContainer`.
        closed_allocations: client-terminal ones whose ledger entries can be closed.
        isolated: WAHA's storage for this container was seen, under its own namespace.
        key_accepted: its WAHA took our key in this pass.
        restarted_generation: the wish for a restart that was seen to be answered, None when none was.
        at_rest: nobody needs to look again before there is news; see `Decision.requeue_after`.
    """

    phase: str
    reason: str | None = None
    placed: Placed | None = None
    allocation_id: str | None = None
    node_name: str | None = None
    address: str | None = None
    port: int | None = None
    endpoint: Endpoint | None = None
    blind: bool = False
    empty_since: datetime | None = None
    closed_allocations: tuple[str, ...] = ()
    isolated: bool = False
    key_accepted: bool = False
    restarted_generation: int | None = None
    at_rest: bool = False


class ChipStatus(msgspec.Struct, frozen=True):
    """What a pass writes about one chip.

    Attributes:
        status: the API's word, upper case (`WAITING_QR`, `CONNECTED`, ...).
        waha_status: WAHA's word, None when there is no session to ask.
        connected_now: it was seen WORKING in this pass.
        memory: see `DesiredChip`.
        until: when what its reason names ends by itself, for its history.
        held_port: `host:port` that a process unknown to Nomad holds, with reason `port_in_use`.
        starts_in_s: seconds until its start token is expected, with reason `paced`.
    """

    phase: str
    status: str
    reason: str | None = None
    waha_status: str | None = None
    phone_number: str | None = None
    push_name: str | None = None
    connected_now: bool = False
    unlinked_generation: int | None = None
    activity_at: datetime | None = None
    tries: Tries = Tries()
    memory: Memory = Memory()
    until: datetime | None = None
    held_port: str | None = None
    starts_in_s: float | None = None


class Decision(msgspec.Struct, frozen=True):
    """The outcome of `decide`.

    Attributes:
        actions: container actions in order; chip actions, at most one a chip, may run side by side
            after them.
        chips: status per chip id, tombstones included.
        requeue_after: seconds until the next look, when no news comes first; None = the user is at rest:
            everything is as it should be, every fact was seen, and no deadline runs.
        without_starts: the same when none of the starts among the actions is sent.
    """

    actions: tuple[Action, ...]
    container: ContainerStatus
    chips: Mapping[str, ChipStatus]
    requeue_after: float | None
    without_starts: float | None = None
