"""Why a chip is where it is: causes from the root up, what happens next and when, and what people can do.

Everything comes from what the store holds; the rules here and in `root_causes.py` only put it into words.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from core.domain.budgets import Budget, budgets_of
from core.domain.cause_row import CauseRow, Proof
from core.domain.causes import CAUSES, cause_text
from core.domain.deadlines import CHIP, CONTAINER
from core.domain.evidence import Evidence
from core.domain.names import job_id
from core.domain.next_step import NextStep, next_step_of
from core.domain.policy import Policy
from core.domain.root_causes import chip_phase, codes_of
from core.domain.states import ChipPhase
from core.domain.story import Story
from core.domain.views import shown


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
    phase = chip_phase(shown(story.chip).phase)
    deadline = CHIP.get(phase) if phase is not None else None
    if container is not None and (of_container or phase is ChipPhase.QUEUED):
        # Words of a newer daemon are in no table.
        deadline = {str(known): row for known, row in CONTAINER.items()}.get(container.phase, deadline)
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
