"""How long anything may stay as it is without a word, what is said then, and what comes next. A table.

Every phase of a container and of a chip has a row (a test walks them). A row without a deadline is a place
to stay in, or one that never stands without a reason of its own; everything else gets the row's reason once
it has lasted that long, and goes on being tried: a deadline ends the silence, never the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from types import MappingProxyType
from typing import Final

import msgspec

from core.domain.policy import Policy
from core.domain.states import ChipPhase, ContainerPhase, Reason


class Kind(Enum):
    """What a phase without a deadline is."""

    REST = "rest"  # as it should be, or waiting for a person; may last for ever
    REASONED = "reasoned"  # never stands without a reason from its first moment on
    TIMED = "timed"


class Deadline(msgspec.Struct, frozen=True):
    """One row.

    Attributes:
        after_s: seconds, from the policy; None unless `kind` is TIMED.
        reason: said from then on, None unless TIMED.
        loop: what the loop does about it by itself. person: what somebody can do.
    """

    kind: Kind
    loop: str
    person: str
    after_s: Callable[[Policy], float] | None = None
    reason: Reason | None = None


def _timed(after_s: Callable[[Policy], float], reason: Reason, loop: str, person: str) -> Deadline:
    return Deadline(Kind.TIMED, loop, person, after_s, reason)


def _stopping_s(policy: Policy) -> float:
    """A container that is told to stop logs deleted chips out, is killed at last, and is seen dead."""
    return policy.teardown_deadline_s + policy.kill_timeout_s + policy.possibly_alive_margin_s


CONTAINER: Final[Mapping[ContainerPhase, Deadline]] = MappingProxyType(
    {
        ContainerPhase.ABSENT: Deadline(Kind.REST, "nothing: none is wanted", "create a chip, or pin it"),
        ContainerPhase.REGISTERING: _timed(
            lambda policy: policy.placement_deadline_s,
            Reason.DEPENDENCY_NOMAD,
            "registers again with growing pauses",
            "look at Nomad's leader and at what else writes this job",
        ),
        ContainerPhase.PLACING: _timed(
            lambda policy: policy.placement_deadline_s,
            Reason.PLACEMENT_SLOW,
            "waits for Nomad's evaluation; registers again when the job changes",
            "nomad job status and nomad eval list of the job",
        ),
        ContainerPhase.WAITING: Deadline(
            Kind.REASONED, "waits; Nomad places it as soon as there is room", "add a host or free room"
        ),
        ContainerPhase.BOOTING: _timed(
            lambda policy: policy.ready_deadline_s,
            Reason.WAHA_NOT_READY,
            "waits for the check to pass; Nomad restarts and moves what exits",
            "nomad alloc logs of the allocation",
        ),
        ContainerPhase.READY: Deadline(
            Kind.REST, "nothing; whatever WAHA does not answer stands as the reason", "nothing"
        ),
        ContainerPhase.FAILING: Deadline(
            Kind.REASONED,
            "leaves restarts to Nomad: in place, then elsewhere after 15 s to 5 min",
            "nomad alloc status: image, port and exit code stand in its events",
        ),
        ContainerPhase.MOVING: Deadline(
            Kind.REASONED,
            "registers nothing until no older allocation may be alive",
            "bring the host back; nomad node purge when the machine is gone for good",
        ),
        ContainerPhase.STOPPING: _timed(
            _stopping_s,
            Reason.STOP_SLOW,
            "stops, purges and deletes again, for ever; never records it as done unseen",
            "nomad alloc status: a host that is away cannot report the end",
        ),
    }
)

_WAITS_FOR_CONTAINER: Final = "starts the session as soon as the container answers"

CHIP: Final[Mapping[ChipPhase, Deadline]] = MappingProxyType(
    {
        ChipPhase.QUEUED: _timed(
            lambda policy: policy.ready_deadline_s,
            Reason.WAHA_NOT_READY,
            _WAITS_FOR_CONTAINER,
            "look at the container's phase and reason",
        ),
        ChipPhase.CREATING: _timed(
            lambda policy: policy.start_deadline_s,
            Reason.SESSION_SLOW,
            "looks, and restarts the session",
            "nothing yet",
        ),
        ChipPhase.STARTING: _timed(
            lambda policy: policy.start_deadline_s,
            Reason.SESSION_SLOW,
            "restarts the session, a few times; then gives the button back",
            "press Conectar when it comes back",
        ),
        ChipPhase.QR: _timed(
            lambda policy: policy.qr_deadline_s,
            Reason.QR_SPENT,
            "stops the session: nobody scans",
            "press Conectar and scan",
        ),
        ChipPhase.PASSKEY: _timed(
            lambda policy: policy.qr_deadline_s,
            Reason.QR_SPENT,
            "stops the session: nobody confirms",
            "press Conectar and confirm on the phone",
        ),
        ChipPhase.CONNECTED: Deadline(
            Kind.REST, "nothing; a container that cannot be asked stands as the reason", "nothing"
        ),
        ChipPhase.RECONNECTING: _timed(
            lambda policy: policy.connect_deadline_s,
            Reason.SESSION_SLOW,
            "restarts the session with the same credentials, a few times",
            "press Conectar when it comes back",
        ),
        ChipPhase.RETRYING: _timed(
            lambda policy: policy.connect_deadline_s,
            Reason.SESSION_SLOW,
            "tries again after the pause",
            "nothing yet",
        ),
        ChipPhase.PARKED: Deadline(Kind.REST, "nothing: its QR sets are spent", "press Conectar"),
        ChipPhase.UNLINKED: Deadline(Kind.REST, "nothing: its credentials are gone", "press Conectar"),
        ChipPhase.FAILED: Deadline(Kind.REST, "nothing: its tries are spent", "press Conectar"),
        ChipPhase.PAUSED: Deadline(Kind.REST, "nothing until the pause ends", "container resume"),
        ChipPhase.QUARANTINED: Deadline(Kind.REST, "nothing until it is released", "chip release"),
        ChipPhase.BANNED: Deadline(Kind.REST, "nothing until the ban is lifted", "chip ban --lift"),
        ChipPhase.DISCONNECTING: _timed(
            lambda policy: policy.teardown_deadline_s,
            Reason.STOP_SLOW,
            "stops the session again until WAHA says STOPPED",
            "look at the container's WAHA",
        ),
        ChipPhase.DISCONNECTED: Deadline(Kind.REST, "nothing: wanted so", "press Conectar"),
        ChipPhase.DELETING: _timed(
            lambda policy: policy.teardown_deadline_s,
            Reason.STOP_SLOW,
            "deletes the session again until WAHA has none, or its container with its storage is gone",
            "look at the container's WAHA",
        ),
    }
)


class Stood(msgspec.Struct, frozen=True):
    """What the last pass wrote: phase, reason, and since when both stand."""

    phase: str
    reason: str | None
    since: datetime | None


def overdue(phase: ContainerPhase | ChipPhase, before: Stood, now: datetime, policy: Policy) -> Reason | None:
    """The reason to give now to something that stands in `phase` without one; None while there is time.

    Once said it stays said until the phase changes: saying it starts `since` anew.
    """
    row = CONTAINER[phase] if isinstance(phase, ContainerPhase) else CHIP[phase]
    if row.after_s is None or before.phase != phase:
        return None
    if before.reason == row.reason:
        return row.reason
    if before.reason is not None:
        return None  # it stood for another cause, which is over; its own time begins now
    late = before.since is not None and now - before.since >= timedelta(seconds=row.after_s(policy))
    return row.reason if late else None
