"""Logins at providers: what operators see of them, and that nobody ever sees a password."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from core.crypto import Sealer
from tests.integration.api.conftest import SECRET_KEY, Running
from tests.integration.api.proxied import PASSWORD, label, operator, provider, sub_user

NEW_PASSWORD = "outra-senha-do-provedor"
PATH = "/fleet/providers/dataimpulse/sub-users"


async def stored(running: Running) -> str:
    [row] = await running.sql("SELECT sealed_password FROM sub_users")
    return Sealer((SECRET_KEY,)).open(bytes(row.sealed_password))


async def test_a_password_comes_in_and_never_goes_out(
    running: Running, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    boss, told = operator(running), ""
    await provider(running)
    with caplog.at_level(logging.DEBUG):
        made = await boss.post(PATH, json={"login": "whago1", "password": PASSWORD})
        assert made.status_code == 201, made.text
        assert await stored(running) == PASSWORD
        id_ = made.json()["id"]
        changed = await boss.put(f"{PATH}/{id_}", json={"password": NEW_PASSWORD})
        assert changed.status_code == 200, changed.text
        assert await stored(running) == NEW_PASSWORD
        twice = await boss.post(PATH, json={"login": "whago1", "password": PASSWORD})
        bad = await boss.post(PATH, json={"login": "", "password": PASSWORD})
        odd = await boss.post(PATH, json={"login": "x", "password": PASSWORD + "é"})
        for answer in (
            made,
            changed,
            twice,
            bad,
            odd,
            await boss.get(PATH),
            await boss.delete(f"{PATH}/{id_}"),
        ):
            told += answer.text
    told += str(await running.sql("SELECT * FROM audit_log")) + str(
        await running.sql("SELECT * FROM sub_users")
    )
    shown = capsys.readouterr()
    told += shown.out + shown.err + caplog.text
    assert "whago1" in told
    for secret in (PASSWORD, NEW_PASSWORD):
        assert secret not in told
    actions = [line.action for line in await running.sql("SELECT action FROM audit_log ORDER BY id")]
    assert actions == ["provider.create", "sub_user.create", "sub_user.change", "sub_user.remove"]
    [line] = await running.sql("SELECT detail FROM audit_log WHERE action = 'sub_user.change'")
    assert line.detail == {"provider": "dataimpulse", "login": "whago1", "password": "changed"}


async def test_what_is_shown_of_a_sub_user(running: Running) -> None:
    boss, person = operator(running), await running.person()
    await provider(running)
    made = await sub_user(running)
    assert {
        name: made[name] for name in ("provider", "login", "max_labels", "chips", "enabled", "trouble")
    } == {
        "provider": "dataimpulse",
        "login": "whago1",
        "max_labels": 200,
        "chips": 0,
        "enabled": True,
        "trouble": None,
    }
    await sub_user(running, login="a-primeira", max_labels=1, enabled=False)
    await label(running, person, (await person.chip())["id"], made)
    listed = (await boss.get(PATH)).json()
    assert [(one["login"], one["chips"], one["enabled"]) for one in listed] == [
        ("a-primeira", 0, False),
        ("whago1", 1, True),
    ]
    changed = (await boss.put(f"{PATH}/{made['id']}", json={"max_labels": 1, "enabled": False})).json()
    assert (changed["max_labels"], changed["enabled"], changed["chips"]) == (1, False, 1)
    assert (await boss.get("/fleet/providers/dataimpulse")).json()["room"] == 0


async def test_a_sub_user_in_use_stays(running: Running) -> None:
    boss, person = operator(running), await running.person()
    await provider(running)
    mine = await sub_user(running)
    for number in range(2):
        chip = await person.chip(f"chip {number}")
        await label(running, person, chip["id"], mine, f"label{number}")
    refused = await boss.delete(f"{PATH}/{mine['id']}")
    assert (refused.status_code, refused.json()["code"]) == (409, "sub_user_in_use")
    assert refused.json()["detail"] == (
        "O sub-usuário whago1 ainda atende 2 chips; desabilite-o, espere os chips mudarem para outro e exclua-o depois."
    )
    await running.sql("UPDATE labels SET released_at = now()")
    assert (await boss.delete(f"{PATH}/{mine['id']}")).status_code == 204


async def test_a_refused_login_is_told_and_a_new_password_is_tried(running: Running) -> None:
    boss = operator(running)
    await provider(running)
    mine = await sub_user(running)
    trouble = "UPDATE sub_users SET trouble = 'proxy_auth', trouble_at = now()"
    await running.sql(trouble)
    [shown] = (await boss.get(PATH)).json()
    assert shown["trouble"] == "proxy_auth"
    assert shown["trouble_text"] == (
        "O provedor recusou o login; confira login e senha no painel dele e troque a senha aqui."
    )
    person = await running.person()
    chip = (await person.chip())["id"]
    await label(running, person, chip, mine, exit_ip="203.0.113.7", failure="proxy_auth")
    await running.sql("UPDATE labels SET failures = 7, failing_since = now()")
    changed = (await boss.put(f"{PATH}/{mine['id']}", json={"password": NEW_PASSWORD})).json()
    assert changed["trouble"] is None
    # What failed says nothing any more: the next reading comes at once, and the exit that was known stays known.
    [row] = await running.sql("SELECT * FROM labels")
    assert (row.checked_at, row.failure, row.failures, row.failing_since) == (None, None, 0, None)
    assert (row.exit_ip, row.generation) == ("203.0.113.7", 1)
    await running.sql(trouble)
    cleared = await boss.delete(f"{PATH}/{mine['id']}/trouble")
    assert (cleared.json()["trouble"], cleared.json()["trouble_at"]) == (None, None)


BAD: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"login": "a:b"}, {"login": "Use de 1 a 120 caracteres ASCII visíveis, sem espaços nem dois-pontos."}),
    ({"password": "a b"}, {"password": "Use de 1 a 200 caracteres ASCII visíveis, sem espaços."}),
    ({"max_labels": 0}, {"max_labels": "Use um número de 1 a 100000."}),
    (
        {"login": "l" * 60},
        {
            "login": "O nome de usuário montado passa dos 64 caracteres que o modelo dataimpulse lê; use um sub-usuário "
            "de login mais curto."
        },
    ),
    ({"sealed_password": "x"}, {"sealed_password": "Campo desconhecido."}),
]


@pytest.mark.parametrize(("more", "said"), BAD)
async def test_each_bad_field_is_told_in_a_sentence(
    running: Running, more: dict[str, Any], said: dict[str, str]
) -> None:
    await provider(running)
    answer = await operator(running).post(PATH, json={"login": "whago1", "password": PASSWORD, **more})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert {one["field"]: one["message"] for one in answer.json()["errors"]} == said
    assert await running.sql("SELECT 1 FROM sub_users") == []


async def test_what_is_not_there(running: Running) -> None:
    boss = operator(running)
    await provider(running)
    await provider(running, "outro")
    mine = await sub_user(running)
    for path in (f"{PATH}/x", f"{PATH}/00000000-0000-4000-8000-000000000000"):
        for answer in (
            await boss.delete(path),
            await boss.put(path, json={}),
            await boss.delete(f"{path}/trouble"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "sub_user_not_found")
    elsewhere = await boss.delete(f"/fleet/providers/outro/sub-users/{mine['id']}")
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (404, "sub_user_not_found")
    for answer in (
        await boss.get("/fleet/providers/nobody/sub-users"),
        await boss.post("/fleet/providers/nobody/sub-users", json={"login": "x", "password": "y"}),
        await boss.get("/fleet/providers/No%20body/sub-users"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "provider_not_found")
