"""The circuit breaker of a chip: too many starts in a short time pause it, too many pauses need a person.

Counted are starts of a paired chip that nobody pressed for, whatever wish they belong to: a chip that comes up
and falls back again and again has its tries given back each time, and would log in without end.

    closed      each start is counted; one too many within the window opens it
    open        nothing is started; a press on Conectar passes it, with all rungs of its ladder
    half open   its time is over: one try. Another start wanted before the chip is forgiven opens it again
    forgiven    the chip stayed connected for a while: closed, nothing counted
    quarantine  it opened too often for the chip's own failing: an operator's release begins it anew

A start from STOPPED (its container began anew) counts as a login like any other, but an opening met there is
not held against the chip.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from core.domain.desired import Breaker, DesiredChip
from core.domain.policy import Policy
from core.domain.states import ChipPhase


class Admission(msgspec.Struct, frozen=True):
    """Whether a start may be made now, and the breaker as it is after that answer."""

    allowed: bool
    breaker: Breaker


def is_quarantined(chip: DesiredChip) -> bool:
    """It opened too often, and no operator has released it since."""
    since = chip.memory.breaker.quarantined_generation
    return since is not None and chip.released_generation <= since


def current(chip: DesiredChip, now: datetime, policy: Policy) -> Breaker:
    """The chip's breaker at `now`: what is too old is forgotten, what was forgiven or released too."""
    breaker = chip.memory.breaker
    if breaker.quarantined_generation is not None and not is_quarantined(chip):
        return Breaker()
    stayed = chip.phase == ChipPhase.CONNECTED and chip.connected_at is not None
    if stayed and chip.connected_at is not None and _ago(chip.connected_at, now) >= policy.breaker_forgiven_s:
        # The trips stay: one that falls back every quarter of an hour is no healthier for the pauses.
        breaker = msgspec.structs.replace(breaker, starts=(), open_until=None, tried=False)
    starts = _within(breaker.starts, now, policy.breaker_window_s)
    trips = _within(breaker.trips, now, policy.breaker_trips_window_s)
    if (starts, trips) == (breaker.starts, breaker.trips):
        return breaker
    return msgspec.structs.replace(breaker, starts=starts, trips=trips)


def admit(
    breaker: Breaker,
    chip: DesiredChip,
    now: datetime,
    policy: Policy,
    *,
    pressed: bool,
    climbing: bool,
    own_failing: bool,
) -> Admission:
    """Ask for one start. `breaker`: as `current` gives it.

    `pressed`: the first start after a press on Conectar; `climbing`: a further rung of the ladder that it began.
    `own_failing`: the session itself fails, and was not merely found stopped.
    """
    if breaker.open_until is not None and now < breaker.open_until:
        has_passed = breaker.passed_generation == chip.generation
        if pressed and not has_passed and chip.generation > breaker.opened_generation:
            return Admission(True, msgspec.structs.replace(breaker, passed_generation=chip.generation))
        # Cut short, the ladder could not come to the logout that heals dead credentials, however often one presses.
        return Admission(climbing and has_passed, breaker)
    if pressed:
        return Admission(True, breaker)
    half_open = breaker.open_until is not None
    if half_open and not breaker.tried:
        return Admission(True, msgspec.structs.replace(breaker, tried=True, starts=(*breaker.starts, now)))
    if half_open or len(breaker.starts) >= policy.breaker_starts:
        return Admission(False, _opened(breaker, chip, now, policy, own_failing=own_failing))
    return Admission(True, msgspec.structs.replace(breaker, starts=(*breaker.starts, now)))


def _opened(
    breaker: Breaker, chip: DesiredChip, now: datetime, policy: Policy, *, own_failing: bool
) -> Breaker:
    trips = (*breaker.trips, now) if own_failing else breaker.trips
    quarantined = None
    if own_failing and len(trips) >= policy.breaker_trips:
        # A release of before this very moment must not end it.
        quarantined = max(chip.generation, chip.released_generation)
    return Breaker(
        open_until=now + timedelta(seconds=policy.breaker_open_s),
        trips=trips,
        opened_generation=chip.generation,
        passed_generation=breaker.passed_generation,
        quarantined_generation=quarantined,
    )


def _within(times: tuple[datetime, ...], now: datetime, window_s: float) -> tuple[datetime, ...]:
    return tuple(at for at in times if _ago(at, now) < window_s)


def _ago(at: datetime, now: datetime) -> float:
    return (now - at).total_seconds()
