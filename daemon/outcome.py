"""What became of a pass's actions, and how that changes what the pass tells. Pure.

`decide` writes its status as if its actions will work; where one did not, people must see that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final

import msgspec

from core.domain import way_out
from core.domain.actions import (
    OF_LABELS,
    STARTS,
    Action,
    AssignLabel,
    ChipStatus,
    ContainerStatus,
    CreateSession,
    Decision,
    DeleteSession,
    DeleteStorage,
    DeleteVariables,
    LogoutSession,
    PurgeJob,
    ReadExit,
    RemoveChip,
    RemoveContainer,
    RouteSession,
    StopSession,
    is_start,
)
from core.domain.desired import Desired, DesiredChip, Tries
from core.domain.evidence import EffectSeen
from core.domain.facts import WahaStatus
from core.domain.fleet_pause import changes_outside
from core.domain.states import ChipPhase, Reason, status_word


class Verdict(Enum):
    """How one action ended."""

    DONE = "done"
    FAILED = "failed"  # no answer, or one that says nothing: it may have had its effect
    REFUSED = "refused"  # understood and refused, now or in an earlier pass for the same wish
    STALE = "stale"  # the world was not as it was seen: look again
    DEFERRED = "deferred"  # not sent in this pass


class Result(msgspec.Struct, frozen=True):
    """`code`: of the error, "" when none. `after_s`: the least pause before the next try. `starts_in_s`: until its
    start token is expected, of one that is paced."""

    action: Action
    verdict: Verdict
    code: str = ""
    after_s: float = 0.0
    starts_in_s: float | None = None


# Why a start was deferred: it waits for its token.
PACED: Final = Reason.PACED.value
_CHIP_ACTIONS: Final = (*STARTS, *OF_LABELS, RouteSession, StopSession, DeleteSession, RemoveChip)
# After these the next step is known to be possible at once; other effects take the world a while, and news
# of it comes by the sources.
_NEXT_STEP_AT_ONCE: Final = (
    AssignLabel,
    ReadExit,
    RouteSession,
    StopSession,
    LogoutSession,
    DeleteSession,
    RemoveChip,
    PurgeJob,
    DeleteVariables,
    DeleteStorage,
    RemoveContainer,
)


def opens_next_step(action: Action) -> bool:
    """Whether another pass right after this action can do something."""
    if isinstance(action, CreateSession):
        return not action.start
    return isinstance(action, _NEXT_STEP_AT_ONCE)


def told(
    decision: Decision, results: Sequence[Result], desired: Desired
) -> tuple[ContainerStatus, dict[str, ChipStatus]]:
    """The status to write, given how the actions ended.

    Chips that are left out keep what they have: they were removed, or nothing was learnt about them.
    """
    container = _container(decision.container, results)
    chips = dict(decision.chips)
    if container.reason != decision.container.reason:
        chips = {chip: _waiting_for(status, container.reason) for chip, status in chips.items()}
    known = {chip.id: chip for chip in desired.chips}
    for result in results:
        if not isinstance(result.action, _CHIP_ACTIONS):
            continue
        chip_id = result.action.chip_id
        changed = _chip(chips[chip_id], result, known[chip_id])
        if changed is None:
            del chips[chip_id]
        else:
            chips[chip_id] = changed
    return container, chips


def unsuccessful(results: Sequence[Result]) -> list[EffectSeen]:
    """What of the pass did not work, for explanations; what was left to the next pass is no failure."""
    return [
        EffectSeen(
            type(result.action).__name__,
            result.verdict.value,
            result.code,
            result.action.chip_id if isinstance(result.action, _CHIP_ACTIONS) else None,
        )
        for result in results
        if result.verdict in (Verdict.FAILED, Verdict.REFUSED)
    ]


def sent(results: Sequence[Result]) -> list[str]:
    """Effects that went out, whatever came of them: what was seen before no longer tells what is next."""
    return [
        type(result.action).__name__
        for result in results
        if changes_outside(result.action) and result.verdict in (Verdict.DONE, Verdict.FAILED, Verdict.STALE)
    ]


def _container(status: ContainerStatus, results: Sequence[Result]) -> ContainerStatus:
    for result in results:
        if isinstance(result.action, _CHIP_ACTIONS):
            continue
        refused = result.verdict is Verdict.REFUSED
        if refused or result.verdict is Verdict.FAILED:
            reason = Reason.JOB_REJECTED if refused else Reason.DEPENDENCY_NOMAD
            if isinstance(result.action, DeleteStorage):
                reason = Reason.DEPENDENCY_STORAGE
            return msgspec.structs.replace(status, reason=reason)
    return status


def _waiting_for(status: ChipStatus, reason: str | None) -> ChipStatus:
    waits = status.phase == ChipPhase.QUEUED and status.reason is None
    return msgspec.structs.replace(status, reason=reason) if waits else status


def _way_out(status: ChipStatus, result: Result) -> ChipStatus | None:
    """A chip that waits for its way out is told of once that failed; one that got a step further goes on at once."""
    if status.phase != ChipPhase.QUEUED:
        return status  # what its label needs beside: its phase does not rest on it
    if result.verdict is not Verdict.REFUSED:
        return None
    known = status.reason is None or status.reason in way_out.REASONS
    return msgspec.structs.replace(status, reason=Reason(result.code)) if known else status


def _chip(status: ChipStatus, result: Result, chip: DesiredChip) -> ChipStatus | None:
    if isinstance(result.action, OF_LABELS):
        return _way_out(status, result)
    if isinstance(result.action, LogoutSession) and result.verdict is not Verdict.DONE:
        # Whether its credentials are gone is for the next look to see.
        status = msgspec.structs.replace(status, unlinked_generation=chip.unlinked_generation)
    match result.verdict:
        case Verdict.DONE:
            return None if isinstance(result.action, RemoveChip | RouteSession) else status
        case Verdict.DEFERRED if result.code == PACED:
            return _paced(status, result, chip)
        case Verdict.STALE | Verdict.DEFERRED:
            return None
        case Verdict.FAILED:
            return msgspec.structs.replace(status, reason=Reason.DEPENDENCY_WAHA)
        case Verdict.REFUSED:
            return _refused(status, result, chip)


def _paced(status: ChipStatus, result: Result, chip: DesiredChip) -> ChipStatus | None:
    """It waits in line and nothing was spent. The word that people see is the same in every phase on the way."""
    if status.waha_status in (WahaStatus.STARTING, WahaStatus.WORKING):
        # Its restart is due because it has been STARTING for long, and how long is what its phase says; or it
        # is deaf, and to its owner as connected as before.
        return None
    return msgspec.structs.replace(
        status,
        phase=ChipPhase.QUEUED,
        reason=Reason.PACED,
        tries=_spent(chip),
        memory=chip.memory,
        starts_in_s=result.starts_in_s,
    )


def _spent(chip: DesiredChip) -> Tries:
    """What its newest wish has cost up to now."""
    return chip.tries if chip.tries.generation == chip.generation else Tries(generation=chip.generation)


def _refused(status: ChipStatus, result: Result, chip: DesiredChip) -> ChipStatus:
    if result.code == Reason.WAHA_KEY_REJECTED:
        reason, phase = Reason.WAHA_KEY_REJECTED, ChipPhase.QUEUED
    else:
        reason, phase = Reason.WAHA_REJECTED, ChipPhase.FAILED
    if not isinstance(result.action, STARTS):
        return msgspec.structs.replace(status, reason=reason)
    # A refused start started nothing, so it costs nothing; its owner gets the button back.
    return msgspec.structs.replace(
        status,
        phase=phase,
        status=status_word(phase, needs_pairing=chip.needs_pairing),
        reason=reason,
        tries=_spent(chip),
        memory=chip.memory,
    )


def starts_of(actions: Sequence[Action], chips: Mapping[str, ChipStatus]) -> dict[str, Tries]:
    """What the starts among `actions` cost, by chip: recorded before they are sent."""
    return {
        action.chip_id: chips[action.chip_id].tries
        for action in actions
        if isinstance(action, STARTS) and is_start(action)
    }
