"""One user's part in a rollout, as the passes decide it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from core.domain.actions import AskSeat, Decision, LeaveSeat, RegisterJob, SettleSeat, StartSession
from core.domain.decide import decide
from core.domain.desired import Desired, Registered, SpecHashes, Tries
from core.domain.facts import Known, Observation, WahaStatus
from core.domain.names import session_name
from core.domain.seat import Seat, SeatState, SeatWhy
from tests.passes import CHIPS, POLICY, USERS, hosts, settle
from tests.world import World
from tests.world_rows import SPEC

U, CHIP = USERS[0], CHIPS[0]
NEW = SpecHashes(spec="s2", restart="r2")
IN_PLACE = SpecHashes(spec="s2", restart=SPEC.restart)
WAITING = Seat("b", "r2")
MOVING = Seat("b", "r2", SeatState.MOVING, connected=(CHIP,), moved_from="before")
SEATS = (AskSeat, LeaveSeat, SettleSeat)


class Case:
    """A user whose only chip is connected, with a job of settings `a` registered; settings `b` are wanted."""

    def __init__(self, status: WahaStatus = WahaStatus.WORKING) -> None:
        world = World(hosts(4))
        world.add_chip(U, CHIP)
        settle(world, U, passes=10)
        self.now: datetime = world.now
        self.desired: Desired = world.desired[U]
        seen = world.observe(U)
        assert isinstance(seen.sessions, Known)
        name = session_name(CHIP)
        held = {name: msgspec.structs.replace(seen.sessions.value[name], status=status)}
        self.seen: Observation = msgspec.structs.replace(seen, sessions=Known(held, self.now))
        job = self.desired.container.registered
        assert job is not None
        self.index = job.modify_index

    def decide(
        self,
        *,
        hashes: SpecHashes = NEW,
        registered: SpecHashes = SPEC,
        chip: Mapping[str, Any] = {},
        **more: Any,
    ) -> Decision:
        made = "b" if registered == hashes else "a"
        container = msgspec.structs.replace(
            self.desired.container,
            wanted_hashes=hashes,
            registered=Registered(registered, self.index, made),
            **{"release": "b", **more},
        )
        (one,) = self.desired.chips
        one = msgspec.structs.replace(one, **{"phase": "connected", "connected_at": self.now, **chip})
        desired = msgspec.structs.replace(self.desired, container=container, chips=(one,))
        return decide(desired, self.seen, self.now, POLICY)


def kinds(decision: Decision) -> list[type]:
    return [type(action) for action in decision.actions]


def test_a_change_that_restarts_waits_for_a_seat_and_all_goes_on() -> None:
    decision = Case().decide()
    assert decision.actions == (AskSeat("b", "r2"),)
    assert (decision.container.phase, decision.container.reason) == ("ready", "rollout")
    assert decision.container.endpoint is not None
    assert decision.chips[CHIP].phase == "connected"
    assert decision.container.at_rest
    again = Case().decide(seat=WAITING)
    assert (again.actions, again.container.reason, again.container.at_rest) == ((), "rollout", True)


def test_a_change_in_place_and_a_job_edited_by_hand_need_no_seat() -> None:
    assert kinds(Case().decide(hashes=IN_PLACE)) == [RegisterJob]
    case = Case()
    case.index -= 1
    assert kinds(case.decide(hashes=SPEC)) == [RegisterJob]


@pytest.mark.parametrize(
    ("seat", "kind"),
    [
        (MOVING, RegisterJob),
        (msgspec.structs.replace(MOVING, restart_hash="r3"), AskSeat),  # it was for another job
        (msgspec.structs.replace(WAITING, release="a"), AskSeat),
        (msgspec.structs.replace(MOVING, state=SeatState.FAILED), AskSeat),
    ],
)
def test_only_a_seat_that_moves_for_this_very_job_lets_it_through(seat: Seat, kind: type) -> None:
    assert kinds(Case().decide(seat=seat)) == [kind]


def test_a_daemon_with_older_settings_leaves_what_runs_alone() -> None:
    for seat in (None, WAITING, MOVING):
        decision = Case().decide(superseded=True, seat=seat)
        assert (decision.actions, decision.container.reason) == ((), None)
    case = Case()
    case.index -= 1  # the newer daemon's register, not booked yet
    assert case.decide(hashes=SPEC, superseded=True).actions == ()


@pytest.mark.parametrize("seat", [WAITING, msgspec.structs.replace(MOVING, restart_hash="r9")])
def test_a_seat_that_nobody_needs_is_left(seat: Seat) -> None:
    assert kinds(Case().decide(registered=NEW, seat=seat)) == [LeaveSeat]


def test_who_is_going_away_leaves_the_seat() -> None:
    for seat in (WAITING, MOVING):
        assert LeaveSeat in kinds(Case().decide(seat=seat, deleted=True))


def test_the_move_went_well_when_everything_is_back() -> None:
    decision = Case().decide(registered=NEW, seat=MOVING)
    assert decision.actions == (SettleSeat(ok=True),)
    assert decision.container.at_rest


@pytest.mark.parametrize("status", [WahaStatus.SCAN_QR_CODE, WahaStatus.PASSKEY_REQUIRED])
def test_a_chip_that_asks_for_pairing_again_is_a_failure(status: WahaStatus) -> None:
    decision = Case(status).decide(registered=NEW, seat=MOVING)
    assert SettleSeat(ok=False, why=SeatWhy.PAIRING) in decision.actions


def test_a_chip_that_is_on_its_way_leaves_it_open() -> None:
    decision = Case(WahaStatus.STARTING).decide(registered=NEW, seat=MOVING)
    assert not any(isinstance(action, SEATS) for action in decision.actions)
    assert decision.requeue_after is not None


def test_what_the_owner_wished_for_meanwhile_is_no_failure() -> None:
    admitted = msgspec.structs.replace(MOVING, admitted_at=Case().now - timedelta(seconds=30))
    since = {"intent_at": Case().now, "unlinked_generation": None}
    decision = Case(WahaStatus.SCAN_QR_CODE).decide(registered=NEW, seat=admitted, chip=since)
    assert SettleSeat(ok=True) in decision.actions
    other = msgspec.structs.replace(MOVING, connected=("another chip",))
    assert SettleSeat(ok=True) in Case(WahaStatus.STARTING).decide(registered=NEW, seat=other).actions


def test_the_older_allocation_that_still_answers_settles_nothing() -> None:
    case = Case()
    (instance,) = case.seen.instances.value  # type: ignore[union-attr]
    same = msgspec.structs.replace(MOVING, moved_from=instance.allocation_id)
    assert case.decide(registered=NEW, seat=same).actions == ()
    for spec, expected in (("s1", ()), ("s2", (SettleSeat(ok=True),))):
        # Nomad may take a job over in place; the service's meta tells.
        told = msgspec.structs.replace(instance, spec_hash=spec)
        case.seen = msgspec.structs.replace(case.seen, instances=Known((told,), case.now))
        assert case.decide(registered=NEW, seat=same).actions == expected


@pytest.mark.parametrize(("broken", "arrives"), [(True, True), (True, False), (False, True)])
def test_what_a_move_broke_is_tried_once_when_the_next_container_comes(broken: bool, arrives: bool) -> None:
    seat = msgspec.structs.replace(MOVING, broken=broken)
    case = Case(WahaStatus.STOPPED)
    lost = {
        "phase": "unlinked",
        "reason": "unlinked",
        "unlinked_generation": case.desired.chips[0].generation,
    }
    placed = case.desired.container.current_allocation
    decision = case.decide(
        registered=NEW, seat=seat, chip=lost, current_allocation="older" if arrives else placed
    )
    told = decision.chips[CHIP]
    if broken and arrives:
        assert (told.phase, told.unlinked_generation) == ("reconnecting", None)
    else:
        assert (told.phase, told.reason) == ("unlinked", "unlinked")


@pytest.mark.parametrize(("spent_in", "left"), [("this wish", 2), ("an earlier one", 0)])
def test_what_a_move_broke_gets_no_new_qr_codes_with_its_start(spent_in: str, left: int) -> None:
    seat = msgspec.structs.replace(MOVING, broken=True)
    case = Case(WahaStatus.STOPPED)
    generation = case.desired.chips[0].generation
    spent = Tries(generation=generation - (spent_in != "this wish"), failures=1, qr_rounds=POLICY.qr_rounds)
    parked = {"phase": "parked", "reason": "qr_spent", "unlinked_generation": generation - 1, "tries": spent}
    decision = case.decide(registered=NEW, seat=seat, chip=parked, current_allocation="older")
    told = decision.chips[CHIP]
    assert [type(one) for one in decision.actions] == [StartSession]
    assert (told.tries.qr_rounds, told.tries.failures) == (left, 1)
