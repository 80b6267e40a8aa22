"""One chip in one pass: what its rules are given, what they ask, and what they answer with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from core.domain import backoff, breaker, way_out
from core.domain.actions import ChipAction, ChipStatus
from core.domain.deadlines import Stood, overdue
from core.domain.desired import Consent, DesiredChip, Memory, Rhythm, Tries
from core.domain.facts import NOT_ASKED, Fact, Known, Peers, Probe, SessionFact, Unknown, WahaStatus
from core.domain.names import session_name
from core.domain.policy import Policy
from core.domain.states import ON_ITS_WAY, ChipPhase, ChipStatusWord, Reason, status_word

# Nothing changes here by itself but by news: a wish, or WAHA's own word.
AT_REST: Final = frozenset(
    {
        ChipPhase.CONNECTED,
        ChipPhase.DISCONNECTED,
        ChipPhase.PARKED,
        ChipPhase.UNLINKED,
        ChipPhase.FAILED,
        ChipPhase.PAUSED,
        ChipPhase.QUARANTINED,
        ChipPhase.BANNED,
    }
)


class Scene(msgspec.Struct, frozen=True):
    """What all chips of a user share in one pass.

    Attributes:
        sessions: Unknown while WAHA cannot be asked.
        waiting_for: why not, as a reason code, when something is to be said about it.
        uncertain: WAHA could not be asked because a fact is Unknown, not because the container is known
            to be away.
        container_gone: nothing of the container runs or may still run.
        removing: the container is on its way out.
        never_ran: no job was ever registered for the user.
        paused: an operator wants no session of the user to run.
        full: as many sessions run as the plan allows.
        peers, probes: see `Observation`.
        start_refused: why no further session may be started whatever the chip, as a reason code.
    """

    sessions: Fact[Mapping[str, SessionFact]]
    waiting_for: str | None
    uncertain: bool
    container_gone: bool
    removing: bool
    never_ran: bool
    now: datetime
    policy: Policy
    paused: bool = False
    start_refused: str | None = None
    full: bool = False
    peers: Fact[Peers] = Unknown(NOT_ASKED)
    probes: Mapping[str, Fact[Probe]] = msgspec.field(default_factory=dict)


class ChipPlan(msgspec.Struct, frozen=True):
    """The chip's part of a decision; `next_s` seconds until the next look, None = nobody needs to."""

    status: ChipStatus
    action: ChipAction | None
    next_s: float | None


class Look:
    """One chip in one scene; gathers what most rules ask for."""

    def __init__(self, chip: DesiredChip, scene: Scene) -> None:
        self.chip = chip
        self.scene = scene
        self.policy = scene.policy
        self.fresh = chip.tries.generation != chip.generation
        self.tries = Tries(generation=chip.generation) if self.fresh else chip.tries
        sessions = scene.sessions
        self.session = sessions.value.get(session_name(chip.id)) if isinstance(sessions, Known) else None
        self.unlinked = chip.unlinked_generation
        self.memory = chip.memory
        self._admitted: Memory | None = None

    @property
    def needs_pairing(self) -> bool:
        return self.chip.connected_at is None or self.unlinked is not None

    @property
    def pressed_since_unlink(self) -> bool:
        """Conectar was pressed after the credentials were seen lost: a QR may be shown."""
        return self.unlinked is None or self.chip.generation > self.unlinked

    def overdue(self, phase: ChipPhase) -> Reason | None:
        """Why it stood in this phase for too long; None while it may, and after a new wish."""
        if self.fresh:
            return None
        stood = Stood(self.chip.phase, self.chip.reason, self.chip.since)
        return overdue(phase, stood, self.scene.now, self.policy)

    def plan(
        self,
        phase: ChipPhase,
        reason: str | None = None,
        action: ChipAction | None = None,
        *,
        next_s: float | None = None,
        tries: Tries | None = None,
        until: datetime | None = None,
    ) -> ChipPlan:
        session = self.session
        if reason is None:
            reason = self.overdue(phase)
        status = ChipStatus(
            phase=phase,
            status=self._word(phase),
            reason=reason,
            waha_status=session.status if session else None,
            phone_number=_phone_number(session),
            push_name=session.push_name if session else None,
            connected_now=phase is ChipPhase.CONNECTED and session is not None,
            unlinked_generation=self.unlinked,
            activity_at=session.activity_at if session else None,
            tries=tries or self.tries,
            memory=self.memory,
            until=until,
        )
        if next_s is None and phase not in AT_REST:
            next_s = self.policy.poll_waiting_s
        return ChipPlan(status, action, next_s)

    def _word(self, phase: ChipPhase) -> ChipStatusWord:
        word = status_word(phase, needs_pairing=self.needs_pairing)
        if word is not ChipStatusWord.CONNECTING or self.fresh or self.chip.since is None:
            return word
        # Past its deadline a chip gets its button back although the loop goes on trying.
        was_waiting = self.chip.phase in ON_ITS_WAY
        overdue = self.scene.now - self.chip.since >= timedelta(seconds=self.policy.connect_deadline_s)
        given_up = self.chip.status == ChipStatusWord.DISCONNECTED
        return ChipStatusWord.DISCONNECTED if was_waiting and (overdue or given_up) else word

    def paying_start(self, action: ChipAction, phase: ChipPhase, reason: Reason | None = None) -> ChipPlan:
        """A start or restart, with what it costs, or what its way out lacks. After `refusal` said that it may be made."""
        held = way_out.gate(self)
        if held is not None:
            return held
        tries = msgspec.structs.replace(
            self.tries,
            failures=self.tries.failures + 1,
            qr_rounds=self.tries.qr_rounds + (1 if self.needs_pairing else 0),
            last_at=self.scene.now,
        )
        self.memory = self._admitted or self.memory
        return self.plan(phase, reason, action, next_s=self.policy.poll_moving_s, tries=tries)

    def keep(self, rhythm: Rhythm) -> None:
        """Remember this rhythm, if it moved."""
        if rhythm != self.memory.rhythm:
            self.memory = msgspec.structs.replace(self.memory, rhythm=rhythm)

    def refusal(self) -> ChipPlan | None:
        """Why the session may not be started now, or None when it may. Spent tries are asked for before."""
        if not self.pressed_since_unlink:
            return self.plan(ChipPhase.UNLINKED, Reason.UNLINKED)
        if self.needs_pairing and self.tries.qr_rounds >= self.policy.qr_rounds:
            # A QR that was shown takes the failures back; some left over means that none came.
            reason = Reason.RECONNECT_FAILED if self.tries.failures > 1 else Reason.QR_SPENT
            return self.plan(ChipPhase.PARKED, reason)
        blocked = self.may_not_start()
        if blocked is not None:
            return blocked
        wait = self.backoff_left_s()
        if wait > 0:
            return self.plan(ChipPhase.RETRYING, next_s=wait)
        return None if self.needs_pairing else self._broken()

    def may_not_start(self) -> ChipPlan | None:
        """Why no session of anybody, or of this user, may be started; None when they may."""
        if self.policy.egress is None:
            return self.plan(ChipPhase.QUEUED, Reason.NO_EGRESS)
        if self.scene.start_refused is not None:
            return self.plan(ChipPhase.QUEUED, self.scene.start_refused)
        return None

    def _broken(self) -> ChipPlan | None:
        """What the chip's breaker says to one more start. QR sets have a budget of their own."""
        chip, now, policy = self.chip, self.scene.now, self.policy
        stands = breaker.current(chip, now, policy)
        answer = breaker.admit(
            stands,
            chip,
            now,
            policy,
            pressed=chip.consent is not Consent.NONE and self.tries.last_at is None,
            climbing=chip.consent is not Consent.NONE and self.tries.failures > 0,
            own_failing=self.session is not None and self.session.status is not WahaStatus.STOPPED,
        )
        after = self.memory
        if answer.breaker != after.breaker:
            after = msgspec.structs.replace(after, breaker=answer.breaker)
        if answer.allowed:
            self._admitted = after
            return None
        self.memory = after
        if answer.breaker.quarantined_generation is not None:
            return self.plan(ChipPhase.QUARANTINED, Reason.QUARANTINED, next_s=policy.poll_moving_s)
        until = answer.breaker.open_until
        left_s = policy.breaker_open_s if until is None else max(0.0, (until - now).total_seconds())
        # Where it rests a press helps, so it has its button.
        return self.plan(ChipPhase.FAILED, Reason.BREAKER_OPEN, next_s=left_s, until=until)

    def spent(self) -> Tries:
        """All QR sets of this wish are used up."""
        rounds = max(self.tries.qr_rounds, self.policy.qr_rounds)
        return msgspec.structs.replace(self.tries, failures=0, qr_rounds=rounds)

    def no_room(self) -> ChipPlan:
        """Other sessions of the user still take the places of its plan, or the first one is being judged."""
        poll = self.policy.poll_moving_s
        return self.plan(ChipPhase.QUEUED, Reason.PLAN_LIMIT if self.scene.full else None, next_s=poll)

    def backoff_left_s(self) -> float:
        if self.tries.last_at is None:
            return 0.0
        pause = backoff.delay(self.tries.failures, self.policy.retry_base_s, self.policy.retry_cap_s)
        return pause - (self.scene.now - self.tries.last_at).total_seconds()


def _phone_number(session: SessionFact | None) -> str | None:
    """E.164 from a WhatsApp id such as `5511999999999@c.us` or `5511999999999:12@s.whatsapp.net`."""
    if session is None or session.me is None:
        return None
    digits = session.me.split("@", 1)[0].split(":", 1)[0]
    return f"+{digits}" if digits.isascii() and digits.isdigit() else None
