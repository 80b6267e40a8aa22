"""The reconnect ladder: which start comes next, where it ends, and when credentials may be lost for it.

    rung        paired                                              needs pairing
    1           start (STOPPED), restart (FAILED, or stuck)         start or restart: a QR comes
    2           restart                                             logout of what a restart did not heal
    3           the same credentials, config written anew           -
    end         FAILED, with the button; a press may log out        PARKED

No rung costs credentials. They are lost with their owner's consent alone, and only within the wish that gave it:
FRESH at once; a PRESS when the ladder has ended and no other chip of the same host, engine version or proxy
provider fails too, as far as the store can say: while that is Unknown nothing is logged out. A chip that needs
pairing has none to lose, so there the press is enough.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec

from core.domain import way_out
from core.domain.actions import (
    ChipAction,
    LogoutSession,
    RestartSession,
    RewriteSession,
    StartSession,
)
from core.domain.chip_look import ChipPlan, Look
from core.domain.desired import Consent
from core.domain.facts import Known, WahaStatus
from core.domain.peers import others_fail_too
from core.domain.states import ChipPhase, Reason

# How the end of a ladder was told; it stays told until the next wish.
_ENDS = frozenset({Reason.RECONNECT_FAILED, Reason.OUTAGE, Reason.WAHA_REJECTED})


def refusal(look: Look) -> ChipPlan | None:
    """Why no start may be made now, or what is done instead; None when the next rung may be taken."""
    parked = look.needs_pairing and look.tries.qr_rounds >= look.policy.qr_rounds
    if look.tries.failures >= look.policy.max_failures and look.pressed_since_unlink and not parked:
        return _end(look)
    return look.refusal()


def next_rung(look: Look) -> ChipPlan:
    """The start that is due, with its cost. After `refusal` gave None."""
    phase = ChipPhase.STARTING if look.needs_pairing else ChipPhase.RECONNECTING
    fresh = look.chip.consent is Consent.FRESH and look.chip.consents
    if _only_a_logout_heals(look) or (fresh and not look.needs_pairing):
        return log_out(look)
    return look.paying_start(_start(look), phase)


def _start(look: Look) -> ChipAction:
    assert look.session is not None
    chip_id, failures = look.chip.id, look.tries.failures
    stopped = look.session.status is WahaStatus.STOPPED
    if stopped and (failures == 0 or look.needs_pairing):
        return StartSession(chip_id)
    # A config written to a stopped session starts nothing.
    last = failures >= look.policy.max_failures - 1
    if last and not stopped and not look.needs_pairing:
        return RewriteSession(chip_id)
    return RestartSession(chip_id)


def _only_a_logout_heals(look: Look) -> bool:
    """Dead credentials that an engine keeps: FAILED again after a restart, and no QR (WAHA, NOWEB)."""
    chip, session = look.chip, look.session
    assert session is not None
    if not look.needs_pairing or session.status is not WahaStatus.FAILED:
        return False
    if look.tries.failures < 1 and chip.consent is not Consent.FRESH:
        return False
    # An account that never was seen to be lost, of a chip that never was seen connected, is worth keeping.
    lost = look.unlinked is not None or session.me is None
    return lost and chip.consents


def logs_out_at_once(look: Look) -> bool:
    """`fresh`: said while its session neither works, nor is on its way, nor shows a QR already."""
    chip, session = look.chip, look.session
    if chip.consent is not Consent.FRESH or not chip.consents or look.needs_pairing or session is None:
        return False
    return session.status in (WahaStatus.FAILED, WahaStatus.STOPPED)


def log_out(look: Look) -> ChipPlan:
    """Lose the credentials for a new QR. One that runs starts again by that, and pays for the QR set."""
    assert look.session is not None
    # Nothing is lost for a new QR that could not be shown.
    blocked = look.may_not_start()
    if blocked is None and look.session.status is not WahaStatus.STOPPED:
        blocked = way_out.gate(look)
    elif blocked is None and (missing := way_out.lack(look)) is not None:
        blocked = way_out.waiting(look, missing, missing.action)
    if blocked is not None:
        return blocked
    if look.unlinked is None:
        look.unlinked = look.chip.generation - 1
        # The rungs were paid for credentials that are gone now.
        look.tries = msgspec.structs.replace(look.tries, failures=0)
    action = LogoutSession(look.chip.id)
    if look.session.status is WahaStatus.STOPPED:
        return look.plan(ChipPhase.STARTING, action=action, next_s=look.policy.poll_moving_s)
    return look.paying_start(action, ChipPhase.STARTING)


def _end(look: Look) -> ChipPlan:
    """All rungs were taken."""
    chip, scene = look.chip, look.scene
    if chip.phase == ChipPhase.FAILED and not look.fresh and chip.reason in _ENDS:
        return look.plan(ChipPhase.FAILED, chip.reason)
    if look.needs_pairing or look.session is None or not _press_counts(look):
        return look.plan(ChipPhase.FAILED, Reason.RECONNECT_FAILED)
    if not isinstance(scene.peers, Known):
        return look.plan(ChipPhase.RETRYING, next_s=look.policy.poll_waiting_s)
    if others_fail_too(scene.peers.value, look.policy):
        return look.plan(ChipPhase.FAILED, Reason.OUTAGE)
    return log_out(look)


def _press_counts(look: Look) -> bool:
    """Conectar was pressed for this wish, and not so long ago that nobody waits for a QR any more."""
    recent = look.scene.now - look.chip.intent_at <= timedelta(seconds=look.policy.consent_s)
    return look.chip.consent is Consent.PRESS and look.chip.consents and recent
