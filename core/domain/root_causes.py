"""Which causes hold for a chip, the root first.

The order is that of their table, with one exception: a chip that waits for a person (QR shown or spent,
unlinked, paused, banned, disconnected) names that first, since nothing below it would bring the chip back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from core.domain.cause_row import Situation
from core.domain.causes import CAUSES
from core.domain.desired import Wanted
from core.domain.evidence import AllocationSeen, Evidence
from core.domain.facts import ClientStatus, WahaStatus
from core.domain.states import ChipPhase, ContainerPhase, Reason
from core.domain.story import Story
from core.domain.views import shown

# A pass looks at whoever is on the way every half minute; a lease that died with its daemon adds a minute.
UNSEEN_AFTER: Final = timedelta(seconds=180)

_SITUATION_OF: Final[Mapping[ChipPhase | None, Situation]] = {
    ChipPhase.QR: Situation.WAITS_FOR_SCAN,
    ChipPhase.PASSKEY: Situation.WAITS_FOR_PASSKEY,
    ChipPhase.CONNECTED: Situation.CONNECTED,
    ChipPhase.DISCONNECTED: Situation.DISCONNECTED,
    ChipPhase.DISCONNECTING: Situation.DISCONNECTING,
}
_PLACE: Final = {str(code): place for place, code in enumerate(CAUSES)}
# These wait for a person, whatever goes on below them.
_RESTS: Final = frozenset(
    {"qr", "passkey", "parked", "unlinked", "failed", "paused", "banned", "quarantined", "disconnected"}
)
_RUNS: Final = frozenset({ContainerPhase.READY, ContainerPhase.ABSENT})


def codes_of(story: Story, now: datetime) -> tuple[str, ...]:
    """The causes' codes, the root first. A code that a newer daemon wrote and we do not know yet is left out."""
    state = shown(story.chip)
    found = dict.fromkeys(str(code) for code in _found(story, now) if code in CAUSES)
    if not found:
        found = dict.fromkeys([str(_situation(story))])
    ordered = sorted(found, key=_PLACE.__getitem__)
    own = next(
        (code for code in (state.reason, _SITUATION_OF.get(chip_phase(state.phase))) if code in found), None
    )
    if own is not None and _waits_for_somebody(story):
        ordered.remove(own)
        ordered.insert(0, own)
    return tuple(ordered)


def _found(story: Story, now: datetime) -> Iterator[str | None]:
    chip, container, evidence = story.chip, story.container, story.evidence
    state = shown(chip)
    if _is_unseen(story, now):
        yield Situation.NOT_LOOKED_AT
    if chip.wanted != Wanted.CONNECTED:
        yield state.reason
        yield _SITUATION_OF.get(chip_phase(state.phase))
        if container is not None and state.phase == ChipPhase.DISCONNECTING:
            yield _refined(container.reason, story)
        return
    if state.phase == ChipPhase.CONNECTED:
        yield _refined(state.reason, story)
        if state.reason is None:
            yield Situation.CONNECTED
            yield container.reason if container and container.reason == "rollout" else None
        return
    if container is not None:
        yield _refined(container.reason, story)
    yield _refined(state.reason, story)
    if evidence is not None and not (container and container.phase in _RUNS):
        if evidence.job_by_hand_at is not None:
            yield Situation.JOB_BY_HAND
        yield from (why for why in evidence.away.values() if why != Reason.WAHA_KEY_REJECTED)
    if state.reason is None:
        yield _situation(story)


def _waits_for_somebody(story: Story) -> bool:
    """Whether its own state is what keeps it down; a QR code that cannot be fetched is not."""
    chip, container = story.chip, story.container
    phase = shown(chip).phase
    if phase in (ChipPhase.QR, ChipPhase.PASSKEY) and container is not None and not container.answers:
        return False
    return phase in _RESTS and (chip.seen or chip.wanted != Wanted.CONNECTED)


def _is_unseen(story: Story, now: datetime) -> bool:
    """Somebody should have looked by now: at a new wish, or at a user who is on the way."""
    container = story.container
    if container is None or not story.chip.seen:
        asked = story.chip.updated_at
        looked = container.looked_at if container else None
        return now - max(asked, looked or asked) > UNSEEN_AFTER
    return (
        not container.at_rest and container.looked_at is not None and now - container.looked_at > UNSEEN_AFTER
    )


def _situation(story: Story) -> Situation:
    """What to say of a chip whose phase carries no reason."""
    chip, container = story.chip, story.container
    state = shown(chip)
    phase = chip_phase(state.phase)
    known = _SITUATION_OF.get(phase)
    if known is not None:
        return known
    if phase is ChipPhase.QUEUED:
        if container is None or container.looked_at is None:
            return Situation.NOT_SEEN
        if container.phase == ContainerPhase.READY and container.answers:
            return Situation.SESSION_STARTING if chip.seen else Situation.NOT_SEEN
        if container.phase == ContainerPhase.MOVING or _is_replaced(story):
            return Situation.CONTAINER_MOVING
        return Situation.CONTAINER_STARTING
    word = chip.waha_status
    return Situation.SESSION_FAILED if word == WahaStatus.FAILED else Situation.SESSION_STARTING


def _is_replaced(story: Story) -> bool:
    """Its container ran before and is on its way to another place."""
    allocations = story.evidence.allocations if story.evidence else ()
    return any(a.desired != "run" for a in allocations) or story.chip.connected_at is not None


def _refined(reason: str | None, story: Story) -> str | None:
    """The reason, or the situation that the evidence shows behind it."""
    evidence = story.evidence
    if evidence is None or reason is None:
        return reason
    newest = story.newest
    match reason:
        case Reason.NO_HOST if evidence.placement and evidence.placement.constraints:
            return Situation.CONSTRAINT_UNMET
        case Reason.TASK_FAILED if newest and any("oom killed" in e.message.lower() for e in newest.events):
            return Situation.OUT_OF_MEMORY
        case Reason.WAHA_NOT_READY if newest and _is_unlisted(newest, evidence):
            return Situation.INSTANCE_MISSING
    return reason


def _is_unlisted(allocation: AllocationSeen, evidence: Evidence) -> bool:
    listed = any(check.allocation_id == allocation.id for check in evidence.checks)
    runs = allocation.client == ClientStatus.RUNNING and allocation.desired == "run"
    return runs and not listed and "consul" not in evidence.away


def chip_phase(phase: str) -> ChipPhase | None:
    """None for a phase that a newer daemon wrote."""
    try:
        return ChipPhase(phase)
    except ValueError:
        return None
