"""When a lease ends, so does every byte: revoked, run out, frozen, killed. Judged by what arrives upstream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from core.domain.egress_errors import EgressError
from core.domain.guard_wire import Ask, Renew, Renewed, Upstream
from core.errors import Unavailable
from egress.leases import Times
from egress.relay import CHUNK
from tests.integration.egress.conftest import LOGIN, PASSWORD, World, credential, world
from tests.integration.egress.doubles import Chip, Login, Socks5, echo, knock, serving
from tests.integration.egress.process import GuardProcess, guard_process, http_api
from tests.unit.egress.fakes import ALLOCATION, CHIP, OTHER, FakeApi, route

# A life of 3 s, of which a guard uses 1.4.
SHORT = {"TTL_S": "3", "RENEW_S": "0.3", "MARGIN_S": "1.6"}


async def pour(chip: Chip) -> None:
    """Send for as long as it can, and read what comes back."""

    async def read() -> None:
        while await chip.reader.read(CHUNK):
            pass

    reading = asyncio.create_task(read())
    with contextlib.suppress(ConnectionError):
        while True:
            chip.writer.write(b"x" * 16384)
            await chip.writer.drain()
            await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_revoked_closes_its_own_tunnels_confirms_at_once_and_leaves_others(w: World) -> None:
    w.routed(w.via(username="other"), OTHER, grant=2)
    mine = [await w.knock() for _ in range(3)]
    other = await w.knock(allocation_id=OTHER)
    pouring = [asyncio.create_task(pour(chip)) for chip in mine]
    await asyncio.sleep(0.2)
    del w.api.current[ALLOCATION]
    confirmed_at_bytes: list[int] = []
    real = w.api.renew

    async def noted(renew: Renew) -> Renewed:
        if Ask(ALLOCATION, 1) in renew.closed:
            confirmed_at_bytes.append(sum(cell.bytes_out for cell in w.guard.meter._cells.values()))
            assert w.guard.leases.find(ALLOCATION).open == set()  # type: ignore[union-attr]
        return await real(renew)

    w.api.renew = noted  # type: ignore[method-assign]
    # Another chip of the same allocation would not get it either, and its knock makes the guard ask.
    w.guard.leases.find(ALLOCATION).waiting.append(asyncio.get_running_loop().create_future())  # type: ignore[union-attr]
    w.guard.leases._wake.set()
    await asyncio.wait_for(asyncio.gather(*pouring), 5)
    await w.until(lambda: confirmed_at_bytes)
    await asyncio.sleep(0.3)
    forwarded = sum(cell.bytes_out for cell in w.guard.meter._cells.values())
    assert forwarded == confirmed_at_bytes[0]
    assert await other.said(b"still here") == b"still here"
    await w.until(lambda: not w.guard.leases.unconfirmed)


async def test_a_chunk_that_comes_after_the_deadline_is_not_forwarded_whatever_the_timer_does(
    w: World,
) -> None:
    chip = await w.knock()
    assert await chip.said(b"in time") == b"in time"
    lease = w.guard.leases.find(ALLOCATION)
    assert lease is not None
    assert lease.timer is not None
    lease.timer.cancel()  # as if the loop had no time for it
    lease.deadline = 0
    chip.writer.write(b"too late")
    assert await chip.is_cut()
    await asyncio.sleep(0.1)
    assert w.socks.logins[0].bytes_out == len(b"in time")
    assert not w.guard.listener.tunnels


async def test_what_is_kept_for_a_slow_upstream_is_not_sent_after_the_deadline(w: World) -> None:
    """The lease is looked at before each `send`, not when the bytes were read."""
    let_go = asyncio.Event()
    heard = 0

    async def slow(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal heard
        await let_go.wait()
        while data := await reader.read(65536):
            heard += len(data)

    async def plain_socks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        writer.write(b"\x05\x02")
        await reader.readexactly(3 + len(LOGIN) + len(PASSWORD))
        writer.write(b"\x01\x00")
        await reader.readexactly(5 + len("echo.whatsapp.net") + 2)
        writer.write(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        await slow(reader, writer)

    async with serving(plain_socks) as port:
        w.routed(w.via(port=port))
        chip = await w.knock()
        pouring = asyncio.create_task(pour(chip))
        (tunnel,) = w.guard.listener.tunnels
        await w.until(lambda: tunnel._outward.kept is not None)
        await asyncio.sleep(0.2)
        forwarded = tunnel.cell.bytes_out
        lease = w.guard.leases.find(ALLOCATION)
        assert lease is not None
        assert lease.timer is not None
        lease.timer.cancel()
        lease.deadline = 0
        let_go.set()
        await asyncio.wait_for(pouring, 5)
        await asyncio.sleep(0.2)
        assert tunnel.cell.bytes_out == forwarded
        assert heard <= forwarded


async def test_a_lease_that_ends_while_the_upstream_is_being_asked_opens_nothing(w: World) -> None:
    w.socks.silent = True
    knocking = asyncio.create_task(w.knock())
    await w.until(lambda: (lease := w.guard.leases.find(ALLOCATION)) is not None and bool(lease.open))
    lease = w.guard.leases.find(ALLOCATION)
    assert lease is not None
    w.guard.leases._end(lease)
    chip = await asyncio.wait_for(knocking, 1)
    assert chip.reason == "not_current"
    assert lease.open == set()


async def test_no_login_is_sent_once_the_lease_has_ended(w: World) -> None:
    met = asyncio.Event()
    login = bytearray()

    async def slow_greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(4)
        met.set()
        await asyncio.sleep(0.2)
        writer.write(b"\x05\x02")
        login.extend(await reader.read(1000))

    async with serving(slow_greeting) as port:
        w.routed(w.via(port=port))
        knocking = asyncio.create_task(w.knock())
        await met.wait()
        lease = w.guard.leases.find(ALLOCATION)
        assert lease is not None
        assert lease.timer is not None
        lease.timer.cancel()
        lease.deadline = 0
        assert (await knocking).reason == "not_current"
        assert bytes(login) == b""


async def test_an_api_that_is_away_ends_tunnels_at_the_deadline_and_not_before() -> None:
    async with world(ttl_s=3, renew_s=0.3, margin_s=1.6) as w:
        w.api.ttl_s = 3
        chip = await w.knock()
        await asyncio.sleep(0.5)
        away_at = asyncio.get_running_loop().time()
        w.api.failure = Unavailable("api", "away")
        pouring = asyncio.create_task(pour(chip))
        await asyncio.wait_for(pouring, 5)
        lasted_s = asyncio.get_running_loop().time() - away_at
        assert 1.4 - 0.3 - 0.1 < lasted_s < 1.4 + 0.3
        w.api.failure = None
        await asyncio.sleep(1.1)
        assert (await w.knock()).status == 200


@pytest.mark.parametrize("hangs", [False, True], ids=["refused", "silent"])
async def test_store_and_api_away_for_a_minute_close_no_tunnel(hangs: bool) -> None:
    """The figures of the defaults, six times as fast: whatever part of a period the minute begins in."""

    async def away_for_a_minute(begins: float) -> None:
        async with world(ttl_s=15, renew_s=10 / 6, margin_s=20 / 6) as w:
            w.api.ttl_s = 15
            chip = await w.knock()
            heard = len(w.api.heard)
            await w.until(lambda: len(w.api.heard) > heard)
            await asyncio.sleep(begins * Times(15, 10 / 6, 20 / 6).period_s)
            w.api.failure = None if hangs else Unavailable("api", "away")
            w.api.held_up = asyncio.get_running_loop().create_future if hangs else None
            await asyncio.sleep(10)
            w.api.failure = w.api.held_up = None
            await asyncio.sleep(1)
            assert await chip.said(b"still here") == b"still here"
            assert w.guard.leases.ran_out == 0

    await asyncio.gather(*(away_for_a_minute(begins) for begins in (0.1, 0.5, 0.95)))


async def test_a_chip_whose_route_changes_is_cut_and_comes_back_by_the_new_one() -> None:
    async with world(ttl_s=3, renew_s=0.3, margin_s=1.6) as w:
        w.api.ttl_s = 3
        w.routed(w.via(), chip_id=OTHER)
        chip, other = await w.knock(), await w.knock(chip_id=OTHER)
        assert await chip.said(b"x") == b"x"
        await asyncio.sleep(0.5)
        w.routed(w.via(username="login-next"))
        assert await chip.is_cut()
        again = await w.knock()
        assert await again.said(b"x") == b"x"
        assert [login.username for login in w.socks.logins] == [LOGIN, LOGIN, "login-next"]
        w.routed(None, why=EgressError.TRAFFIC_EXHAUSTED)
        assert await again.is_cut()
        assert (await w.knock()).reason == "traffic_exhausted"
        assert await other.said(b"x") == b"x"


async def test_a_route_that_changes_while_a_way_is_opened_ends_it() -> None:
    async with world(ttl_s=3, renew_s=0.3, margin_s=1.6, connect_s=10) as w:
        w.api.ttl_s = 3
        w.socks.silent = True
        knocking = asyncio.create_task(w.knock())
        await w.until(lambda: (lease := w.guard.leases.find(ALLOCATION)) is not None and bool(lease.open))
        w.routed(w.via(username="login-next"))
        chip = await asyncio.wait_for(knocking, 2)
        assert chip.status == 403


@asynccontextmanager
async def outside(
    tmp_path: Path, **settings: str
) -> AsyncIterator[tuple[GuardProcess, FakeApi, Socks5, str]]:
    """A guard as a process, with everything else in this one."""
    api, socks = FakeApi(float(settings.get("TTL_S", "90"))), Socks5()
    async with (
        serving(echo) as echo_port,
        serving(socks) as socks_port,
        http_api(api) as url,
        guard_process(url, tmp_path / "guard.log", **settings) as guard,
    ):
        socks.hosts["echo.whatsapp.net:443"] = ("127.0.0.1", echo_port)
        api.current[ALLOCATION] = 1
        api.routes = [route(upstream=Upstream("socks5", "127.0.0.1", socks_port, LOGIN, PASSWORD, "generic"))]
        yield guard, api, socks, url


async def test_a_guard_that_is_killed_takes_all_tunnels_with_it_and_its_successor_goes_on(
    tmp_path: Path,
) -> None:
    async with outside(tmp_path, **SHORT) as (guard, api, socks, url):
        chips = [await knock(guard.address, *credential()) for _ in range(5)]
        assert [await chip.said(b"x") for chip in chips] == [b"x"] * 5
        await asyncio.sleep(0.5)  # a period and more: this much is told
        await guard.kill()
        assert [await chip.is_cut() for chip in chips] == [True] * 5
        for chip in chips:
            chip.close()
        told = sum(row.bytes_out for batch in api.batches for row in batch.rows)
        assert told == 5
        began = asyncio.get_running_loop().time()
        async with guard_process(url, tmp_path / "second.log", **SHORT) as second:
            began = asyncio.get_running_loop().time()
            chip = await knock(second.address, *credential())
            assert await chip.said(b"again") == b"again"
            assert asyncio.get_running_loop().time() - began < 0.3  # one renew period
            chip.close()
        assert {login.username for login in socks.logins} == {LOGIN}
        assert Ask(ALLOCATION, 1) in api.closed  # of the second one, which was told to stop


async def test_a_guard_that_was_frozen_beyond_its_deadline_forwards_nothing_when_it_wakes(
    tmp_path: Path,
) -> None:
    async with outside(tmp_path, **SHORT) as (guard, _, socks, _url):
        chips = [await knock(guard.address, *credential()) for _ in range(5)]
        pouring = [asyncio.create_task(pour(chip)) for chip in chips]
        await asyncio.sleep(0.5)
        guard.freeze()
        await asyncio.sleep(0.2)
        before = sum(login.bytes_out for login in socks.logins)
        assert before > 0
        await asyncio.sleep(1.5)  # more than 1.4, and less than its watchdog waits
        await asyncio.sleep(0.1)
        still = sum(login.bytes_out for login in socks.logins)
        guard.thaw()
        await asyncio.wait_for(asyncio.gather(*pouring), 5)
        for chip in chips:
            chip.close()
        await asyncio.sleep(0.2)
        assert sum(login.bytes_out for login in socks.logins) == still
        # It is current still, so it goes on with new tunnels.
        await asyncio.sleep(1)
        chip = await knock(guard.address, *credential())
        assert await chip.said(b"again") == b"again"
        chip.close()


async def test_a_guard_told_to_stop_gives_back_tells_all_and_logs_no_secret(tmp_path: Path) -> None:
    async with outside(tmp_path) as (guard, api, _, _url):
        chip = await knock(guard.address, *credential())
        assert await chip.said(b"hello") == b"hello"
        guard.process.terminate()
        assert await asyncio.wait_for(guard.process.wait(), 10) == 0
        assert await chip.is_cut()
        chip.close()
        assert api.closed == [Ask(ALLOCATION, 1)]
        assert [row.bytes_out for batch in api.batches for row in batch.rows] == [5]
        log = guard.log.read_text()
        assert [line["message"] for line in guard.lines][-2:] == ["guard_stopping", "guard_stopped"]
        for secret in (PASSWORD, LOGIN, *credential(), CHIP):
            assert secret not in log


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.1])
async def test_two_allocations_of_a_user_never_overlap_upstream(tmp_path: Path, delay_s: float) -> None:
    """The old one is revoked, and the new one granted when the old is confirmed closed: as the store does it."""
    api, socks = FakeApi(3), Socks5()
    async with serving(echo) as echo_port, serving(socks) as socks_port, http_api(api) as url:
        socks.hosts["echo.whatsapp.net:443"] = ("127.0.0.1", echo_port)
        made = Upstream("socks5", "127.0.0.1", socks_port, "old", PASSWORD, "generic")
        api.routes = [
            route(upstream=made),
            route(OTHER, upstream=msgspec.structs.replace(made, username="new")),
        ]
        async with (
            guard_process(url, tmp_path / "old.log", **SHORT) as old,
            guard_process(url, tmp_path / "new.log", **SHORT) as new,
        ):
            api.current[ALLOCATION] = 1
            gone = await knock(old.address, *credential())
            pouring = asyncio.create_task(pour(gone))
            await asyncio.sleep(0.5 + delay_s)
            del api.current[ALLOCATION]
            api.waiting.add(OTHER)
            while Ask(ALLOCATION, 1) not in api.closed:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.001)
            api.current[OTHER] = 2
            chip = await until_open(new)
            other = asyncio.create_task(pour(chip))
            await asyncio.sleep(0.3)
            chip.close()
            await asyncio.wait_for(asyncio.gather(pouring, other), 5)
            gone.close()
    by_name: dict[str, list[Login]] = {"old": [], "new": []}
    for login in socks.logins:
        by_name[login.username].append(login)
    last_old = max(login.last_at for login in by_name["old"] if login.last_at is not None)
    first_new = min(login.first_at for login in by_name["new"] if login.first_at is not None)
    assert last_old < first_new


async def until_open(guard: GuardProcess) -> Chip:
    async with asyncio.timeout(10):
        while True:
            chip = await knock(guard.address, *credential(allocation_id=OTHER))
            if chip.status == 200:
                return chip
            chip.close()
            await asyncio.sleep(0.1)
