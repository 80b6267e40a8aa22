"""No phase lasts past its deadline without a word."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain.deadlines import CHIP, CONTAINER, Deadline, Kind, Stood, overdue
from core.domain.desired import Wanted
from core.domain.states import REASON_TEXT, ChipPhase, ContainerPhase, Reason
from tests.passes import CHIPS, POLICY, USERS, hosts, one_pass
from tests.scale import examples
from tests.world import World
from tests.world_rows import START

STEP_S = 5.0
PHASES: list[ContainerPhase | ChipPhase] = [*ContainerPhase, *ChipPhase]


def row_of(phase: ContainerPhase | ChipPhase) -> Deadline:
    return CONTAINER[phase] if isinstance(phase, ContainerPhase) else CHIP[phase]


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: f"{type(phase).__name__}-{phase}")
def test_every_phase_has_a_row_that_says_what_comes_next(phase: ContainerPhase | ChipPhase) -> None:
    row = row_of(phase)
    assert row.loop
    assert row.person
    assert (row.kind is Kind.TIMED) == (row.after_s is not None) == (row.reason is not None)
    if row.after_s is not None and row.reason is not None:
        assert 0 < row.after_s(POLICY) <= 600
        assert REASON_TEXT[row.reason]


def test_what_is_pending_or_stopping_is_never_a_place_to_rest() -> None:
    rests = {phase for phase in PHASES if row_of(phase).kind is Kind.REST}
    assert rests == {
        ContainerPhase.ABSENT,
        ContainerPhase.READY,
        ChipPhase.CONNECTED,
        ChipPhase.DISCONNECTED,
        ChipPhase.PARKED,
        ChipPhase.QUARANTINED,
        ChipPhase.BANNED,
        ChipPhase.UNLINKED,
        ChipPhase.FAILED,
        ChipPhase.PAUSED,
    }


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: f"{type(phase).__name__}-{phase}")
def test_the_reason_comes_at_the_deadline_and_stays(phase: ContainerPhase | ChipPhase) -> None:
    row, stood = row_of(phase), Stood(phase, None, START)
    if row.after_s is None:
        assert overdue(phase, stood, START + timedelta(days=1), POLICY) is None
        return
    end = START + timedelta(seconds=row.after_s(POLICY))
    assert overdue(phase, stood, end - timedelta(seconds=0.1), POLICY) is None
    assert overdue(phase, stood, end, POLICY) is row.reason
    assert overdue(phase, Stood(phase, row.reason, end), end, POLICY) is row.reason
    assert overdue(phase, Stood("elsewhere", None, START), end, POLICY) is None
    # A wait for a cut-off host is over: what comes now has its whole time.
    assert overdue(phase, Stood(phase, Reason.POSSIBLY_ALIVE, START), end, POLICY) is None


# What goes wrong and stays wrong, in the middle of whatever was going on.
TROUBLES = (
    "unready",
    "asleep",
    "hung",
    "stuck",
    "shared",
    "nomad",
    "consul",
    "waha",
    "storage",
    "lost",
    "silent",
    "drained",
)


def trouble(world: World, user: str, what: str) -> None:
    match what:
        case "asleep":
            world.asleep = True
        case "hung" | "stuck" | "shared" | "unready":
            getattr(world, what).add(user)
        case "lost" | "silent" | "drained":
            for host in list(world.hosts):
                {"lost": world.lose, "silent": world.silence, "drained": world.drain}[what](host)
        case _:
            world.blind.add(what)


@given(
    st.integers(0, 12),
    st.lists(st.sampled_from(TROUBLES), max_size=3, unique=True),
    st.sampled_from([*Wanted, "deaf key", "pause"]),
    st.booleans(),
)
@settings(max_examples=examples(120), deadline=None)
def test_nothing_lasts_past_its_deadline_without_a_reason(
    before: int, troubles: list[str], wish: str, scanned: bool
) -> None:
    world, user = World(hosts(4)), USERS[0]
    for chip in CHIPS[:2]:
        world.add_chip(user, chip)
    for _ in range(before):
        one_pass(world, user)
        world.tick()
        if scanned:
            world.scan(user, CHIPS[0])
    for what in troubles:
        trouble(world, user, what)
    if wish == "deaf key":
        world.refuse_key(user)
    elif wish == "pause":
        world._container(user, paused=True)
    elif user in world.desired:
        for chip in CHIPS[:2]:
            world.intend(user, chip, Wanted(wish))
    silent: dict[str, tuple[str, float]] = {}
    for step in range(150):
        if one_pass(world, user) is None or user not in world.desired:
            return
        entry = world.desired[user]
        standing: list[tuple[str, ContainerPhase | ChipPhase, str | None]] = [
            ("container", ContainerPhase(entry.container.phase), entry.container.reason)
        ]
        standing += [(c.id, ChipPhase(c.phase), c.reason) for c in entry.chips]
        for who, phase, reason in standing:
            row = row_of(phase)
            if reason is not None or row.kind is Kind.REST:
                silent.pop(who, None)
                continue
            assert row.kind is Kind.TIMED, (who, phase)
            assert row.after_s is not None
            known = silent.get(who)
            if known is None or known[0] != phase:
                silent[who] = known = (phase, step * STEP_S)
            assert step * STEP_S - known[1] <= row.after_s(POLICY) + 2 * STEP_S, (who, phase)
        world.tick(STEP_S)
