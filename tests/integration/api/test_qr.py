from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import redis
import structlog

from core.clients.waha import WahaClient
from core.clients.waha_models import Qr
from core.crypto import Sealer, hashed_api_key, webhook_signature
from core.store.containers import container_secrets
from sandbox.valkey import EmbeddedValkey
from sandbox.waha.inline import InlineContainer, InlineSimulators
from sandbox.waha.qr import png as draw
from tests.integration.api.conftest import Person, Running, Start
from tests.integration.api.fleet import DISCONNECTED, PARKED, QR, STARTING, WORKING

UNREACHABLE = "O serviço do WhatsApp está iniciando ou indisponível. Tentando novamente..."
SPEED = 20.0


@pytest.fixture(scope="module")
def simulators() -> Iterator[InlineSimulators]:
    with InlineSimulators(lambda _line: None) as simulators:
        yield simulators


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the sessions that WAHA was asked about, in order."""
    asked: list[str] = []
    real = WahaClient.qr

    async def counted(self: WahaClient, name: str, timeout_s: float = 16.0) -> Qr:
        asked.append(name)
        return await real(self, name, timeout_s)

    monkeypatch.setattr(WahaClient, "qr", counted)
    return asked


@dataclass
class Stage:
    """A user with one chip whose session shows a QR in a simulated container."""

    running: Running
    person: Person
    chip_id: str
    key: str
    folder: Path
    start_waha: Callable[..., InlineContainer]
    containers: list[InlineContainer] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"/chips/{self.chip_id}/qr"

    @property
    def port(self) -> int:
        return self.containers[-1].address[1]

    async def poll(self) -> dict[str, Any]:
        answer = await self.person.get(self.path)
        assert answer.status_code == 200
        body: dict[str, Any] = answer.json()
        assert set(body) == {"qr", "qr_code", "expires_at", "status", "message"}
        assert body["qr"] == body["qr_code"]
        assert body["message"]
        assert (body["qr"] is not None) == (body["status"] == "SCAN_QR_CODE")
        return body

    async def waha(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as http:
            return await http.request(
                method,
                f"http://127.0.0.1:{self.port}{path}",
                json=body,
                headers={"X-Api-Key": self.key},
                timeout=20,
            )

    def new_container(self, key: str | None = None, folder: Path | None = None) -> InlineContainer:
        container = self.start_waha(key or self.key, folder or self.folder)
        self.containers.append(container)
        return container

    async def session_shows_qr(self) -> None:
        created = await self.waha("POST", "/api/sessions", {"name": f"chip_{self.chip_id}", "start": True})
        if created.status_code == 422:
            await self.waha("POST", f"/api/sessions/chip_{self.chip_id}/restart", {})
        shown = await self.waha("GET", f"/api/chip_{self.chip_id}/auth/qr")
        assert shown.status_code == 200


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(100):
        if await holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come true within 5 s")


async def staged(running: Running, simulators: InlineSimulators, folder: Path) -> Stage:
    person = await running.person()
    chip = await person.chip()
    sealer = Sealer(tuple(key.reveal() for key in running.settings.store.secret_keys))
    secrets = await container_secrets(running.engine, person.id, sealer)
    assert secrets is not None

    def start_waha(key: str, where: Path) -> InlineContainer:
        where.mkdir(parents=True, exist_ok=True)
        return simulators.start(
            {
                "WAHA_API_KEY": hashed_api_key(key),
                "WHATSAPP_DEFAULT_ENGINE": "GOWS",
                "WHATSAPP_API_PORT": "0",
                "WAHA_WORKER_ID": "u1",
                "WAHA_NAMESPACE": "u1",
                "WAHA_SIM_STORE_DIR": str(where),
                "WAHA_SIM_CLOCK_SPEED": str(SPEED),
            }
        )

    stage = Stage(running, person, chip["id"], secrets.api_key, folder, start_waha)
    stage.new_container()
    await stage.session_shows_qr()
    await running.daemon.saw(person.id, port=stage.port, chips={chip["id"]: QR})
    return stage


@pytest.fixture
async def stage(
    start: Start, cache_url: str | None, simulators: InlineSimulators, tmp_path: Path
) -> AsyncIterator[Stage]:
    """Once with Redis, once without: the answers are the same."""
    async with start(redis_url=cache_url) as running:
        made = await staged(running, simulators, tmp_path)
        yield made
        end(made)


def end(stage: Stage) -> None:
    for container in stage.containers:
        if container.exit_code is None:
            container.kill()
            container.wait(10)


async def test_the_qr_that_the_container_shows(stage: Stage) -> None:
    body = await stage.poll()
    assert body["status"] == "SCAN_QR_CODE"
    png = base64.b64decode(body["qr"].removeprefix("data:image/png;base64,"), validate=True)
    shown = await stage.waha("GET", f"/api/chip_{stage.chip_id}/auth/qr?format=raw")
    assert png == draw(shown.json()["value"])
    left_s = (datetime.fromisoformat(body["expires_at"]) - datetime.now(UTC)).total_seconds()
    assert 0 < left_s <= 60


async def test_many_pollers_cost_one_call(stage: Stage, calls: list[str]) -> None:
    bodies = await asyncio.gather(*(stage.poll() for _ in range(10)))
    assert {body["status"] for body in bodies} == {"SCAN_QR_CODE"}
    assert len({body["qr"] for body in bodies}) == 1
    assert calls == [f"chip_{stage.chip_id}"]


async def test_a_poll_changes_nothing_in_the_store(stage: Stage) -> None:
    async def everything() -> list[Any]:
        tables = ("chips", "containers", "chip_events", "placements", "webhook_inbox")
        return [await stage.running.sql(f"SELECT * FROM {table}") for table in tables]

    before = await everything()
    for _ in range(3):
        await stage.poll()
    assert await everything() == before


async def test_a_dead_container_is_said_in_words(stage: Stage) -> None:
    stage.containers[0].kill()
    stage.containers[0].wait(10)
    began = time.monotonic()
    body = await stage.poll()
    assert time.monotonic() - began < 2
    assert (body["status"], body["message"], body["expires_at"]) == (None, UNREACHABLE, None)


async def test_a_moved_container_is_found_again_without_any_news(stage: Stage) -> None:
    first = await stage.poll()
    assert first["qr"]
    stage.containers[0].kill()
    stage.containers[0].wait(10)
    stage.new_container()
    await stage.session_shows_qr()
    await stage.running.sql("UPDATE containers SET endpoint_port = :port", port=stage.port)
    await asyncio.sleep(0)
    await stage.running.app.state.services.qr.forget_chip(stage.chip_id)
    body = await stage.poll()
    assert body["status"] == "SCAN_QR_CODE"
    assert body["qr"] != first["qr"]


async def test_a_port_that_is_another_containers_now_gives_nobody_elses_qr(stage: Stage) -> None:
    assert (await stage.poll())["qr"]
    stage.containers[0].kill()
    stage.containers[0].wait(10)
    # Another user's container, where ours is remembered to be; ours is elsewhere.
    stage.new_container(key="f" * 64, folder=stage.folder / "other")
    elsewhere = stage.port
    stage.new_container()
    await stage.session_shows_qr()
    services = stage.running.app.state.services
    await stage.running.sql("UPDATE containers SET endpoint_port = :port", port=elsewhere)
    await services.qr.forget(stage.person.id)
    await services.qr.forget_chip(stage.chip_id)
    assert (await stage.poll())["status"] is None
    await stage.running.sql("UPDATE containers SET endpoint_port = :port", port=stage.port)
    assert (await stage.poll())["status"] == "SCAN_QR_CODE"


async def test_a_container_that_hangs_blocks_nobody(stage: Stage, calls: list[str]) -> None:
    ended = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await stage.running.sql("UPDATE containers SET endpoint_port = :port", port=port)
        for _ in range(2):
            began = time.monotonic()
            bodies = await asyncio.gather(*(stage.poll() for _ in range(5)))
            assert time.monotonic() - began < 2
            assert {(body["status"], body["message"]) for body in bodies} == {(None, UNREACHABLE)}
        assert len(calls) == 1  # the one call goes on behind the answers
        ended.set()


async def test_the_sessions_own_word_is_newer_than_the_store(stage: Stage) -> None:
    await stage.waha("POST", f"/sim/sessions/chip_{stage.chip_id}/scan", {"qr": await _value(stage)})

    async def told() -> bool:
        return bool((await stage.poll())["status"] == "WORKING")

    await until(told)
    body = await stage.poll()
    assert (body["qr"], body["message"]) == (None, "Chip conectado.")


async def _value(stage: Stage) -> str:
    shown = await stage.waha("GET", f"/api/chip_{stage.chip_id}/auth/qr?format=raw")
    return str(shown.json()["value"])


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (WORKING, "WORKING", "Chip conectado."),
        (STARTING, "STARTING", "Iniciando a sessão do WhatsApp. O QR Code aparece em instantes."),
        (PARKED, None, "O QR Code expirou. Clique em Conectar para gerar outro."),
    ],
)
async def test_waha_is_asked_only_while_it_shows_a_qr(
    stage: Stage, calls: list[str], status: Any, said: str | None, message: str
) -> None:
    await stage.running.daemon.saw(stage.person.id, port=stage.port, chips={stage.chip_id: status})
    body = await stage.poll()
    assert (body["qr"], body["status"], body["message"]) == (None, said, message)
    assert calls == []


async def test_a_poll_never_starts_a_chip_that_is_wanted_disconnected(stage: Stage, calls: list[str]) -> None:
    assert (await stage.poll())["qr"]
    await stage.person.post(f"/chips/{stage.chip_id}/disconnect")
    for _ in range(2):
        body = await stage.poll()
        assert (body["qr"], body["status"]) == (None, None)
        assert "Conectar" in body["message"]
        await stage.running.daemon.saw(stage.person.id, port=stage.port, chips={stage.chip_id: DISCONNECTED})
    assert len(calls) == 1
    [row] = await stage.running.sql("SELECT wanted FROM chips")
    assert row.wanted == "disconnected"
    sessions = (await stage.waha("GET", "/api/sessions?all=true")).json()
    assert [session["status"] for session in sessions] == ["SCAN_QR_CODE"]  # ours to stop is the daemon


async def test_an_old_qr_does_not_come_back_after_a_reconnect(stage: Stage) -> None:
    old = (await stage.poll())["qr"]
    await stage.person.post(f"/chips/{stage.chip_id}/disconnect")
    await stage.person.post(f"/chips/{stage.chip_id}/reconnect")
    assert (await stage.poll())["qr"] is None  # no pass has seen the wish yet
    await stage.waha("POST", f"/api/sessions/chip_{stage.chip_id}/restart", {})
    await stage.session_shows_qr()
    await stage.running.daemon.saw(stage.person.id, port=stage.port, chips={stage.chip_id: QR})
    new = (await stage.poll())["qr"]
    assert new is not None
    assert new != old


async def test_without_an_endpoint_nobody_is_asked(stage: Stage, calls: list[str]) -> None:
    await stage.running.daemon.saw(
        stage.person.id, phase="booting", port=stage.port, endpoint=False, chips={stage.chip_id: QR}
    )
    await _heard(stage)
    body = await stage.poll()
    assert (body["status"], body["message"]) == (None, UNREACHABLE)
    assert calls == []


async def _heard(stage: Stage) -> None:
    """News travels a few milliseconds; a moved endpoint is found without it too, at the cost of a call."""

    async def forgotten() -> bool:
        return stage.person.id not in stage.running.app.state.services.qr._keys

    await until(forgotten)


# With Redis alone


def seen_by(replica: Running, stage: Stage, folder: Path) -> Stage:
    """The same chip and its owner, at another process of the API."""
    person = Person(stage.person.id, "", stage.person.token, replica.client)
    return Stage(replica, person, stage.chip_id, stage.key, folder, stage.start_waha)


async def test_replicas_share_one_flight_and_the_viewers_mark(
    start: Start, redis_url: str, simulators: InlineSimulators, tmp_path: Path, calls: list[str]
) -> None:
    # A busy machine answers late; here that must not pass for a Redis that is away.
    patient = {"redis_url": redis_url, "WAHAFLEET_REDIS_TIMEOUT_S": "5"}
    async with start(**patient) as one, start(**patient) as two:
        stage = await staged(one, simulators, tmp_path)
        there = seen_by(two, stage, tmp_path)
        bodies = await asyncio.gather(*(side.poll() for side in (stage, there) for _ in range(5)))
        assert len({body["qr"] for body in bodies}) == 1
        assert len(calls) == 1
        assert (await there.poll())["qr"] == bodies[0]["qr"]
        assert len(calls) == 1
        client = redis.Redis.from_url(redis_url)
        try:
            ttl = client.ttl(f"wahafleet:viewer:{stage.chip_id}")
            cached = client.keys("wahafleet:endpoint:*")
        finally:
            client.close()
        assert 0 < ttl <= 15
        assert cached == [f"wahafleet:endpoint:{stage.person.id}".encode()]
        end(stage)


async def waha_of(stage: Stage, *replicas: Running) -> Callable[..., Awaitable[None]]:
    """`says(number, *statuses, age_s=0)`: the container tells one of the replicas by webhook."""
    sealer = Sealer(tuple(key.reveal() for key in replicas[0].settings.store.secret_keys))
    secrets = await container_secrets(replicas[0].engine, stage.person.id, sealer)
    assert secrets is not None
    hook_key = secrets.hook_key

    async def says(number: int, *statuses: str, age_s: float = 0, chip_id: str = stage.chip_id) -> None:
        event = {
            "id": f"evt_{number}",
            "timestamp": int((time.time() - age_s) * 1000),
            "event": "session.status",
            "session": f"chip_{chip_id}",
            "payload": {"status": statuses[-1], "statuses": [{"status": status} for status in statuses]},
        }
        raw = msgspec.json.encode(event)
        answer = await replicas[number % len(replicas)].client.post(
            f"/api/v1/webhooks/waha/{stage.person.id}",
            content=raw,
            headers={"X-Webhook-Hmac": webhook_signature(hook_key, raw)},
        )
        assert answer.json() == {"status": "stored"}

    return says


async def test_a_code_that_is_about_to_change_is_not_asked_for(
    start: Start, redis_url: str, simulators: InlineSimulators, tmp_path: Path, calls: list[str]
) -> None:
    more = {"redis_url": redis_url, "WAHAFLEET_REDIS_TIMEOUT_S": "5"}
    async with start(**more) as one, start(**more) as two:
        stage = await staged(one, simulators, tmp_path)
        there = seen_by(two, stage, tmp_path)
        says = await waha_of(stage, one, two)
        await says(0, "SCAN_QR_CODE", "SCAN_QR_CODE", age_s=19.6)
        polls = [asyncio.create_task(side.poll()) for side in (stage, there)]
        await asyncio.sleep(0.2)
        assert calls == []
        await says(1, "SCAN_QR_CODE", "SCAN_QR_CODE")
        first, second = await asyncio.gather(*polls)
        assert first["qr"] == second["qr"] is not None
        assert len(calls) == 1
        end(stage)


async def test_news_of_the_next_code_is_waited_for_no_longer_than_a_moment(
    start: Start, redis_url: str, simulators: InlineSimulators, tmp_path: Path, calls: list[str]
) -> None:
    async with start(redis_url=redis_url, WAHAFLEET_REDIS_TIMEOUT_S="5") as running:
        stage = await staged(running, simulators, tmp_path)
        await (await waha_of(stage, running))(0, "SCAN_QR_CODE", "SCAN_QR_CODE", age_s=20.5)
        assert (await stage.poll())["qr"] is not None
        assert len(calls) == 1
        end(stage)


async def test_a_code_is_asked_for_once_a_rotation_over_all_replicas(
    start: Start, redis_url: str, simulators: InlineSimulators, tmp_path: Path, calls: list[str]
) -> None:
    # Without news of the container a code would be good for this long.
    more = {"redis_url": redis_url, "WAHAFLEET_REDIS_TIMEOUT_S": "5", "WAHAFLEET_QR_TTL_S": "1"}
    async with start(**more) as one, start(**more) as two:
        stage = await staged(one, simulators, tmp_path)
        there = seen_by(two, stage, tmp_path)
        says = await waha_of(stage, one, two)
        await says(0, "STARTING", "SCAN_QR_CODE")
        first = await stage.poll()
        left_s = (datetime.fromisoformat(first["expires_at"]) - datetime.now(UTC)).total_seconds()
        assert 40 < left_s <= 60
        await asyncio.sleep(1.5)
        for side in (stage, there, stage):
            assert (await side.poll())["qr"] == first["qr"]
        assert len(calls) == 1
        for number in (1, 2):
            await says(number, "SCAN_QR_CODE", "SCAN_QR_CODE")
            bodies = await asyncio.gather(*(side.poll() for side in (stage, there) for _ in range(3)))
            assert {body["status"] for body in bodies} == {"SCAN_QR_CODE"}
            left_s = (datetime.fromisoformat(bodies[0]["expires_at"]) - datetime.now(UTC)).total_seconds()
            assert 0 < left_s <= 20
            assert len(calls) == 1 + number
        # It shows none any more: its own word is asked for, and not the old code given.
        await says(3, "SCAN_QR_CODE", "WORKING")
        await there.poll()
        assert len(calls) == 4
        end(stage)


async def test_the_next_code_is_at_hand_before_it_is_polled_for(
    start: Start, redis_url: str, simulators: InlineSimulators, tmp_path: Path, calls: list[str]
) -> None:
    more = {"redis_url": redis_url, "WAHAFLEET_REDIS_TIMEOUT_S": "5"}
    async with start(**more) as one, start(**more) as two:
        stage = await staged(one, simulators, tmp_path)
        there = seen_by(two, stage, tmp_path)
        says = await waha_of(stage, one)
        await says(0, "STARTING", "SCAN_QR_CODE")
        await asyncio.sleep(0.3)
        assert calls == []  # nobody looks
        first = await there.poll()  # through the other process

        async def asked(times: int) -> bool:
            return len(calls) == times

        for number in (1, 2):
            await stage.waha("POST", f"/api/sessions/chip_{stage.chip_id}/restart", {})
            await stage.session_shows_qr()
            await says(number, "SCAN_QR_CODE", "SCAN_QR_CODE")
            await until(partial(asked, 1 + number))
            bodies = await asyncio.gather(*(side.poll() for side in (stage, there) for _ in range(3)))
            assert len({body["qr"] for body in bodies}) == 1
            assert bodies[0]["qr"] not in (None, first["qr"])
            assert len(calls) == 1 + number
        # Whoever looks would not be shown it.
        await stage.person.post(f"/chips/{stage.chip_id}/disconnect")
        await says(3, "SCAN_QR_CODE", "SCAN_QR_CODE")
        await asyncio.sleep(0.3)
        assert len(calls) == 3
        end(stage)


async def test_a_container_has_no_code_fetched_but_of_its_own_users_chips(
    start: Start, redis_url: str, simulators: InlineSimulators, tmp_path: Path, calls: list[str]
) -> None:
    async with start(redis_url=redis_url, WAHAFLEET_REDIS_TIMEOUT_S="5") as running:
        stage = await staged(running, simulators, tmp_path / "a")
        other = await staged(running, simulators, tmp_path / "b")
        shown = await other.poll()
        says = await waha_of(stage, running)
        await says(0, "SCAN_QR_CODE", "SCAN_QR_CODE", chip_id=other.chip_id)
        await asyncio.sleep(0.3)
        assert calls == [f"chip_{other.chip_id}"]
        assert (await other.poll())["qr"] == shown["qr"]
        assert len(calls) == 1
        end(stage)
        end(other)


async def test_neither_a_hold_up_nor_a_moment_without_redis_asks_for_a_code_again(
    start: Start, mortal: EmbeddedValkey, simulators: InlineSimulators, tmp_path: Path, calls: list[str]
) -> None:
    more = {"redis_url": mortal.url(), "WAHAFLEET_REDIS_TIMEOUT_S": "0.1", "WAHAFLEET_QR_TTL_S": "20"}
    async with start(**more) as one, start(**more) as two:
        stage = await staged(one, simulators, tmp_path)
        there = seen_by(two, stage, tmp_path)
        first = await stage.poll()
        with structlog.testing.capture_logs() as logs:
            # Held up for longer than Redis may take: it has answered, and nobody looked.
            for turns in range(4, 44, 4):
                polls = [asyncio.create_task(side.poll()) for side in (stage, there) for _ in range(3)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                time.sleep(0.15)  # noqa: ASYNC251 - that is the hold-up
                assert {body["qr"] for body in await asyncio.gather(*polls)} == {first["qr"]}
        assert [line["event"] for line in logs if line["event"] == "cache_away"] == []
        assert len(calls) == 1
        mortal.kill()
        for side in (stage, there, stage, there):
            assert (await side.poll())["qr"] == first["qr"]
        assert len(calls) == 1
        end(stage)


async def test_who_comes_late_to_a_flight_elsewhere_asks_for_nothing(
    start: Start,
    redis_url: str,
    simulators: InlineSimulators,
    tmp_path: Path,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patient = {"redis_url": redis_url, "WAHAFLEET_REDIS_TIMEOUT_S": "5"}
    async with start(**patient) as one, start(**patient) as two:
        stage = await staged(one, simulators, tmp_path)
        there = seen_by(two, stage, tmp_path)
        # Looked for the code before the flight landed, and for the flight after what it brought was gone.
        flown, real = asyncio.Event(), two.app.state.services.cache.single_flight

        async def late(*given: Any, **more: Any) -> Any:
            await flown.wait()
            return await real(*given, **more)

        monkeypatch.setattr(two.app.state.services.cache, "single_flight", late)
        waiting = asyncio.create_task(there.poll())
        await asyncio.sleep(0.1)
        first = await stage.poll()
        await one.app.state.services.cache.delete(f"qr-flight:{stage.chip_id}")
        flown.set()
        assert (await waiting)["qr"] == first["qr"]
        assert len(calls) == 1
        end(stage)


async def test_a_changed_endpoint_is_dropped_from_redis(
    start: Start, redis_url: str, simulators: InlineSimulators, tmp_path: Path
) -> None:
    async with start(redis_url=redis_url, WAHAFLEET_REDIS_TIMEOUT_S="5") as running:
        stage = await staged(running, simulators, tmp_path)
        await stage.poll()
        client = redis.Redis.from_url(redis_url)
        try:
            assert client.keys("wahafleet:endpoint:*")
            await running.daemon.saw(stage.person.id, phase="moving", endpoint=False)

            async def dropped() -> bool:
                return not client.keys("wahafleet:endpoint:*")

            await until(dropped)
        finally:
            client.close()
        end(stage)
