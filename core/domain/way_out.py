"""The way out that a chip needs before its session may start, with `egress=guard`. Fail closed.

In this order, one step a pass: a label, no trouble with it, a reading of its exit that is fresh and good, and the
credential of this very allocation in the session's config. A session that runs and must start anew without all of
that is stopped first; one that is connected is never stopped for its label, since the guard takes any generation's
password and closes the tunnels whose label changed.

    gate     before a start: what is done or awaited instead; None = the session may start
    upkeep   beside everything else: labels of chips that run, wait for their container, or rest
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from core.domain.actions import AssignLabel, ChipAction, ReadExit, ReleaseLabel, RouteSession, StopSession
from core.domain.desired import Wanted
from core.domain.egress_errors import OF_UPSTREAM, EgressError
from core.domain.facts import Known, WahaStatus
from core.domain.policy import GUARD
from core.domain.routes import ChipRoute, LabelWhy, reading_due, rotation
from core.domain.states import ChipPhase, Reason

if TYPE_CHECKING:
    from core.domain.chip_look import ChipPlan, Look

# Reasons of a chip that waits for its way out.
REASONS: Final = frozenset(
    Reason(error) for error in (*OF_UPSTREAM, EgressError.NO_UPSTREAM, EgressError.QUOTA)
)
# Its session runs, or is thought to.
_RUNS: Final = frozenset(
    {
        ChipPhase.CONNECTED,
        ChipPhase.QR,
        ChipPhase.PASSKEY,
        ChipPhase.CREATING,
        ChipPhase.STARTING,
        ChipPhase.RECONNECTING,
    }
)


class Missing(msgspec.Struct, frozen=True):
    """What a chip's way out lacks: what to do about it, or why it waits."""

    action: ChipAction | None
    why: Reason | None = None


def gate(look: Look) -> ChipPlan | None:
    """What is done or awaited before a start of the session; None when it may start, or start anew."""
    found = lack(look)
    session = look.session
    if found is None:
        if look.policy.egress != GUARD or session is None or session.routed:
            return None
        found = Missing(RouteSession(look.chip.id))
    action = found.action
    if session is not None and session.status is not WahaStatus.STOPPED:
        action = StopSession(look.chip.id)
    return waiting(look, found, action)


def waiting(look: Look, found: Missing, action: ChipAction | None) -> ChipPlan:
    """The chip waits, and says why: until it is known better, what it waited for before."""
    chip = look.chip
    before = chip.reason if chip.phase == ChipPhase.QUEUED and chip.reason in REASONS else None
    return look.plan(ChipPhase.QUEUED, found.why or before, action)


def lack(look: Look) -> Missing | None:
    """What is still to be done for the chip's label and its exit; None = both are good."""
    chip, now = look.chip, look.scene.now
    if look.policy.egress != GUARD:
        return None
    route = chip.route
    if route is None or route.released:
        return Missing(AssignLabel(chip.id, LabelWhy.FIRST))
    why = rotation(route, now)
    if why is not None:
        return Missing(AssignLabel(chip.id, why))
    if route.unusable is not None:
        return Missing(None, Reason(route.unusable))
    if not look.policy.exit_readings:
        return None
    if reading_due(route, now):
        return Missing(ReadExit(chip.id))
    return None if route.failure is None else Missing(None, Reason(route.failure))


def upkeep(plan: ChipPlan, look: Look) -> ChipPlan:
    """The plan of a chip that has nothing to do this time, with what its label needs beside; nothing waits for it."""
    if look.policy.egress != GUARD or plan.action is not None:
        return plan
    action = _upkeep(ChipPhase(plan.status.phase), look)
    if action is None:
        return plan
    next_s = look.policy.poll_waiting_s if plan.next_s is None else plan.next_s
    return msgspec.structs.replace(plan, action=action, next_s=next_s)


def _upkeep(phase: ChipPhase, look: Look) -> ChipAction | None:
    chip, route = look.chip, look.chip.route
    if phase is ChipPhase.DISCONNECTED:
        return ReleaseLabel(chip.id) if route is not None and not route.released else None
    if chip.wanted is not Wanted.CONNECTED:
        return None
    if phase in _RUNS and isinstance(look.scene.sessions, Known):
        return _beside(look, route)
    if phase is ChipPhase.QUEUED and not isinstance(look.scene.sessions, Known):
        # While its container comes up there is time for it.
        found = lack(look)
        return found.action if found is not None else None
    return None


def _beside(look: Look, route: ChipRoute | None) -> ChipAction | None:
    """A session that runs says by itself whether its exit works: no reading makes its label change."""
    now, chip_id = look.scene.now, look.chip.id
    if route is None or route.released:
        return AssignLabel(chip_id, LabelWhy.FIRST)
    why = rotation(route, now)
    if why is not None:
        return None if why is LabelWhy.FAILING else AssignLabel(chip_id, why)
    unread = look.policy.exit_readings and route.checked_at is None
    return ReadExit(chip_id) if unread and reading_due(route, now) else None
