"""Providers of proxies, as operators make, change and remove them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.domain import labels
from core.store.fleet_control import EVERYBODY
from core.store.notify import INTENTS, Listener, News
from tests.integration.api.conftest import GUARD_SECRET, Running, Start
from tests.integration.api.proxied import PASSWORD, label, operator, provider, sub_user, used
from tests.polling import eventually

UNKNOWN = "Provedor não encontrado."


async def test_the_templates_say_which_ones_tests_speak_for(running: Running) -> None:
    found = {one["slug"]: one for one in (await operator(running).get("/fleet/provider-templates")).json()}
    assert {slug for slug, one in found.items() if one["verified"]} == {"dataimpulse", "generic"}
    assert found["dataimpulse"]["schemes"]["socks5"] == {
        "host": "gw.dataimpulse.com",
        "first_port": 824,
        "last_port": 824,
    }
    assert found["generic"]["schemes"]["http"] == {"host": None, "first_port": None, "last_port": None}
    assert found["iproyal"]["lifetime"] == {"least": 1, "most": 10080}


async def test_a_provider_from_its_making_to_its_end(running: Running) -> None:
    boss = operator(running)
    made = await provider(running, title=" DataImpulse ", country="BR", cost_per_gb="5,2")
    assert (made["title"], made["country"], made["cost_per_gb"], made["scheme"]) == (
        "DataImpulse",
        "br",
        "5.20",
        "socks5",
    )
    assert (made["host"], made["port"], made["verified"], made["enabled"], made["is_default"]) == (
        None,
        None,
        True,
        True,
        True,
    )
    assert (made["sub_users"], made["chips"], made["room"], made["trouble"]) == (0, 0, 0, None)
    assert (await boss.get("/fleet/providers/dataimpulse")).json() == made
    change = {
        "cost_per_gb": "4.1234",
        "host": "GW.exemplo.com",
        "port": 1080,
        "minutes": 30,
        "enabled": False,
    }
    changed = await boss.put("/fleet/providers/dataimpulse", json=change)
    assert changed.status_code == 200, changed.text
    assert changed.json() == {
        **made,
        **change,
        "host": "gw.exemplo.com",
        "updated_at": changed.json()["updated_at"],
    }
    assert changed.json()["updated_at"] > made["updated_at"]
    again = await boss.put("/fleet/providers/dataimpulse", json={"host": None, "port": None, "enabled": True})
    assert (again.json()["host"], again.json()["port"], again.json()["cost_per_gb"]) == (None, None, "4.1234")
    await sub_user(running)
    assert (await boss.delete("/fleet/providers/dataimpulse")).status_code == 204
    assert (await boss.get("/fleet/providers")).json() == []
    assert await running.sql("SELECT 1 FROM sub_users") == []
    gone = await boss.get("/fleet/providers/dataimpulse")
    assert (gone.status_code, gone.json()["code"], gone.json()["detail"]) == (
        404,
        "provider_not_found",
        UNKNOWN,
    )


async def test_the_first_is_the_default_and_another_may_take_its_place(running: Running) -> None:
    boss = operator(running)
    assert not (await provider(running, "reserva", enabled=False))["is_default"]
    assert (await provider(running, "um"))["is_default"]
    assert not (await provider(running, "dois", title="Segundo"))["is_default"]
    refused = await boss.post("/fleet/providers/reserva/default")
    assert (refused.status_code, refused.json()["code"]) == (409, "provider_disabled")
    assert refused.json()["detail"] == (
        "O provedor reserva está desabilitado; habilite-o antes de torná-lo o padrão."
    )
    for _ in range(2):
        assert (await boss.post("/fleet/providers/dois/default")).json()["is_default"]
    listed = {one["slug"]: one["is_default"] for one in (await boss.get("/fleet/providers")).json()}
    assert listed == {"dois": True, "reserva": False, "um": False}
    lines = await running.sql("SELECT target FROM audit_log WHERE action = 'provider.default'")
    assert [line.target for line in lines] == ["dois"]


async def test_of_many_at_once_one_is_the_default(running: Running) -> None:
    boss, slugs = operator(running), [f"p{number}" for number in range(5)]
    made = await asyncio.gather(*(provider(running, slug) for slug in slugs))
    assert sum(one["is_default"] for one in made) == 1
    chosen = await asyncio.gather(*(boss.post(f"/fleet/providers/{slug}/default") for slug in slugs))
    assert [one.status_code for one in chosen] == [200] * 5
    listed = (await boss.get("/fleet/providers")).json()
    assert sum(one["is_default"] for one in listed) == 1


BAD: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"slug": "Um Dois"}, {"slug": "Use de 1 a 40 letras minúsculas"}),
    ({"template": "smartproxy"}, {"template": "Não há o modelo smartproxy; use um destes: brightdata"}),
    ({"template": "iproyal", "scheme": "socks5"}, {"scheme": "O modelo iproyal não tem socks5; use http."}),
    ({"template": "generic"}, {"host": "O modelo generic não tem um gateway próprio"}),
    ({"template": "generic", "host": "10.0.0.9"}, {"port": "O modelo generic não tem um gateway próprio"}),
    ({"scheme": "https"}, {"scheme": "Use socks5 ou http."}),
    ({"host": "http://gw.exemplo.com"}, {"host": "Use só o nome ou o endereço"}),
    ({"port": 0}, {"port": "Use um número de 1 a 65535."}),
    ({"port": True}, {"port": "Valor de tipo inválido."}),
    ({"country": "brasil"}, {"country": "Use o código de duas letras"}),
    ({"minutes": 10081}, {"minutes": "Use um número de 1 a 10080."}),
    ({"cost_per_gb": "R$ 5"}, {"cost_per_gb": "Use o preço por GB em reais"}),
    ({"cost_per_gb": 5}, {"cost_per_gb": "Valor de tipo inválido."}),
    ({"is_default": True}, {"is_default": "Campo desconhecido."}),
    ({"title": "a\nb", "country": "1"}, {"title": "Use de 1 a 80", "country": "Use o código"}),
]


@pytest.mark.parametrize(("more", "said"), BAD)
async def test_each_bad_field_is_told_in_a_sentence(
    running: Running, more: dict[str, Any], said: dict[str, str]
) -> None:
    body = {"slug": "novo", "template": "dataimpulse", **more}
    answer = await operator(running).post("/fleet/providers", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    told = {one["field"]: one["message"] for one in answer.json()["errors"]}
    assert told.keys() == said.keys()
    assert all(told[name].startswith(text) for name, text in said.items()), told
    assert await running.sql("SELECT 1 FROM providers") == []


async def test_a_change_is_judged_with_what_stays(running: Running) -> None:
    boss = operator(running)
    await provider(running, "local", template="generic", host="10.0.0.9", port=1080)
    for change in ({"host": None}, {"port": None}):
        answer = await boss.put("/fleet/providers/local", json=change)
        assert answer.status_code == 422
        assert [one["field"] for one in answer.json()["errors"]] == list(change)
    assert (await boss.put("/fleet/providers/local", json={"template": "dataimpulse"})).status_code == 422
    assert (await boss.put("/fleet/providers/nobody", json={})).json()["code"] == "provider_not_found"


async def test_a_slug_is_taken_once(running: Running) -> None:
    await provider(running)
    again = await operator(running).post(
        "/fleet/providers", json={"slug": "dataimpulse", "template": "generic", "host": "x", "port": 1}
    )
    assert (again.status_code, again.json()["code"]) == (409, "provider_exists")


async def test_a_provider_in_use_or_with_traffic_this_month_stays(running: Running) -> None:
    boss, person = operator(running), await running.person()
    chip = (await person.chip())["id"]
    await provider(running)
    mine = await sub_user(running, max_labels=5)
    await label(running, person, chip, mine)
    shown = (await boss.get("/fleet/providers/dataimpulse")).json()
    assert (shown["sub_users"], shown["chips"], shown["room"]) == (1, 1, 4)
    refused = await boss.delete("/fleet/providers/dataimpulse")
    assert (refused.status_code, refused.json()["code"]) == (409, "provider_in_use")
    assert refused.json()["detail"] == (
        "O provedor dataimpulse ainda atende 1 chip; desabilite-o, espere os chips mudarem para outro e exclua-o depois."
    )
    await running.sql("UPDATE labels SET released_at = now()")
    await used(running, person, chip, 1)
    refused = await boss.delete("/fleet/providers/dataimpulse")
    assert (refused.status_code, refused.json()["code"]) == (409, "provider_has_usage")
    await running.sql("UPDATE proxy_usage SET month = '2020-01-01'")
    assert (await boss.delete("/fleet/providers/dataimpulse")).status_code == 204
    # The chip is disconnected: its label waits, and is moved when it comes back.
    assert len(await running.sql("SELECT 1 FROM labels")) == 1


async def test_trouble_is_told_with_a_sentence_and_cleared_once(running: Running) -> None:
    boss = operator(running)
    await provider(running)
    await running.sql("UPDATE providers SET trouble = 'traffic_exhausted', trouble_at = now()")
    shown = (await boss.get("/fleet/providers/dataimpulse")).json()
    assert shown["trouble"] == "traffic_exhausted"
    assert shown["trouble_text"] == (
        "O tráfego contratado acabou; compre mais no provedor e limpe este aviso."
    )
    assert shown["trouble_at"] is not None
    for _ in range(2):
        cleared = (await boss.delete("/fleet/providers/dataimpulse/trouble")).json()
        assert (cleared["trouble"], cleared["trouble_text"], cleared["trouble_at"]) == (None, None, None)
    lines = await running.sql("SELECT detail FROM audit_log WHERE action = 'provider.clear_trouble'")
    assert [line.detail for line in lines] == [{"trouble": "traffic_exhausted"}]


async def test_daemons_look_at_whom_a_change_concerns_and_at_everybody_on_the_way(running: Running) -> None:
    boss, person, other = operator(running), await running.person(), await running.person()
    mine, away, foreign = [
        (await one.chip(f"chip {n}"))["id"] for n, one in enumerate((person, person, other))
    ]
    heard: list[str] = []
    listener = Listener(running.settings.store.database_url.reveal(), [INTENTS], application_name="test")

    def hear(item: Any) -> None:
        if isinstance(item, News):
            heard.append(item.payload)

    async def told(*payloads: str) -> None:
        await eventually(lambda: _has(heard, len(payloads)), 10)
        assert sorted(heard) == sorted(payloads)
        heard.clear()

    task = asyncio.create_task(listener.run(hear))
    try:
        await eventually(lambda: _is_listening(listener), 10)
        await provider(running)
        await told(EVERYBODY)
        first = await sub_user(running)
        await told(EVERYBODY)
        second = await sub_user(running, login="whago2")
        await told(EVERYBODY)
        await label(running, person, mine, first, "one")
        await label(running, person, away, second, "two", released=True)
        await label(running, other, foreign, second, "three")
        same = await boss.put("/fleet/providers/dataimpulse", json={"title": "dataimpulse"})
        assert same.status_code == 200
        assert (await boss.put("/fleet/providers/dataimpulse", json={"enabled": False})).status_code == 200
        await told(person.id, other.id, EVERYBODY)  # and nothing of what changed nothing
        path = "/fleet/providers/dataimpulse/sub-users"
        assert (await boss.put(f"{path}/{first['id']}", json={"enabled": False})).status_code == 200
        await told(person.id, EVERYBODY)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _is_listening(listener: Listener) -> bool:
    return listener.is_listening


async def _has(heard: list[str], number: int) -> bool:
    return len(heard) >= number


# Dry run


async def dry_run(running: Running, slug: str = "dataimpulse", **body: Any) -> dict[str, Any]:
    answer = await operator(running).post(f"/fleet/providers/{slug}/dry-run", json=body)
    assert answer.status_code == 200, answer.text
    assert PASSWORD not in answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_dry_run_shows_what_the_provider_would_be_told(running: Running) -> None:
    await provider(running)
    nobody = await dry_run(running)
    assert not nobody["usable"]
    assert (
        nobody["problem"]
        == "Este provedor não tem sub-usuário habilitado; cadastre um ou habilite o que existe."
    )
    await sub_user(running, login="cheio")
    mine = await sub_user(running, login="whago1", max_labels=7)
    person = await running.person()
    chip = (await person.chip())["id"]
    await label(running, person, chip, mine, "0123456789ab")
    told = await dry_run(running, chip_id=chip, sub_user_id=mine["id"])
    assert told == {
        "provider": "dataimpulse",
        "usable": True,
        "problem": None,
        "sub_user": "whago1",
        "label": "0123456789ab",
        "scheme": "socks5",
        "host": "gw.dataimpulse.com",
        "port": 824,
        "username": "whago1__cr.br;sessid.0123456789ab",
        "password": "***",
    }
    assert (await dry_run(running, label="abc"))["username"] == "cheio__cr.br;sessid.abc"
    without = await operator(running).post("/fleet/providers/dataimpulse/dry-run")
    assert without.json()["usable"]


async def test_a_dry_run_of_a_chip_without_a_label_shows_its_first(running: Running) -> None:
    await provider(running)
    await sub_user(running)
    chip = (await (await running.person()).chip())["id"]
    assert (await dry_run(running, chip_id=chip))["label"] == labels.label(GUARD_SECRET.encode(), chip, 1)


async def test_a_dry_run_without_the_secret_says_what_to_do(start: Start) -> None:
    async with start(WAHAFLEET_GUARD_SECRET="") as running:
        await provider(running)
        await sub_user(running)
        chip = (await (await running.person()).chip())["id"]
        told = await dry_run(running, chip_id=chip)
        assert not told["usable"]
        assert "WAHAFLEET_GUARD_SECRET" in told["problem"]


async def test_a_dry_run_says_what_the_template_refuses(running: Running) -> None:
    await provider(running, "iproyal", template="iproyal")
    mine = await sub_user(running, "iproyal")
    good = await dry_run(running, "iproyal", label="0123456789ab")
    assert (good["label"], good["username"]) == ("01234567", "whago1")
    assert good["password"] == "***_country-br_session-01234567_lifetime-60m"
    short = await dry_run(running, "iproyal", label="012")
    assert (short["usable"], short["username"]) == (False, None)
    assert (
        short["problem"] == "O modelo iproyal não aceita esse rótulo; use 8 caracteres dos que ele conhece."
    )
    await running.sql("UPDATE sub_users SET sealed_password = CAST('x' AS bytea)")
    lost = await dry_run(running, "iproyal", sub_user_id=mine["id"])
    assert "WAHAFLEET_SECRET_KEYS" in lost["problem"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"chip_id": "00000000-0000-4000-8000-000000000000"}, 404, "chip_not_found"),
        ({"sub_user_id": "00000000-0000-4000-8000-000000000000"}, 404, "sub_user_not_found"),
        ({"chip_id": "x"}, 422, "invalid_input"),
        ({"label": "a-b"}, 422, "invalid_input"),
        ({"password": "x"}, 422, "invalid_input"),
    ],
)
async def test_a_dry_run_of_what_is_not_there(
    running: Running, body: dict[str, Any], status: int, code: str
) -> None:
    await provider(running)
    await sub_user(running)
    answer = await operator(running).post("/fleet/providers/dataimpulse/dry-run", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
