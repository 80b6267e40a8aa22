"""One pass at a time: leases, guarded writes, ports, refusals, and what people are told."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest
from structlog.testing import capture_logs

from core.domain.actions import ContainerStatus, Placed
from core.domain.desired import Wanted
from core.domain.facts import ClientStatus, WahaStatus
from core.errors import Rejected, StaleWrite, Unavailable
from core.store.interface import Busy
from daemon.reconcile import PassEnd
from tests.unit.daemon.system import C1, C2, LOOP, U1, U2, Daemon, World, scenario


async def at_qr(w: World, daemon: Daemon, user: str = U1, chip: str = C1) -> None:
    """Bring a chip to its QR by passes alone."""
    w.store.add_chip(user, chip)
    for _ in range(40):
        await daemon.one_pass(user)
        if w.phase(chip) == ("qr", None):
            return
        await asyncio.sleep(0.2)
    raise AssertionError(w.phase(chip))


@scenario
async def test_a_busy_key_is_asked_for_again_soon_and_at_its_lease_s_end_at_the_latest(w: World) -> None:
    w.store.add_chip(U1, C1)
    lease = await w.store.claim(U1, "other", 60)
    assert not isinstance(lease, Busy)
    await asyncio.sleep(20)
    end = await Daemon(w).one_pass()
    assert end == PassEnd(1.0, busy=True)
    await asyncio.sleep(39.5)
    end = await Daemon(w).one_pass()
    assert end == PassEnd(cast(float, pytest.approx(0.5)), busy=True)
    assert w.faults.calls == []


@scenario
async def test_a_wish_that_came_during_the_pass_is_looked_at_at_once(w: World) -> None:
    daemon = Daemon(w)
    await at_qr(w, daemon)
    w.faults.slow_s["waha.sessions"] = 1.0
    running = asyncio.create_task(daemon.one_pass())
    await asyncio.sleep(0.5)
    w.store.wish(C1, Wanted.DISCONNECTED)
    assert await running == PassEnd(0.0)
    assert w.phase() == ("qr", None)  # what was seen is older than the wish


@scenario
async def test_a_write_after_the_lease_was_lost_is_dropped(w: World) -> None:
    daemon = Daemon(w)
    await at_qr(w, daemon)
    before = w.store.statuses[U1]
    w.faults.slow_s["waha.sessions"] = 1.0
    w.waha.sessions[U1][f"chip_{C1}"].status = WahaStatus.WORKING
    running = asyncio.create_task(daemon.one_pass())
    await asyncio.sleep(0.5)
    w.store.steal(U1)
    with pytest.raises(StaleWrite):
        await running
    assert w.store.statuses[U1] is before
    assert w.phase() == ("qr", None)
    assert w.store.leases[U1].owner == "thief"


@scenario
async def test_no_effect_starts_once_the_lease_is_known_to_be_lost(w: World) -> None:
    w.store.add_chip(U1, C1)
    w.faults.slow_s["nomad.job"] = 25.0
    running = asyncio.create_task(Daemon(w).one_pass())
    await asyncio.sleep(5)
    w.store.steal(U1)
    with pytest.raises(StaleWrite):
        await running
    assert w.faults.count("nomad.write_variables") == 0
    assert w.faults.count("nomad.register") == 0


@scenario
async def test_an_effect_needs_a_lease_that_outlives_it(w: World) -> None:
    """40 s for a call to WAHA do not fit into a pass that has 30 s left; the next pass does it."""
    daemon = Daemon(w)
    await at_qr(w, daemon)
    w.store.wish(C1, Wanted.DISCONNECTED)
    w.faults.slow_s["consul.instances"] = 20.0
    end = await daemon.one_pass()
    assert w.faults.count("waha.stop") == 0
    assert end == PassEnd(0.0)
    w.faults.slow_s.clear()
    await daemon.one_pass()
    assert w.faults.count("waha.stop") == 1


@scenario
async def test_the_lease_is_kept_alive_while_a_pass_runs(w: World) -> None:
    settings = msgspec.structs.replace(LOOP, lease_ttl_s=30, lease_heartbeat_s=5)
    w.store.add_chip(U1, C1)
    w.faults.slow_s["nomad.allocations"] = 45.0
    running = asyncio.create_task(Daemon(w, settings=settings).one_pass())
    await asyncio.sleep(44)
    assert isinstance(await w.store.claim(U1, "other", 60), Busy)
    await running
    assert not isinstance(await w.store.claim(U1, "other", 60), Busy)


@scenario
async def test_looking_that_outlasts_the_pass_is_given_up(w: World) -> None:
    w.store.add_chip(U1, C1)
    w.faults.slow_s["nomad.job"] = 500.0
    with pytest.raises(Unavailable):
        await Daemon(w).one_pass()
    assert w.clock.monotonic() == pytest.approx(50, abs=0.1)
    assert not isinstance(await w.store.claim(U1, "other", 60), Busy)


@scenario
async def test_a_pass_cut_off_in_an_effect_keeps_its_lease_until_it_runs_out(w: World) -> None:
    w.store.add_chip(U1, C1)
    w.faults.slow_s["nomad.register"] = 5.0
    running = asyncio.create_task(Daemon(w).one_pass())
    await asyncio.sleep(2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert isinstance(await w.store.claim(U1, "other", 60), Busy)


@scenario
async def test_a_pass_cut_off_while_looking_gives_its_lease_back(w: World) -> None:
    w.store.add_chip(U1, C1)
    w.faults.slow_s["nomad.job"] = 5.0
    running = asyncio.create_task(Daemon(w).one_pass())
    await asyncio.sleep(2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not isinstance(await w.store.claim(U1, "other", 60), Busy)


# --- ports ---------------------------------------------------------------------------------------------


async def conflict(w: World, daemon: Daemon, client: ClientStatus | None) -> None:
    """U2's allocation still has the port that U1's new allocation got."""
    w.store.add_chip(U1, C1)
    await daemon.one_pass()
    await asyncio.sleep(1)
    mine = w.nomad.allocs[w.job()][0]
    assert mine.address is not None
    assert mine.port is not None
    w.store.add_chip(U2, C2)
    old = msgspec.structs.replace(mine, id="old", client=client or ClientStatus.RUNNING)
    if client is not None:
        w.nomad.allocs[w.job(U2)].append(old)
    w.store.hold_port(U2, "old", mine.address, mine.port)


@pytest.mark.parametrize("client", [ClientStatus.COMPLETE, ClientStatus.FAILED, None])
def test_the_port_of_a_dead_or_forgotten_allocation_is_taken_over(client: ClientStatus | None) -> None:
    async def main(w: World) -> None:
        daemon = Daemon(w)
        await conflict(w, daemon, client)
        await daemon.one_pass()
        assert w.store.statuses[U1].endpoint is not None
        assert [entry[0] for entry in w.store.ledger.values()] == [U1]

    scenario(main)()


@pytest.mark.parametrize("client", [ClientStatus.RUNNING, ClientStatus.LOST, ClientStatus.UNKNOWN])
def test_the_port_of_one_that_may_live_withholds_the_endpoint(client: ClientStatus) -> None:
    async def main(w: World) -> None:
        daemon = Daemon(w)
        await conflict(w, daemon, client)
        with capture_logs() as logs:
            await daemon.one_pass()
        status = w.store.statuses[U1]
        assert (status.endpoint, status.port, status.reason) == (None, None, "port_conflict")
        assert w.container() == ("booting", "port_conflict")
        assert [line["holder_user_id"] for line in logs if line["event"] == "port_conflict"] == [U2]
        assert [line["log_level"] for line in logs if line["event"] == "port_conflict"] == ["error"]
        assert w.store.ledger[next(iter(w.store.ledger))] == (U2, "old")

    scenario(main)()


@scenario
async def test_a_holder_that_cannot_be_looked_up_counts_as_alive(w: World) -> None:
    daemon = Daemon(w)
    await conflict(w, daemon, ClientStatus.COMPLETE)
    w.faults.before["nomad.allocation"] = Unavailable("nomad", "down")
    await daemon.one_pass()
    assert w.container() == ("booting", "port_conflict")
    w.faults.up("nomad")
    await daemon.one_pass()
    assert w.store.statuses[U1].endpoint is not None


# --- refusals ------------------------------------------------------------------------------------------


@scenario
async def test_a_refused_register_is_told_and_not_repeated(w: World) -> None:
    w.store.add_chip(U1, C1)
    w.faults.before["nomad.register"] = Rejected("nomad", "500 1 error occurred: bad job")
    daemon = Daemon(w)
    first = await daemon.one_pass()
    assert w.container()[1] is not None
    assert w.phase() == ("queued", w.container()[1])
    assert first.again_in_s is not None
    assert first.again_in_s >= 10
    await daemon.one_pass()
    assert w.faults.count("nomad.register") == 1
    assert w.container()[1] is not None

    w.store.add_chip(U1, C2)  # another wish: the generation changed
    await daemon.one_pass()
    assert w.faults.count("nomad.register") == 2

    await asyncio.sleep(61)  # an operator may have mended it
    w.faults.up("nomad")
    await daemon.one_pass()
    assert w.faults.count("nomad.register") == 3
    assert w.job() in w.nomad.held


@scenario
async def test_a_refused_session_is_told_costs_nothing_and_is_not_repeated(w: World) -> None:
    w.faults.before["waha.create_session"] = Rejected("waha", "400 bad name")
    daemon = Daemon(w)
    w.store.add_chip(U1, C1)
    await daemon.one_pass()
    await asyncio.sleep(1)
    for _ in range(4):
        await daemon.one_pass()
    assert w.phase() == ("failed", "waha_rejected")
    chip = w.store.chip(C1)
    assert chip is not None
    assert chip.status == "WAITING_QR"  # the status with the button
    assert (chip.observed.tries.failures, chip.observed.tries.qr_rounds) == (0, 0)
    assert w.faults.count("waha.create_session") == 1

    w.faults.up("waha")
    w.store.wish(C1, Wanted.CONNECTED)
    await daemon.one_pass()
    assert w.waha.sessions[U1][f"chip_{C1}"].starts == 1


@scenario
async def test_a_refused_key_is_told_and_nothing_is_sent(w: World) -> None:
    daemon = Daemon(w)
    await at_qr(w, daemon)
    w.store.wish(C1, Wanted.DISCONNECTED)
    w.store.add_chip(U1, C2)
    w.faults.before["waha"] = Rejected("waha", "401", code="waha_key_rejected")
    sent = len(w.faults.calls)
    await daemon.one_pass()
    assert {call for call in w.faults.calls[sent:] if call.startswith("waha.")} == {"waha.sessions"}
    assert w.phase(C2) == ("queued", "waha_key_rejected")


@scenario
async def test_without_egress_nothing_is_started(w: World) -> None:
    daemon = Daemon(w, egress=None)
    w.store.add_chip(U1, C1)
    for _ in range(6):
        await daemon.one_pass()
        await asyncio.sleep(1)
    assert w.phase() == ("queued", "no_egress")
    assert all(session.starts == 0 for session in w.waha.sessions[U1].values())


# --- order ---------------------------------------------------------------------------------------------


@scenario
async def test_secrets_are_written_before_the_job_and_tries_before_a_start(w: World) -> None:
    daemon = Daemon(w)
    await at_qr(w, daemon)
    effects = [call for call in w.faults.calls if call in ("nomad.write_variables", "nomad.register")]
    assert effects == ["nomad.write_variables", "nomad.register"]

    w.faults.before["waha.restart"] = Unavailable("waha", "reset")
    w.waha.sessions[U1][f"chip_{C1}"].status = WahaStatus.FAILED
    await daemon.one_pass()
    chip = w.store.chip(C1)
    assert chip is not None
    assert chip.observed.tries.failures == 1  # counted, although nobody knows whether it was started
    assert chip.reason == "dependency_waha"


@scenario
async def test_chips_are_served_side_by_side(w: World) -> None:
    daemon = Daemon(w)
    await at_qr(w, daemon)
    w.store.add_chip(U1, C2)
    w.store.wish(C1, Wanted.DISCONNECTED)
    w.faults.slow_s |= {"waha.create_session": 10.0, "waha.stop": 10.0}
    started = w.clock.monotonic()
    await daemon.one_pass()
    assert w.clock.monotonic() - started < 11
    assert w.faults.count("waha.stop") == w.faults.count("waha.create_session") - 1 == 1


@scenario
async def test_waha_is_asked_only_where_nomad_and_consul_agree(w: World) -> None:
    daemon = Daemon(w)
    await at_qr(w, daemon)
    asked = w.faults.count("waha.sessions")
    w.consul.hidden.add(w.nomad.allocs[w.job()][0].id)
    await daemon.one_pass()
    assert w.faults.count("waha.sessions") == asked
    assert w.store.statuses[U1].endpoint is None


@scenario
async def test_an_unreachable_container_drops_the_cached_endpoint(w: World) -> None:
    daemon = Daemon(w)
    await at_qr(w, daemon)
    w.caches.endpoints.clear()
    w.faults.before["waha.sessions"] = Unavailable("waha", "refused", code="unreachable")
    await daemon.one_pass()
    assert U1 in w.caches.endpoints


@scenario
async def test_caches_are_left_alone_while_nothing_changes(w: World) -> None:
    daemon = Daemon(w)
    await at_qr(w, daemon)
    await daemon.one_pass()
    w.caches.endpoints.clear()
    w.caches.chips.clear()
    await daemon.one_pass()
    assert (w.caches.endpoints, w.caches.chips) == ([], [])


# --- the worker ----------------------------------------------------------------------------------------


@scenario
async def test_a_bug_met_by_one_user_leaves_the_others_alone(w: World) -> None:
    daemon = Daemon(w)
    honest = daemon.reconciler.run

    async def broken(key: str, news_at: float | None = None) -> Any:
        if key == U2:
            raise ZeroDivisionError
        return await honest(key, news_at)

    daemon.reconciler.run = broken  # type: ignore[method-assign]
    with capture_logs() as logs:
        async with daemon.running():
            w.store.add_chip(U1, C1)
            w.store.add_chip(U2, C2)
            daemon.queue.put(U2)
            daemon.queue.put(U1)
            await w.until(lambda: w.phase() == ("qr", None))
            await asyncio.sleep(60)
    broke = [line for line in logs if line["event"] == "pass_broke"]
    assert 3 < len(broke) < 30  # tried again with pauses, told each time


@scenario
async def test_a_look_in_case_a_scan_was_not_heard_of_lets_those_pass_who_wait(w: World) -> None:
    daemon = Daemon(w, settings=msgspec.structs.replace(LOOP, workers=1))
    await at_qr(w, daemon)
    assert (await daemon.one_pass()).routine
    order: list[str] = []
    honest = daemon.reconciler.run

    async def noted(key: str, news_at: float | None = None) -> PassEnd:
        order.append(key)
        return await honest(key, news_at)

    daemon.reconciler.run = noted  # type: ignore[method-assign]
    daemon.queue.put(U1)
    working = asyncio.create_task(daemon.controller.run())
    await asyncio.sleep(29.9)  # the next look is 30 s after this one
    w.faults.slow_s["nomad.job"] = 1.0
    w.store.add_chip(U2, C2)
    order.clear()
    for _ in range(3):
        daemon.queue.put(U2)  # news for as long as it is worked on
        await asyncio.sleep(1.0)
    await asyncio.sleep(5.0)
    daemon.queue.close()
    await working
    assert order[:3] == [U2, U2, U2]
    assert U1 in order


@scenario
async def test_a_removed_user_is_not_looked_at_again(w: World) -> None:
    daemon = Daemon(w)
    assert await daemon.one_pass(U2) == PassEnd(None)


@scenario
async def test_a_stopped_queue_lets_passes_under_way_end(w: World) -> None:
    daemon = Daemon(w)
    w.store.add_chip(U1, C1)
    w.faults.slow_s["nomad.register"] = 5.0
    async with daemon.running():
        daemon.queue.put(U1)
        await asyncio.sleep(2)
    assert w.store.containers[U1].registered is not None
    assert w.store.leases[U1].owner == ""


def test_a_status_without_a_port_keeps_its_allocation() -> None:
    from daemon.reconcile import _without_port

    status = ContainerStatus("ready", placed=Placed("a", "n", "host", "10.0.0.1", 3100), allocation_id="a")
    shown = _without_port(status)
    assert (shown.phase, shown.allocation_id, shown.placed) == (
        "booting",
        "a",
        Placed("a", "n", "host", None, None),
    )
