"""`POST /chips/{id}/pairing-code`, against a simulated container and a daemon that the test plays."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from api import pairing
from sandbox.waha.inline import InlineSimulators
from tests.integration.api.conftest import Person, Running, Start
from tests.integration.api.fleet import PARKED, QR, STARTING, WORKING
from tests.integration.api.qr_stage import Stage, end, staged

BODY = {"phone_number": "+55 (11) 98888-7777"}
AWAY = "Serviço temporariamente indisponível. Tente novamente em instantes."


@pytest.fixture
async def stage(start: Start, simulators: InlineSimulators, tmp_path: Path) -> AsyncIterator[Stage]:
    async with start() as running:
        made = await staged(running, simulators, tmp_path)
        yield made
        end(made)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits as long as a test likes to."""
    monkeypatch.setattr(pairing, "_SESSION_S", 0.4)


async def asked(stage: Stage, **body: Any) -> httpx.Response:
    return await stage.person.post(f"/chips/{stage.chip_id}/pairing-code", json=BODY | body)


async def saw(stage: Stage, *seen: Any) -> None:
    """What passes of the daemon write, one after another."""
    for one in seen:
        await stage.running.daemon.saw(stage.person.id, port=stage.port, chips={stage.chip_id: one})
        await asyncio.sleep(0.05)


async def wished(running: Running, chip_id: str) -> None:
    """Until there is a wish that no pass has answered."""
    query = "SELECT 1 FROM chips WHERE id = :id AND generation > observed_generation"
    async with asyncio.timeout(5):
        while not await running.sql(query, id=chip_id):  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.02)


async def passes(stage: Stage, *seen: Any) -> None:
    """The same, once there is a wish to answer."""
    await wished(stage.running, stage.chip_id)
    await saw(stage, *seen)


async def generation(stage: Stage) -> int:
    rows = await stage.running.sql("SELECT generation FROM chips WHERE id = :id", id=stage.chip_id)
    return int(rows[0].generation)


async def test_a_code_that_pairs_the_phone(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    before = await generation(stage)
    answer, _ = await asyncio.gather(asked(stage), passes(stage, STARTING, QR))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(body) == {"code", "expires_at"}
    left = datetime.fromisoformat(body["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=15) < left <= timedelta(seconds=160)
    assert answer.headers["cache-control"] == "no-store"
    paired = await stage.waha(
        "POST", f"/sim/sessions/chip_{stage.chip_id}/pair", {"code": body["code"], "push_name": "Ana"}
    )
    assert paired.status_code < 300, paired.text
    # It was wished before it was asked: it buys QR sets, consents as a press does, and stands on record.
    assert await generation(stage) > before
    rows = await stage.running.sql("SELECT wanted, consent FROM chips WHERE id = :id", id=stage.chip_id)
    assert (rows[0].wanted, rows[0].consent) == ("connected", "press")
    lines = await stage.running.sql("SELECT * FROM audit_log WHERE action = 'chip.pairing_code'")
    assert [(str(line.actor_id), line.target) for line in lines] == [(stage.person.id, stage.chip_id)]
    events = (await stage.person.get(f"/chips/{stage.chip_id}/events")).text
    assert "Código de pareamento solicitado." in events
    # The code itself is kept nowhere.
    assert body["code"] not in capsys.readouterr().out + events + str(lines)
    for table in ("chips", "chip_events", "audit_log"):
        assert body["code"] not in str(await stage.running.sql(f"SELECT * FROM {table}"))


async def test_it_brings_a_disconnected_chip_back(stage: Stage) -> None:
    await stage.person.post(f"/chips/{stage.chip_id}/disconnect")
    answer, _ = await asyncio.gather(asked(stage), passes(stage, STARTING, QR))
    assert answer.status_code == 200
    assert (await stage.person.get(f"/chips/{stage.chip_id}")).json()["status"] == "WAITING_QR"


async def test_asking_again_while_it_is_on_its_way_buys_nothing(stage: Stage, hasty: None) -> None:
    await stage.person.post(f"/chips/{stage.chip_id}/disconnect")
    answer = await asked(stage)
    assert (answer.status_code, answer.json()["detail"]) == (503, AWAY)
    assert int(answer.headers["retry-after"]) >= 1
    accepted = await generation(stage)
    assert (await asked(stage)).status_code == 503
    await saw(stage, STARTING)
    assert (await asked(stage)).status_code == 503
    assert await generation(stage) == accepted
    await saw(stage, QR)
    answer, _ = await asyncio.gather(asked(stage), passes(stage, QR))
    assert answer.status_code == 200
    assert await generation(stage) > accepted  # a QR is shown: this call buys its own


async def test_a_connected_chip_needs_none(stage: Stage) -> None:
    await saw(stage, WORKING)
    before = await generation(stage)
    answer = await asked(stage)
    assert (answer.status_code, answer.json()["code"]) == (409, "chip_connected")
    assert "Desconecte-o" in answer.json()["detail"]
    assert await generation(stage) == before


async def test_a_chip_that_connects_meanwhile_needs_none_either(stage: Stage) -> None:
    answer, _ = await asyncio.gather(asked(stage), passes(stage, STARTING, WORKING))
    assert (answer.status_code, answer.json()["code"]) == (409, "chip_connected")


@pytest.mark.parametrize(
    ("phase", "status", "reason", "code"),
    [
        ("banned", "BANNED", "banned", "chip_not_pairable"),
        ("quarantined", "ERROR", "quarantined", "chip_not_pairable"),
        ("paused", "MAINTENANCE", "paused", "chip_not_pairable"),
    ],
)
async def test_where_only_an_operator_helps_nothing_is_wished(
    stage: Stage, phase: str, status: str, reason: str, code: str
) -> None:
    seen = msgspec.structs.replace(PARKED, phase=phase, status=status, reason=reason)
    await saw(stage, seen)
    before = await generation(stage)
    answer = await asked(stage)
    assert (answer.status_code, answer.json()["code"]) == (409, code)
    assert len(answer.json()["detail"]) > 20
    assert await generation(stage) == before


async def test_a_session_that_is_given_up_is_told_with_its_reason(stage: Stage) -> None:
    answer, _ = await asyncio.gather(asked(stage), passes(stage, PARKED))
    assert answer.status_code == 409
    assert answer.json()["detail"] == "O QR Code expirou. Clique em Conectar para gerar outro."


async def test_a_passkey_is_told(stage: Stage) -> None:
    seen = msgspec.structs.replace(QR, phase="passkey", waha_status="PASSKEY_REQUIRED")
    answer, _ = await asyncio.gather(asked(stage), passes(stage, seen))
    assert (answer.status_code, answer.json()["code"]) == (409, "passkey_required")


async def test_a_dead_container_is_a_503_in_time(stage: Stage) -> None:
    port = stage.port
    stage.containers[0].kill()
    stage.containers[0].wait(10)

    async def seen() -> None:
        await wished(stage.running, stage.chip_id)
        await stage.running.daemon.saw(stage.person.id, port=port, chips={stage.chip_id: QR})

    began = time.monotonic()
    answer, _ = await asyncio.gather(asked(stage), seen())
    assert (answer.status_code, answer.json()["detail"]) == (503, AWAY)
    assert answer.headers["retry-after"]
    assert time.monotonic() - began < 10


async def test_a_container_that_hangs_is_a_503_in_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "_CALL_S", 0.3)
    ended, closed = asyncio.Event(), asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await ended.wait()
        finally:
            writer.close()
            closed.set()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        began = time.monotonic()

        async def moved() -> None:
            await wished(stage.running, stage.chip_id)
            await stage.running.daemon.saw(stage.person.id, port=port, chips={stage.chip_id: QR})

        answer, _ = await asyncio.gather(asked(stage), moved())
        assert answer.status_code == 503
        assert time.monotonic() - began < 3
        ended.set()
        await closed.wait()


async def test_a_session_that_is_not_so_far_is_waited_for(stage: Stage) -> None:
    """The store says QR, WAHA does not yet: the next look finds it."""
    await stage.waha("POST", f"/api/sessions/chip_{stage.chip_id}/stop", {})

    async def later() -> None:
        await passes(stage, QR)
        await asyncio.sleep(0.3)
        await stage.waha("POST", f"/api/sessions/chip_{stage.chip_id}/start", {})
        await saw(stage, QR)

    answer, _ = await asyncio.gather(asked(stage), later())
    assert answer.status_code == 200, answer.text


async def test_no_container_yet_is_a_503(running: Running, hasty: None) -> None:
    person = await running.person()
    chip = await person.chip()
    answer = await person.post(f"/chips/{chip['id']}/pairing-code", json=BODY)
    assert (answer.status_code, answer.json()["detail"]) == (503, AWAY)


@pytest.mark.parametrize("number", ["+5511988887777", "5511988887777", "+1 415 555 2671", "+351-912-345-678"])
async def test_numbers_that_are_taken(stage: Stage, number: str) -> None:
    answer, _ = await asyncio.gather(asked(stage, phone_number=number), passes(stage, QR))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "number", ["", "11988887777", "+0123456789", "+55", "abc", "+5511988887777777", "+٥٥١١٩٨٨٨٨٧٧٧٧"]
)
async def test_numbers_that_are_not(running: Running, number: str) -> None:
    person = await running.person()
    chip = await person.chip()
    path = f"/chips/{chip['id']}/pairing-code"
    answer = await person.post(path, json={"phone_number": number})
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        "Telefone: Telefone inválido. Use o formato internacional, como +5511999999999."
    )
    events = (await person.get(f"/chips/{chip['id']}/events")).json()
    assert len(events) == 1  # nothing was wished


async def test_bad_bodies_and_other_peoples_chips(running: Running) -> None:
    person, other = await running.person(), await running.person()
    chip = await person.chip()
    path = f"/chips/{chip['id']}/pairing-code"
    assert (await person.post(path)).status_code == 400
    assert (await person.post(path, json={})).status_code == 422
    assert (await person.post(path, json=BODY | {"more": 1})).status_code == 422
    for chip_id in (chip["id"], str(uuid.uuid4()), "x"):
        answer = await other.post(f"/chips/{chip_id}/pairing-code", json=BODY)
        assert (answer.status_code, answer.json()["detail"]) == (404, "Chip não encontrado.")


async def test_a_chip_deleted_while_somebody_waits(running: Running) -> None:
    person: Person = await running.person()
    chip = await person.chip()

    async def delete() -> None:
        await running.sql("SELECT pg_sleep(0.2)")
        await person.delete(f"/chips/{chip['id']}")

    answer, _ = await asyncio.gather(person.post(f"/chips/{chip['id']}/pairing-code", json=BODY), delete())
    assert answer.status_code == 404
