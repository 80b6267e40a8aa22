"""The daemon on fakes: the walks of a chip, and that every system may be away for a while."""

from __future__ import annotations

import asyncio

import pytest

from core.domain.desired import Wanted
from core.domain.facts import ClientStatus, WahaStatus
from core.errors import Throttled, Unavailable
from tests.unit.daemon.system import C1, C2, U1, U2, Daemon, World, scenario, user_number


@scenario
async def test_from_wish_to_qr_to_connected_to_nothing(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        w.store.add_chip(U1, C1)
        daemon.queue.put(U1)
        took_s = await w.until(lambda: w.phase() == ("qr", None))
        # Boot 0.5 s, session 0.3 s, the fakes' own milliseconds: no poll stands between the steps.
        assert took_s < 1.1
        assert w.faults.count("nomad.register") == 1
        assert w.store.epochs == {U1: 1}

        session = w.waha.sessions[U1][f"chip_{C1}"]
        session.status, session.me = WahaStatus.WORKING, "5511988887777@c.us"
        daemon.queue.put(U1)
        await w.until(lambda: w.phase() == ("connected", None), 1.0)

        w.store.wish(C1, Wanted.DELETED)
        daemon.queue.put(U1)
        await w.until(w.nothing_left)
    assert session.starts == 1
    assert U1 in w.caches.endpoints
    assert C1 in w.caches.chips


@scenario
async def test_a_second_chip_joins_the_running_container(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        w.store.add_chip(U1, C1)
        daemon.queue.put(U1)
        await w.until(lambda: w.phase() == ("qr", None))
        w.store.add_chip(U1, C2)
        daemon.queue.put(U1)
        assert await w.until(lambda: w.phase(C2) == ("qr", None)) < 0.5
    assert w.faults.count("nomad.register") == 1


@scenario
async def test_without_news_polling_alone_gets_there(w: World) -> None:
    """Every source is deaf; passes say when to look again and that is enough."""
    daemon = Daemon(w)
    daemon.sources = daemon.sources[:1]
    async with daemon.running():
        w.waha.tell = None
        w.store.add_chip(U1, C1)
        await w.until(lambda: w.phase() == ("qr", None), 90)
        w.store.wish(C1, Wanted.DELETED)
        await w.until(w.nothing_left, 180)


@scenario
async def test_no_capacity_is_told_and_heals_by_itself(w: World) -> None:
    w.nomad.capacity = 0
    daemon = Daemon(w)
    async with daemon.running():
        w.store.add_chip(U1, C1)
        daemon.queue.put(U1)
        await w.until(lambda: w.container() == ("waiting", "no_port"))
        await w.until(lambda: w.phase() == ("queued", "no_port"))
        w.nomad.capacity = 1
        w.nomad.background(w.nomad.place(w.job()))
        await w.until(lambda: w.phase() == ("qr", None))
    assert w.faults.count("nomad.register") == 1


AWAY = {"nomad": "dependency_nomad", "consul": "dependency_consul", "waha": "dependency_waha"}


@pytest.mark.parametrize("system", sorted(AWAY))
def test_a_system_that_is_away_during_a_create_only_delays_it(system: str) -> None:
    async def main(w: World) -> None:
        w.faults.down(system)
        daemon = Daemon(w)
        async with daemon.running():
            w.store.add_chip(U1, C1)
            daemon.queue.put(U1)
            await w.until(lambda: (w.phase() or ("", ""))[1] == AWAY[system])
            await asyncio.sleep(30)
            w.faults.up(system)
            await w.until(lambda: w.phase() == ("qr", None), 40)
        assert w.faults.count("nomad.register") == 1

    scenario(main)()


@pytest.mark.parametrize("system", sorted(AWAY))
def test_nothing_destructive_is_sent_while_a_system_cannot_be_seen(system: str) -> None:
    async def main(w: World) -> None:
        daemon = Daemon(w)
        async with daemon.running():
            w.store.add_chip(U1, C1)
            daemon.queue.put(U1)
            await w.until(lambda: w.phase() == ("qr", None))
            session = w.waha.sessions[U1][f"chip_{C1}"]
            session.status, session.me = WahaStatus.WORKING, "5511988887777@c.us"
            daemon.queue.put(U1)
            await w.until(lambda: w.phase() == ("connected", None))
            w.faults.down(system)
            sent = len(w.faults.calls)
            await asyncio.sleep(400)
            effects = {
                *("nomad.register", "nomad.stop", "nomad.purge", "nomad.delete_variables"),
                *("waha.stop", "waha.delete", "waha.restart", "waha.start", "waha.create_session"),
            }
            assert not effects & set(w.faults.calls[sent:])
            w.faults.up(system)
            await w.until(lambda: w.phase() == ("connected", None))
        assert session.starts == 1

    scenario(main)()


@scenario
async def test_the_store_may_be_away(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        w.store.add_chip(U1, C1)
        w.store.down = True
        daemon.queue.put(U1)
        await asyncio.sleep(45)
        assert w.faults.count("nomad.register") == 0
        assert "postgres" in daemon.outages
        w.store.down = False
        await w.until(lambda: w.phase() == ("qr", None), 40)
        assert "postgres" not in daemon.outages


@scenario
async def test_a_lost_answer_of_the_register_does_no_harm(w: World) -> None:
    w.faults.after["nomad.register"] = Unavailable("nomad", "connection reset")
    daemon = Daemon(w)
    async with daemon.running():
        w.store.add_chip(U1, C1)
        daemon.queue.put(U1)
        await w.until(lambda: w.faults.count("nomad.register") >= 1)
        w.faults.up("nomad")
        await w.until(lambda: w.phase() == ("qr", None))
    alive = [a for a in w.nomad.allocs[w.job()] if a.client is not ClientStatus.COMPLETE]
    assert len(alive) == 1


@scenario
async def test_a_lost_answer_of_a_create_session_does_no_harm(w: World) -> None:
    w.faults.after["waha.create_session"] = Unavailable("waha", "timeout")
    daemon = Daemon(w)
    async with daemon.running():
        w.store.add_chip(U1, C1)
        daemon.queue.put(U1)
        await w.until(lambda: w.phase() == ("qr", None))
    assert w.waha.sessions[U1][f"chip_{C1}"].starts == 1


@scenario
async def test_throttling_is_obeyed(w: World) -> None:
    w.faults.before["nomad.register"] = Throttled("nomad", "slow down", after_s=20)
    daemon = Daemon(w)
    daemon.sources = []
    async with daemon.running():
        w.store.add_chip(U1, C1)
        daemon.queue.put(U1)
        await asyncio.sleep(19)
        assert w.faults.count("nomad.register") == 1
        w.faults.up("nomad")
        await w.until(lambda: w.phase() == ("qr", None), 10)


@scenario
async def test_a_stop_that_fails_is_tried_for_ever_and_never_told_as_done(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        w.store.add_chip(U1, C1)
        daemon.queue.put(U1)
        await w.until(lambda: w.phase() == ("qr", None))
        w.faults.before["nomad.stop"] = Unavailable("nomad", "500")
        w.store.wish(C1, Wanted.DELETED)
        daemon.queue.put(U1)
        await asyncio.sleep(300)
        assert w.container() == ("stopping", "dependency_nomad")
        assert w.job() in w.nomad.held
        assert w.faults.count("nomad.stop") > 5
        w.faults.up("nomad")
        await w.until(w.nothing_left)


@scenario
async def test_two_daemons_share_the_work_without_doing_it_twice(w: World) -> None:
    one, two = Daemon(w, owner="d1"), Daemon(w, owner="d2")
    async with one.running(), two.running():
        users = [user_number(n) for n in range(1, 9)]
        for n, user in enumerate(users):
            w.store.add_chip(user, user_number(1000 + n))
            one.queue.put(user)
            two.queue.put(user)
        await w.until(lambda: all(w.phase(user_number(1000 + n)) == ("qr", None) for n in range(8)))
    assert w.faults.count("nomad.register") == 8
    assert all(s.starts == 1 for of_user in w.waha.sessions.values() for s in of_user.values())


@scenario
async def test_a_cut_event_stream_is_opened_again_and_misses_nothing(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        w.store.add_chip(U1, C1)
        daemon.queue.put(U1)
        await w.until(lambda: w.phase() == ("qr", None))
        w.nomad.cut_streams()
        w.store.add_chip(U2, C2)  # nobody says so: the relist after the reconnect finds it
        await w.until(lambda: w.phase(C2) == ("qr", None), 5)


@scenario
async def test_webhooks_in_the_inbox_are_answered_by_a_pass_that_began_later(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        w.store.add_chip(U1, C1)
        daemon.queue.put(U1)
        await w.until(lambda: w.phase() == ("qr", None))
        session = w.waha.sessions[U1][f"chip_{C1}"]
        session.status, session.me = WahaStatus.WORKING, "5511988887777@c.us"
        w.store.send_mail(U1)
        # No notification came; the inbox is read every few seconds.
        assert await w.until(lambda: w.phase() == ("connected", None)) <= 6
        await w.until(lambda: not w.store.mail, 1)


@scenario
async def test_webhooks_of_a_container_that_is_gone_are_answered_once(w: World) -> None:
    daemon = Daemon(w)
    async with daemon.running():
        w.store.send_mail(U1)  # its last words came after its row was removed
        await w.until(lambda: not w.store.mail, 6)
