"""The fleet's pause and plan over generated situations: nothing goes out, and what was kept decides the same."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain.decide import decide
from core.domain.desired import Desired
from core.domain.fleet_pause import changes_outside
from core.domain.fleet_plan import plan_of
from core.domain.looks import digest, look_of, observation_of, restored
from core.domain.states import ChipPhase, ChipStatusWord, Reason, status_word
from tests.passes import POLICY
from tests.scale import examples
from tests.unit.domain.test_decide_properties import situations
from tests.world import World


def paused(desired: Desired) -> Desired:
    return msgspec.structs.replace(desired, fleet_paused=True)


@settings(max_examples=examples(300), deadline=None)
@given(situations())
def test_a_paused_fleet_changes_nothing_outside_and_says_why(situation: tuple[World, str]) -> None:
    machine, user = situation
    if user not in machine.desired:
        return
    desired, seen = machine.desired[user], machine.observe(user)
    free = decide(desired, seen, machine.now, POLICY)
    held = decide(paused(desired), seen, machine.now, POLICY)
    assert not any(changes_outside(action) for action in held.actions)
    if any(changes_outside(action) for action in free.actions):
        assert held.requeue_after is not None  # somebody looks again, with or without a word
        told = [held.container.reason, *(chip.reason for chip in held.chips.values())]
        assert any(told)
    else:
        assert held == free
    for chip in desired.chips:
        before, after = chip.tries, held.chips[chip.id].tries
        if before.generation == chip.generation and chip.id not in {
            getattr(action, "chip_id", None) for action in free.actions
        }:
            continue
        assert after.failures <= before.failures or before.generation != after.generation
    for id_, chip_status in held.chips.items():
        if chip_status.reason != Reason.PAUSED or chip_status.phase != ChipPhase.QUEUED:
            continue
        row = next(chip for chip in desired.chips if chip.id == id_)
        # A pause does not stop the clock: a paired chip that is past its deadline has its button.
        late = set() if row.needs_pairing else {ChipStatusWord.DISCONNECTED}
        assert chip_status.status in late | {status_word(ChipPhase.QUEUED, needs_pairing=row.needs_pairing)}
        assert chip_status.status != ChipStatusWord.MAINTENANCE


@settings(max_examples=examples(300), deadline=None)
@given(situations())
def test_what_is_kept_of_a_look_decides_the_same(situation: tuple[World, str]) -> None:
    machine, user = situation
    if user not in machine.desired:
        return
    desired, seen = machine.desired[user], machine.observe(user)
    look = look_of(desired, seen)
    kept = restored(msgspec.json.decode(msgspec.json.encode(look)))
    assert kept == look
    assert digest(look_of(desired, machine.observe(user))) == digest(look)
    now = decide(desired, seen, machine.now, POLICY)
    again = decide(desired, observation_of(kept, machine.now), machine.now, POLICY)
    assert again.actions == now.actions
    assert again.container.phase == now.container.phase
    assert {id_: (c.phase, c.status) for id_, c in again.chips.items()} == {
        id_: (c.phase, c.status) for id_, c in now.chips.items()
    }


@settings(max_examples=examples(200), deadline=None)
@given(situations(), st.booleans())
def test_the_plan_is_the_next_pass(situation: tuple[World, str], is_paused: bool) -> None:
    machine, user = situation
    if user not in machine.desired:
        return
    desired, seen = machine.desired[user], machine.observe(user)
    wanted = paused(desired) if is_paused else desired
    planned = plan_of(wanted, look_of(desired, seen), {}, machine.now, POLICY)
    assert planned is not None
    actions = decide(desired, seen, machine.now, POLICY).actions
    at_once = [one.action for one in planned if one.not_before is None]
    if actions:
        assert at_once == [type(action).__name__ for action in actions]
        assert [one.not_before for one in planned] == [None] * len(planned)
    if is_paused:
        assert {one.reason for one in planned} <= {Reason.PAUSED, Reason.ROLLOUT}
    acted = look_of(desired, seen, ["RegisterJob"])
    assert plan_of(wanted, acted, {}, machine.now, POLICY) is None
