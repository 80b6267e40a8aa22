"""Whole nights in virtual time: what a forgotten tab, news and failures may never cause."""

from __future__ import annotations

import asyncio

from core.domain.desired import Wanted
from core.domain.facts import WahaStatus
from core.domain.qr_view import qr_state
from tests.unit.daemon.fakes import FakeSession
from tests.unit.daemon.system import C1, U1, Daemon, World, scenario

_NIGHT_S = 8 * 3600.0
_QR_SET_S = 160.0
_POLL_S = 3.0  # what the deployed page does with its QR open
_CHANGING = ("create_session", "start", "restart", "update_session", "stop", "logout", "delete")


def calls(w: World) -> dict[str, int]:
    return {name: w.faults.count(f"waha.{name}") for name in _CHANGING}


async def connected(w: World, daemon: Daemon) -> FakeSession:
    w.store.add_chip(U1, C1)
    daemon.queue.put(U1)
    await w.until(lambda: w.phase() == ("qr", None))
    session = w.waha.sessions[U1][f"chip_{C1}"]
    session.status, session.me = WahaStatus.WORKING, "5511988887777@c.us"
    daemon.queue.put(U1)
    await w.until(lambda: w.phase() == ("connected", None))
    return session


async def codes_run_out(w: World, daemon: Daemon) -> None:
    """Every QR set ends in FAILED after 160 s (WAHA docs), and a webhook says so."""
    while True:
        await asyncio.sleep(_QR_SET_S)
        for session in w.waha.sessions[U1].values():
            if session.status is WahaStatus.SCAN_QR_CODE:
                session.status = WahaStatus.FAILED
        daemon.queue.put(U1)


async def polls(w: World, daemon: Daemon, seconds: float) -> set[str | None]:
    """A tab with the QR open: the route's own rules, on what the store holds, and news every other minute."""
    seen: set[str | None] = set()
    for number in range(int(seconds / _POLL_S)):
        chip = w.store.chips[C1]
        state = qr_state(w.store.shown(chip), w.clock.now())
        assert state.message
        seen.add(state.status)
        if number % 40 == 0:
            daemon.queue.put(U1)
        await asyncio.sleep(_POLL_S)
    return seen


@scenario
async def test_a_forgotten_tab_starts_no_session_all_night(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        w.store.add_chip(U1, C1)
        daemon.queue.put(U1)
        running_out = asyncio.create_task(codes_run_out(w, daemon))
        await polls(w, daemon, 900.0)
        assert w.phase() == ("parked", "qr_spent")
        session = w.waha.sessions[U1][f"chip_{C1}"]
        assert session.starts == 2  # WAHAFLEET_QR_ROUNDS, bought by the create
        assert session.status is WahaStatus.STOPPED
        before, revision = calls(w), w.store.chips[C1].revision
        assert await polls(w, daemon, _NIGHT_S) == {None}
        assert calls(w) == before
        assert w.store.chips[C1].revision == revision
        w.store.wish(C1, Wanted.CONNECTED)
        await polls(w, daemon, 900.0)
        assert session.starts == 4
        running_out.cancel()


@scenario
async def test_a_forgotten_tab_wakes_no_chip_that_was_unlinked_or_given_up(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        session = await connected(w, daemon)
        session.dead, session.status = True, WahaStatus.FAILED
        await polls(w, daemon, 300.0)
        assert w.phase() == ("failed", "reconnect_failed")
        before = calls(w)
        await polls(w, daemon, _NIGHT_S / 4)
        assert calls(w) == before
        assert before["logout"] == before["delete"] == 0
        assert session.me is not None


@scenario
async def test_a_wanted_disconnect_is_never_undone(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        session = await connected(w, daemon)
        w.store.wish(C1, Wanted.DISCONNECTED)
        daemon.queue.put(U1)
        await w.until(lambda: w.phase() == ("disconnected", None))
        before = calls(w)
        for hour in range(8):
            await asyncio.sleep(1800.0)
            if hour % 2:
                # A container that died, or somebody's hand: its session is stopped whatever it was.
                session.status = WahaStatus.STARTING
                daemon.queue.put(U1)
            await asyncio.sleep(1800.0)
            assert session.status is WahaStatus.STOPPED
        after = calls(w)
        assert {name: after[name] for name in after if name != "stop"} == {
            name: before[name] for name in before if name != "stop"
        }
        assert session.me is not None


@scenario
async def test_no_failing_costs_a_chip_that_was_connected_its_session(w: World) -> None:
    """It flaps, is paused by its breaker, ends in quarantine, is banned: it is there in the morning."""
    daemon = Daemon(w)
    async with daemon.running():
        session = await connected(w, daemon)
        phases = set()
        for _ in range(int(_NIGHT_S / 2 / 30.0)):
            if session.status is WahaStatus.WORKING:
                session.status = WahaStatus.FAILED
                daemon.queue.put(U1)
            await asyncio.sleep(30.0)
            phases.add(w.phase())
        assert ("failed", "breaker_open") in phases
        assert w.phase() == ("quarantined", "quarantined")
        w.store.wish(C1, Wanted.CONNECTED)
        w.store.ban_chip(C1)
        daemon.queue.put(U1)
        await w.until(lambda: w.phase() == ("banned", "banned"))
        await asyncio.sleep(_NIGHT_S / 2)
        assert session.status is WahaStatus.STOPPED
        w.store.ban_chip(C1, banned=False)
        w.store.release_chip(C1)
        daemon.queue.put(U1)
        await w.until(lambda: w.phase() == ("connected", None))
    assert w.faults.count("waha.delete") == w.faults.count("waha.logout") == 0
    assert C1 in w.store.chips


@scenario
async def test_a_deaf_session_is_asked_once_and_restarted(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        session = await connected(w, daemon)
        session.activity_ms = int(w.clock.now().timestamp() * 1000)
        for _ in range(12):  # it shows life for an hour
            await asyncio.sleep(300.0)
            session.activity_ms = int(w.clock.now().timestamp() * 1000)
            daemon.queue.put(U1)
        assert w.faults.count("waha.probe") == 0
        session.deaf = True
        starts = session.starts
        for _ in range(12):
            await asyncio.sleep(300.0)
            daemon.queue.put(U1)
        assert (session.deaf, session.starts) == (False, starts + 1)
        assert w.faults.count("waha.probe") >= 1
        assert "deaf" in [event.code for event in w.store.chips[C1].events]
        assert w.phase() == ("connected", None)


@scenario
async def test_a_press_on_a_dead_chip_gives_a_qr_and_says_an_outage_when_others_fail(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        session = await connected(w, daemon)
        session.dead, session.status = True, WahaStatus.FAILED
        daemon.queue.put(U1)
        await w.until(lambda: w.phase() == ("failed", "reconnect_failed"))
        w.store.wish(C1, Wanted.CONNECTED)
        daemon.queue.put(U1)
        took_s = await w.until(lambda: w.phase() == ("qr", None))
        assert took_s < 60
        assert w.faults.count("waha.logout") == 1
