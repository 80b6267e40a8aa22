"""A chip's label and exits as its owner and operators see them, and the wish for another label."""

from __future__ import annotations

from typing import Any

import pytest

from core.domain.egress_errors import OF_UPSTREAM, EgressError
from core.domain.states import reason_text
from tests.integration.api.conftest import Person, Running, Start
from tests.integration.api.proxied import label, operator, provider, sub_user, used


@pytest.fixture
async def running(start: Start) -> Any:
    async with start(WAHAFLEET_EGRESS="guard") as application:
        yield application


async def proxied(running: Running, person: Person, **more: Any) -> str:
    """A chip with a label."""
    chip: str = (await person.chip())["id"]
    await provider(running)
    await label(running, person, chip, await sub_user(running), **more)
    return chip


async def test_a_chips_label_and_exit(running: Running) -> None:
    person, other = await running.person(), await running.person()
    chip = await proxied(running, person, exit_ip="203.0.113.7")
    await used(running, person, chip, 1000, 24)
    await used(running, person, chip, 7, month="2020-01-01")
    await used(running, person, chip, 1, provider="antigo")
    for caller in (person, operator(running)):
        answer = await caller.get(f"/chips/{chip}/proxy")
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body.pop("exit_ip_since") is not None
        assert body == {
            "enabled": True,
            "provider": "dataimpulse",
            "label": "k3j9x0a7q2mz",
            "country": "br",
            "exit_ip": "203.0.113.7",
            "bytes_this_month": 1025,
            "message": None,
        }
        assert answer.headers["cache-control"] == "no-store"
    assert (await other.get(f"/chips/{chip}/proxy")).json()["code"] == "chip_not_found"
    await person.delete(f"/chips/{chip}")
    for caller in (person, operator(running)):
        assert (await caller.get(f"/chips/{chip}/proxy")).status_code == 404


@pytest.mark.parametrize(
    ("more", "statement", "said"),
    [
        ({}, "", "O endereço de saída deste chip ainda não foi verificado."),
        ({"released": True}, "", "O chip está desconectado; o mesmo proxy volta com ele."),
        (
            {"exit_ip": "203.0.113.7", "failure": "no_peer"},
            "",
            "O provedor de proxy não tem endereço de saída disponível agora; nova tentativa em breve.",
        ),
        (
            {"exit_ip": "203.0.113.7"},
            "UPDATE providers SET trouble = 'traffic_exhausted', trouble_at = now()",
            "O volume de dados contratado com o provedor de proxy acabou; nossa equipe foi avisada.",
        ),
        (
            {"exit_ip": "203.0.113.7"},
            "UPDATE sub_users SET enabled = false",
            "Nenhum provedor de proxy disponível para o chip; nossa equipe foi avisada.",
        ),
        (
            {"exit_ip": "203.0.113.7"},
            "UPDATE labels SET requested_generation = 2",
            "O proxy deste chip está sendo trocado.",
        ),
    ],
)
async def test_what_is_not_as_it_should_be_is_told(
    running: Running, more: dict[str, Any], statement: str, said: str
) -> None:
    person = await running.person()
    chip = await proxied(running, person, **more)
    if statement:
        await running.sql(statement)
    assert (await person.get(f"/chips/{chip}/proxy")).json()["message"] == said


async def test_another_label_is_wished_once(running: Running) -> None:
    person, boss = await running.person(), operator(running)
    chip = await proxied(running, person)
    [before] = await running.sql("SELECT generation, (SELECT generation FROM chips) AS chip FROM containers")
    first = await boss.post(f"/chips/{chip}/proxy/rotate")
    assert (first.status_code, first.json()) == (
        202,
        {
            "chip_id": chip,
            "status": "rotating",
            "generation": 1,
            "message": "A troca de proxy foi pedida; o chip reconecta com um novo endereço em instantes.",
        },
    )
    again = await boss.post(f"/chips/{chip}/proxy/rotate")
    assert again.json()["message"] == "A troca de proxy já foi pedida e segue em andamento."
    [row] = await running.sql("SELECT generation, requested_generation FROM labels")
    assert (row.generation, row.requested_generation) == (1, 2)
    # The container's, so that a daemon looks; the chip's own would buy QR sets and end its owner's consent.
    [after] = await running.sql("SELECT generation, (SELECT generation FROM chips) AS chip FROM containers")
    assert (after.generation, after.chip) == (before.generation + 1, before.chip)
    [line] = await running.sql("SELECT * FROM audit_log WHERE action = 'chip.rotate_label'")
    assert (str(line.user_id), line.target, line.actor_kind) == (person.id, chip, "operator")
    told = (await person.get(f"/chips/{chip}/events")).json()[0]
    assert (told["description"], told["extra_data"]["code"]) == (
        "Troca de proxy solicitada.",
        "label_rotation_requested",
    )
    await running.sql("UPDATE labels SET generation = 2")
    assert (await boss.post(f"/chips/{chip}/proxy/rotate")).json()["generation"] == 2


async def test_a_chip_without_a_label_has_none_to_rotate(running: Running) -> None:
    person, boss = await running.person(), operator(running)
    chip = (await person.chip())["id"]
    refused = await boss.post(f"/chips/{chip}/proxy/rotate")
    assert (refused.status_code, refused.json()["code"]) == (409, "label_missing")
    await person.delete(f"/chips/{chip}")
    for unknown in (chip, "x"):
        assert (await boss.post(f"/chips/{unknown}/proxy/rotate")).json()["code"] == "chip_not_found"
    assert (await person.post(f"/chips/{chip}/proxy/rotate")).json()["code"] == "operator_required"


async def exit_line(running: Running, person: Person, chip: str, number: int) -> None:
    await running.sql(
        "INSERT INTO exits (chip_id, user_id, provider_slug, label, label_generation, exit_ip, seen_from, seen_until, "
        "why) VALUES (:chip, :user, 'dataimpulse', :label, :number, :ip, now(), now(), 'requested')",
        chip=chip,
        user=person.id,
        label=f"label{number}",
        number=number,
        ip=f"203.0.113.{number}",
    )


async def test_the_history_in_pages(running: Running) -> None:
    person, other = await running.person(), await running.person()
    chip, foreign = (await person.chip())["id"], (await other.chip())["id"]
    for number in range(1, 6):
        await exit_line(running, person, chip, number)
    await exit_line(running, other, foreign, 9)
    for caller in (person, operator(running)):
        seen, path = [], f"/chips/{chip}/proxy/history?limit=2"
        while path:
            answer = await caller.get(path)
            assert answer.status_code == 200, answer.text
            seen += [one["exit_ip"] for one in answer.json()]
            following = answer.links.get("next", {}).get("url", "")
            path = following.removeprefix("/api/v1")
        assert seen == [f"203.0.113.{number}" for number in (5, 4, 3, 2, 1)]
    first = (await person.get(f"/chips/{chip}/proxy/history?limit=1")).json()[0]
    assert first.pop("id")
    assert first.pop("seen_from") == first.pop("seen_until")
    assert first == {
        "provider": "dataimpulse",
        "label": "label5",
        "label_generation": 5,
        "exit_ip": "203.0.113.5",
        "why": "requested",
    }
    assert (await person.get(f"/chips/{foreign}/proxy/history")).json()["code"] == "chip_not_found"
    for query in ("limit=0", "limit=x", "cursor=x"):
        assert (await person.get(f"/chips/{chip}/proxy/history?{query}")).status_code == 422


async def test_live_chips_that_share_an_exit_stand_in_the_fleet(running: Running) -> None:
    person, other = await running.person(), await running.person()
    await provider(running)
    mine = await sub_user(running)
    ids = {}
    for name, owner, ip, released in (
        ("um", person, "203.0.113.7", False),
        ("dois", other, "203.0.113.7", False),
        ("tres", person, "203.0.113.8", False),
        ("quatro", person, "203.0.113.8", True),
        ("cinco", person, None, False),
    ):
        ids[name] = (await owner.chip(f"chip {name}"))["id"]
        await label(running, owner, ids[name], mine, f"l-{name}", exit_ip=ip, released=released)
    [shared] = (await operator(running).get("/fleet")).json()["shared_exits"]
    assert shared["exit_ip"] == "203.0.113.7"
    assert [(one["chip_id"], one["alias"], one["user_id"]) for one in shared["chips"]] == [
        (ids["um"], "chip um", person.id),
        (ids["dois"], "chip dois", other.id),
    ]
    # Nobody has looked for hours: who has that exit now is not known.
    await running.sql(
        "UPDATE labels SET exit_at = now() - interval '4 h' WHERE chip_id = :chip", chip=ids["dois"]
    )
    assert (await operator(running).get("/fleet")).json()["shared_exits"] == []


@pytest.mark.parametrize("error", sorted(OF_UPSTREAM | {EgressError.NO_UPSTREAM}))
def test_whatever_speaks_against_a_label_has_a_sentence(error: EgressError) -> None:
    assert reason_text(error)
