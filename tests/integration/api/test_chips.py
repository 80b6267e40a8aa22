from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from tests.integration.api.conftest import Person, Running, Start
from tests.integration.api.fleet import DISCONNECTED, PARKED, QR, STARTING, WORKING

NOT_FOUND = "Chip não encontrado."


async def test_a_new_chip(running: Running) -> None:
    person = await running.person()
    answer = await person.post("/chips", json={"alias": "  Vendas 1 "})
    assert answer.status_code == 201
    chip = answer.json()
    assert answer.headers["location"] == f"/api/v1/chips/{chip['id']}"
    assert chip == {
        "id": chip["id"],
        "alias": "Vendas 1",
        "session_id": f"chip_{chip['id']}",
        "phone_number": None,
        "status": "WAITING_QR",
        "health_score": 0,
        "extra_data": {
            "waha_plus_container": f"waha_plus_user_{person.id}",
            "waha_plus_port": None,
            "waha_session": f"chip_{chip['id']}",
            "waha_status": None,
            "proxy_enabled": False,
            "node": None,
            "phase": "queued",
            "reason": None,
            "reason_text": None,
            "starts_at": None,
        },
        "created_at": chip["created_at"],
        "updated_at": chip["updated_at"],
        "connected_at": None,
        "last_activity_at": None,
    }
    assert uuid.UUID(chip["id"]).version == 4
    assert chip["created_at"].endswith("Z")
    [container] = await running.sql("SELECT * FROM containers")
    assert str(container.user_id) == person.id
    assert container.storage_id == "main"
    [event] = await running.sql("SELECT * FROM chip_events")
    assert (str(event.chip_id), event.type, event.code) == (chip["id"], "system", "chip_created")


async def test_the_list_is_in_order_and_ones_own(running: Running) -> None:
    person, other = await running.person(), await running.person()
    made = [(await person.chip(f"chip {n}"))["id"] for n in range(3)]
    foreign = await other.chip("chip 0")
    assert [chip["id"] for chip in (await person.get("/chips")).json()] == made
    assert [chip["id"] for chip in (await other.get("/chips")).json()] == [foreign["id"]]


async def test_aliases_and_the_limit_of_the_plan(running: Running) -> None:
    person = await running.person("business")
    for alias in ("one", "two"):
        await person.chip(alias)
    taken = await person.post("/chips", json={"alias": " TWO "})
    assert (taken.status_code, taken.json()["code"]) == (400, "alias_taken")
    assert taken.json()["detail"] == "Já existe um chip com esse apelido."
    third = await person.chip("three")
    full = await person.post("/chips", json={"alias": "four"})
    assert (full.status_code, full.json()["detail"]) == (403, "Limite de chips do plano atingido.")
    # The alias is checked before the limit.
    assert (await person.post("/chips", json={"alias": "one"})).status_code == 400
    # Alias and limit are free again from the deletion on.
    assert (await person.delete(f"/chips/{third['id']}")).status_code == 204
    assert (await person.chip("Three"))["alias"] == "Three"


async def test_the_eleventh_chip_of_an_enterprise(running: Running) -> None:
    person = await running.person("enterprise")
    for number in range(10):
        await person.chip(f"chip {number}")
    assert (await person.post("/chips", json={"alias": "chip 10"})).status_code == 403
    assert len((await person.get("/chips")).json()) == 10


async def test_the_same_alias_belongs_to_each_user(running: Running) -> None:
    one, other = await running.person(), await running.person()
    assert (await one.chip("vendas"))["alias"] == (await other.chip("vendas"))["alias"]


async def test_creates_at_once_never_pass_limit_or_alias(running: Running) -> None:
    person = await running.person("business")
    now = {"Prefer": "respond-async"}
    same = [person.post("/chips", json={"alias": "same"}, headers=now) for _ in range(4)]
    assert sorted(answer.status_code for answer in await asyncio.gather(*same)) == [201, 400, 400, 400]
    many = [person.post("/chips", json={"alias": f"chip {n}"}, headers=now) for n in range(8)]
    assert sorted(answer.status_code for answer in await asyncio.gather(*many)) == [201] * 2 + [403] * 6
    assert len((await person.get("/chips")).json()) == 3
    [container] = await running.sql("SELECT count(*) AS n FROM containers")
    assert container.n == 1


async def test_generations_of_a_user_only_rise(running: Running) -> None:
    person = await running.person()
    chips = [await person.chip(f"chip {n}") for n in range(2)]
    await person.post(f"/chips/{chips[0]['id']}/disconnect")
    await person.delete(f"/chips/{chips[1]['id']}")
    events = await running.sql("SELECT generation, type, code FROM chip_events ORDER BY id")
    generations = [event.generation for event in events]
    assert generations == sorted(set(generations))
    assert [event.code for event in events] == [
        "chip_created",
        "chip_created",
        "disconnect_requested",
        "chip_deleted",
    ]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"alias": "ab"}, "Apelido: Use de 3 a 100 caracteres."),
        ({"alias": "   ab   "}, "Apelido: Use de 3 a 100 caracteres."),
        ({"alias": "x" * 101}, "Apelido: Use de 3 a 100 caracteres."),
        ({"alias": "<b>chip</b>"}, "Apelido: Não use os sinais < e >."),
        ({"alias": "a\nb c"}, "Apelido: Não use caracteres de controle."),
        ({"alias": None}, "Apelido: Valor de tipo inválido."),
        ({}, "Apelido: Campo obrigatório."),
        ({"alias": "vendas", "port": 1}, "port: Campo desconhecido."),
    ],
)
async def test_bad_chips(running: Running, body: dict[str, Any], detail: str) -> None:
    person = await running.person()
    answer = await person.post("/chips", json=body)
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await person.get("/chips")).json() == []


async def test_a_deleted_chip_is_gone_for_its_owner_at_once(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    path = f"/chips/{chip['id']}"
    answer = await person.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await person.get("/chips")).json() == []
    for method, suffix in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/qr"),
        ("POST", "/disconnect"),
        ("POST", "/reconnect"),
    ):
        gone = await person._send(method, path + suffix)
        assert (gone.status_code, gone.json()["detail"]) == (404, NOT_FOUND)
    [row] = await running.sql("SELECT wanted, deleted_at, generation, observed_generation FROM chips")
    assert row.wanted == "deleted"
    assert row.deleted_at is not None
    assert row.generation > row.observed_generation


@pytest.mark.parametrize("id_", ["x", "1", "%00", "a%2Fb", "8a4f8f0e52a54a9e8f636f6c8d1f7b20", "ç" * 30])
async def test_a_malformed_id_is_an_unknown_one(running: Running, id_: str) -> None:
    person = await running.person()
    for method, suffix in (("GET", ""), ("DELETE", ""), ("GET", "/qr"), ("POST", "/reconnect")):
        answer = await person._send(method, f"/chips/{id_}{suffix}")
        assert answer.status_code == 404
        assert answer.json()["code"] in ("chip_not_found", "route_not_found")


async def test_the_chip_of_another_user_is_unknown(running: Running) -> None:
    owner, other = await running.person(), await running.person()
    chip = await owner.chip()
    for method, suffix in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/qr"),
        ("POST", "/disconnect"),
        ("POST", "/reconnect"),
    ):
        answer = await other._send(method, f"/chips/{chip['id']}{suffix}")
        assert (answer.status_code, answer.json()["detail"]) == (404, NOT_FOUND)
    assert (await owner.get(f"/chips/{chip['id']}")).status_code == 200
    assert len(await running.sql("SELECT 1 FROM chip_events")) == 1


async def wishes(running: Running) -> tuple[int, str]:
    [row] = await running.sql("SELECT generation, wanted FROM chips")
    return row.generation, row.wanted


@pytest.mark.parametrize("status", [QR, STARTING, WORKING, PARKED, DISCONNECTED])
async def test_disconnect_says_so_in_every_state_until_the_next_wish(running: Running, status: Any) -> None:
    person = await running.person()
    chip = await person.chip()
    path = f"/chips/{chip['id']}"
    loaded = await running.daemon.saw(person.id, chips={chip["id"]: status})
    answer = await person.post(f"{path}/disconnect")
    assert (answer.status_code, answer.json()["status"]) == (200, "DISCONNECTED")
    # A pass that began before the wish ends after it.
    await running.daemon.saw(person.id, chips={chip["id"]: status}, loaded=loaded)
    assert (await person.get(path)).json()["status"] == "DISCONNECTED"
    before = await wishes(running)
    again = await person.post(f"{path}/disconnect")
    assert (again.status_code, again.json()["status"]) == (200, "DISCONNECTED")
    assert await wishes(running) == before
    await running.daemon.saw(person.id, chips={chip["id"]: DISCONNECTED})
    [listed] = (await person.get("/chips")).json()
    assert (listed["status"], listed["extra_data"]["phase"]) == ("DISCONNECTED", "disconnected")


@pytest.mark.parametrize(
    ("status", "under_way"), [(QR, True), (STARTING, True), (WORKING, True), (PARKED, False)]
)
async def test_reconnect_changes_nothing_while_waha_is_at_work(
    running: Running, status: Any, under_way: bool
) -> None:
    person = await running.person()
    chip = await person.chip()
    await running.daemon.saw(person.id, chips={chip["id"]: status})
    before = await wishes(running)
    answer = await person.post(f"/chips/{chip['id']}/reconnect")
    assert answer.status_code == 200
    assert (await wishes(running) == before) is under_way
    events = await running.sql("SELECT code FROM chip_events WHERE type = 'reconnect'")
    assert bool(events) is not under_way


async def test_a_parked_chip_waits_again_from_the_press_on(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    path = f"/chips/{chip['id']}"
    loaded = await running.daemon.saw(person.id, chips={chip["id"]: PARKED})
    parked = (await person.get(path)).json()
    assert parked["extra_data"]["reason_text"] == "O QR Code expirou. Clique em Conectar para gerar outro."
    pressed = (await person.post(f"{path}/reconnect")).json()
    await running.daemon.saw(person.id, chips={chip["id"]: PARKED}, loaded=loaded)
    for seen in (pressed, (await person.get(path)).json()):
        assert (seen["status"], seen["extra_data"]["phase"]) == ("WAITING_QR", "queued")
        assert seen["extra_data"]["reason"] is None


async def test_a_paired_chip_is_connecting_from_the_press_on(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    path = f"/chips/{chip['id']}"
    await running.daemon.saw(person.id, chips={chip["id"]: WORKING})
    connected = (await person.get(path)).json()
    assert (connected["status"], connected["phone_number"]) == ("CONNECTED", "+5511988887777")
    await person.post(f"{path}/disconnect")
    await running.daemon.saw(person.id, chips={chip["id"]: DISCONNECTED})
    assert (await person.post(f"{path}/reconnect")).json()["status"] == "CONNECTING"
    assert await wishes(running) == ((await wishes(running))[0], "connected")
    await running.daemon.saw(person.id, chips={chip["id"]: WORKING})
    assert (await person.get(path)).json()["status"] == "CONNECTED"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 200),
        (b"{}", 200),
        (b'{"fresh": true}', 200),
        (b'{"fresh": false}', 200),
        (b'{"fresh": 1}', 422),
        (b'{"fresh": true, "x": 1}', 422),
        (b"[]", 422),
        (b"{", 400),
    ],
)
async def test_the_body_of_a_reconnect(running: Running, content: bytes, status: int) -> None:
    person = await running.person()
    chip = await person.chip()
    answer = await person.post(
        f"/chips/{chip['id']}/reconnect", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status
    events = await running.sql("SELECT extra_data FROM chip_events WHERE type = 'reconnect'")
    assert [event.extra_data for event in events] == (
        [{"fresh": b"true" in content}] if status == 200 else []
    )


async def test_a_wish_revives_a_container_that_an_operator_removed(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    await running.sql("UPDATE containers SET deleted_at = now()")
    await person.post(f"/chips/{chip['id']}/reconnect")
    [container] = await running.sql("SELECT deleted_at FROM containers")
    assert container.deleted_at is None


async def test_wishes_of_one_user_at_once_all_end(start: Start) -> None:
    # All want one row: with fewer connections the last ones would be told on a busy machine to come again.
    async with start(WAHAFLEET_DATABASE_POOL="40") as running:
        person = await running.person()
        chips = [(await person.chip(f"chip {n}"))["id"] for n in range(3)]
        waiting = []
        for round_ in range(4):
            for chip_id in chips:
                waiting.append(person.post(f"/chips/{chip_id}/disconnect"))
                waiting.append(person.post(f"/chips/{chip_id}/reconnect"))
            waiting.append(person.post("/chips", json={"alias": f"more {round_}"}))
        passes = [running.daemon.saw(person.id, chips={chips[0]: QR})]
        answers, _ = await asyncio.gather(asyncio.gather(*waiting), asyncio.gather(*passes))
        assert {answer.status_code for answer in answers} == {200, 201}
        query = "SELECT generation FROM chip_events WHERE type <> 'status_change'"
        generations = await running.sql(query)
        assert len({row.generation for row in generations}) == len(generations)


BROWSERS: list[dict[str, str]] = [
    {"Cookie": "whago_access_token={token}"},
    {"Sec-Fetch-Mode": "cors"},
]


@pytest.mark.parametrize("case", ["auto", "lower", "upper"])
async def test_the_letter_case_of_a_status(start: Start, case: str) -> None:
    async with start(WAHAFLEET_API_STATUS_CASE=case) as running:
        person = await running.person()
        chip = await person.chip()
        path = f"/chips/{chip['id']}"
        await running.daemon.saw(person.id, chips={chip["id"]: QR})
        seen: dict[str, set[str]] = {"browser": set(), "other": set()}
        callers = [("browser", headers) for headers in BROWSERS] + [
            ("other", {}),
            ("other", {"Cookie": ""}),
            ("other", {"Cookie": "whago_access_token="}),
            ("other", {"Cookie": "theme=dark"}),
        ]
        for number, (who, headers) in enumerate(callers):
            sent = {name: value.format(token=person.token) for name, value in headers.items()}
            answers = [
                (await person.get(path, headers=sent)).json(),
                (await person.get("/chips", headers=sent)).json()[0],
                (await person.post(f"{path}/reconnect", headers=sent)).json(),
                (await person.post("/chips", json={"alias": f"n {number}"}, headers=sent)).json(),
            ]
            seen[who] |= {answer["status"] for answer in answers}
            # WAHA's own words stay as they are.
            assert answers[0]["extra_data"]["waha_status"] == "SCAN_QR_CODE"
        upper, lower = {"WAITING_QR"}, {"waiting_qr"}
        assert seen["browser"] == (upper if case == "upper" else lower)
        assert seen["other"] == (lower if case == "lower" else upper)


async def test_annotations_of_trusted_services_are_shown_beside_ours(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    await running.sql("""UPDATE chips SET annotations = '{"heat_up": {"stage": 1}, "node": "theirs"}'""")
    extra = (await person.get(f"/chips/{chip['id']}")).json()["extra_data"]
    assert (extra["heat_up"], extra["node"]) == ({"stage": 1}, None)


@pytest.mark.parametrize(("egress", "proxied"), [("direct", False), ("guard", True), ("", False)])
async def test_whether_a_proxy_stands_between(start: Start, egress: str, proxied: bool) -> None:
    async with start(WAHAFLEET_EGRESS=egress) as running:
        person: Person = await running.person()
        assert (await person.chip())["extra_data"]["proxy_enabled"] is proxied
