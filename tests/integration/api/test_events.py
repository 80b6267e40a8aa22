"""`GET /chips/{id}/events`."""

from __future__ import annotations

import asyncio
import re
import uuid
from typing import Any

import pytest

from core.domain.history import EventType, event_number
from tests.integration.api.conftest import Person, Running, Start
from tests.integration.api.fleet import DISCONNECTED, PARKED, QR, STARTING, WORKING


async def history(person: Person, chip_id: str, **headers: str) -> list[dict[str, Any]]:
    answer = await person.get(f"/chips/{chip_id}/events", headers=headers)
    assert answer.status_code == 200, answer.text
    body: list[dict[str, Any]] = answer.json()
    return body


async def test_what_happened_newest_first(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    await running.daemon.saw(person.id, chips={chip["id"]: QR})
    await running.daemon.saw(person.id, chips={chip["id"]: WORKING})
    await person.post(f"/chips/{chip['id']}/disconnect")
    await running.daemon.saw(person.id, chips={chip["id"]: DISCONNECTED})
    await person.post(f"/chips/{chip['id']}/reconnect")
    events = await history(person, chip["id"])
    assert [event["type"] for event in events] == [
        "reconnect",
        "status_change",
        "info",
        "status_change",
        "status_change",
        "system",
    ]
    assert all(set(event) == {"id", "type", "description", "extra_data", "created_at"} for event in events)
    assert all(event["description"] and str(uuid.UUID(event["id"])) == event["id"] for event in events)
    numbers = [event_number(event["id"]) for event in events]
    assert numbers == sorted(numbers, key=lambda number: -(number or 0))
    changes = [event["extra_data"] for event in reversed(events) if event["type"] == "status_change"]
    # From WAITING_QR to WAITING_QR: its phase changed.
    assert [(change["from"], change["to"]) for change in changes] == [
        ("WAITING_QR", "WAITING_QR"),
        ("WAITING_QR", "CONNECTED"),
        ("CONNECTED", "DISCONNECTED"),
    ]


async def test_every_change_of_status_that_a_pass_writes_is_told(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    for seen in (STARTING, QR, PARKED, STARTING, QR, WORKING):
        await running.daemon.saw(person.id, chips={chip["id"]: seen})
    events = await history(person, chip["id"])
    changes = [event["extra_data"] for event in reversed(events) if event["type"] == "status_change"]
    assert [change["phase"] for change in changes] == [
        "starting",
        "qr",
        "parked",
        "starting",
        "qr",
        "connected",
    ]
    assert changes[2]["reason"] == "qr_spent"
    assert all(change["status"] == change["to"] for change in changes)


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
    async with start(WAHAFLEET_API_STATUS_CASE=case) as running:
        person = await running.person()
        chip = await person.chip()
        await running.daemon.saw(person.id, chips={chip["id"]: WORKING})
        newest = (await history(person, chip["id"], **headers))[0]
        assert newest["type"] == "status_change"
        assert newest["extra_data"]["to"] == word
        assert newest["extra_data"]["status"] == word
        assert newest["extra_data"]["from"] == ("waiting_qr" if word.islower() else "WAITING_QR")
        assert newest["extra_data"]["phase"] == "connected"


async def test_pages_cover_everything_once_while_more_is_written(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    for _ in range(6):
        await running.daemon.saw(person.id, chips={chip["id"]: WORKING})
        await running.daemon.saw(person.id, chips={chip["id"]: DISCONNECTED})
    known = [event["id"] for event in await history(person, chip["id"])]
    assert len(known) == 13
    path, ids = f"/chips/{chip['id']}/events?limit=3", list[str]()
    while path:
        answer = await person.get(path)
        assert 1 <= len(answer.json()) <= 3
        ids += [event["id"] for event in answer.json()]
        link = answer.headers.get("link", "")
        named = re.fullmatch(r'<(/api/v1(/chips/[^>]+))>; rel="next"', link)
        assert bool(named) is bool(link)
        path = named[2] if named else ""
        await running.daemon.saw(person.id, chips={chip["id"]: WORKING})
        await running.daemon.saw(person.id, chips={chip["id"]: DISCONNECTED})
    assert ids == known


async def test_a_page_that_holds_all_names_no_other(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    answer = await person.get(f"/chips/{chip['id']}/events?limit=1")
    assert len(answer.json()) == 1
    assert "link" not in answer.headers


async def test_fifty_unless_asked_otherwise(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    await running.sql(
        "INSERT INTO chip_events (chip_id, user_id, generation, type, code, description) "
        "SELECT :chip, :person, 1, 'a_newer_kind', 'x', 'y' FROM generate_series(1, 250)",
        chip=chip["id"],
        person=person.id,
    )
    events = await history(person, chip["id"])
    assert len(events) == 50
    # What a newer release wrote is told in words that the contract knows.
    assert {event["type"] for event in events} == {"info"}
    assert {event["type"] for event in events} <= set(EventType)
    answer = await person.get(f"/chips/{chip['id']}/events?limit=200")
    assert len(answer.json()) == 200


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=-1", "limit=x", "limit=", "limit=1e2", "cursor=x", "cursor=", "cursor=7"],
)
async def test_a_bad_query_is_refused_in_one_sentence(running: Running, query: str) -> None:
    person = await running.person()
    chip = await person.chip()
    answer = await person.get(f"/chips/{chip['id']}/events?{query}")
    assert answer.status_code == 422
    field = query.split("=")[0]
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert answer.json()["detail"].startswith(f"{field}: Use ")


async def test_nobody_reads_anothers_history(running: Running) -> None:
    person, other = await running.person(), await running.person()
    chip = await person.chip()
    for chip_id in (chip["id"], str(uuid.uuid4()), "x"):
        answer = await other.get(f"/chips/{chip_id}/events")
        assert (answer.status_code, answer.json()["detail"]) == (404, "Chip não encontrado.")
    await person.delete(f"/chips/{chip['id']}")
    assert (await person.get(f"/chips/{chip['id']}/events")).status_code == 404


async def test_it_is_kept_by_nobody(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    answers = await asyncio.gather(*(person.get(f"/chips/{chip['id']}/events") for _ in range(3)))
    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}
