"""Who moves next, and when a rollout stops itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.rollout import (
    Candidate,
    Control,
    Limits,
    Mover,
    PauseWhy,
    Plan,
    RolloutState,
    Settled,
    View,
    order,
    place,
    plan,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits()
RUNNING = Control("b", RolloutState.RUNNING, NOW)
PAUSED = Control("b", RolloutState.PAUSED, NOW, "failures")
DONE = Control("b", RolloutState.DONE, NOW)
OK, BAD = Settled(ok=True, connected=True), Settled(ok=False, connected=True)


def users(count: int, *, connected: int = 1, broken: bool = False) -> tuple[Candidate, ...]:
    return tuple(Candidate(f"u{n:03d}", broken, connected, 1, NOW) for n in range(count))


def movers(count: int, *, for_s: float = 1, release: str = "b", connected: bool = True) -> tuple[Mover, ...]:
    return tuple(Mover(f"m{n}", release, for_s, connected) for n in range(count))


def test_quiet_users_go_first() -> None:
    longest = Candidate("z", connected=1, chips=9, activity_at=NOW - timedelta(hours=5))
    few, many = (Candidate(name, connected=1, chips=n, activity_at=NOW) for name, n in (("b", 1), ("a", 2)))
    idle, broken = Candidate("x", chips=3, activity_at=NOW), Candidate("y", broken=True, connected=1)
    assert order([many, few, longest, idle, broken]) == (broken, idle, longest, few, many)


def test_no_more_than_the_limit_move_at_a_time() -> None:
    settled = (OK,) * 9
    assert len(plan(View(RUNNING, users(200), movers(3), settled), LIMITS).admit) == 2
    assert plan(View(RUNNING, users(200), movers(5), settled), LIMITS).admit == ()
    assert plan(View(RUNNING, users(200), movers(5, release="a"), settled), LIMITS).admit == ()
    assert plan(View(RUNNING, users(200), movers(7), settled), LIMITS).admit == ()  # the limit was lowered


def test_nobody_follows_the_first_wave_before_it_has_settled() -> None:
    assert len(plan(View(RUNNING, users(200)), LIMITS).admit) == 5
    assert plan(View(RUNNING, users(200), movers(1), (OK,) * 4), LIMITS).admit == ()
    assert len(plan(View(RUNNING, users(200), (), (OK,) * 5), LIMITS).admit) == 5


def test_what_came_up_without_a_connected_chip_is_no_word_on_credentials() -> None:
    quiet = (Settled(ok=True),) * 50
    first = plan(View(RUNNING, users(200), (), quiet), LIMITS)
    assert len(first.admit) == 5
    assert plan(View(RUNNING, users(195), movers(2), (BAD, BAD, OK, *quiet)), LIMITS).state is (
        RolloutState.PAUSED
    )
    assert plan(View(RUNNING, users(195), movers(3), (OK, OK, *quiet)), LIMITS).admit == ()
    without = users(9, connected=0)
    assert len(plan(View(RUNNING, without, movers(3), (OK, OK, *quiet)), LIMITS).admit) == 2


@pytest.mark.parametrize(
    ("settled", "paused"),
    [
        ((BAD, BAD), False),  # too few to say
        ((BAD, BAD, BAD), True),
        ((BAD, OK, OK), True),
        ((OK, BAD, OK, OK, OK), False),  # one fifth
        ((BAD, BAD, OK, OK, OK, OK, OK), True),
        ((BAD,) * 5 + (OK,) * 100, True),  # what went well long ago excuses nothing
        ((BAD,) * 4 + (OK,) * 100, False),
        ((OK,) * 20 + (BAD,) * 20, False),
    ],
)
def test_it_pauses_itself_when_too_many_fail(settled: tuple[Settled, ...], paused: bool) -> None:
    found = plan(View(RUNNING, users(50), (), settled), LIMITS)
    assert (found.state is RolloutState.PAUSED) == paused
    assert found.why is (PauseWhy.FAILURES if paused else None)
    assert not (paused and found.admit)


def test_a_first_wave_that_is_smaller_counts_whole() -> None:
    assert plan(View(RUNNING, (), (), (BAD, BAD)), LIMITS).state is RolloutState.PAUSED
    assert plan(View(RUNNING, users(9), (), (BAD,)), Limits(users=1)).state is RolloutState.PAUSED


def test_who_is_too_late_has_failed_and_frees_a_place() -> None:
    late = plan(View(RUNNING, users(50), movers(2, for_s=301), (OK,) * 20), LIMITS)
    assert late.late == ("m0", "m1")
    assert len(late.admit) == 5
    wave = plan(View(RUNNING, users(195), movers(5, for_s=301)), LIMITS)
    assert wave == Plan((), ("m0", "m1", "m2", "m3", "m4"), RolloutState.PAUSED, PauseWhy.FAILURES)


def test_late_ones_of_an_older_release_say_nothing_of_this_one() -> None:
    found = plan(View(RUNNING, users(50), movers(5, for_s=301, release="a")), LIMITS)
    assert (found.state, len(found.late), len(found.admit)) == (RolloutState.RUNNING, 5, 5)


def test_while_paused_only_what_is_broken_moves() -> None:
    healthy, broken = users(3, connected=0), Candidate("x", broken=True)
    back = Candidate("y", broken=True, connected=1)
    found = plan(View(PAUSED, (*healthy, broken, back), (), (BAD,) * 5), LIMITS)
    assert (found.admit, found.state) == (("x",), RolloutState.PAUSED)


def test_it_is_done_when_nobody_waits_or_moves_and_begins_anew_after_that() -> None:
    assert plan(View(RUNNING, settled=(OK,) * 9), LIMITS).state is RolloutState.DONE
    assert plan(View(RUNNING, moving=movers(1), settled=(OK,) * 9), LIMITS).state is RolloutState.RUNNING
    again = plan(View(DONE, users(50), (), (OK,) * 9 + (BAD,) * 9), LIMITS)
    assert (again.state, len(again.admit)) == (RolloutState.RUNNING, 5)


def test_everybody_can_be_told_their_place() -> None:
    view = View(RUNNING, users(12))
    assert [place(view, f"u{n:03d}", LIMITS) for n in (0, 4, 5, 11)] == [(1, 1), (5, 1), (6, 2), (12, 3)]
    assert place(view, "nobody", LIMITS) is None


@given(
    limits=st.builds(Limits, st.integers(1, 8), st.integers(1, 8), st.sampled_from([0.0, 0.2, 0.5])),
    waiting=st.lists(
        st.builds(
            Candidate,
            st.uuids().map(str),
            st.booleans(),
            st.integers(0, 2),
            st.integers(0, 3),
            st.sampled_from([None, NOW]),
        ),
        max_size=30,
    ),
    bad=st.booleans(),
)
def test_a_release_that_breaks_all_who_are_connected_reaches_one_wave_of_them(
    limits: Limits, waiting: list[Candidate], bad: bool
) -> None:
    """Each round everybody settles whose turn it is; whoever had a chip connected fails."""
    waiting = [msgspec.structs.replace(one, broken=False) for one in waiting]
    view = View(RUNNING, tuple(waiting))
    harmed = 0
    for _ in range(60):
        step = plan(view, limits)
        assert len(step.admit) + len(view.moving) <= limits.users
        moved = [one for one in view.waiting if one.user_id in step.admit]
        harmed += sum(one.connected > 0 for one in moved)
        ended = tuple(Settled(not (bad and one.connected), one.connected > 0) for one in moved)
        left = tuple(one for one in view.waiting if one.user_id not in step.admit)
        control = msgspec.structs.replace(view.control, state=step.state)
        view = View(control, left, (), (*ended, *view.settled))
    if bad:
        assert harmed <= limits.users
    else:
        assert view.waiting == ()
