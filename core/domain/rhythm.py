"""Deaf sessions: they say WORKING and hear nothing (WAHA issue 2151; a second connection of the same device).

`timestamps.activity` stands still then, as it does for a chip that nobody writes to. So each chip is measured
by its own rhythm, and one that is silent far beyond it is asked once, by a live call. Only what that call says
counts: a chip that is merely quiet answers it and is asked less often from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from core.domain.desired import Desired, DesiredChip, Rhythm, Wanted
from core.domain.facts import Fact, Known, Probe, SessionFact, WahaStatus
from core.domain.names import session_name
from core.domain.policy import Policy
from core.domain.states import ChipPhase


def is_deaf(probe: Probe) -> bool:
    """WORKING by WAHA's word, while the engine below it has no connection to WhatsApp.

    WAHA's single GET of a session carries the engine's own live word beside the status (GOWS:
    `engine.gows.connected`). An engine that does not tell is never called deaf.
    """
    return probe.status is WahaStatus.WORKING and probe.connected is False


def beat(chip: DesiredChip, session: SessionFact, policy: Policy) -> Rhythm:
    """The chip's rhythm with the activity that this look shows.

    The longest gap between two signs of life of one connection, halved with each half-life that passes.
    """
    rhythm, seen, last = chip.memory.rhythm, session.activity_at, chip.last_activity_at
    if seen is None or last is None or chip.connected_at is None or chip.phase != ChipPhase.CONNECTED:
        return rhythm
    gap_s = (seen - last).total_seconds()
    if last < chip.connected_at or gap_s < 60:  # of an earlier connection, or within what the store keeps
        return rhythm
    faded_s = rhythm.gap_s * 0.5 ** (gap_s / policy.rhythm_half_life_s)
    return msgspec.structs.replace(rhythm, gap_s=int(max(gap_s, faded_s)))


def is_suspicious(chip: DesiredChip, session: SessionFact, now: datetime, policy: Policy) -> bool:
    """Connected, and silent far beyond its rhythm. Engines that tell no activity are never suspicious."""
    if session.status is not WahaStatus.WORKING or chip.phase != ChipPhase.CONNECTED:
        return False
    if session.activity_at is None or chip.connected_at is None or chip.wanted is not Wanted.CONNECTED:
        return False
    return _silent_s(chip, session, now) > max(
        policy.deaf_after_s, policy.deaf_factor * chip.memory.rhythm.gap_s
    )


def calmed(rhythm: Rhythm, chip: DesiredChip, session: SessionFact, now: datetime, policy: Policy) -> Rhythm:
    """It is quiet and hears: it is asked again after twice this silence."""
    quiet_s = int(2 * _silent_s(chip, session, now) / policy.deaf_factor)
    return msgspec.structs.replace(rhythm, gap_s=max(rhythm.gap_s, quiet_s))


def restarts_left(rhythm: Rhythm, now: datetime, policy: Policy) -> int:
    """How often it may still be restarted for being deaf."""
    return policy.deaf_restarts - len(_recent(rhythm, now, policy))


def restarted(rhythm: Rhythm, now: datetime, policy: Policy) -> Rhythm:
    return msgspec.structs.replace(rhythm, restarts=(*_recent(rhythm, now, policy), now))


def suspects(
    desired: Desired, sessions: Fact[Mapping[str, SessionFact]], now: datetime, policy: Policy
) -> tuple[str, ...]:
    """The chips to probe in this pass; those whose restarts are spent are left alone."""
    if not isinstance(sessions, Known):
        return ()
    found = []
    for chip in desired.chips:
        session = sessions.value.get(session_name(chip.id))
        if session is None or not is_suspicious(chip, session, now, policy):
            continue
        if restarts_left(chip.memory.rhythm, now, policy) > 0:
            found.append(chip.id)
    return tuple(found)


def _recent(rhythm: Rhythm, now: datetime, policy: Policy) -> tuple[datetime, ...]:
    return tuple(at for at in rhythm.restarts if (now - at).total_seconds() < policy.deaf_window_s)


def _silent_s(chip: DesiredChip, session: SessionFact, now: datetime) -> float:
    assert session.activity_at is not None
    assert chip.connected_at is not None
    return (now - max(session.activity_at, chip.connected_at)).total_seconds()
