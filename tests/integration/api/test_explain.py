"""`GET /chips/{id}/explain`: from the store alone, for its owner and for the operator's command line."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import httpx

from core.domain.actions import ChipStatus
from core.domain.evidence import AllocationSeen, Evidence, PlacementSeen, SessionSeen
from core.domain.states import REASON_TEXT, Reason
from tests.integration.api.conftest import OPERATOR_TOKEN, Running, Start
from tests.integration.api.fleet import PARKED, WORKING

QUEUED = ChipStatus(phase="queued", status="WAITING_QR", reason="no_memory")
FULL = PlacementSeen("e1", "complete", 2, 0, 2, {"memory": 2})


async def explained(running: Running, chip_id: str, headers: dict[str, str]) -> httpx.Response:
    return await running.client.get(f"/api/v1/chips/{chip_id}/explain", headers=headers)


async def told(running: Running, chip_id: str, headers: dict[str, str]) -> dict[str, Any]:
    answer = await explained(running, chip_id, headers)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_chip_that_waits_for_memory(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    await running.daemon.saw(
        person.id,
        phase="waiting",
        reason="no_memory",
        port=None,
        chips={chip["id"]: QUEUED},
        evidence=Evidence(placement=FULL),
    )
    answer = await explained(running, chip["id"], person.headers)
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert (body["chip_id"], body["status"], body["phase"]) == (chip["id"], "WAITING_QR", "queued")
    [cause] = body["causes"]
    assert (cause["code"], cause["text"]) == ("no_memory", REASON_TEXT[Reason.NO_MEMORY])
    assert body["person"] == cause["person"]
    assert body["next_step"] == {"text": cause["next"], "at": None}
    assert f"nomad eval list -job waha_plus_user_{person.id}" in cause["operator"]["commands"]
    [proof] = cause["evidence"]
    assert (proof["system"], proof["about"]) == ("nomad", "placement")
    assert proof["detail"]["dimensions"] == {"memory": 2}
    [looked] = await running.sql("SELECT looked_at FROM containers")
    for time in (proof["observed_at"], body["observed_at"]):
        assert datetime.fromisoformat(time).astimezone(UTC) == looked.looked_at
    assert [budget["name"] for budget in body["budgets"]] == ["qr_rounds", "reconnect_tries"]


async def test_before_anybody_looked(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    body = await told(running, chip["id"], person.headers)
    assert (body["causes"][0]["code"], body["observed_at"]) == ("not_seen", None)


async def test_spent_and_connected_chips(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    await running.daemon.saw(person.id, chips={chip["id"]: PARKED})
    body = await told(running, chip["id"], person.headers)
    assert body["causes"][0]["code"] == "qr_spent"
    assert "Conectar" in body["person"]
    seen = Evidence(
        allocations=(AllocationSeen("a", "host-1", "run", "running", datetime.now(UTC)),),
        sessions={chip["id"]: SessionSeen("WORKING", True)},
        answers=True,
    )
    await running.daemon.saw(person.id, chips={chip["id"]: WORKING}, evidence=seen)
    body = await told(running, chip["id"], person.headers)
    assert [cause["code"] for cause in body["causes"]] == ["connected"]
    assert {budget["name"]: budget["spent"] for budget in body["budgets"]}["sessions"] == 1


async def test_somebody_elses_an_unknown_and_a_malformed_id_are_not_there(running: Running) -> None:
    person, other = await running.person(), await running.person()
    foreign = await other.chip()
    for chip_id in (foreign["id"], str(uuid.uuid4()), "1", "%20"):
        answer = await explained(running, chip_id, person.headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "chip_not_found")
    await other.delete(f"/chips/{foreign['id']}")
    assert (await explained(running, foreign["id"], other.headers)).status_code == 404


async def test_the_operators_command_line_sees_every_chip_and_nobody_else_does(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    operator = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
    assert (await told(running, chip["id"], operator))["chip_id"] == chip["id"]
    assert (await explained(running, str(uuid.uuid4()), operator)).status_code == 404
    assert (await explained(running, chip["id"], {})).status_code == 401
    await person.delete(f"/chips/{chip['id']}")
    assert (await explained(running, chip["id"], operator)).status_code == 404


async def test_a_browser_gets_the_status_in_lower_case(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    body = await told(running, chip["id"], {**person.headers, "Sec-Fetch-Mode": "cors"})
    assert body["status"] == "waiting_qr"


async def test_an_explanation_changes_nothing(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    await running.daemon.saw(person.id, chips={chip["id"]: PARKED})
    rows = "SELECT chips.*, containers.generation AS g, containers.looked_at FROM chips JOIN containers USING (user_id)"
    before = await running.sql(rows)
    for _ in range(3):
        await told(running, chip["id"], person.headers)
    assert await running.sql(rows) == before


async def test_the_way_out_is_the_one_that_is_set(start: Start) -> None:
    async with start(WAHAFLEET_EGRESS="") as running:
        person = await running.person()
        chip = await person.chip()
        waits = ChipStatus(phase="queued", status="WAITING_QR", reason="no_egress")
        await running.daemon.saw(person.id, chips={chip["id"]: waits})
        cause = (await told(running, chip["id"], person.headers))["causes"][0]
        assert cause["code"] == "no_egress"
        assert [proof["detail"] for proof in cause["evidence"]] == [{"way": None}]
