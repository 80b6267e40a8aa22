from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sandbox.waha.inline import InlineSimulators
from sandbox.waha.qr import png as draw
from tests.integration.api.conftest import Start
from tests.integration.api.fleet import DISCONNECTED, PARKED, QR, STARTING, WORKING
from tests.integration.api.qr_stage import UNREACHABLE, Stage, end, staged, until


@pytest.fixture
async def stage(
    start: Start, cache_url: str | None, simulators: InlineSimulators, tmp_path: Path
) -> AsyncIterator[Stage]:
    """Once with Redis, once without: the answers are the same."""
    async with start(redis_url=cache_url) as running:
        made = await staged(running, simulators, tmp_path)
        yield made
        end(made)


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
