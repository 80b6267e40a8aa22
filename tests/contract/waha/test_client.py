"""Our client against the simulator, and against a real WAHA when there is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from core.clients.waha import KEY_REJECTED, WahaClient, WahaClients, WrongState
from core.clients.waha_models import AlreadyExists, WahaProxy
from core.domain.facts import WahaStatus
from core.errors import Missing, Rejected, Unavailable
from sandbox.waha import phone
from tests.unit.waha_simulator.test_qr import decode

from .conftest import KEY, Containers, Target, create, eventually, scan, url_of

CONFIG: dict[str, Any] = {"metadata": {"user": "42"}, "proxy": {"server": "127.0.0.1:3128"}}


@pytest.fixture
async def clients() -> AsyncIterator[WahaClients]:
    async with WahaClients() as clients:
        yield clients


@pytest.fixture
def waha(target: Target, clients: WahaClients) -> WahaClient:
    host, _, port = target.url.removeprefix("http://").rstrip("/").partition(":")
    return clients.at(host, int(port), target.key)


@pytest.fixture
def simulated(start_container: Containers, clients: WahaClients) -> WahaClient:
    return clients.at(*start_container().address, KEY)


async def until(waha: WahaClient, name: str, status: WahaStatus) -> None:
    async def reached() -> bool:
        return (await waha.session(name)).status is status

    await eventually(reached)


async def test_a_proxy_stands_in_the_list_as_it_was_written(target: Target, waha: WahaClient) -> None:
    """What a daemon compares before each start."""
    name, proxies = (
        target.new_name(),
        [{"server": "127.0.0.1:9", "username": "u", "password": p} for p in "ab"],
    )
    await waha.create_session(name, {**CONFIG, "proxy": proxies[0]}, start=False)
    assert [s.config.proxy for s in await waha.sessions() if s.name == name] == [WahaProxy(**proxies[0])]
    await waha.update_session(name, {**CONFIG, "proxy": proxies[1]})
    (told,) = [s for s in await waha.sessions() if s.name == name]
    assert (told.config.proxy, told.status) == (WahaProxy(**proxies[1]), WahaStatus.STOPPED)
    await waha.update_session(name, {"metadata": {"user": "42"}})
    assert [s.config.proxy for s in await waha.sessions() if s.name == name] == [None]
    await waha.delete(name)


async def test_a_life_in_stopped(target: Target, waha: WahaClient) -> None:
    name = target.new_name()
    await waha.ping()
    assert (await waha.version()).engine == target.engine
    assert (await waha.server_status()).started_at_ms > 1_600_000_000_000
    created = await waha.create_session(name, CONFIG, start=False)
    assert not isinstance(created, AlreadyExists)
    assert created.status is WahaStatus.STOPPED
    assert await waha.create_session(name, CONFIG, start=True) == AlreadyExists(name)
    assert (await waha.session(name)).config.metadata == {"user": "42"}
    updated = await waha.update_session(name, {"metadata": {"user": "43"}})
    assert updated.status is WahaStatus.STOPPED
    assert [s.config.metadata for s in await waha.sessions() if s.name == name] == [{"user": "43"}]
    stopped = await waha.stop(name)
    assert stopped is not None
    assert stopped.status is WahaStatus.STOPPED
    await waha.delete(name)
    await waha.delete(name)
    assert await waha.stop(name) is None
    with pytest.raises(Missing):
        await waha.session(name)


async def test_one_call_tells_a_deaf_session_from_a_quiet_one(
    start_container: Containers, clients: WahaClients
) -> None:
    container = start_container()
    waha = clients.at(*container.address, KEY)
    async with httpx.AsyncClient(base_url=url_of(container), headers={"X-Api-Key": KEY}) as http:
        await create(http, "s")
        starting = await waha.probe("s")
        assert (starting.session.status is WahaStatus.WORKING, starting.connected) == (False, False)
        await scan(http, "s")
        assert (await waha.probe("s")).connected is True
        await http.post("/sim/sessions/s/faults", json={"silent": True})
        assert (await waha.probe("s")).connected is True  # nothing comes, and it would hear it
        await http.post("/sim/sessions/s/faults", json={})
        await http.post("/sim/sessions/s/deafen", json={})
        deaf = await waha.probe("s")
        assert (deaf.session.status, deaf.connected) == (WahaStatus.WORKING, False)
        listed = next(one for one in await waha.sessions() if one.name == "s")
        assert (listed.status, listed.activity_ms) == (WahaStatus.WORKING, deaf.session.activity_ms)
        await waha.restart("s")
        await until(waha, "s", WahaStatus.WORKING)
        assert (await waha.probe("s")).connected is True


@pytest.mark.parametrize("call", ["start", "restart", "logout", "session", "probe"])
async def test_unknown_sessions_are_missing(waha: WahaClient, call: str) -> None:
    with pytest.raises(Missing):
        await getattr(waha, call)("nobody_here")
    with pytest.raises(Missing):
        await waha.update_session("nobody_here", {})


async def test_a_wrong_key_is_rejected_and_never_missing(target: Target, clients: WahaClients) -> None:
    host, _, port = target.url.removeprefix("http://").rstrip("/").partition(":")
    stranger = clients.at(host, int(port), "wrong")
    for call in (stranger.sessions(), stranger.session("x"), stranger.delete("x"), stranger.qr("x")):
        with pytest.raises(Rejected) as caught:
            await call
        assert caught.value.code == KEY_REJECTED
    await stranger.ping()


async def test_a_bad_name_is_rejected(waha: WahaClient) -> None:
    with pytest.raises(Rejected):
        await waha.create_session("with blank", {})


async def test_the_qr_of_an_unknown_session_is_a_wrong_state(waha: WahaClient) -> None:
    with pytest.raises(WrongState) as caught:
        await waha.qr("nobody_here")
    assert caught.value.status is None


async def test_qr_scan_working_and_back(start_container: Containers, clients: WahaClients) -> None:
    container = start_container()
    waha = clients.at(*container.address, KEY)
    await waha.create_session("chip_1", {"metadata": {"user": "42"}}, start=True)
    shown = await waha.qr("chip_1")
    assert decode(shown.png).startswith("2@")
    result = await phone.scan(url_of(container), KEY, "chip_1", "5511999990000", push_name="Ana")
    assert (result.status, result.phone_number, result.push_name) == ("WORKING", "5511999990000", "Ana")
    session = await waha.session("chip_1")
    assert (session.status, session.me_id, session.me_push_name) == (
        WahaStatus.WORKING,
        "5511999990000@c.us",
        "Ana",
    )
    assert session.activity_ms is not None
    with pytest.raises(WrongState) as caught:
        await waha.qr("chip_1")
    assert caught.value.status is WahaStatus.WORKING
    stopped = await waha.stop("chip_1")
    assert stopped is not None
    assert stopped.me_id == "5511999990000@c.us"
    assert stopped.assigned_worker is None
    assert (await waha.start("chip_1")).assigned_worker == "u1"
    await until(waha, "chip_1", WahaStatus.WORKING)
    assert (await waha.logout("chip_1")).me_id is None
    await waha.qr("chip_1")


async def test_a_pairing_code_from_request_to_working(
    start_container: Containers, clients: WahaClients
) -> None:
    container = start_container()
    waha = clients.at(*container.address, KEY)
    await waha.create_session("chip_1", {}, start=True)
    code = await waha.request_code("chip_1", "5511999990000")
    result = await phone.enter_code(url_of(container), KEY, "chip_1", code)
    assert result.phone_number == "5511999990000"


async def test_a_qr_that_is_not_waited_for_is_unavailable(simulated: WahaClient) -> None:
    with pytest.raises(Unavailable):
        await simulated.qr("nobody_here", timeout_s=0.02)


async def test_a_busy_session_is_unavailable_and_keeps_its_secrets(
    start_container: Containers, clients: WahaClients
) -> None:
    container = start_container()
    waha = clients.at(*container.address, KEY)
    await waha.create_session("chip_1", {})
    await phone.control(url_of(container), KEY, "chip_1", "faults", {"hang_seconds": 200})
    start = asyncio.create_task(waha.start("chip_1"))
    await asyncio.sleep(0.02)
    with pytest.raises(Unavailable) as caught:
        await waha.update_session("chip_1", {"proxy": {"server": "x:1", "password": "hunter2"}})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(Unavailable):
        await start


async def test_nobody_listening_is_unavailable(start_container: Containers, clients: WahaClients) -> None:
    container = start_container()
    waha = clients.at(*container.address, KEY)
    await waha.ping()
    container.kill()
    assert container.wait(10) == 137
    with pytest.raises(Unavailable):
        await waha.ping()


# The phone's sentences


async def test_the_phone_says_what_is_wrong(start_container: Containers) -> None:
    base_url = url_of(start_container())
    with pytest.raises(phone.PhoneError, match="no session nobody"):
        await phone.scan(base_url, KEY, "nobody")
    with pytest.raises(phone.PhoneError, match="API key"):
        await phone.scan(base_url, "wrong", "nobody")
    with pytest.raises(phone.PhoneError, match="does not answer"):
        await phone.scan("http://127.0.0.1:9", KEY, "nobody")


async def test_the_phone_finds_nothing_to_scan(start_container: Containers, clients: WahaClients) -> None:
    container = start_container()
    waha = clients.at(*container.address, KEY)
    await waha.create_session("chip_1", {})
    with pytest.raises(phone.PhoneError, match="STOPPED"):
        await phone.scan(url_of(container), KEY, "chip_1")
    await waha.start("chip_1")
    await phone.scan(url_of(container), KEY, "chip_1")
    with pytest.raises(phone.PhoneError, match="nothing to scan"):
        await phone.scan(url_of(container), KEY, "chip_1")


async def test_unlink_and_drop_from_the_phone(start_container: Containers, clients: WahaClients) -> None:
    container = start_container()
    waha = clients.at(*container.address, KEY)
    await waha.create_session("chip_1", {}, start=True)
    await phone.scan(url_of(container), KEY, "chip_1")
    assert (await phone.drop(url_of(container), KEY, "chip_1", 5)).status == "STARTING"
    await until(waha, "chip_1", WahaStatus.WORKING)
    assert (await phone.unlink(url_of(container), KEY, "chip_1")).status == "FAILED"
