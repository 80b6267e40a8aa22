from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest

from tests.integration.api.conftest import OPERATOR_TOKEN, Person, Running, Start

MISSING = "Token de acesso não encontrado."
BAD = "Token inválido ou expirado."
NOBODY = "Usuário inválido ou inativo."
EXPIRED = timedelta(seconds=-5)
# Those in tables of cases are made when tests are collected, which may be long before they run.
LONG = timedelta(days=1)


def token(subject: Any, life: timedelta = LONG, **claims: Any) -> str:
    body = {"sub": subject, "type": "access", "exp": datetime.now(UTC) + life} | claims
    return jwt.encode(body, "k" * 40, "HS256")


async def me(running: Running, **headers: str) -> httpx.Response:
    return await running.client.get(
        "/api/v1/users/me", headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def cookie(value: str) -> str:
    return f"whago_access_token={value}"


async def test_cookie_or_bearer(running: Running) -> None:
    person = await running.person()
    for headers in (
        {"authorization": f"Bearer {person.token}"},
        {"authorization": f"bearer  {person.token}"},
        {"cookie": cookie(person.token)},
        {"cookie": f"other=1; {cookie(person.token)}; more=2"},
        {"cookie": "", "authorization": f"Bearer {person.token}"},
        {"cookie": cookie(""), "authorization": f"Bearer {person.token}"},
        {"cookie": cookie("rubbish"), "authorization": f"Bearer {person.token}"},
        {"cookie": cookie(token(person.id, EXPIRED)), "authorization": f"Bearer {person.token}"},
        {"cookie": cookie(token(str(uuid.uuid4()))), "authorization": f"Bearer {person.token}"},
        {"cookie": cookie(person.token), "authorization": "Bearer rubbish"},
        {"cookie": cookie(person.token), "x_api_key": "rubbish"},
    ):
        answer = await me(running, **headers)
        assert answer.status_code == 200, headers
        assert answer.json()["id"] == person.id


async def test_the_cookie_comes_first(running: Running) -> None:
    one, other = await running.person(), await running.person()
    answer = await me(running, cookie=cookie(one.token), authorization=f"Bearer {other.token}")
    assert answer.json()["id"] == one.id


@pytest.mark.parametrize(
    ("headers", "detail", "code"),
    [
        ({}, MISSING, "token_missing"),
        ({"cookie": ""}, MISSING, "token_missing"),
        ({"cookie": cookie("")}, MISSING, "token_missing"),
        ({"cookie": "whago_refresh_token=x"}, MISSING, "token_missing"),
        ({"authorization": ""}, MISSING, "token_missing"),
        ({"authorization": "Bearer"}, MISSING, "token_missing"),
        ({"authorization": "Bearer "}, MISSING, "token_missing"),
        ({"authorization": "Basic YTpi"}, MISSING, "token_missing"),
        ({"authorization": "Bearer null"}, BAD, "invalid_token"),
        ({"cookie": cookie("x")}, BAD, "invalid_token"),
        ({"authorization": f"Bearer {token(str(uuid.uuid4()), EXPIRED)}"}, BAD, "invalid_token"),
        ({"authorization": f"Bearer {token(str(uuid.uuid4()), type='refresh')}"}, BAD, "invalid_token"),
        ({"authorization": f"Bearer {token(None)}"}, "Token sem identificador de usuário.", None),
        ({"authorization": f"Bearer {token(str(uuid.uuid4()))}"}, NOBODY, "invalid_user"),
        ({"authorization": f"Bearer {token('rubbish')}"}, NOBODY, "invalid_user"),
        ({"x_api_key": "whago_x"}, "API Key inválida.", "invalid_api_key"),
        ({"x_api_key": "whago_x", "cookie": cookie("x")}, "API Key inválida.", "invalid_api_key"),
        ({"x_api_key": " "}, MISSING, "token_missing"),
    ],
)
async def test_who_is_nobody(
    running: Running, headers: dict[str, str], detail: str, code: str | None
) -> None:
    answer = await me(running, **headers)
    assert (answer.status_code, answer.json()["detail"]) == (401, detail)
    assert code is None or answer.json()["code"] == code
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_refresh_token_opens_nothing(running: Running) -> None:
    person = await running.person()
    body = {"email": person.email, "password": "Senha@123"}
    refresh = (await running.client.post("/api/v1/auth/login", json=body)).json()["refresh_token"]
    running.client.cookies.clear()
    assert (await me(running, authorization=f"Bearer {refresh}")).json()["detail"] == BAD


ROUTES = [
    ("GET", "/users/me"),
    ("PUT", "/users/me"),
    ("GET", "/chips"),
    ("POST", "/chips"),
    ("GET", "/chips/{id}"),
    ("DELETE", "/chips/{id}"),
    ("GET", "/chips/{id}/qr"),
    ("POST", "/chips/{id}/disconnect"),
    ("POST", "/chips/{id}/reconnect"),
    ("GET", "/containers/{id}"),
    ("GET", "/containers/{id}/access"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_no_route_of_ours_works_without_a_token(running: Running, method: str, path: str) -> None:
    for id_ in (str(uuid.uuid4()), "malformed"):
        answer = await running.client.request(
            method, "/api/v1" + path.replace("{id}", id_), content=b"not json"
        )
        assert (answer.status_code, answer.json()["detail"]) == (401, MISSING)


# Operators

BY_ROLE = "UPDATE users SET role = 'operator' WHERE id = :id"


async def container_of(caller: Person, user_id: str) -> httpx.Response:
    return await caller.get(f"/containers/{user_id}")


async def test_operators_by_role_and_by_claim(running: Running) -> None:
    person = await running.person()
    await person.chip()
    refused = await container_of(person, person.id)
    assert (refused.status_code, refused.json()["code"]) == (403, "operator_required")
    claimed = Person(person.id, person.email, token(person.id, role="operator"), running.client)
    assert (await container_of(claimed, person.id)).status_code == 200
    await running.sql(BY_ROLE, id=person.id)
    assert (await container_of(person, person.id)).status_code == 200
    demoted = Person(person.id, person.email, token(person.id, role="user"), running.client)
    assert (await container_of(demoted, person.id)).status_code == 403


@pytest.mark.parametrize("by", ["id", "email"])
async def test_operators_by_setting(start: Start, by: str) -> None:
    async with start() as running:
        person, other = await running.person(), await running.person()
        await other.chip()
        listed = person.id if by == "id" else person.email.upper()
    async with start(WAHAFLEET_OPERATORS=f"x@y.com, {listed}") as running:
        person.client = other.client = running.client
        assert (await container_of(person, other.id)).status_code == 200
        assert (await container_of(other, other.id)).status_code == 403


async def test_the_operators_token_is_nobodys(running: Running) -> None:
    person = await running.person()
    await person.chip()
    operator = Person("", "", OPERATOR_TOKEN, running.client)
    assert (await container_of(operator, person.id)).status_code == 200
    answer = await operator.get("/chips")
    assert (answer.status_code, answer.json()["code"]) == (403, "user_required")
    nearly = Person("", "", OPERATOR_TOKEN[:-1], running.client)
    assert (await container_of(nearly, person.id)).status_code == 401


async def test_without_an_operators_token_none_is_accepted(start: Start) -> None:
    async with start(WAHAFLEET_OPERATOR_TOKEN="") as running:
        for guess in ("", "None", OPERATOR_TOKEN):
            answer = await running.client.get(
                f"/api/v1/containers/{uuid.uuid4()}", headers={"Authorization": f"Bearer {guess}"}
            )
            assert answer.status_code == 401
