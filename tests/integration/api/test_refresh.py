"""Refresh tokens: rotated, each used once, ended by logout, reuse and a new password."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.domain.actor import COMMAND_LINE
from core.store.users_admin import set_password
from tests.integration.api.conftest import PASSWORD, Running, Start
from tests.integration.api.test_accounts import cookies

MISSING = "Refresh token não encontrado."
BAD = "Refresh token inválido ou expirado."
NAME = "whago_refresh_token"


async def logged_in(running: Running) -> dict[str, Any]:
    """The answer of a login of somebody new."""
    person = await running.person()
    body = {"email": person.email, "password": PASSWORD}
    answer = await running.client.post("/api/v1/auth/login", json=body)
    running.client.cookies.clear()
    assert answer.status_code == 200
    return dict(answer.json())


async def refresh(running: Running, token: str | None, **more: Any) -> httpx.Response:
    headers = {} if token is None else {"cookie": f"{NAME}={token}"}
    answer = await running.client.post("/api/v1/auth/refresh", headers=headers, **more)
    running.client.cookies.clear()
    return answer


async def logout(running: Running, cookie: str = "", **headers: str) -> httpx.Response:
    answer = await running.client.post("/api/v1/auth/logout", headers={"cookie": cookie, **headers})
    running.client.cookies.clear()
    return answer


def jti_of(token: str) -> str:
    return str(jwt.decode(token, "k" * 40, ["HS256"])["jti"])


async def later(running: Running, seconds: float = 11) -> None:
    """The grace of every token is over."""
    await running.sql(f"UPDATE refresh_families SET rotated_at = rotated_at - interval '{seconds} s'")


def refused(answer: httpx.Response, detail: str = BAD) -> bool:
    return (answer.status_code, answer.json()["detail"]) == (401, detail)


async def test_a_refresh_gives_what_a_login_gives(running: Running) -> None:
    first = await logged_in(running)
    answer = await refresh(running, first["refresh_token"])
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == first.keys()
    assert body["user"] == first["user"]
    assert body["tokens"]["access_token"] == body["access_token"]
    assert body["tokens"]["refresh_token"] == body["refresh_token"]
    assert body["refresh_token"] != first["refresh_token"]
    found = cookies(answer)
    assert found["whago_access_token"].value == body["access_token"]
    assert found[NAME].value == body["refresh_token"]
    assert found[NAME]["httponly"]
    assert found[NAME]["max-age"] == "604800"
    me = await running.client.get(
        "/api/v1/users/me", headers={"Authorization": f"Bearer {body['access_token']}"}
    )
    assert me.json() == body["user"]


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b"not json"])
async def test_a_body_is_not_read(running: Running, body: bytes) -> None:
    first = await logged_in(running)
    headers = {"cookie": f"{NAME}={first['refresh_token']}", "content-type": "application/json"}
    answer = await running.client.post("/api/v1/auth/refresh", headers=headers, content=body)
    assert answer.status_code == 200


async def test_refusals(running: Running) -> None:
    first = await logged_in(running)
    for none in (None, "", " "):
        answer = await refresh(running, none)
        assert refused(answer, MISSING)
        assert answer.json()["code"] == "refresh_token_missing"
    user_id = first["user"]["id"]
    soon = datetime.now(UTC) + timedelta(hours=1)
    good = {"sub": user_id, "type": "refresh", "jti": "x", "fam": str(uuid.uuid4()), "exp": soon}
    for claims in (
        good,  # of a family that there is not
        good | {"type": "access"},
        good | {"sub": "nobody"},
        good | {"fam": "none"},
        {name: value for name, value in good.items() if name != "fam"},
        good | {"jti": 5},
        good | {"exp": datetime.now(UTC) - timedelta(seconds=1)},
    ):
        answer = await refresh(running, jwt.encode(claims, "k" * 40, "HS256"))
        assert refused(answer), claims
        assert "set-cookie" not in answer.headers
    assert refused(await refresh(running, jwt.encode(good, "x" * 40, "HS256")))
    for rubbish in ("x", first["access_token"], first["refresh_token"][:-1], "a.b.c"):
        assert refused(await refresh(running, rubbish))
    # None of that touched the login itself.
    assert (await refresh(running, first["refresh_token"])).status_code == 200


async def test_a_token_that_is_used_again_ends_all_that_came_of_its_login(running: Running) -> None:
    first = await logged_in(running)
    other = await logged_in(running)
    second = (await refresh(running, first["refresh_token"])).json()
    await later(running)
    third = (await refresh(running, second["refresh_token"])).json()
    await later(running)
    assert refused(await refresh(running, first["refresh_token"]))
    for dead in (third, second, first):
        assert refused(await refresh(running, dead["refresh_token"]))
    assert (await refresh(running, other["refresh_token"])).status_code == 200
    ended = await running.sql("SELECT user_id::text FROM audit_log WHERE action = 'account.token_reused'")
    assert [line.user_id for line in ended] == [first["user"]["id"]]


async def test_a_page_that_asks_twice_at_once_is_no_thief(running: Running) -> None:
    first = await logged_in(running)
    answers = await asyncio.gather(*(refresh(running, first["refresh_token"]) for _ in range(5)))
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len({jti_of(answer.json()["refresh_token"]) for answer in answers}) == 1
    # Whichever answer the page keeps goes on, and only once more.
    onward = [answer.json()["refresh_token"] for answer in answers]
    assert (await refresh(running, onward[0])).status_code == 200
    await later(running)
    assert refused(await refresh(running, onward[1]))
    rotated = await running.sql("SELECT 1 FROM audit_log WHERE action = 'account.refresh'")
    assert len(rotated) == 2


async def test_an_answer_that_got_lost_may_be_asked_for_again_at_once_and_not_later(running: Running) -> None:
    first = await logged_in(running)
    await refresh(running, first["refresh_token"])
    assert (await refresh(running, first["refresh_token"])).status_code == 200
    await later(running)
    assert refused(await refresh(running, first["refresh_token"]))


async def test_two_processes_give_the_same_token_for_the_same_one(start: Start) -> None:
    async with start() as one, start() as two:
        first = await logged_in(one)
        asked = (refresh(running, first["refresh_token"]) for running in (one, two) * 4)
        answers = await asyncio.gather(*asked)
        assert [answer.status_code for answer in answers] == [200] * 8
        assert len({jti_of(answer.json()["refresh_token"]) for answer in answers}) == 1
        assert len(await one.sql("SELECT 1 FROM audit_log WHERE action = 'account.refresh'")) == 1


async def test_a_thief_who_is_as_fast_as_the_owner_ends_the_login(start: Start) -> None:
    async with start() as one, start() as two:
        for _ in range(5):
            stolen = (await logged_in(one))["refresh_token"]
            middle = (await refresh(one, stolen)).json()["refresh_token"]
            newest = (await refresh(one, middle)).json()["refresh_token"]
            owner, thief = await asyncio.gather(refresh(one, newest), refresh(two, stolen))
            assert refused(thief)
            given = owner.json().get("refresh_token", newest)
            for token in (given, newest, middle, stolen):
                assert refused(await refresh(two, token))


async def test_who_is_suspended_or_inactive_cannot_refresh(running: Running) -> None:
    first = await logged_in(running)
    token = first["refresh_token"]
    await running.sql("UPDATE users SET suspended_at = now()")
    answer = await refresh(running, token)
    assert (answer.status_code, answer.json()["code"]) == (403, "account_suspended")
    assert answer.json()["detail"] == "Sua conta está suspensa. Entre em contato com o suporte."
    await running.sql("UPDATE users SET suspended_at = NULL, is_active = false")
    assert refused(await refresh(running, token), "Usuário inválido ou inativo.")
    await running.sql("UPDATE users SET is_active = true")
    assert (await refresh(running, token)).status_code == 200


async def test_a_new_password_ends_every_login(running: Running) -> None:
    first = await logged_in(running)
    body = {"email": first["user"]["email"], "password": PASSWORD}
    second = (await running.client.post("/api/v1/auth/login", json=body)).json()
    assert await set_password(running.engine, first["user"]["email"], "hash", actor=COMMAND_LINE)
    for login in (first, second):
        assert refused(await refresh(running, login["refresh_token"]))


async def test_no_login_outlives_a_password_that_is_changed_meanwhile(running: Running) -> None:
    person = await running.person()
    body = {"email": person.email, "password": PASSWORD}
    url = "/api/v1/auth/login"
    for _ in range(5):
        old = await running.app.state.services.passwords.hash(PASSWORD)
        await running.sql("UPDATE users SET password_hash = :old", old=old)
        answers, changed = await asyncio.gather(
            asyncio.gather(*(running.client.post(url, json=body) for _ in range(4))),
            set_password(running.engine, person.email, "another", actor=COMMAND_LINE),
        )
        assert changed
        assert {answer.status_code for answer in answers} <= {200, 401}
        assert await running.sql("SELECT 1 FROM refresh_families WHERE ended_at IS NULL") == []
        for answer in answers:
            if answer.status_code == 200:
                assert refused(await refresh(running, answer.json()["refresh_token"]))


async def test_logging_out(running: Running) -> None:
    first = await logged_in(running)
    answer = await logout(
        running, f"{NAME}={first['refresh_token']}; whago_access_token={first['access_token']}"
    )
    assert answer.status_code == 200
    assert set(answer.json()) == {"message"}
    assert answer.json()["message"]
    gone = cookies(answer)
    assert set(gone) == {"whago_access_token", NAME}
    for cookie in gone.values():
        assert (cookie.value, cookie["max-age"], cookie["path"]) == ("", "0", "/")
        assert cookie["httponly"]
    assert refused(await refresh(running, first["refresh_token"]))
    [line] = await running.sql("SELECT user_id::text FROM audit_log WHERE action = 'account.logout'")
    assert line.user_id == first["user"]["id"]


async def test_a_page_can_always_log_out(running: Running) -> None:
    first = await logged_in(running)
    claims = jwt.decode(first["refresh_token"], "k" * 40, ["HS256"])
    expired = jwt.encode(claims | {"exp": datetime.now(UTC) - timedelta(days=1)}, "k" * 40, "HS256")
    for cookie in (
        "",
        "whago_access_token=x",
        f"{NAME}=rubbish",
        f"{NAME}=",
        f"{NAME}={first['access_token']}",
    ):
        answer = await logout(running, cookie, authorization="Bearer x")
        assert answer.status_code == 200, cookie
        assert set(cookies(answer)) == {"whago_access_token", NAME}
    assert (await running.sql("SELECT 1 FROM refresh_families WHERE ended_at IS NOT NULL")) == []
    # An expired token is enough to end its login, and a second time changes nothing.
    for _ in range(2):
        assert (await logout(running, f"{NAME}={expired}")).status_code == 200
    assert refused(await refresh(running, first["refresh_token"]))
    assert len(await running.sql("SELECT 1 FROM audit_log WHERE action = 'account.logout'")) == 1


async def test_logins_that_are_over_are_swept_by_those_that_begin(running: Running) -> None:
    first = await logged_in(running)
    await running.sql("UPDATE refresh_families SET expires_at = now() - interval '1 s'")
    assert refused(await refresh(running, first["refresh_token"]))
    await logged_in(running)
    # Registering begins a login too.
    assert len(await running.sql("SELECT 1 FROM refresh_families")) == 2
    assert await running.sql("SELECT 1 FROM refresh_families WHERE expires_at < now()") == []


async def test_no_token_is_stored(running: Running) -> None:
    first = await logged_in(running)
    second = (await refresh(running, first["refresh_token"])).json()
    rows = str(await running.sql("SELECT f.*, a.* FROM refresh_families f, audit_log a"))
    for body in (first, second):
        assert jti_of(body["refresh_token"]) not in rows
        assert body["refresh_token"] not in rows


@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.text(
        st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=';,"\\'), max_size=200
    )
)
async def test_whatever_stands_in_the_cookie_is_refused_in_words(running: Running, value: str) -> None:
    answer = await refresh(running, value)
    assert answer.status_code == 401
    assert answer.json()["detail"] in (MISSING, BAD)
    assert (await logout(running, f"{NAME}={value}")).status_code == 200
