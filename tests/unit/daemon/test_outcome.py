"""What people are told when an action did not work."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from core.domain import actions as act
from core.domain.actions import Action, ChipStatus, ContainerStatus, Decision
from core.domain.desired import (
    Breaker,
    Consent,
    Desired,
    DesiredChip,
    DesiredContainer,
    Memory,
    SpecHashes,
    Tries,
    Wanted,
)
from core.domain.facts import WahaStatus
from core.domain.states import ChipPhase, ChipStatusWord, ContainerPhase
from daemon.outcome import PACED, Result, Verdict, opens_next_step, starts_of, told
from daemon.refusals import Refusals
from tests.unit.daemon.virtual import START

HASHES = SpecHashes("s", "r")
REGISTER = act.RegisterJob(0, HASHES)
SPENT = Tries(generation=3, failures=2, qr_rounds=1, last_at=START)


def chip(**changes: Any) -> DesiredChip:
    values: dict[str, Any] = {"id": "c", "wanted": Wanted.CONNECTED, "generation": 3} | changes
    return DesiredChip(intent_at=START, created_at=START, **values)


def desired(*chips: DesiredChip) -> Desired:
    return Desired(DesiredContainer("u", 1, HASHES, "v"), chips or (chip(),), 10)


def decision(
    phase: ChipPhase, *actions: Action, reason: str | None = None, container_reason: str | None = None
) -> Decision:
    status = ChipStatus(phase, ChipStatusWord.WAITING_QR, reason=reason, tries=SPENT)
    container = ContainerStatus(ContainerPhase.REGISTERING, reason=container_reason)
    return Decision(actions, container, {"c": status}, 2.0)


def after(made: Decision, verdict: Verdict, code: str = "", of: DesiredChip | None = None) -> Any:
    results = [Result(action, verdict, code) for action in made.actions]
    container, chips = told(made, results, desired(of or chip()))
    return container, chips.get("c")


def test_what_worked_is_told_as_decided() -> None:
    made = decision(ChipPhase.CREATING, act.CreateSession("c", start=True))
    container, status = after(made, Verdict.DONE)
    assert container is made.container
    assert status is made.chips["c"]


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.REFUSED])
def test_a_container_that_could_not_be_registered_says_so_and_so_do_its_waiting_chips(
    verdict: Verdict,
) -> None:
    container, status = after(decision(ChipPhase.QUEUED, REGISTER), verdict)
    assert container.reason is not None
    assert status.reason == container.reason
    # A chip that has a reason of its own, or does not wait, keeps what it says.
    _, status = after(decision(ChipPhase.QUEUED, REGISTER, reason="no_egress"), verdict)
    assert status.reason == "no_egress"
    _, status = after(decision(ChipPhase.CONNECTED, REGISTER), verdict)
    assert status.reason is None


def test_a_chip_whose_call_got_no_answer_waits_for_waha_and_pays() -> None:
    _, status = after(decision(ChipPhase.STARTING, act.StartSession("c")), Verdict.FAILED)
    assert (status.phase, status.reason, status.tries) == ("starting", "dependency_waha", SPENT)


@pytest.mark.parametrize("paired", [False, True])
def test_a_refused_start_costs_nothing_and_gives_the_button_back(paired: bool) -> None:
    before = Tries(generation=3, failures=1)
    owner = chip(tries=before, connected_at=START if paired else None)
    made = decision(ChipPhase.STARTING, act.StartSession("c"))
    _, status = after(made, Verdict.REFUSED, "rejected", owner)
    assert (status.phase, status.reason, status.tries) == ("failed", "waha_rejected", before)
    assert status.status == ("DISCONNECTED" if paired else "WAITING_QR")
    _, status = after(made, Verdict.REFUSED, "rejected", chip(tries=Tries(generation=1, failures=9)))
    assert status.tries == Tries(generation=3)


def test_a_refused_key_is_no_fault_of_the_chip() -> None:
    _, status = after(
        decision(ChipPhase.STARTING, act.StartSession("c")), Verdict.REFUSED, "waha_key_rejected"
    )
    assert (status.phase, status.reason) == ("queued", "waha_key_rejected")


def test_a_refused_delete_goes_on_deleting() -> None:
    _, status = after(decision(ChipPhase.DELETING, act.DeleteSession("c")), Verdict.REFUSED, "rejected")
    assert (status.phase, status.reason) == ("deleting", "waha_rejected")


@pytest.mark.parametrize("verdict", [Verdict.STALE, Verdict.DEFERRED])
def test_nothing_is_told_of_a_chip_about_which_nothing_was_learnt(verdict: Verdict) -> None:
    _, status = after(decision(ChipPhase.STARTING, act.StartSession("c")), verdict)
    assert status is None


def test_a_removed_chip_has_no_status() -> None:
    _, status = after(decision(ChipPhase.DELETING, act.RemoveChip("c")), Verdict.DONE)
    assert status is None


def test_only_starts_cost() -> None:
    chips = {name: ChipStatus(ChipPhase.QUEUED, ChipStatusWord.WAITING_QR, tries=SPENT) for name in "abcdef"}
    actions: list[act.Action] = [
        act.CreateSession("a", start=True),
        act.CreateSession("b", start=False),
        act.StartSession("c"),
        act.RestartSession("d"),
        act.StopSession("e"),
        act.DeleteSession("f"),
        REGISTER,
    ]
    assert starts_of(actions, chips) == {"a": SPENT, "c": SPENT, "d": SPENT}


def test_which_actions_make_the_next_step_possible_at_once() -> None:
    assert opens_next_step(act.DeleteSession("c"))
    assert opens_next_step(act.CreateSession("c", start=False))
    assert opens_next_step(act.PurgeJob())
    assert not opens_next_step(act.CreateSession("c", start=True))
    assert not opens_next_step(REGISTER)
    assert not opens_next_step(act.StopJob())


def test_a_refusal_stands_for_its_wish_and_its_time_alone() -> None:
    refusals = Refusals(60)
    start = act.StartSession("c")
    refusals.add("u", start, 3, "rejected", now=100)
    assert refusals.code("u", start, 3, now=159) == "rejected"
    assert refusals.code("u", start, 4, now=159) is None
    assert refusals.code("u", start, 3, now=160) is None
    assert refusals.code("u", act.RestartSession("c"), 3, now=101) is None
    assert refusals.code("other", start, 3, now=101) is None
    refusals.forget("u", start)
    assert refusals.code("u", start, 3, now=101) is None


@pytest.mark.parametrize("verdict", [Verdict.FAILED, Verdict.REFUSED, Verdict.DONE])
def test_credentials_are_told_lost_only_once_a_logout_is_done(verdict: Verdict) -> None:
    owner = chip(connected_at=START, consent=Consent.FRESH)
    made = decision(ChipPhase.STARTING, act.LogoutSession("c"))
    lost = {name: msgspec.structs.replace(one, unlinked_generation=2) for name, one in made.chips.items()}
    _, status = after(msgspec.structs.replace(made, chips=lost), verdict, of=owner)
    assert status.unlinked_generation == (2 if verdict is Verdict.DONE else None)


def test_a_start_that_was_refused_is_not_held_against_the_chip() -> None:
    breaker = Breaker(starts=(START,))
    made = decision(ChipPhase.RECONNECTING, act.RewriteSession("c"))
    counted = {name: msgspec.structs.replace(one, memory=Memory(breaker)) for name, one in made.chips.items()}
    owner = chip(connected_at=START)
    _, status = after(msgspec.structs.replace(made, chips=counted), Verdict.REFUSED, "rejected", owner)
    assert status.memory == Memory()


def test_a_start_that_waits_for_its_token_stands_in_line_and_has_cost_nothing() -> None:
    made = decision(ChipPhase.STARTING, act.StartSession("c"))
    results = [Result(made.actions[0], Verdict.DEFERRED, PACED, after_s=30, starts_in_s=70)]
    before = Tries(generation=3, failures=1)
    _, chips = told(made, results, desired(chip(tries=before)))
    status = chips["c"]
    assert (status.phase, status.reason, status.starts_in_s) == ("queued", "paced", 70)
    assert (status.tries, status.status) == (before, made.chips["c"].status)


def test_a_restart_that_is_due_because_it_takes_so_long_keeps_its_time() -> None:
    made = decision(ChipPhase.STARTING, act.RestartSession("c"))
    starting = msgspec.structs.replace(made.chips["c"], waha_status=WahaStatus.STARTING)
    made = msgspec.structs.replace(made, chips={"c": starting})
    results = [Result(made.actions[0], Verdict.DEFERRED, PACED, after_s=30, starts_in_s=70)]
    assert told(made, results, desired(chip()))[1] == {}
