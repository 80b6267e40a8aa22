"""Why a chip is where it is: causes from the root up, what happens next and when, and what people can do.

Everything comes from what the store holds; the rules here only put it into words. The order of causes is
that of their table, with one exception: a chip that waits for a person (QR shown or spent, unlinked, paused,
banned, disconnected) names that first, since nothing below it would bring the chip back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from core.domain.budgets import Budget, budgets_of
from core.domain.cause_row import CauseRow, Proof, Situation
from core.domain.causes import CAUSES, cause_text
from core.domain.deadlines import CHIP, CONTAINER
from core.domain.desired import Wanted
from core.domain.evidence import AllocationSeen, Evidence
from core.domain.facts import ClientStatus, WahaStatus
from core.domain.names import job_id
from core.domain.next_step import NextStep, next_step_of
from core.domain.policy import Policy
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


class ProofView(msgspec.Struct, frozen=True):
    """A piece of evidence.

    Attributes:
        system: where it was seen: `nomad`, `consul`, `waha`, `storage`, `egress` or `wahafleet`.
        about: what it is about, such as `placement`.
        observed_at: until when it is known to hold; None where it is no observation, and while the system
            cannot be read: then it is what was seen last.
        detail: the facts; texts in it are excerpts without secrets.
    """

    system: str
    about: str
    observed_at: datetime | None
    detail: Any


class OperatorPart(msgspec.Struct, frozen=True):
    """For whoever runs the fleet, in English: what the loop does, what a person can do, commands to look with."""

    loop: str
    person: str
    commands: tuple[str, ...]


class Cause(msgspec.Struct, frozen=True):
    """One cause. `text`, `next` and `person` are pt-BR: what is the matter, what happens by itself, what to do."""

    code: str
    text: str
    next: str
    person: str
    operator: OperatorPart
    evidence: tuple[ProofView, ...]


class Explanation(msgspec.Struct, frozen=True):
    """Why a chip is where it is.

    Attributes:
        status, phase: as in the chip itself. since: when they last changed.
        observed_at: when a pass last looked; None before the first.
        causes: the root first; never empty.
        person: pt-BR, what its owner can do about the first cause.
    """

    chip_id: str
    status: str
    phase: str
    since: datetime
    observed_at: datetime | None
    causes: tuple[Cause, ...]
    budgets: tuple[Budget, ...]
    next_step: NextStep
    person: str


def explain(story: Story, now: datetime, policy: Policy) -> Explanation:
    """The explanation at `now`; the same arguments give the same one."""
    state = shown(story.chip)
    causes = tuple(_cause(code, story, policy) for code in codes_of(story, now))
    first = causes[0]
    return Explanation(
        chip_id=story.chip.id,
        status=state.status,
        phase=state.phase,
        since=story.chip.since,
        observed_at=story.looked_at,
        causes=causes,
        budgets=budgets_of(story, policy),
        next_step=next_step_of(first.code, story, now, policy),
        person=first.person,
    )


def codes_of(story: Story, now: datetime) -> tuple[str, ...]:
    """The causes' codes, the root first. A code that a newer daemon wrote and we do not know yet is left out."""
    state = shown(story.chip)
    found = dict.fromkeys(str(code) for code in _found(story, now) if code in CAUSES)
    if not found:
        found = dict.fromkeys([str(_situation(story))])
    ordered = sorted(found, key=_PLACE.__getitem__)
    own = next(
        (code for code in (state.reason, _SITUATION_OF.get(_phase(state.phase))) if code in found), None
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
        yield _SITUATION_OF.get(_phase(state.phase))
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
    phase = _phase(state.phase)
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


def _phase(phase: str) -> ChipPhase | None:
    try:
        return ChipPhase(phase)
    except ValueError:
        return None  # a newer daemon's


def _cause(code: str, story: Story, policy: Policy) -> Cause:
    row = CAUSES[code]
    return Cause(
        code=code,
        text=cause_text(code),
        next=row.loop,
        person=row.owner,
        operator=_operator(code, row, story),
        evidence=tuple(_proofs(row, story, policy)),
    )


def _operator(code: str, row: CauseRow, story: Story) -> OperatorPart:
    container = story.container
    of_container = container is not None and code == container.reason
    phase = _phase(shown(story.chip).phase)
    deadline = CHIP.get(phase) if phase is not None else None
    if container is not None and (of_container or phase is ChipPhase.QUEUED):
        deadline = CONTAINER.get(ContainerPhase(container.phase), deadline)
    newest = story.newest
    words = {
        "job": job_id(story.chip.user_id),
        "user": story.chip.user_id,
        "chip": story.chip.id,
        "allocation": newest.id if newest else container.allocation_id if container else None,
    }
    known = {name: word for name, word in words.items() if word is not None}
    return OperatorPart(
        loop=deadline.loop if deadline else "",
        person=row.operator or (deadline.person if deadline else ""),
        commands=tuple(command.format_map(known) for command in row.commands if _fits(command, known)),
    )


def _fits(command: str, known: dict[str, str]) -> bool:
    return all(f"{{{name}}}" not in command or name in known for name in ("allocation",))


def _proofs(row: CauseRow, story: Story, policy: Policy) -> Iterator[ProofView]:
    evidence, chip_id = story.evidence, story.chip.id
    if Proof.EGRESS in row.proofs:
        yield ProofView("egress", Proof.EGRESS, None, {"way": policy.egress})
    if evidence is None:
        return
    facts: dict[Proof, tuple[str, Any]] = {
        Proof.AWAY: ("wahafleet", evidence.away),
        Proof.JOB: ("nomad", evidence.job),
        Proof.PLACEMENT: ("nomad", evidence.placement),
        Proof.ALLOCATIONS: ("nomad", evidence.allocations),
        Proof.CHECKS: ("consul", evidence.checks),
        Proof.SESSION: ("waha", evidence.sessions.get(chip_id)),
        Proof.STORAGE: ("storage", _stored(evidence)),
        Proof.EFFECTS: ("wahafleet", [e for e in evidence.effects if e.chip_id in (None, chip_id)]),
    }
    for proof in row.proofs:
        system, seen = facts.get(proof, ("", None))
        if seen:
            at = None if system in evidence.away else story.looked_at
            yield ProofView(system, proof, at, msgspec.to_builtins(seen))


def _stored(evidence: Evidence) -> dict[str, int] | None:
    return None if evidence.databases is None else {"databases": evidence.databases}
