from __future__ import annotations

from http.cookies import SimpleCookie
from typing import Any

import bcrypt
import httpx
import pytest

from tests.integration.api.conftest import PASSWORD, Person, Running, Start

NEW: dict[str, Any] = {
    "name": "Ana Souza",
    "email": "ana@empresa.com.br",
    "password": PASSWORD,
    "phone": "+55 (11) 99999-9999",
}


async def register(running: Running, **changes: Any) -> httpx.Response:
    return await running.client.post("/api/v1/auth/register", json=NEW | changes)


async def login(running: Running, email: str, password: str, **more: Any) -> httpx.Response:
    body = {"email": email, "password": password}
    return await running.client.post("/api/v1/auth/login", json=body, **more)


def cookies(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in answer.headers.get_list("set-cookie"):
        found.update(SimpleCookie(line))
    return found


async def test_a_new_account(running: Running) -> None:
    answer = await register(running, email=" Ana@Empresa.COM.br ", document="529.982.247-25", company_name="")
    assert answer.status_code == 201
    body = answer.json()
    user = body["user"]
    assert body["tokens"] == {
        "access_token": body["access_token"],
        "refresh_token": body["refresh_token"],
        "token_type": "bearer",
    }
    assert body["token_type"] == "bearer"
    assert {name: user[name] for name in user if name not in ("id", "created_at", "updated_at")} == {
        "email": "ana@empresa.com.br",
        "name": "Ana Souza",
        "phone": "+5511999999999",
        "company_name": None,
        "document": "52998224725",
        "credits": 100,
        "plan": "Plano Free",
        "plan_slug": "free",
        "plan_features": {"api_access": False, "webhooks": False},
        "is_active": True,
        "is_verified": False,
    }
    assert user["created_at"].endswith("Z")
    assert answer.headers["cache-control"] == "no-store"
    [stored] = await running.sql("SELECT password_hash FROM users")
    assert stored.password_hash.startswith("$argon2id$")


async def test_the_cookies_of_a_session(running: Running) -> None:
    answer = await register(running)
    found = cookies(answer)
    assert set(found) == {"whago_access_token", "whago_refresh_token"}
    for name, life in (("whago_access_token", "3600"), ("whago_refresh_token", "604800")):
        cookie = found[name]
        assert cookie.value == answer.json()[name.removeprefix("whago_")]
        assert cookie["httponly"]
        assert cookie["samesite"].lower() == "lax"
        assert cookie["path"] == "/"
        assert cookie["max-age"] == life
        assert not cookie["secure"]
    # The cookie alone is enough.
    assert (await running.client.get("/api/v1/users/me")).json()["email"] == NEW["email"]


@pytest.mark.parametrize(("trusted", "secure"), [("127.0.0.1", True), ("10.0.0.0/8", False)])
async def test_cookies_are_secure_when_a_proxy_of_ours_says_https(
    start: Start, trusted: str, secure: bool
) -> None:
    async with start(WAHAFLEET_TRUSTED_PROXIES=trusted) as running:
        answer = await running.client.post(
            "/api/v1/auth/register", json=NEW, headers={"X-Forwarded-Proto": "https"}
        )
        assert all(bool(cookie["secure"]) is secure for cookie in cookies(answer).values())


async def test_cookies_are_secure_over_https_itself(running: Running) -> None:
    answer = await running.client.post("https://wahafleet.test/api/v1/auth/register", json=NEW)
    assert all(cookie["secure"] for cookie in cookies(answer).values())


@pytest.mark.parametrize(
    ("slug", "title", "api_access"),
    [
        ("free", "Plano Free", False),
        ("business", "Plano Business", False),
        ("enterprise", "Plano Enterprise", True),
    ],
)
async def test_plans(running: Running, slug: str, title: str, api_access: bool) -> None:
    user = (await register(running, plan_slug=slug)).json()["user"]
    assert (user["plan"], user["plan_slug"]) == (title, slug)
    assert user["plan_features"] == {"api_access": api_access, "webhooks": False}


async def test_refusals_of_a_registration(running: Running) -> None:
    assert (await register(running)).status_code == 201
    taken = await register(running, email="ANA@empresa.com.br")
    assert (taken.status_code, taken.json()["detail"]) == (400, "Este email já está cadastrado.")
    assert taken.json()["code"] == "email_taken"
    plan = await register(running, plan_slug="gold")
    assert (plan.status_code, plan.json()["detail"]) == (400, "Plano selecionado é inválido.")
    bad = await register(running, phone="123", password="short", planet="x")
    assert bad.status_code == 422
    assert bad.json()["detail"] == (
        "Senha: Use de 8 a 128 caracteres. | Telefone: Telefone inválido. Use formato +5511999999999."
        " | planet: Campo desconhecido."
    )
    assert [error["field"] for error in bad.json()["errors"]] == ["password", "phone", "planet"]
    assert len(await running.sql("SELECT 1 FROM users")) == 1


async def test_two_registrations_of_one_email_at_once(running: Running) -> None:
    import asyncio

    answers = await asyncio.gather(*(register(running) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 400, 400, 400]


async def test_login(running: Running) -> None:
    person = await running.person()
    answer = await login(running, person.email.upper(), PASSWORD)
    assert answer.status_code == 200
    assert answer.json()["user"]["id"] == person.id
    assert set(cookies(answer)) == {"whago_access_token", "whago_refresh_token"}


@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("", ""),
        ("nobody@empresa.com.br", PASSWORD),
        ("no email at all \0", PASSWORD),
        ("<known>", "x"),
        ("<known>", PASSWORD + "x"),
        ("<known>", ""),
        ("<known>", "\0"),
    ],
)
async def test_a_wrong_login_is_always_the_same(running: Running, email: str, password: str) -> None:
    person = await running.person()
    answer = await login(running, email.replace("<known>", person.email), password)
    assert (answer.status_code, answer.json()["detail"]) == (401, "Email ou senha incorretos.")
    assert "set-cookie" not in answer.headers


async def test_suspended_and_inactive_accounts(running: Running) -> None:
    person = await running.person()
    await running.sql("UPDATE users SET suspended_at = now()")
    suspended = "Sua conta está suspensa. Entre em contato com o suporte."
    for answer in (await login(running, person.email, PASSWORD), await person.get("/users/me")):
        assert (answer.status_code, answer.json()["detail"]) == (403, suspended)
    assert (await login(running, person.email, "wrong")).status_code == 401
    await running.sql("UPDATE users SET suspended_at = NULL, is_active = false")
    for answer in (await login(running, person.email, PASSWORD), await person.get("/users/me")):
        assert (answer.status_code, answer.json()["detail"]) == (401, "Usuário inválido ou inativo.")


async def test_a_hash_of_the_old_system_is_replaced_at_login(running: Running) -> None:
    person = await running.person()
    old = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    await running.sql("UPDATE users SET password_hash = :old", old=old)
    assert (await login(running, person.email, "wrong")).status_code == 401
    [kept] = await running.sql("SELECT password_hash FROM users")
    assert kept.password_hash == old
    assert (await login(running, person.email, PASSWORD)).status_code == 200
    [kept] = await running.sql("SELECT password_hash FROM users")
    assert kept.password_hash.startswith("$argon2id$")
    assert (await login(running, person.email, PASSWORD)).status_code == 200


async def test_an_account_without_password_cannot_log_in(running: Running) -> None:
    person = await running.person()
    await running.sql("UPDATE users SET password_hash = NULL")
    assert (await login(running, person.email, "")).status_code == 401


async def test_changing_ones_account(running: Running) -> None:
    person = await running.person()
    before = (await person.get("/users/me")).json()
    sent = {"name": " Bia ", "phone": "", "company_name": "Empresa", "document": "11.222.333/0001-81"}
    answer = await person.put("/users/me", json=sent)
    assert answer.status_code == 200
    after = answer.json()
    assert after | {"updated_at": ""} == before | {
        "name": "Bia",
        "company_name": "Empresa",
        "document": "11222333000181",
        "updated_at": "",
    }
    assert after["updated_at"] > before["updated_at"]
    assert (await person.get("/users/me")).json() == after
    untouched = {"name": "", "phone": "", "company_name": "", "document": ""}
    assert (await person.put("/users/me", json=untouched)).json() == after
    cleared = (await person.put("/users/me", json={"company_name": None, "document": None})).json()
    assert (cleared["company_name"], cleared["document"], cleared["name"]) == (None, None, "Bia")


@pytest.mark.parametrize(
    "body", [{"name": None}, {"document": "123"}, {"email": "x@y.com"}, {"plan_slug": "enterprise"}]
)
async def test_what_cannot_be_changed(running: Running, body: dict[str, Any]) -> None:
    person: Person = await running.person("free")
    before = (await person.get("/users/me")).json()
    answer = await person.put("/users/me", json=body)
    assert answer.status_code == 422
    assert (await person.get("/users/me")).json() == before
