"""A guard with real sockets: what gets through, what does not and why, and what is left open: nothing."""

from __future__ import annotations

import asyncio
import socket
import uuid
from typing import Any

import httpx
import msgspec
import pytest

from core.domain.chip_credentials import chip_password, chip_user
from core.domain.egress_errors import EgressError, http_status
from core.domain.guard_wire import Ask
from core.domain.labels import label
from core.domain.providers import SubUser, credential
from core.errors import Unavailable
from core.provider_templates import templates
from egress.relay import CHUNK
from tests.integration.egress.conftest import KEY, LOGIN, World, world
from tests.integration.egress.conftest import credential as chip_credential
from tests.integration.egress.doubles import Chip, HttpProxy, free_port, knock, serving
from tests.unit.egress.fakes import ALLOCATION, CHIP, NODE, OTHER, FakeApi

NEW_CHIP = str(uuid.UUID(int=77))


async def test_bytes_pass_and_the_upstream_is_told_the_chips_own_login_and_the_name(w: World) -> None:
    chip = await w.knock()
    assert chip.status == 200
    assert await chip.said(b"hello") == b"hello"
    (login,) = w.socks.logins
    assert (login.username, login.target, login.bytes_out) == (LOGIN, "echo.whatsapp.net:443", 5)
    assert [renew.asks for renew in w.api.heard if renew.asks] == [(Ask(ALLOCATION),)]


async def test_what_comes_with_the_request_is_the_tunnels_first_chunk(w: World) -> None:
    chip = await w.knock(early=b"client hello")
    assert await asyncio.wait_for(chip.reader.readexactly(12), 5) == b"client hello"


async def test_labels_are_stable_over_reconnects_and_differ_between_chips(w: World) -> None:
    template, sub_user = templates()["dataimpulse"], SubUser("login", "hunter2")
    chips = [str(uuid.UUID(int=number)) for number in (1, 2, 3)]
    for chip_id in chips:
        made = credential(template, sub_user, label(b"secret", chip_id, 1), "br", 30)
        w.routed(w.via(username=made.username), chip_id=chip_id)
    for _ in range(2):
        for chip_id in chips:
            chip = await w.knock(chip_id=chip_id)
            assert await chip.said(b"x") == b"x"
            chip.close()
    names = [login.username for login in w.socks.logins]
    assert names[:3] == names[3:]
    assert len(set(names)) == 3
    assert all(name.startswith("login__cr.br;sessid.") for name in names)


@pytest.mark.parametrize("generation", [0, 2, 255])
async def test_a_credential_of_another_label_generation_is_still_that_chip(w: World, generation: int) -> None:
    chip = await knock(
        w.guard.address, chip_user(CHIP, ALLOCATION), chip_password(KEY, CHIP, ALLOCATION, generation)
    )
    assert chip.status == 200
    chip.close()


async def test_a_chip_that_is_younger_than_the_lease_is_asked_for_at_once(w: World) -> None:
    (await w.knock()).close()
    w.routed(w.via(username="login-of-another"), chip_id=NEW_CHIP)
    chip = await w.knock(chip_id=NEW_CHIP)
    assert await chip.said(b"hello") == b"hello"
    assert w.socks.logins[-1].username == "login-of-another"


async def test_chips_that_nobody_knows_are_asked_for_together_and_a_few_times_a_second(w: World) -> None:
    (await w.knock()).close()
    before, began = len(w.api.heard), asyncio.get_running_loop().time()
    unknown = [str(uuid.UUID(int=number)) for number in range(100, 120)]
    for _ in range(3):
        chips = await asyncio.gather(*(w.knock(chip_id=chip_id) for chip_id in unknown))
        assert {chip.reason for chip in chips} == {EgressError.NO_UPSTREAM}
    took = asyncio.get_running_loop().time() - began
    # One batch of knocks may meet a request that is under way, and then its own.
    assert 3 <= len(w.api.heard) - before <= 2 * 3 + took / 0.1


@pytest.mark.parametrize("before", ["no label", "another label"])
async def test_a_route_that_is_older_than_the_chips_credential_is_asked_for_anew(
    w: World, before: str
) -> None:
    w.routed(w.via(username="old") if before == "another label" else None, why=EgressError.NO_UPSTREAM)
    user, password = chip_user(CHIP, ALLOCATION), chip_password(KEY, CHIP, ALLOCATION, 2)
    (await knock(w.guard.address, user, password)).close()
    w.routed(w.via(username="new"))
    w.api.routes = [msgspec.structs.replace(one, label_generation=2) for one in w.api.routes]
    chip = await knock(w.guard.address, user, password)
    assert await chip.said(b"hello") == b"hello"
    assert w.socks.logins[-1].username == "new"
    chip.close()
    # Both know of the same label now, so nobody is asked.
    asked = len(w.api.heard)
    (await knock(w.guard.address, user, password)).close()
    assert len(w.api.heard) == asked


async def test_a_chip_that_is_asked_for_while_its_lease_ends_gets_nothing(w: World) -> None:
    (await w.knock()).close()
    del w.api.current[ALLOCATION]
    assert (await w.knock(chip_id=NEW_CHIP)).reason == EgressError.NOT_CURRENT


async def refused(w: World, error: EgressError, target: str = "echo.whatsapp.net:443") -> None:
    before = w.guard.listener.refused[error]
    chip = await w.knock(target)
    assert (chip.reason, chip.status) == (error.value, http_status(error))
    assert await asyncio.wait_for(chip.reader.read(), 5) == f"{error.value}\n".encode()
    chip.close()
    assert w.guard.listener.refused[error] == before + 1
    await w.until(lambda: not w.guard.listener.knocking)


async def counted(w: World, error: EgressError) -> None:
    """The chip's meter has it once."""
    await w.guard.meter.flush(w.api)
    errors = [row.errors for row in w.api.batches[-1].rows]
    assert errors == [{error: 1}]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"password": "wrong"}, EgressError.PROXY_AUTH),
        ({"host": "127.0.0.1", "port": 1}, EgressError.PROXY_UNREACHABLE),
        ({"host": "gateway.invalid"}, EgressError.PROXY_UNREACHABLE),
        ({"password": "x" * 300}, EgressError.PROXY_PROTOCOL),
        ({"username": "ü"}, EgressError.PROXY_PROTOCOL),
    ],
)
async def test_an_upstream_that_will_not_have_it(
    w: World, changes: dict[str, Any], error: EgressError
) -> None:
    w.routed(w.via(**changes))
    await refused(w, error)
    await counted(w, error)


async def test_an_upstream_that_says_nothing() -> None:
    async with world(connect_s=0.2) as w:
        w.socks.silent = True
        await refused(w, EgressError.PROXY_UNREACHABLE)


@pytest.mark.parametrize("code", range(1, 10))
async def test_each_reply_of_a_socks_server_has_its_reason(w: World, code: int) -> None:
    w.socks.reply = code
    expected = {2: EgressError.PROXY_REFUSED} | dict.fromkeys(
        (3, 4, 5, 6), EgressError.PROXY_HOST_UNREACHABLE
    )
    await refused(w, expected.get(code, EgressError.PROXY_PROTOCOL))


@pytest.mark.parametrize(
    "said", [b"", b"\x04\x02", b"\x05\x01", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x05\x02\x02\x00"]
)
async def test_nonsense_of_a_socks_server(w: World, said: bytes) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(3)
        writer.write(said)
        await writer.drain()
        writer.write_eof()
        await reader.read()

    async with serving(nonsense) as port:
        w.routed(w.via(port=port))
        await refused(w, EgressError.PROXY_PROTOCOL)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 407 TRAFFIC_EXHAUSTED\r\n\r\n", EgressError.TRAFFIC_EXHAUSTED),
        (
            b"HTTP/1.1 407 Proxy Auth\r\nContent-Length: 17\r\n\r\nTHREADS_EXHAUSTED",
            EgressError.THREADS_EXHAUSTED,
        ),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", EgressError.PROXY_AUTH),
        (b"HTTP/1.1 502 NO_HOST_CONNECTION\r\n\r\n", EgressError.NO_PEER),
        (b"HTTP/1.1 503 x\r\nX-Reason: NO_RAY\r\n\r\n", EgressError.NO_PEER),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", EgressError.PROXY_HOST_UNREACHABLE),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", EgressError.PROXY_REFUSED),
        (b"HTTP/1.1 500 oops\r\n\r\n", EgressError.PROXY_PROTOCOL),
        (b"SSH-2.0-OpenSSH\r\n\r\n", EgressError.PROXY_PROTOCOL),
        (b"HTTP/1.1 200", EgressError.PROXY_PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 20_000, EgressError.PROXY_PROTOCOL),
    ],
)
async def test_each_answer_of_an_http_proxy_has_its_reason(
    w: World, answer: bytes, error: EgressError
) -> None:
    proxy = HttpProxy()
    proxy.answer = answer
    async with serving(proxy) as port:
        w.routed(w.via("http", port=port))
        await refused(w, error)


@pytest.mark.parametrize("pieces", [0, 1, 7])
async def test_an_http_proxy_whose_answer_comes_in_pieces_with_the_first_words_behind_it(
    w: World, pieces: int
) -> None:
    proxy = HttpProxy()
    proxy.pieces, proxy.early = pieces, b"server speaks first"
    proxy.hosts["echo.whatsapp.net:443"] = ("127.0.0.1", w.echo_port)
    async with serving(proxy) as port:
        w.routed(w.via("http", port=port))
        chip = await w.knock()
        assert await asyncio.wait_for(chip.reader.readexactly(len(proxy.early)), 5) == proxy.early
        assert await chip.said(b"x" * 100_000) == b"x" * 100_000
        assert [(login.username, login.target) for login in proxy.logins] == [
            (LOGIN, "echo.whatsapp.net:443")
        ]
        chip.close()


async def test_direct_is_a_choice_of_its_own() -> None:
    async with world(direct=False) as w:
        w.routed(w.via("direct"))
        await refused(w, EgressError.NO_UPSTREAM)
    port = free_port()
    async with world(direct=True, destinations=("127.0.0.1",), ports=(port,)) as w:
        w.routed(w.via("direct"))
        await refused(w, EgressError.PROXY_UNREACHABLE, f"127.0.0.1:{port}")
    async with world(direct=True, destinations=("127.0.0.1",), ports=tuple(range(1024, 65536))) as w:
        w.routed(w.via("direct"))
        chip = await w.knock(f"127.0.0.1:{w.echo_port}")
        assert await chip.said(b"hello") == b"hello"


@pytest.mark.parametrize(
    "target",
    [
        "example.com:443",
        "echo.whatsapp.net:80",
        "127.0.0.1:443",
        "169.254.169.254:443",
        "evilwhatsapp.net:443",
    ],
)
async def test_a_destination_that_is_not_listed_is_refused_and_nothing_is_asked(
    w: World, target: str
) -> None:
    await refused(w, EgressError.DESTINATION_REFUSED, target)
    assert [renew for renew in w.api.heard if renew.asks] == []
    assert w.socks.logins == []


async def test_no_name_is_resolved_here(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    real = socket.getaddrinfo

    def noted(host: object, *more: object) -> object:
        asked.append(host)
        return real(host, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    chip = await w.knock()
    assert await chip.said(b"x") == b"x"
    assert not [host for host in asked if "whatsapp" in str(host)]


async def test_who_is_not_who_it_says_is_told_to_log_in_and_the_api_is_not_asked(w: World) -> None:
    user, password = chip_credential()
    other_user, _ = chip_credential(allocation_id=OTHER)
    for wrong in (
        (user, password[:-1] + "a"),
        (user, ""),
        (other_user, password),
        ("x", password),
        (f"{CHIP}.", password),
    ):
        if wrong == (user, password):
            continue
        chip = await knock(w.guard.address, *wrong)
        assert (chip.status, chip.reason) == (407, "unauthenticated")
        assert chip.fields["Proxy-Authenticate"] == 'Basic realm="wahafleet"'
        chip.close()
    assert [renew for renew in w.api.heard if renew.asks] == []
    await w.guard.meter.flush(w.api)
    assert w.api.batches == []


async def test_without_a_lease_or_a_route_nothing_opens(w: World) -> None:
    w.api.current = {}
    await refused(w, EgressError.NOT_CURRENT)
    await asyncio.sleep(1.05)
    w.routed(None)
    await refused(w, EgressError.NO_UPSTREAM)
    assert w.socks.logins == []


@pytest.mark.parametrize("why", [EgressError.TRAFFIC_EXHAUSTED, EgressError.QUOTA, EgressError.NO_UPSTREAM])
async def test_a_route_without_upstream_says_why(w: World, why: EgressError) -> None:
    w.routed(None, why=why)
    await refused(w, why)
    await counted(w, why)


async def test_a_plan_that_is_used_up_opens_nothing_more(w: World) -> None:
    w.routed(w.via(), quota_left_bytes=0)
    await refused(w, EgressError.QUOTA)
    assert w.socks.logins == []


async def test_a_chip_without_a_route_in_a_granted_allocation(w: World) -> None:
    chip = await w.knock(chip_id=OTHER)
    assert chip.reason == "no_upstream"


async def test_an_api_that_is_away_lets_nobody_new_in(w: World) -> None:
    w.api.failure = Unavailable("api", "away")
    await refused(w, EgressError.NOT_CURRENT)


async def test_a_full_guard_says_so_and_has_room_again_when_one_leaves() -> None:
    async with world(tunnels=3) as w:
        chips = [await w.knock() for _ in range(3)]
        assert [chip.status for chip in chips] == [200] * 3
        assert w.guard.listener.is_full
        await refused(w, EgressError.GUARD_FULL)
        await counted_full(w)
        chips[0].close()
        await w.until(lambda: not w.guard.listener.is_full)
        assert (await w.knock()).status == 200


async def counted_full(w: World) -> None:
    await w.guard.meter.flush(w.api)
    (row,) = w.api.batches[-1].rows
    assert row.errors == {EgressError.GUARD_FULL: 1}
    assert row.tunnels == 3


async def test_a_hundred_chips_at_once_get_no_more_than_there_is() -> None:
    async with world(tunnels=20) as w:
        chips = await asyncio.gather(*(w.knock() for _ in range(100)))
        assert sorted(chip.status for chip in chips) == [200] * 20 + [503] * 80
        assert {chip.reason for chip in chips} == {None, "guard_full"}


async def test_each_side_may_say_its_last_word_and_still_hear(w: World) -> None:
    chip = await w.knock()
    chip.writer.write(b"last words")
    chip.writer.write_eof()
    assert await asyncio.wait_for(chip.reader.read(), 5) == b"last wordsgoodbye"
    await w.until(lambda: not w.guard.listener.tunnels)


async def test_the_far_side_may_say_its_last_word_first(w: World) -> None:
    heard = bytearray()

    async def brief(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"brief")
        writer.write_eof()
        heard.extend(await reader.read())

    async with serving(brief) as port:
        w.socks.hosts["echo.whatsapp.net:443"] = ("127.0.0.1", port)
        chip = await w.knock()
        assert await asyncio.wait_for(chip.reader.read(), 5) == b"brief"
        chip.writer.write(b"x" * 1_000_000)
        chip.writer.write_eof()
        await w.until(lambda: len(heard) == 1_000_000)
        await w.until(lambda: not w.guard.listener.tunnels)


async def test_a_side_that_vanishes_takes_the_other_with_it(w: World) -> None:
    chip = await w.knock()
    assert await chip.said(b"x") == b"x"
    sock = chip.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    chip.close()
    await w.until(lambda: not w.guard.listener.tunnels)
    await w.until(lambda: w.socks.logins[0].was_reset)


async def test_a_reader_that_does_not_read_holds_up_its_writer_and_fills_nobodys_memory(w: World) -> None:
    taken = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            taken += 65536

    async with serving(flood) as port:
        w.socks.hosts["echo.whatsapp.net:443"] = ("127.0.0.1", port)
        chip = await w.knock()
        chip.writer.transport.pause_reading()  # type: ignore[attr-defined]
        last = -1
        while taken != last:
            last = taken
            await asyncio.sleep(0.2)
        (tunnel,) = w.guard.listener.tunnels
        kept = tunnel._inward.kept
        assert kept is not None
        assert len(kept) <= CHUNK
        assert w.guard.meter.totals()[0] <= taken
        # The kernel's buffers of three connections, and one chunk: far from what was there to be had.
        assert taken < 64 * 1024 * 1024
        chip.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await asyncio.wait_for(chip.reader.readexactly(taken), 30)
        chip.close()


async def test_a_large_answer_arrives_as_it_was_sent(w: World) -> None:
    sent = bytes(range(256)) * 40_000
    chip = await w.knock()

    async def write() -> None:
        chip.writer.write(sent)
        await chip.writer.drain()
        chip.writer.write_eof()

    writing = asyncio.create_task(write())
    assert await asyncio.wait_for(chip.reader.read(-1), 30) == sent + b"goodbye"
    await writing
    await w.guard.meter.flush(w.api)
    rows = [row for batch in w.api.batches for row in batch.rows]
    assert sum(row.bytes_out for row in rows) == len(sent)
    assert sum(row.bytes_in for row in rows) == len(sent) + 7
    assert sum(row.tunnels for row in rows) == 1
    assert {(row.chip_id, row.allocation_id, row.provider) for row in rows} == {
        (CHIP, ALLOCATION, "dataimpulse")
    }


async def test_silent_tunnels_and_old_ones_are_closed() -> None:
    async with world(idle_s=1) as w:
        chip, busy = await w.knock(), await w.knock()

        talking = asyncio.create_task(talk_on(busy))
        assert await chip.is_cut()
        assert not talking.done()
        talking.cancel()
    async with world(idle_s=1, life_s=1) as w:
        chip = await w.knock()
        # Busy as it is, it ends a second after it began.
        talking = asyncio.create_task(talk_on(chip))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(talking, 5)


async def talk_on(chip: Chip) -> None:
    while True:
        await chip.said(b"x")
        await asyncio.sleep(0.2)


async def test_who_says_nothing_and_who_never_ends_is_hung_up_on() -> None:
    async with world(head_s=0.3) as w:
        reader, writer = await asyncio.open_connection(*w.guard.address)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        reader, writer = await asyncio.open_connection(*w.guard.address)
        for char in b"CONN":
            writer.write(bytes([char]))
            await asyncio.sleep(0.05)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        await w.until(lambda: not w.guard.listener.knocking)


async def test_health_and_metrics_tell_of_everything_and_of_nobody() -> None:
    async with world(status_listen="127.0.0.1:0") as w:
        chip = await w.knock()
        await chip.said(b"hello")
        await refused(w, EgressError.DESTINATION_REFUSED, "example.com:443")
        assert w.guard.status_url is not None
        async with httpx.AsyncClient(base_url=w.guard.status_url, trust_env=False) as http:
            health, metrics = await http.get("/health"), await http.get("/metrics")
            assert (await http.get("/")).status_code == 404
            assert (await http.post("/health")).status_code == 405
        assert health.json() == {"status": "ready", "problems": []}
        for line in (
            "wahafleet_guard_tunnels_total 1.0",
            "wahafleet_guard_tunnels_open 1.0",
            'wahafleet_guard_bytes_total{direction="in"} 5.0',
            'wahafleet_guard_bytes_total{direction="out"} 5.0',
            'wahafleet_guard_refused_total{reason="destination_refused"} 1.0',
            "wahafleet_guard_leases_held 1.0",
        ):
            assert line in metrics.text.splitlines()
        for secret in (CHIP, ALLOCATION, NODE, LOGIN, "127.0.0.1"):
            assert secret not in metrics.text
        w.guard.health.stopping = True
        assert w.guard.health.answer("GET", "/health", "")[0] == 503
        assert w.guard.health.problems() == ["stopping"]


async def test_at_its_end_a_guard_closes_everything_gives_back_and_tells_what_was_used() -> None:
    async with world() as w:
        api: FakeApi = w.api
        chip = await w.knock()
        await chip.said(b"hello")
    assert Ask(ALLOCATION, 1) in api.closed
    assert [row.bytes_out for batch in api.batches for row in batch.rows] == [5]
