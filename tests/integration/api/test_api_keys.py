"""API keys: made by users of a plan that has them, and by the command line for services and operators."""

from __future__ import annotations

import re
import uuid
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.crypto import hashed_access_key
from core.domain.actor import COMMAND_LINE
from core.domain.api_keys import KeyRole
from core.store import api_keys
from tests.integration.api.conftest import Person, Running
from tests.integration.api.test_authentication import EXPIRED, cookie, token

ONLY_ENTERPRISE = "Recurso disponível apenas no plano Enterprise."
INVALID = "API Key inválida."


async def new_key(person: Person, name: str = "integração") -> dict[str, Any]:
    answer = await person.post("/api-keys", json={"name": name})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def with_key(running: Running, key: str, path: str = "/users/me", **headers: str) -> httpx.Response:
    return await running.client.get(f"/api/v1{path}", headers={"X-API-Key": key, **headers})


async def key_of(running: Running, role: KeyRole) -> str:
    _, key = await api_keys.create(running.engine, name=role.value, role=role, actor=COMMAND_LINE)
    return key


async def test_a_key_is_shown_once_and_stored_hashed(running: Running) -> None:
    person = await running.person()
    made = await new_key(person, "  CRM da loja ")
    assert re.fullmatch(r"whago_[0-9a-f]{8}_[0-9a-f]{64}", made["key"])
    assert made == {
        "id": made["id"],
        "name": "CRM da loja",
        "prefix": made["key"][:14],
        "created_at": made["created_at"],
        "last_used_at": None,
        "revoked_at": None,
        "is_active": True,
        "key": made["key"],
    }
    [listed] = (await person.get("/api-keys")).json()
    assert listed == {name: value for name, value in made.items() if name != "key"}
    [row] = await running.sql("SELECT * FROM api_keys")
    assert row.key_hash == hashed_access_key(made["key"])
    everything = str(await running.sql("SELECT k.*, a.* FROM api_keys k, audit_log a"))
    assert made["key"][15:] not in everything


async def test_a_key_opens_what_its_user_may_open(running: Running) -> None:
    person, other = await running.person(), await running.person()
    made = await new_key(person)
    assert (await with_key(running, made["key"])).json()["id"] == person.id
    assert (await with_key(running, f" {made['key']} ")).status_code == 200
    # What does not hold is ignored beside it; what holds comes first.
    for headers in (
        {"cookie": cookie("rubbish")},
        {"cookie": cookie(token(person.id, EXPIRED)), "authorization": "Bearer x"},
        {"cookie": ""},
        {"authorization": ""},
    ):
        assert (await with_key(running, made["key"], **headers)).json()["id"] == person.id
    answer = await with_key(running, made["key"], authorization=f"Bearer {other.token}")
    assert answer.json()["id"] == other.id
    # A chip made with it is its user's.
    headers = {"X-API-Key": made["key"], "Prefer": "respond-async"}
    chip = await running.client.post("/api/v1/chips", json={"alias": "vendas"}, headers=headers)
    assert chip.status_code == 201
    assert [one["id"] for one in (await person.get("/chips")).json()] == [chip.json()["id"]]
    assert (await other.get("/chips")).json() == []


async def test_the_last_use_is_kept_to_the_minute(running: Running) -> None:
    person = await running.person()
    made = await new_key(person)
    used = "SELECT last_used_at FROM api_keys"
    await with_key(running, made["key"])
    [first] = await running.sql(used)
    assert first.last_used_at is not None
    for _ in range(3):
        await with_key(running, made["key"])
    assert (await running.sql(used)) == [first]
    await running.sql("UPDATE api_keys SET last_used_at = last_used_at - interval '61 s'")
    await with_key(running, made["key"])
    [later] = await running.sql(used)
    assert later.last_used_at > first.last_used_at
    [listed] = (await person.get("/api-keys")).json()
    assert listed["last_used_at"] is not None


async def test_a_wrong_key_is_no_key(running: Running) -> None:
    person = await running.person()
    key = (await new_key(person))["key"]
    last = "0" if key[-1] != "0" else "1"
    for wrong in ("x", key[:-1], key[:-1] + last, key + "0", key.upper(), f"whago_{'0' * 8}_{'0' * 64}"):
        answer = await with_key(running, wrong)
        assert (answer.status_code, answer.json()["detail"]) == (401, INVALID)
        assert answer.json()["code"] == "invalid_api_key"
    assert (await running.sql("SELECT 1 FROM api_keys WHERE last_used_at IS NOT NULL")) == []


async def test_a_revoked_key_opens_nothing_and_stays_in_the_list(running: Running) -> None:
    person = await running.person()
    made = await new_key(person)
    for _ in range(2):
        assert (await person.delete(f"/api-keys/{made['id']}")).status_code == 204
    assert (await with_key(running, made["key"])).json()["detail"] == INVALID
    [listed] = (await person.get("/api-keys")).json()
    assert listed["is_active"] is False
    assert listed["revoked_at"] is not None
    lines = await running.sql(
        "SELECT action, user_id::text, target FROM audit_log WHERE action LIKE 'api_key.%' ORDER BY id"
    )
    assert [tuple(line) for line in lines] == [
        ("api_key.create", person.id, made["id"]),
        ("api_key.revoke", person.id, made["id"]),
    ]


async def test_keys_of_others_are_not_there(running: Running) -> None:
    person, other = await running.person(), await running.person()
    made = await new_key(person)
    _, service = await api_keys.create(
        running.engine, name="heat-up", role=KeyRole.SERVICE, actor=COMMAND_LINE
    )
    assert service
    [row] = await running.sql("SELECT id::text FROM api_keys WHERE role = 'service'")
    for key_id in (made["id"], row.id, str(uuid.uuid4()), "malformed", made["id"].upper() + "x"):
        answer = await other.delete(f"/api-keys/{key_id}")
        assert (answer.status_code, answer.json()["code"]) == (404, "api_key_not_found")
    assert (await other.get("/api-keys")).json() == []
    assert (await with_key(running, made["key"])).status_code == 200


@pytest.mark.parametrize("plan", ["free", "business"])
async def test_a_plan_without_api_access(running: Running, plan: str) -> None:
    person = await running.person(plan)
    for answer in (await person.get("/api-keys"), await person.post("/api-keys", json={"name": "CRM"})):
        assert (answer.status_code, answer.json()["detail"]) == (403, ONLY_ENTERPRISE)
        assert answer.json()["code"] == "plan_without_api"


async def test_a_key_of_a_plan_that_was_lowered_rests(running: Running) -> None:
    person = await running.person()
    made = await new_key(person)
    await running.sql("UPDATE users SET plan_slug = 'business'")
    answer = await with_key(running, made["key"])
    assert (answer.status_code, answer.json()["detail"]) == (403, ONLY_ENTERPRISE)
    # Its token still works, and it may be revoked.
    assert (await person.get("/users/me")).status_code == 200
    await running.sql("UPDATE users SET plan_slug = 'enterprise'")
    assert (await with_key(running, made["key"])).status_code == 200
    await running.sql("UPDATE users SET plan_slug = 'free'")
    assert (await person.delete(f"/api-keys/{made['id']}")).status_code == 204


async def test_a_key_of_a_suspended_or_inactive_user(running: Running) -> None:
    made = await new_key(await running.person())
    await running.sql("UPDATE users SET suspended_at = now(), plan_slug = 'free'")
    answer = await with_key(running, made["key"])
    assert (answer.status_code, answer.json()["code"]) == (403, "account_suspended")
    await running.sql("UPDATE users SET suspended_at = NULL, is_active = false")
    answer = await with_key(running, made["key"])
    assert (answer.status_code, answer.json()["detail"]) == (401, "Usuário inválido ou inativo.")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "ab"}, "name"),
        ({"name": " a  "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": None}, "name"),
        ({"name": "CRM", "role": "operator"}, "role"),
    ],
)
async def test_names_that_are_refused(running: Running, body: dict[str, Any], field: str) -> None:
    answer = await (await running.person()).post("/api-keys", json=body)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_pages_of_keys(running: Running) -> None:
    person = await running.person()
    names = [f"chave {number}" for number in range(7)]
    for name in names:
        await new_key(person, name)
    found: list[str] = []
    path = "/api-keys?limit=3"
    while path:
        answer = await person.get(path)
        assert answer.status_code == 200
        found += [key["name"] for key in answer.json()]
        link = answer.headers.get("link", "")
        match = re.fullmatch(r'</api/v1(/api-keys\?[^>]+)>; rel="next"', link)
        path = match[1] if match else ""
        assert bool(match) is bool(link)
    assert found == names[::-1]
    for query, field in (
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
    ):
        answer = await person.get(f"/api-keys?{query}")
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == [field]


# Keys that belong to no user


async def test_a_services_key(running: Running) -> None:
    person = await running.person()
    await person.chip()
    key = await key_of(running, KeyRole.SERVICE)
    answer = await with_key(running, key)
    assert (answer.status_code, answer.json()["code"]) == (403, "user_required")
    answer = await with_key(running, key, f"/containers/{person.id}")
    assert (answer.status_code, answer.json()["code"]) == (403, "operator_required")


async def test_an_operators_key(running: Running) -> None:
    person = await running.person()
    await person.chip()
    key = await key_of(running, KeyRole.OPERATOR)
    assert (await with_key(running, key, f"/containers/{person.id}")).status_code == 200
    answer = await with_key(running, key, "/chips")
    assert (answer.status_code, answer.json()["code"]) == (403, "user_required")
    await running.sql("UPDATE api_keys SET revoked_at = now()")
    assert (await with_key(running, key, f"/containers/{person.id}")).json()["detail"] == INVALID


async def test_a_users_key_never_acts_as_an_operator(running: Running) -> None:
    person = await running.person()
    await person.chip()
    await running.sql("UPDATE users SET role = 'operator'")
    made = await new_key(person)
    assert (await person.get(f"/containers/{person.id}")).status_code == 200
    answer = await with_key(running, made["key"], f"/containers/{person.id}")
    assert (answer.status_code, answer.json()["code"]) == (403, "operator_required")


async def test_a_change_with_a_key_names_the_key(running: Running) -> None:
    person = await running.person()
    first, second = await new_key(person, "primeira"), await new_key(person, "segunda")
    answer = await running.client.delete(
        f"/api/v1/api-keys/{second['id']}", headers={"X-API-Key": first["key"]}
    )
    assert answer.status_code == 204
    [line] = await running.sql(
        "SELECT actor_kind, actor_id::text, actor_key::text FROM audit_log WHERE action = 'api_key.revoke'"
    )
    assert tuple(line) == ("user", person.id, first["id"])


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.binary(max_size=100))
async def test_whatever_is_sent_as_a_key_is_refused_in_words(running: Running, key: bytes) -> None:
    sent = key.translate(None, b"\r\n\0")
    answer = await running.client.get("/api/v1/users/me", headers={b"X-API-Key": sent})
    assert answer.status_code == 401
    assert answer.json()["detail"] in (INVALID, "Token de acesso não encontrado.")
