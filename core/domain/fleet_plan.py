"""What the next passes would do to one user: `decide` over what the last one saw, in the words of `actions.py`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from core.domain.actions import Action, Decision, RegisterJob, is_start
from core.domain.decide import decide
from core.domain.desired import Desired
from core.domain.looks import Look, observation_of
from core.domain.policy import Policy
from core.domain.seat import SeatState
from core.domain.states import ContainerPhase, Reason

# Past a deadline that falls on the very moment.
_JUST_AFTER: Final = timedelta(milliseconds=1)


class Planned(msgspec.Struct, frozen=True):
    """One action.

    Attributes:
        chip_id: None for what concerns the container.
        action: the name of its struct.
        reason: why it does not come at once, or what the pass would tell beside it; None for nothing.
        not_before: when it is due at the earliest; None = with the next pass.
    """

    chip_id: str | None
    action: str
    reason: str | None = None
    not_before: datetime | None = None


def plan_of(
    desired: Desired,
    look: Look | None,
    starts_at: Mapping[str, datetime | None],
    now: datetime,
    policy: Policy,
) -> tuple[Planned, ...] | None:
    """The actions of the next pass that has any, should nothing change outside meanwhile.

    None where nothing can be said: the last pass sent something, and what is stored was seen before that; or what it
    saw was not kept, as by a daemon of an earlier version.

    Args:
        desired: as the store holds it now; fingerprints of the job are taken from `look`.
        look: what the newest pass saw; None for a user whom none has looked at.
        starts_at: by chip id, when its start token is expected.
    """
    if (look is None and _was_looked_at(desired)) or (look is not None and look.acted):
        return None
    paused = desired.fleet_paused
    desired = msgspec.structs.replace(_as_looked(desired, look), fleet_paused=False)
    seen = observation_of(look, now)
    decision, at = decide(desired, seen, now, policy), None
    if not decision.actions:
        seat = desired.container.seat
        if (
            decision.container.reason == Reason.ROLLOUT
            and seat is not None
            and seat.state is SeatState.WAITING
        ):
            return (Planned(None, RegisterJob.__name__, Reason.ROLLOUT),)
        if decision.requeue_after is not None:
            at = now + timedelta(seconds=decision.requeue_after)
            decision = decide(desired, seen, at + _JUST_AFTER, policy)
    return tuple(
        [
            _planned(action, decision, desired, starts_at, now, at, paused=paused)
            for action in decision.actions
        ]
    )


def _as_looked(desired: Desired, look: Look | None) -> Desired:
    container = desired.container
    if look is not None:
        container = msgspec.structs.replace(
            container,
            wanted_hashes=look.hashes,
            wanted_variables_hash=look.variables_hash,
            renderable=look.renderable,
            release=look.release,
            superseded=container.release not in ("", look.release),
        )
    return msgspec.structs.replace(desired, container=container)


def _was_looked_at(desired: Desired) -> bool:
    container = desired.container
    never = container.phase in ("", ContainerPhase.ABSENT) and container.variables_hash is None
    return container.registered is not None or not never


def _planned(
    action: Action,
    decision: Decision,
    desired: Desired,
    starts_at: Mapping[str, datetime | None],
    now: datetime,
    at: datetime | None,
    *,
    paused: bool,
) -> Planned:
    chip_id: str | None = getattr(action, "chip_id", None)
    told = decision.container.reason or desired.container.reason
    reason = told if chip_id is None else decision.chips[chip_id].reason
    due = starts_at.get(chip_id) if chip_id is not None and is_start(action) else None
    if due is not None and due > now:
        reason, at = Reason.PACED, due if at is None else max(at, due)
    return Planned(chip_id, type(action).__name__, Reason.PAUSED if paused else reason, at)
