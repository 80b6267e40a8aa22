"""The plan is true: what it says of a user is what the user's next pass does, all the way through a life."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import msgspec

from core.domain.desired import Wanted
from core.domain.facts import WahaStatus
from core.domain.fleet_plan import Planned, plan_of
from core.domain.pacing import Limit, Pace
from core.domain.policy import Policy
from core.wishes import NO_PRINTS, desired_of
from tests.unit.daemon.system import C1, C2, U1, Daemon, World, scenario

POLICY = Policy(egress="direct", empty_grace_s=0.0)


async def planned(w: World, policy: Policy = POLICY) -> tuple[Planned, ...] | None:
    """As `GET /fleet/plan` finds it: from what is stored, with no fingerprint of any job."""
    snapshot = await w.store.load(U1)
    assert snapshot is not None
    row = w.store.containers[U1]
    desired = desired_of(snapshot, NO_PRINTS, release=snapshot.newest_release or "", superseded=False)
    starts_at = {chip.id: chip.observed.starts_at for chip in row.chips}
    return plan_of(desired, row.look, starts_at, w.clock.now(), policy)


class Walk:
    """Passes one after the other, each compared with the plan that stood before it."""

    def __init__(self, w: World, daemon: Daemon) -> None:
        self.w, self.daemon = w, daemon
        self.compared: Counter[str] = Counter()

    async def step(self, pause_s: float = 0.3) -> None:
        if U1 not in self.w.store.containers:
            return
        plan = await planned(self.w)
        await self.daemon.one_pass()
        done = [type(action).__name__ for action in self.daemon.reconciler._last_actions.get(U1, ())]
        if plan is None:
            self.compared["acting"] += 1
        elif U1 in self.w.store.containers:
            promised = [one.action for one in plan if one.not_before is None]
            # Whatever the world did by itself since the last look is the pass's own news.
            if promised:
                assert promised == done, (promised, done)
                self.compared.update(done)
            self.compared["looked"] += 1
        await asyncio.sleep(pause_s)


@scenario
async def test_through_a_life(w: World) -> None:
    walk = Walk(w, Daemon(w))
    w.store.add_chip(U1, C1)
    for _ in range(25):
        await walk.step()
    session = w.waha.sessions[U1][f"chip_{C1}"]
    session.status, session.me = WahaStatus.WORKING, "5511999999999@c.us"
    for _ in range(3):
        await walk.step()
    assert w.phase() == ("connected", None)
    w.store.wish(C1, Wanted.DISCONNECTED)
    for _ in range(4):
        await walk.step()
    w.store.reconnect_chip(U1, C1)
    for _ in range(4):
        await walk.step()
    w.store.add_chip(U1, C2)
    for _ in range(6):
        await walk.step()
    w.store.wish(C1, Wanted.DELETED)
    w.store.wish(C2, Wanted.DELETED)
    for _ in range(40):
        await walk.step(1.0)
    assert w.nothing_left()
    for action in (
        "WriteVariables",
        "RegisterJob",
        "StopSession",
        "StartSession",
        "CreateSession",
        "DeleteSession",
    ):
        assert walk.compared[action], walk.compared


@scenario
async def test_what_a_paused_fleet_will_do_is_what_it_does_after_the_pause(w: World) -> None:
    daemon = Daemon(w)
    walk = Walk(w, daemon)
    w.store.add_chip(U1, C1)
    w.store.pause_fleet()
    await daemon.one_pass()
    plan = await planned(w)
    assert plan == (
        Planned(None, "WriteVariables", "paused"),
        Planned(None, "RegisterJob", "paused"),
    )
    w.store.pause_fleet(paused=False)
    await walk.step()
    assert walk.compared["RegisterJob"] == 1


@scenario
async def test_a_removal_is_announced_with_its_time(w: World) -> None:
    daemon = Daemon(w, empty_grace_s=600.0)
    policy = msgspec.structs.replace(POLICY, empty_grace_s=600.0)
    w.store.add_chip(U1, C1)
    for _ in range(25):
        await daemon.one_pass()
        await asyncio.sleep(0.3)
    w.store.wish(C1, Wanted.DELETED)
    for _ in range(5):
        await daemon.one_pass()
        await asyncio.sleep(0.3)
    assert w.phase() is None
    plan = await planned(w, policy)
    assert plan is not None
    assert [one.action for one in plan] == ["StopJob"]
    due = plan[0].not_before
    assert due is not None
    left = due - w.clock.now()
    assert timedelta(seconds=500) < left < timedelta(seconds=600)
    await asyncio.sleep(left.total_seconds() - 5)
    await daemon.one_pass()
    assert w.store.containers[U1].observed.phase == "ready"
    await asyncio.sleep(6)
    await daemon.one_pass()
    assert [type(action).__name__ for action in daemon.reconciler._last_actions[U1]] == ["StopJob"]


@scenario
async def test_a_start_that_stands_in_line_has_its_time(w: World) -> None:
    daemon = Daemon(w, pace=Pace(fleet=Limit(0.05, 1)))
    w.store.add_chip(U1, C1)
    w.store.add_chip(U1, C2)
    for _ in range(30):
        await daemon.one_pass()
        if w.phase(C2) == ("queued", "paced") or w.phase(C1) == ("queued", "paced"):
            break
        await asyncio.sleep(0.3)
    await daemon.one_pass()  # the look after the start that had its token
    plan = await planned(w)
    assert plan is not None
    paced = [one for one in plan if one.reason == "paced"]
    assert [one.action for one in paced] == ["CreateSession"]
    due = paced[0].not_before
    assert due is not None
    assert due > w.clock.now()
