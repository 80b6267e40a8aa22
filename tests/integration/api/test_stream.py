"""`GET /chips/{id}/stream`, over two replicas on one store."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import jwt
import pytest

from api.streams import StreamLimits
from core.domain.history import event_id
from tests.integration.api.conftest import Running, Start
from tests.integration.api.fleet import DISCONNECTED, QR, STARTING, WORKING
from tests.integration.api.live import at, listening, served, stream_url


@dataclass
class Replicas:
    """Two API processes' worth on one store; `here` is listened to, `there` is called."""

    running: Running
    here: str
    there: str


@pytest.fixture
async def replicas(start: Start) -> AsyncIterator[Replicas]:
    async with start() as first, start() as second, served(first) as here, served(second) as there:
        yield Replicas(first, here, there)


async def test_state_comes_at_once_and_changes_through_another_replica_within_a_second(
    replicas: Replicas,
) -> None:
    person = await replicas.running.person()
    chip = await person.chip()
    async with listening(stream_url(replicas.here, chip["id"]), person.headers) as ear:
        assert (await ear.until("status"))["status"] == "WAITING_QR"
        assert (await ear.until("phase"))["phase"] == "queued"
        assert (await ear.until("qr"))["qr"] is None
        answer = await at(replicas.there, person, "POST", f"/chips/{chip['id']}/disconnect")
        assert answer.status_code == 200
        began = time.monotonic()
        await ear.until("status", status="DISCONNECTED")
        told = await ear.until("event", type="info")
        assert time.monotonic() - began < 1
        assert told["description"] == "Desconexão solicitada."
        assert (await ear.until("qr", status=None))["message"]
        assert ear.of("phase")[-1]["phase"] == "disconnecting"


async def test_what_a_pass_wrote_is_heard(replicas: Replicas) -> None:
    person = await replicas.running.person()
    chip = await person.chip()
    async with listening(stream_url(replicas.here, chip["id"]), person.headers) as ear:
        await ear.until("status")
        await replicas.running.daemon.saw(person.id, chips={chip["id"]: WORKING})
        status = await ear.until("status", 1, status="CONNECTED")
        assert status["phone_number"] == "+5511988887777"
        event = await ear.until("event", type="status_change")
        extra = event["extra_data"]
        assert (extra["from"], extra["to"], extra["status"]) == ("WAITING_QR", "CONNECTED", "CONNECTED")
        assert (await ear.until("qr", status="WORKING"))["seconds_left"] is None


async def test_a_deleted_chip_ends_the_stream_and_is_gone_after_it(replicas: Replicas) -> None:
    person = await replicas.running.person()
    chip = await person.chip()
    url = stream_url(replicas.here, chip["id"])
    async with listening(url, person.headers) as ear:
        await ear.until("status")
        await at(replicas.there, person, "DELETE", f"/chips/{chip['id']}")
        await ear.end(1)
        assert [one.event for one in ear.heard[-2:]] == ["event", "end"]
        assert ear.heard[-2].data["description"] == "Chip excluído."
        assert ear.heard[-1].data == {"reason": "chip_deleted", "detail": "Chip não encontrado."}
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(url, headers=person.headers)).status_code == 404


async def test_other_users_and_strangers_get_no_stream(replicas: Replicas) -> None:
    person, other = await replicas.running.person(), await replicas.running.person()
    chip = await person.chip()
    url = stream_url(replicas.here, chip["id"])
    async with httpx.AsyncClient(trust_env=False) as http:
        foreign = await http.get(url, headers=other.headers)
        assert (foreign.status_code, foreign.json()["detail"]) == (404, "Chip não encontrado.")
        assert (await http.get(url)).status_code == 401
        malformed = await http.get(stream_url(replicas.here, "x"), headers=person.headers)
        assert malformed.status_code == 404


async def test_one_users_news_reach_nobody_else(replicas: Replicas) -> None:
    person, other = await replicas.running.person(), await replicas.running.person()
    mine, theirs = await person.chip(), await other.chip()
    async with (
        listening(stream_url(replicas.here, mine["id"]), person.headers) as ear,
        listening(stream_url(replicas.here, theirs["id"]), other.headers) as others,
    ):
        await ear.until("qr")
        await others.until("qr")
        known = len(others.heard)
        await at(replicas.there, person, "POST", f"/chips/{mine['id']}/disconnect")
        await ear.until("status", status="DISCONNECTED")
        await asyncio.sleep(0.3)
        assert len(others.heard) == known


@pytest.mark.parametrize(
    ("case", "headers", "word"),
    [
        ("auto", {}, "CONNECTED"),
        ("auto", {"Sec-Fetch-Mode": "cors"}, "connected"),
        ("upper", {"Sec-Fetch-Mode": "cors"}, "CONNECTED"),
        ("lower", {}, "connected"),
    ],
)
async def test_letter_case(start: Start, case: str, headers: dict[str, str], word: str) -> None:
    async with start(WAHAFLEET_API_STATUS_CASE=case) as running, served(running) as base:
        person = await running.person()
        chip = await person.chip()
        async with listening(stream_url(base, chip["id"]), person.headers | headers) as ear:
            await ear.until("qr")
            await running.daemon.saw(person.id, chips={chip["id"]: WORKING})
            await ear.until("status", status=word)
            event = await ear.until("event", type="status_change")
            assert (event["extra_data"]["to"], event["extra_data"]["status"]) == (word, word)
            assert (await ear.until("phase", phase="connected"))["waha_status"] == "WORKING"
            await ear.until("qr", status="WORKING")  # WAHA's own word keeps its case


async def test_a_cookie_makes_it_lower_case(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    async with (
        served(running) as base,
        listening(stream_url(base, chip["id"]), {"Cookie": f"whago_access_token={person.token}"}) as ear,
    ):
        assert (await ear.until("status"))["status"] == "waiting_qr"


async def test_resuming_loses_and_repeats_nothing_under_concurrent_writers(replicas: Replicas) -> None:
    person = await replicas.running.person()
    chips = [await person.chip(f"loja {number}") for number in range(3)]
    chip_id = chips[0]["id"]
    done = asyncio.Event()

    async def presses(base: str, word: str, which: str) -> None:
        for _ in range(25):
            await at(base, person, "POST", f"/chips/{which}/{word}")

    async def passes() -> None:
        for number in range(40):
            seen = (QR, STARTING, WORKING, DISCONNECTED)[number % 4]
            await replicas.running.daemon.saw(person.id, chips={chip["id"]: seen for chip in chips})

    async def write() -> None:
        await asyncio.gather(
            presses(replicas.here, "disconnect", chip_id),
            presses(replicas.there, "reconnect", chip_id),
            presses(replicas.there, "disconnect", chips[1]["id"]),
            passes(),
        )
        done.set()

    seen: list[str] = []
    last: str | None = event_id(0)
    writing = asyncio.create_task(write())
    dice = random.Random(7)
    opened = 0
    while True:
        finished = done.is_set()
        headers = person.headers | ({} if last is None else {"Last-Event-ID": last})
        base = dice.choice((replicas.here, replicas.there))
        async with listening(stream_url(base, chip_id), headers) as ear:
            opened += 1
            await ear.until("qr", 10)
            await asyncio.sleep(0.5 if finished else dice.uniform(0, 0.15))
        seen += [one.data["id"] for one in ear.heard if one.event == "event"]
        last = ear.last_id or last
        if finished:
            break
    await writing
    rows = await replicas.running.sql(
        "SELECT id FROM chip_events WHERE chip_id = :id ORDER BY id", id=chip_id
    )
    assert opened > 5
    assert len(rows) > 30
    assert seen == [event_id(row.id) for row in rows]


async def test_who_loses_the_stream_before_any_event_misses_none(replicas: Replicas) -> None:
    person = await replicas.running.person()
    chip = await person.chip()
    url = stream_url(replicas.here, chip["id"])
    async with listening(url, person.headers) as ear:
        await ear.until("status")
    assert ear.of("event") == []
    await at(replicas.there, person, "POST", f"/chips/{chip['id']}/disconnect")
    async with listening(url, person.headers | {"Last-Event-ID": str(ear.last_id)}) as again:
        await again.until("event", description="Desconexão solicitada.")
        await again.until("qr")
        assert len(again.of("event")) == 1


@pytest.mark.parametrize("unknown", ["x", "7", "x" * 300, "00000000-0000-4000-8000-000000000000"])
async def test_an_id_that_is_none_of_ours_begins_anew(running: Running, unknown: str) -> None:
    person = await running.person()
    chip = await person.chip()
    headers = person.headers | {"Last-Event-ID": unknown}
    async with served(running) as base, listening(stream_url(base, chip["id"]), headers) as ear:
        await ear.until("qr")
        assert ear.of("event") == []


async def test_it_ends_with_the_token(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    claims = {"sub": person.id, "type": "access", "exp": int(time.time()) + 2}
    token = jwt.encode(claims, "k" * 40, "HS256")
    headers = {"Authorization": f"Bearer {token}"}
    async with served(running) as base, listening(stream_url(base, chip["id"]), headers) as ear:
        await ear.end(3)
        assert ear.heard[-1].data == {"reason": "token_expired", "detail": "Token inválido ou expirado."}


async def test_it_ends_after_a_while_with_a_hint_to_come_again(start: Start) -> None:
    async with start(WAHAFLEET_STREAM_LIFE_S="1") as running, served(running) as base:
        person = await running.person()
        chip = await person.chip()
        began = time.monotonic()
        async with listening(stream_url(base, chip["id"]), person.headers) as ear:
            await ear.end(3)
        assert 0.9 < time.monotonic() - began < 2.5
        assert ear.heard[-1].data["reason"] == "reconnect"


async def test_a_user_has_so_many_streams_and_a_place_comes_free(start: Start) -> None:
    async with start(WAHAFLEET_STREAMS_PER_USER="2") as running, served(running) as base:
        person, other = await running.person(), await running.person()
        chip, theirs = await person.chip(), await other.chip()
        url = stream_url(base, chip["id"])
        async with listening(url, person.headers), httpx.AsyncClient(trust_env=False) as http:
            async with listening(url, person.headers):
                refused = await http.get(url, headers=person.headers)
                assert refused.status_code == 429
                assert refused.headers["retry-after"] == "10"
                assert refused.json()["code"] == "too_many_streams"
                assert "Feche outra aba" in refused.json()["detail"]
                async with listening(stream_url(base, theirs["id"]), other.headers):
                    pass
            await _until_open(running, 1)
            async with listening(url, person.headers) as ear:
                await ear.until("status")
        await _until_open(running, 0)


async def test_a_lost_listener_costs_nothing_but_a_moment(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    async with served(running) as base, listening(stream_url(base, chip["id"]), person.headers) as ear:
        await ear.until("qr")
        await running.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'wahafleet api listen' AND datname = current_database()"
        )
        await running.daemon.saw(person.id, chips={chip["id"]: WORKING})
        await ear.until("status", 3, status="CONNECTED")


async def test_a_reader_who_takes_nothing_is_left(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    services = running.app.state.services
    services.streams.limits = StreamLimits(send_s=0.5)
    await running.sql(
        "INSERT INTO chip_events (chip_id, user_id, generation, type, code, description) "
        "SELECT :chip, :person, 1, 'info', 'x', repeat('x', 100000) FROM generate_series(1, 300)",
        chip=chip["id"],
        person=person.id,
    )
    async with served(running) as base:
        host, port = base.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        request = (
            f"GET /api/v1/chips/{chip['id']}/stream HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: Bearer {person.token}\r\nLast-Event-ID: {event_id(0)}\r\n\r\n"
        )
        writer.write(request.encode())
        await _until_open(running, 1)
        await _until_open(running, 0)
        assert b"200 OK" in await reader.readline()
        writer.close()


async def test_a_process_that_ends_does_not_wait_for_its_streams(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    async with AsyncExitStack() as stack:
        serving = AsyncExitStack()
        base = await serving.enter_async_context(served(running))
        ear = await stack.enter_async_context(listening(stream_url(base, chip["id"]), person.headers))
        await ear.until("qr")
        began = time.monotonic()
        await serving.aclose()
        assert time.monotonic() - began < 2
        assert ear.heard[-1].data["reason"] == "reconnect"


async def _until_open(running: Running, count: int) -> None:
    async with asyncio.timeout(8):
        while running.app.state.services.streams.open != count:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.02)
