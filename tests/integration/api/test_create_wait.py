from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from tests.integration.api.conftest import Person, Running, Start


async def create(person: Person, prefer: str | None = None) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    headers = {} if prefer is None else {"Prefer": prefer}
    answer = await person.post("/chips", json={"alias": f"chip {time.time_ns()}"}, headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "WAITING_QR"
    return answer, time.monotonic() - began


async def row_is_there(running: Running) -> None:
    for _ in range(200):
        if await running.sql("SELECT 1 FROM chips"):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the chip was not stored before the wait")


async def test_the_chip_is_stored_before_any_wait(running: Running) -> None:
    person = await running.person()
    waiting = asyncio.create_task(create(person, "wait=20"))
    await row_is_there(running)
    [listed] = (await person.get("/chips")).json()
    assert not waiting.done()
    await running.daemon.saw(person.id, phase="booting", endpoint=False)
    answer, _ = await waiting
    assert answer.json()["id"] == listed["id"]


async def test_it_returns_as_soon_as_the_port_is_known(running: Running) -> None:
    person = await running.person()
    waiting = asyncio.create_task(create(person, "wait=20"))
    await row_is_there(running)
    await running.daemon.saw(person.id, phase="placing", port=None)
    await asyncio.sleep(0.1)
    assert not waiting.done()
    placed_at = time.monotonic()
    await running.daemon.saw(person.id, phase="booting", port=3107, endpoint=False)
    answer, _ = await waiting
    assert time.monotonic() - placed_at < 0.5
    assert answer.json()["extra_data"]["waha_plus_port"] == 3107
    assert answer.json()["extra_data"]["node"] == "host-1"
    assert answer.headers["preference-applied"] == "wait=20"


async def test_it_returns_as_soon_as_a_reason_is_known(running: Running) -> None:
    person = await running.person()
    waiting = asyncio.create_task(create(person, "wait=20"))
    await row_is_there(running)
    await running.daemon.saw(person.id, phase="waiting", reason="no_port", port=None)
    answer, took = await waiting
    assert took < 5
    extra = answer.json()["extra_data"]
    assert (extra["waha_plus_port"], extra["reason"]) == (None, "no_port")
    assert extra["reason_text"] == (
        "Sem porta livre em nenhum host; o chip inicia assim que houver capacidade."
    )


async def test_a_further_chip_on_a_placed_container_is_answered_at_once(running: Running) -> None:
    person = await running.person()
    await create(person, "respond-async")
    await running.daemon.saw(person.id)
    answer, took = await create(person, "wait=20")
    assert took < 1
    assert answer.json()["extra_data"]["waha_plus_port"] == 3100


async def test_without_news_it_waits_as_long_as_the_setting_says(start: Start) -> None:
    async with start(WAHAFLEET_CREATE_WAIT_S="0.4") as running:
        answer, took = await create(await running.person())
        assert 0.4 <= took < 1.5
        assert answer.json()["extra_data"]["waha_plus_port"] is None
        assert "preference-applied" not in answer.headers


@pytest.mark.parametrize(("prefer", "applied"), [("respond-async", "respond-async"), ("wait=0", "wait=0")])
async def test_nobody_has_to_wait(start: Start, prefer: str, applied: str) -> None:
    async with start(WAHAFLEET_CREATE_WAIT_S="10") as running:
        answer, took = await create(await running.person(), prefer)
        assert took < 1
        assert answer.headers["preference-applied"] == applied


async def test_the_port_is_found_by_looking_when_no_news_comes(running: Running) -> None:
    person = await running.person()
    waiting = asyncio.create_task(create(person, "wait=20"))
    await row_is_there(running)
    await asyncio.sleep(0.1)
    # Written without a NOTIFY, as if it had been lost.
    await running.sql("UPDATE containers SET phase = 'booting', port = 3105, address = '127.0.0.1'")
    answer, took = await waiting
    assert answer.json()["extra_data"]["waha_plus_port"] == 3105
    assert took < 2.5


async def test_a_chip_that_is_deleted_while_it_is_waited_for_was_created_all_the_same(
    running: Running,
) -> None:
    person = await running.person()
    waiting = asyncio.create_task(create(person, "wait=20"))
    await row_is_there(running)
    [chip] = (await person.get("/chips")).json()
    await person.delete(f"/chips/{chip['id']}")
    answer, took = await waiting
    assert answer.json()["id"] == chip["id"]
    assert took < 5


async def test_many_may_wait_at_once(running: Running) -> None:
    """A wait holds no connection of the pool (5 here)."""
    people = [await running.person() for _ in range(8)]
    waiting = [asyncio.create_task(create(person, "wait=20")) for person in people]
    await asyncio.sleep(0.5)
    for number, person in enumerate(people):
        await running.daemon.saw(
            person.id, port=3100 + number, allocation=f"00000000-0000-4000-8000-00000000000{number}"
        )
    answers = await asyncio.gather(*waiting)
    ports = sorted(answer.json()["extra_data"]["waha_plus_port"] for answer, _ in answers)
    assert ports == list(range(3100, 3108))
