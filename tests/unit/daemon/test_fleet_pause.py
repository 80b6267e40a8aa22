"""An operator's pause of the whole fleet: nothing is changed outside, everything is still seen and told."""

from __future__ import annotations

import asyncio

from core.domain.desired import Wanted
from core.domain.facts import WahaStatus
from tests.unit.daemon.system import C1, C2, U1, Daemon, World, scenario

_READS = ("nomad.job", "nomad.allocations", "nomad.newest_placement", "nomad.jobs", "nomad.all_allocations")


def effects(w: World) -> list[str]:
    """What changed anything outside, in order."""
    reads = (
        *_READS,
        "nomad.variable_paths",
        "nomad.allocation",
        "consul.instances",
        "waha.sessions",
        "waha.probe",
    )
    return [call for call in w.faults.calls if call not in reads and ".watch" not in call]


async def connected(w: World, daemon: Daemon, chip: str = C1) -> None:
    w.store.add_chip(U1, chip)
    for _ in range(60):
        await daemon.one_pass()
        session = w.waha.sessions[U1].get(f"chip_{chip}")
        if session is not None and session.status is WahaStatus.SCAN_QR_CODE:
            session.status, session.me = WahaStatus.WORKING, "5511999999999@c.us"
        if w.phase(chip) == ("connected", None):
            return
        await asyncio.sleep(0.2)
    raise AssertionError(w.phase(chip))


@scenario
async def test_a_new_user_waits_and_is_told_why_then_goes_on_by_itself(w: World) -> None:
    daemon = Daemon(w)
    w.store.pause_fleet()
    w.store.add_chip(U1, C1)
    async with daemon.running():
        daemon.queue.put(U1)
        await asyncio.sleep(30)
        assert effects(w) == []
        assert w.container() == ("waiting", "paused")
        assert w.phase() == ("queued", "paused")
        assert w.store.chips[C1].observed.status == "WAITING_QR"
        w.store.pause_fleet(paused=False)
        daemon.fleet.relist(takeover=True)
        assert await w.until(lambda: w.phase() == ("qr", None)) < 20


@scenario
async def test_what_runs_runs_on_and_wishes_wait(w: World) -> None:
    daemon = Daemon(w)
    await connected(w, daemon)
    before = len(effects(w))
    w.store.pause_fleet()
    await daemon.one_pass()
    assert w.phase() == ("connected", None)  # no MAINTENANCE: nobody stopped it
    w.store.wish(C1, Wanted.DISCONNECTED)
    await daemon.one_pass()
    assert w.phase() == ("disconnecting", "paused")
    assert w.store.chips[C1].observed.status == "DISCONNECTED"
    w.store.wish(C1, Wanted.DELETED)
    await daemon.one_pass()
    assert w.phase() == ("deleting", "paused")
    assert len(effects(w)) == before
    assert w.waha.sessions[U1][f"chip_{C1}"].status is WahaStatus.WORKING


@scenario
async def test_a_start_that_is_withheld_costs_nothing(w: World) -> None:
    daemon = Daemon(w)
    await connected(w, daemon)
    w.store.pause_fleet()
    w.waha.sessions[U1][f"chip_{C1}"].status = WahaStatus.FAILED
    for _ in range(5):
        await daemon.one_pass()
        await asyncio.sleep(20)
    assert w.phase() == ("queued", "paused")
    chip = w.store.chips[C1].observed
    assert (chip.status, chip.tries.failures) == ("CONNECTING", 0)
    w.store.pause_fleet(paused=False)
    await daemon.one_pass()
    assert effects(w)[-1] == "waha.restart"


@scenario
async def test_a_pass_that_began_before_the_pause_sends_nothing_after_it(w: World) -> None:
    daemon = Daemon(w)
    w.store.add_chip(U1, C1)
    w.faults.slow_s["nomad.job"] = 5.0
    running = asyncio.create_task(daemon.one_pass())
    await asyncio.sleep(2)
    w.store.pause_fleet()
    end = await running
    assert effects(w) == []
    assert end.again_in_s == 0.0  # the next pass says why
    w.faults.slow_s.clear()
    await daemon.one_pass()
    assert w.container() == ("waiting", "paused")


@scenario
async def test_sessions_ready_to_start_are_held_at_the_last_moment_too(w: World) -> None:
    daemon = Daemon(w)
    await connected(w, daemon)
    w.store.add_chip(U1, C2)
    w.faults.slow_s["waha.sessions"] = 5.0
    running = asyncio.create_task(daemon.one_pass())
    await asyncio.sleep(2)
    before = effects(w)
    w.store.pause_fleet()
    await running
    assert effects(w) == before
    assert f"chip_{C2}" not in w.waha.sessions[U1]


@scenario
async def test_a_tombstone_that_owns_nothing_may_go(w: World) -> None:
    daemon = Daemon(w)
    w.store.pause_fleet()
    w.store.add_chip(U1, C1)
    await daemon.one_pass()
    w.store.wish(C1, Wanted.DELETED)
    await daemon.one_pass()
    assert w.phase() is None  # it never had anything outside
    assert effects(w) == []
