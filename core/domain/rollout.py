"""Who may move next, whether anybody was too long about it, and when a rollout stops itself. Pure.

A changed setting is a release. Its users move a few at a time, quiet ones first. Until the first wave has
settled nobody else is admitted, so what breaks everybody breaks no more than one wave; afterwards a place that
becomes free is given on, as long as few of the newest moves failed.

Users with a connected chip are counted once more by themselves: that a container without any came up says
nothing about credentials. So they have a first wave of their own, and a failure share of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

# Moves that the failure share is taken of: what went well long ago excuses nothing.
WINDOW: Final = 20


class RolloutState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"


class PauseWhy(StrEnum):
    FAILURES = "failures"
    OPERATOR = "operator"


class Limits(msgspec.Struct, frozen=True):
    """How careful a rollout is.

    Attributes:
        users: how many may move at a time.
        least: settled moves before the failure share counts, or the first wave if that is smaller.
        failures: share of failed ones above which the rollout pauses itself, 0..1.
        deadline_s: seconds from the admission in which everything has to be back.
    """

    users: int = 5
    least: int = 3
    failures: float = 0.2
    deadline_s: float = 300


class Control(msgspec.Struct, frozen=True):
    """The rollout of the newest release.

    Attributes:
        why, by: of a pause. since: of the state.
    """

    release: str
    state: RolloutState
    since: datetime
    why: str | None = None
    by: str | None = None


class Candidate(msgspec.Struct, frozen=True):
    """A user who waits for a seat.

    Attributes:
        broken: an earlier move left the user without what worked before.
        connected: chips that are connected. chips: all that are no tombstones.
        activity_at: the newest sign of life of any chip, None when there was none.
    """

    user_id: str
    broken: bool = False
    connected: int = 0
    chips: int = 0
    activity_at: datetime | None = None


class Mover(msgspec.Struct, frozen=True):
    """A user who moves.

    Attributes:
        for_s: seconds since the admission. connected: some chip was connected then.
        release: newest or older.
    """

    user_id: str
    release: str
    for_s: float
    connected: bool = False


class Settled(msgspec.Struct, frozen=True):
    """A move that ended. `took_s`: from the admission to the end."""

    ok: bool
    connected: bool = False
    took_s: float = 0.0


class View(msgspec.Struct, frozen=True):
    """All that a plan follows from.

    Attributes:
        waiting: for the newest release. moving: for any.
        settled: of the newest release since it was begun or resumed, newest first; enough of them to judge.
    """

    control: Control
    waiting: tuple[Candidate, ...] = ()
    moving: tuple[Mover, ...] = ()
    settled: tuple[Settled, ...] = ()


class Plan(msgspec.Struct, frozen=True):
    """What is to be changed: admitted users in order, those who are too late, and the rollout's state."""

    admit: tuple[str, ...]
    late: tuple[str, ...]
    state: RolloutState
    why: PauseWhy | None = None


def order(waiting: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Who goes first: what is broken already, then nobody's connection, then the longest silence."""
    return tuple(sorted(waiting, key=_rank))


def plan(view: View, limits: Limits) -> Plan:
    """The next step of a rollout."""
    late = tuple(one.user_id for one in view.moving if one.for_s > limits.deadline_s)
    gone = set(late)
    moving = [one for one in view.moving if one.user_id not in gone]
    settled = [
        *(
            Settled(ok=False, connected=one.connected, took_s=one.for_s)
            for one in view.moving
            if one.user_id in gone and one.release == view.control.release
        ),
        # What is done is judged no more: whoever asks after that begins with a first wave again.
        *(() if view.control.state is RolloutState.DONE else view.settled),
    ]
    if view.control.state is RolloutState.PAUSED:
        admit = _admitted(view.waiting, moving, settled, limits, lambda one: one.broken and not one.connected)
        return Plan(admit, late, RolloutState.PAUSED)
    least = min(limits.least, limits.users, len(view.waiting) + len(moving) + len(settled))
    with_chips = [one for one in settled if one.connected]
    if any(_fail_too_often(some, least, limits) for some in (settled, with_chips)):
        return Plan((), late, RolloutState.PAUSED, PauseWhy.FAILURES)
    admit = _admitted(view.waiting, moving, settled, limits, lambda _: True)
    busy = bool(view.waiting or moving)
    return Plan(admit, late, RolloutState.RUNNING if busy else RolloutState.DONE)


def place(view: View, user_id: str, limits: Limits) -> tuple[int, int] | None:
    """Which place in the queue the user has, and in which wave from now; both from 1, None when not waiting."""
    for number, one in enumerate(order(view.waiting), 1):
        if one.user_id == user_id:
            return number, -(-number // limits.users)
    return None


def _fail_too_often(settled: Sequence[Settled], least: int, limits: Limits) -> bool:
    newest = settled[:WINDOW]
    return len(newest) >= least and sum(not one.ok for one in newest) > limits.failures * len(newest)


def _admitted(
    waiting: Iterable[Candidate],
    moving: Sequence[Mover],
    settled: Sequence[Settled],
    limits: Limits,
    may: Callable[[Candidate], bool],
) -> tuple[str, ...]:
    free = limits.users - len(moving)
    first = _room_of_first_wave(len(moving), len(settled), limits)
    connected = _room_of_first_wave(
        sum(one.connected for one in moving), sum(one.connected for one in settled), limits
    )
    admitted: list[str] = []
    for one in order(waiting):
        if len(admitted) >= min(free, first):
            break
        if not may(one):
            continue
        if one.connected or one.broken:
            if connected <= 0:
                continue
            connected -= 1
        admitted.append(one.user_id)
    return tuple(admitted)


def _room_of_first_wave(moving: int, settled: int, limits: Limits) -> int:
    """How many may still be admitted while the first wave is out; no limit once it has settled."""
    return limits.users if settled >= limits.users else limits.users - settled - moving


def _rank(one: Candidate) -> tuple[object, ...]:
    silent = one.activity_at.timestamp() if one.activity_at is not None else float("-inf")
    return not one.broken, one.connected > 0, silent, one.chips, one.user_id
