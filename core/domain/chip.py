"""Rules for one chip: what its session should do next, and what its owner sees meanwhile.

What each start costs stands in `Tries`. A chip that needs pairing pays one QR round a start; any chip
counts a failure a start, and is given back its count when the session comes up. `ladder.py` says which start
comes next and when credentials may be lost for it; sessions are deleted for a chip that its owner deleted alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Final

import msgspec

from core.domain import breaker, ladder, rhythm, way_out
from core.domain.actions import (
    AssignLabel,
    ChipAction,
    CreateSession,
    DeleteSession,
    RemoveChip,
    RestartSession,
    StopSession,
)
from core.domain.chip_look import ChipPlan, Look, Scene
from core.domain.desired import DesiredChip, Tries, Wanted
from core.domain.facts import Known, WahaStatus
from core.domain.states import ChipPhase, Reason

# Nothing more is tried for this wish, or not for a while: not even a session is made.
_GIVEN_UP: Final = frozenset({ChipPhase.PARKED, ChipPhase.FAILED, ChipPhase.QUARANTINED})


def plan_chip(chip: DesiredChip, scene: Scene, *, may_start: bool) -> ChipPlan:
    """The chip's next step. `may_start`: one more running session is within the plan's limit."""
    look = Look(chip, scene)
    return way_out.upkeep(_plan(look, may_start=may_start), look)


def _plan(look: Look, *, may_start: bool) -> ChipPlan:
    chip, scene = look.chip, look.scene
    if chip.wanted is Wanted.DELETED:
        return _delete(look)
    if chip.wanted is Wanted.CONNECTED and (held := _held(look)) is not None:
        return held
    if not isinstance(scene.sessions, Known):
        return _out_of_reach(look)
    if chip.wanted is Wanted.DISCONNECTED:
        return _disconnect(look)
    if scene.removing:
        return look.plan(ChipPhase.QUEUED, scene.waiting_for)
    if look.session is None:
        return _absent(look, may_start=may_start)
    if ladder.logs_out_at_once(look):
        return ladder.log_out(look)
    if look.session.status is WahaStatus.STOPPED and not may_start:
        return ladder.refusal(look) or look.no_room()
    return _BY_STATUS[look.session.status](look)


def _delete(look: Look) -> ChipPlan:
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


def _out_of_reach(look: Look) -> ChipPlan:
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


def _held(look: Look) -> ChipPlan | None:
    """Stopped and not started, whatever is pressed; a wish to disconnect or delete goes first."""
    if look.chip.banned:
        return _stopped_for(look, ChipPhase.BANNED, Reason.BANNED)
    if breaker.is_quarantined(look.chip):
        return _stopped_for(look, ChipPhase.QUARANTINED, Reason.QUARANTINED)
    if look.scene.paused:
        return _stopped_for(look, ChipPhase.PAUSED, Reason.PAUSED)
    return None


def _stopped_for(look: Look, phase: ChipPhase, reason: Reason) -> ChipPlan:
    scene = look.scene
    if not isinstance(scene.sessions, Known):
        rests = scene.container_gone or scene.never_ran
        return look.plan(phase, reason, next_s=None if rests else look.policy.poll_waiting_s)
    if look.session is None or look.session.status is WahaStatus.STOPPED:
        return look.plan(phase, reason)
    return look.plan(phase, reason, StopSession(look.chip.id), next_s=look.policy.poll_moving_s)


def _disconnect(look: Look) -> ChipPlan:
    if look.session is None or look.session.status is WahaStatus.STOPPED:
        return look.plan(ChipPhase.DISCONNECTED)
    stop = StopSession(look.chip.id)
    return look.plan(ChipPhase.DISCONNECTING, action=stop, next_s=look.policy.poll_moving_s)


def _absent(look: Look, *, may_start: bool) -> ChipPlan:
    refusal = ladder.refusal(look)
    if refusal is None and may_start:
        start = look.paying_start(CreateSession(look.chip.id, start=True), ChipPhase.CREATING)
        return start if start.action is not None else _standing_ready(start, look)
    if refusal is not None and refusal.status.phase in _GIVEN_UP:
        return refusal
    # It may not start yet; it can already stand ready, so that its owner's tools see it.
    waiting = refusal or look.no_room()
    if waiting.status.reason == look.scene.start_refused is not None:
        return waiting
    return _standing_ready(waiting, look)


def _standing_ready(waiting: ChipPlan, look: Look) -> ChipPlan:
    """A session that is made without being started; its config names its way out, so there has to be one."""
    action: ChipAction = CreateSession(look.chip.id, start=False)
    found = way_out.lack(look)
    if found is not None and isinstance(found.action, AssignLabel):
        action = found.action
    return msgspec.structs.replace(waiting, action=action)


def _stopped(look: Look) -> ChipPlan:
    return ladder.refusal(look) or ladder.next_rung(look)


def _failed(look: Look) -> ChipPlan:
    """FAILED needs a restart: start is a silent no-op there (WAHA)."""
    return _stopping(ladder.refusal(look), look) or ladder.next_rung(look)


def _stopping(refusal: ChipPlan | None, look: Look) -> ChipPlan | None:
    """Where nothing more is tried for a long time, the session that does not come up is stopped."""
    if refusal is None or refusal.status.phase not in (ChipPhase.PARKED, ChipPhase.QUARANTINED):
        return refusal
    return msgspec.structs.replace(refusal, action=StopSession(look.chip.id))


def _starting(look: Look) -> ChipPlan:
    phase = ChipPhase.STARTING if look.needs_pairing else ChipPhase.RECONNECTING
    now, chip = look.scene.now, look.chip
    if chip.phase == ChipPhase.FAILED and not look.fresh and look.tries.failures >= look.policy.max_failures:
        return ladder.refusal(look) or ladder.next_rung(look)  # its end was told, and it never came up since
    # What counts is how long it was seen on its way: a session may come up and fall back by itself, unseen or
    # with no start on record. A start sent since then begins it anew, and so does a wish: what was started for the
    # one before it is no longer on record.
    on_its_way = chip.phase in (phase, ChipPhase.CREATING)
    seen = max(chip.since or chip.intent_at, chip.intent_at) if on_its_way else None
    since = max(seen or now, chip.tries.last_at or seen or now)
    if now - since >= timedelta(seconds=look.policy.start_deadline_s):
        return _stopping(ladder.refusal(look), look) or ladder.next_rung(look)
    return look.plan(phase, next_s=look.policy.poll_moving_s)


def _asks_for_pairing(look: Look) -> ChipPlan:
    """A QR code, or a passkey, is wanted. For a paired chip that means its credentials are gone."""
    chip = look.chip
    assert look.session is not None
    if not look.needs_pairing and chip.connected_at is not None:
        # A press of Conectar after the last connection is the recorded consent to a new QR.
        look.unlinked = chip.generation - 1 if chip.consents else chip.generation
    if not look.pressed_since_unlink:
        return look.plan(ChipPhase.UNLINKED, Reason.UNLINKED, StopSession(chip.id))
    qr = look.session.status is WahaStatus.SCAN_QR_CODE
    phase = ChipPhase.QR if qr else ChipPhase.PASSKEY
    if look.overdue(phase) is not None:
        return look.plan(ChipPhase.PARKED, Reason.QR_SPENT, StopSession(chip.id), tries=look.spent())
    up = msgspec.structs.replace(look.tries, failures=0, qr_rounds=max(1, look.tries.qr_rounds))
    return look.plan(phase, next_s=look.policy.poll_qr_s, tries=up)


def _working(look: Look) -> ChipPlan:
    chip, session, scene, policy = look.chip, look.session, look.scene, look.policy
    assert session is not None
    look.unlinked = None
    stands = breaker.current(chip, scene.now, policy)
    if stands != look.memory.breaker:
        look.memory = msgspec.structs.replace(look.memory, breaker=stands)
    look.keep(rhythm.beat(chip, session, policy))
    fresh_tries = Tries(generation=chip.generation)
    if not rhythm.is_suspicious(chip, session, scene.now, policy):
        return look.plan(ChipPhase.CONNECTED, tries=fresh_tries)
    probe = scene.probes.get(chip.id)
    if not isinstance(probe, Known):
        # Not asked, or no answer: nothing follows, and what was said of it before stays said.
        said = Reason.DEAF if chip.reason == Reason.DEAF else None
        spent = rhythm.restarts_left(look.memory.rhythm, scene.now, policy) <= 0
        later = None if spent else policy.resync_s
        return look.plan(ChipPhase.CONNECTED, said, tries=fresh_tries, next_s=later)
    if not rhythm.is_deaf(probe.value):
        look.keep(rhythm.calmed(look.memory.rhythm, chip, session, scene.now, policy))
        return look.plan(ChipPhase.CONNECTED, tries=fresh_tries)
    if policy.egress is None or rhythm.restarts_left(look.memory.rhythm, scene.now, policy) <= 0:
        return look.plan(ChipPhase.CONNECTED, Reason.DEAF, tries=fresh_tries)
    missing = way_out.lack(look)
    if missing is not None:
        # Without a way out it could not come back.
        later = policy.poll_waiting_s
        return look.plan(ChipPhase.CONNECTED, Reason.DEAF, missing.action, tries=fresh_tries, next_s=later)
    look.keep(rhythm.restarted(look.memory.rhythm, scene.now, policy))
    look.tries = fresh_tries
    return look.paying_start(RestartSession(chip.id), ChipPhase.RECONNECTING, Reason.DEAF)


_BY_STATUS: Final[Mapping[WahaStatus, Callable[[Look], ChipPlan]]] = MappingProxyType(
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
