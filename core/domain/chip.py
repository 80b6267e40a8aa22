"""Rules for one chip: what its session should do next, and what its owner sees meanwhile.

What each start costs stands in `Tries`. A chip that needs pairing pays one QR round a start; any chip
counts a failure a start, and is given back its count when the session comes up. Nothing here ever logs a
session out or deletes one, save for a chip that its owner deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

import msgspec

from core.domain import backoff
from core.domain.actions import (
    ChipAction,
    ChipStatus,
    CreateSession,
    DeleteSession,
    RemoveChip,
    RestartSession,
    StartSession,
    StopSession,
)
from core.domain.deadlines import Stood, overdue
from core.domain.desired import DesiredChip, Tries, Wanted
from core.domain.facts import Fact, Known, SessionFact, WahaStatus
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


class ChipPlan(msgspec.Struct, frozen=True):
    """The chip's part of a decision; `next_s` seconds until the next look, None = nobody needs to."""

    status: ChipStatus
    action: ChipAction | None
    next_s: float | None


class _Look:
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

    def paying_start(self, action: ChipAction, phase: ChipPhase) -> ChipPlan:
        """A start or restart, with what it costs."""
        tries = msgspec.structs.replace(
            self.tries,
            failures=self.tries.failures + 1,
            qr_rounds=self.tries.qr_rounds + (1 if self.needs_pairing else 0),
            last_at=self.scene.now,
        )
        return self.plan(phase, action=action, next_s=self.policy.poll_moving_s, tries=tries)

    def refusal(self) -> ChipPlan | None:
        """Why the session may not be started now, or None when it may."""
        if not self.pressed_since_unlink:
            return self.plan(ChipPhase.UNLINKED, Reason.UNLINKED)
        if self.needs_pairing and self.tries.qr_rounds >= self.policy.qr_rounds:
            # A QR that was shown takes the failures back; some left over means that none came.
            reason = Reason.RECONNECT_FAILED if self.tries.failures > 1 else Reason.QR_SPENT
            return self.plan(ChipPhase.PARKED, reason)
        if self.tries.failures >= self.policy.max_failures:
            return self.plan(ChipPhase.FAILED, Reason.RECONNECT_FAILED)
        if self.policy.egress is None:
            return self.plan(ChipPhase.QUEUED, Reason.NO_EGRESS)
        if self.scene.start_refused is not None:
            return self.plan(ChipPhase.QUEUED, self.scene.start_refused)
        wait = self.backoff_left_s()
        if wait > 0:
            return self.plan(ChipPhase.RETRYING, next_s=wait)
        return None

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


def plan_chip(chip: DesiredChip, scene: Scene, *, may_start: bool) -> ChipPlan:
    """The chip's next step. `may_start`: one more running session is within the plan's limit."""
    look = _Look(chip, scene)
    if chip.wanted is Wanted.DELETED:
        return _delete(look)
    if scene.paused and chip.wanted is Wanted.CONNECTED:
        return _pause(look)
    if not isinstance(scene.sessions, Known):
        return _out_of_reach(look)
    if chip.wanted is Wanted.DISCONNECTED:
        return _disconnect(look)
    if scene.removing:
        return look.plan(ChipPhase.QUEUED, scene.waiting_for)
    if look.session is None:
        return _absent(look, may_start=may_start)
    if look.session.status is WahaStatus.STOPPED and not may_start:
        return look.refusal() or look.no_room()
    return _BY_STATUS[look.session.status](look)


def _delete(look: _Look) -> ChipPlan:
    poll = look.policy.poll_moving_s
    scene = look.scene
    if look.tries.last_at is None:
        # From the first try on: how long its container's end may wait for it (`container.py`).
        look.tries = msgspec.structs.replace(look.tries, last_at=scene.now)
    if isinstance(scene.sessions, Known):
        if look.session is not None:
            return look.plan(ChipPhase.DELETING, action=DeleteSession(look.chip.id), next_s=poll)
        return look.plan(ChipPhase.DELETING, action=RemoveChip(look.chip.id))
    if scene.container_gone and (scene.removing or scene.never_ran):
        return look.plan(ChipPhase.DELETING, action=RemoveChip(look.chip.id))
    return look.plan(ChipPhase.DELETING, scene.waiting_for, next_s=poll)


def _out_of_reach(look: _Look) -> ChipPlan:
    """WAHA cannot be asked. What was last seen stands while that may be our blindness alone."""
    chip, scene = look.chip, look.scene
    if chip.wanted is Wanted.DISCONNECTED:
        stopped = scene.container_gone or chip.phase == ChipPhase.DISCONNECTED
        return look.plan(ChipPhase.DISCONNECTED if stopped else ChipPhase.DISCONNECTING)
    if chip.phase == ChipPhase.CONNECTED and scene.uncertain and not look.fresh:
        blind_since = chip.since if chip.reason is not None else None
        deadline = timedelta(seconds=look.policy.connect_deadline_s)
        if blind_since is None or scene.now - blind_since < deadline:
            return look.plan(ChipPhase.CONNECTED, scene.waiting_for, next_s=look.policy.poll_waiting_s)
    if chip.phase in (ChipPhase.PARKED, ChipPhase.UNLINKED, ChipPhase.FAILED) and not look.fresh:
        return look.plan(ChipPhase(chip.phase), chip.reason)
    return look.plan(ChipPhase.QUEUED, scene.waiting_for, next_s=look.policy.poll_waiting_s)


def _pause(look: _Look) -> ChipPlan:
    """Stopped and not started; an owner's wish to disconnect or delete goes first."""
    scene = look.scene
    if not isinstance(scene.sessions, Known):
        rests = scene.container_gone or scene.never_ran
        return look.plan(
            ChipPhase.PAUSED, Reason.PAUSED, next_s=None if rests else look.policy.poll_waiting_s
        )
    if look.session is None or look.session.status is WahaStatus.STOPPED:
        return look.plan(ChipPhase.PAUSED, Reason.PAUSED)
    stop = StopSession(look.chip.id)
    return look.plan(ChipPhase.PAUSED, Reason.PAUSED, stop, next_s=look.policy.poll_moving_s)


def _disconnect(look: _Look) -> ChipPlan:
    if look.session is None or look.session.status is WahaStatus.STOPPED:
        return look.plan(ChipPhase.DISCONNECTED)
    stop = StopSession(look.chip.id)
    return look.plan(ChipPhase.DISCONNECTING, action=stop, next_s=look.policy.poll_moving_s)


def _absent(look: _Look, *, may_start: bool) -> ChipPlan:
    refusal = look.refusal()
    if refusal is None and may_start:
        return look.paying_start(CreateSession(look.chip.id, start=True), ChipPhase.CREATING)
    if refusal is not None and refusal.status.reason in (Reason.QR_SPENT, Reason.RECONNECT_FAILED):
        return refusal
    # It may not start yet; it can already stand ready, so that its owner's tools see it.
    waiting = refusal or look.no_room()
    if waiting.status.reason == look.scene.start_refused is not None:
        return waiting
    return msgspec.structs.replace(waiting, action=CreateSession(look.chip.id, start=False))


def _stopped(look: _Look) -> ChipPlan:
    phase = ChipPhase.STARTING if look.needs_pairing else ChipPhase.RECONNECTING
    return look.refusal() or look.paying_start(StartSession(look.chip.id), phase)


def _failed(look: _Look) -> ChipPlan:
    """FAILED needs a restart: start is a silent no-op there (WAHA)."""
    refusal = look.refusal()
    if refusal is None:
        phase = ChipPhase.STARTING if look.needs_pairing else ChipPhase.RECONNECTING
        return look.paying_start(RestartSession(look.chip.id), phase)
    if refusal.status.phase == ChipPhase.PARKED:
        return msgspec.structs.replace(refusal, action=StopSession(look.chip.id))
    return refusal


def _starting(look: _Look) -> ChipPlan:
    phase = ChipPhase.STARTING if look.needs_pairing else ChipPhase.RECONNECTING
    now, chip = look.scene.now, look.chip
    # What counts is how long it was seen on its way: a session may come up and fall back by itself, unseen or
    # with no start on record. A start sent since then begins it anew.
    seen = chip.since if chip.phase in (phase, ChipPhase.CREATING) else None
    since = max(seen or now, look.tries.last_at or seen or now)
    if now - since >= timedelta(seconds=look.policy.start_deadline_s):
        return look.refusal() or look.paying_start(RestartSession(look.chip.id), phase)
    return look.plan(phase, next_s=look.policy.poll_moving_s)


def _asks_for_pairing(look: _Look) -> ChipPlan:
    """A QR code, or a passkey, is wanted. For a paired chip that means its credentials are gone."""
    chip = look.chip
    assert look.session is not None
    if not look.needs_pairing and chip.connected_at is not None:
        # A press of Conectar after the last connection is the recorded consent to a new QR.
        pressed = chip.intent_at > chip.connected_at
        look.unlinked = chip.generation - 1 if pressed else chip.generation
    if not look.pressed_since_unlink:
        return look.plan(ChipPhase.UNLINKED, Reason.UNLINKED, StopSession(chip.id))
    qr = look.session.status is WahaStatus.SCAN_QR_CODE
    phase = ChipPhase.QR if qr else ChipPhase.PASSKEY
    if look.overdue(phase) is not None:
        return look.plan(ChipPhase.PARKED, Reason.QR_SPENT, StopSession(chip.id), tries=look.spent())
    up = msgspec.structs.replace(look.tries, failures=0, qr_rounds=max(1, look.tries.qr_rounds))
    return look.plan(phase, next_s=look.policy.poll_qr_s, tries=up)


def _working(look: _Look) -> ChipPlan:
    look.unlinked = None
    return look.plan(ChipPhase.CONNECTED, tries=Tries(generation=look.chip.generation))


_BY_STATUS: Final[Mapping[WahaStatus, Callable[[_Look], ChipPlan]]] = MappingProxyType(
    {
        WahaStatus.STOPPED: _stopped,
        WahaStatus.STARTING: _starting,
        WahaStatus.SCAN_QR_CODE: _asks_for_pairing,
        WahaStatus.PASSKEY_REQUIRED: _asks_for_pairing,
        WahaStatus.PASSKEY_CONFIRMATION_REQUIRED: _asks_for_pairing,
        WahaStatus.WORKING: _working,
        WahaStatus.FAILED: _failed,
    }
)


def _phone_number(session: SessionFact | None) -> str | None:
    """E.164 from a WhatsApp id such as `5511999999999@c.us` or `5511999999999:12@s.whatsapp.net`."""
    if session is None or session.me is None:
        return None
    digits = session.me.split("@", 1)[0].split(":", 1)[0]
    return f"+{digits}" if digits.isascii() and digits.isdigit() else None
