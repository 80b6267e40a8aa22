"""Attached mode: tokens of the WHAGO backend, which tells plan, name and whether a user is active."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from core.domain.actor import COMMAND_LINE
from core.domain.api_keys import KeyRole
from core.store import api_keys
from tests.integration.api.conftest import Person, Running, Start
from tests.integration.api.upstream import SECRET, Upstream, running_upstream

NOBODY = "Usuário inválido ou inativo."
BAD = "Token inválido ou expirado."
AWAY = "Serviço temporariamente indisponível. Tente novamente em instantes."


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with running_upstream() as server:
        yield server


def attached(start: Start, upstream: Upstream, **more: Any) -> AbstractAsyncContextManager[Running]:
    return start(
        **{
            "WAHAFLEET_ACCOUNTS": "attached",
            "WAHAFLEET_UPSTREAM_URL": upstream.url,
            "WAHAFLEET_UPSTREAM_TIMEOUT_S": "0.5",
        }
        | more
    )


def whago_token(user_id: str, **claims: Any) -> str:
    """As WHAGO's: these claims and no others."""
    now = datetime.now(UTC)
    body = {
        "sub": user_id,
        "type": "access",
        "iat": now,
        "exp": now + timedelta(hours=1),
        "jti": str(uuid.uuid4()),
    }
    return jwt.encode(body | claims, SECRET, "HS256")


def somebody(running: Running, user_id: str = "", **claims: Any) -> Person:
    user_id = user_id or str(uuid.uuid4())
    return Person(user_id, "", whago_token(user_id, **claims), running.client)


async def chips(person: Person) -> httpx.Response:
    return await person.get("/chips")


async def plan_of(running: Running, person: Person) -> str | None:
    rows = await running.sql("SELECT plan_slug FROM users WHERE id = :id", id=person.id)
    return rows[0].plan_slug if rows else None


async def old_profile(running: Running, seconds: float = 301) -> None:
    await running.sql(f"UPDATE users SET profile_at = profile_at - interval '{seconds} s'")


async def silence_is_over(running: Running) -> None:
    """What the process remembers of an upstream that was away, and of refusals, is over."""
    accounts = running.app.state.services.upstream
    accounts._away_until = 0.0
    accounts._refusals.clear()


async def test_a_user_is_made_on_first_sight_and_asked_for_once(start: Start, upstream: Upstream) -> None:
    async with attached(start, upstream) as running:
        person = somebody(running)
        upstream.tells(person.id, "business", name=" Ana\0 ", phone=None, document="529.982.247-25")
        assert await running.sql("SELECT 1 FROM users") == []
        answer = await person.post("/chips", json={"alias": "vendas"}, headers={"Prefer": "respond-async"})
        assert answer.status_code == 201
        for _ in range(5):
            assert (await chips(person)).status_code == 200
        assert upstream.asked == [person.id]
        [row] = await running.sql("SELECT * FROM users")
        assert (row.plan_slug, row.name, row.phone) == ("business", "Ana", "")
        assert (row.email, row.document) == (f"{person.id[:8]}@empresa.com.br", "52998224725")
        assert row.password_hash is None
        assert row.profile_at is not None
        # The plan counts: three chips on business.
        for number in range(3):
            answer = await person.post(
                "/chips", json={"alias": f"loja {number}"}, headers={"Prefer": "wait=0"}
            )
        assert (answer.status_code, answer.json()["code"]) == (403, "chip_limit")


async def test_all_requests_of_a_user_ask_once(
    start: Start, upstream: Upstream, cache_url: str | None
) -> None:
    async with (
        attached(start, upstream, redis_url=cache_url) as one,
        attached(start, upstream, redis_url=cache_url) as two,
    ):
        person = somebody(one)
        upstream.tells(person.id, "free")
        upstream.delay_s = 0.2
        twin = Person(person.id, "", person.token, two.client)
        answers = await asyncio.gather(*(chips(who) for who in (person, twin) * 10))
        assert {answer.status_code for answer in answers} == {200}
        # Without Redis each process asks for itself, and finds it in the store from then on.
        assert len(upstream.asked) <= (2 if cache_url is None else 1)
        upstream.asked.clear()
        await asyncio.gather(*(chips(who) for who in (person, twin) * 5))
        assert upstream.asked == []


async def test_what_it_tells_later_counts_after_five_minutes(start: Start, upstream: Upstream) -> None:
    async with attached(start, upstream) as running:
        person = somebody(running)
        upstream.tells(person.id, "free")
        await chips(person)
        upstream.tells(person.id, "enterprise", name="Bia")
        await old_profile(running, 299)
        await chips(person)
        assert (await plan_of(running, person), len(upstream.asked)) == ("free", 1)
        await old_profile(running, 2)
        await chips(person)
        assert (await plan_of(running, person), len(upstream.asked)) == ("enterprise", 2)
        upstream.tells(person.id, "enterprise", is_active=False)
        await old_profile(running)
        answer = await chips(person)
        assert (answer.status_code, answer.json()["detail"]) == (401, NOBODY)
        upstream.tells(person.id, "enterprise")
        await old_profile(running)
        assert (await chips(person)).status_code == 200


WRONG: list[dict[str, Any]] = [
    {"status": 500},
    {"status": 503},
    {"status": 429},
    {"status": 404},
    {"status": 302},
    {"status": 204},
    {"delay_s": 1.0},
    {"raw": b"<html>"},
    {"raw": b"[]"},
    {"raw": b'{"id": 5, "plan_slug": "enterprise"}'},
    {"raw": b'{"id": "00000000-0000-0000-0000-000000000001", "plan_slug": "enterprise"}'},
    {"raw": b'{"plan_slug": "enterprise"}'},
    {"raw": b'{"id": "<me>"}'},
    {"raw": b'{"id": "<me>", "plan_slug": null}'},
    {"raw": b'{"id": "<me>", "plan_slug": {"slug": "enterprise"}}'},
    {"raw": b'{"id": "<me>", "plan_slug": "enterprise", "is_active": "yes"}'},
    {"raw": b'{"id": "<me>", "plan_slug": "enterprise", "more": "' + b"x" * 300_000 + b'"}'},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: str(wrong)[:60])
async def test_slow_down_or_lying_it_is_not_believed(
    start: Start, upstream: Upstream, wrong: dict[str, Any]
) -> None:
    async with attached(start, upstream) as running:
        known, stranger = somebody(running), somebody(running)
        upstream.tells(known.id, "business")
        upstream.tells(stranger.id, "enterprise")
        assert (await chips(known)).status_code == 200
        await old_profile(running)
        for name, value in wrong.items():
            if name == "raw":
                value = value.replace(b"<me>", stranger.id.encode())
            setattr(upstream, name, value)
        answer = await chips(stranger)
        assert (answer.status_code, answer.json()["detail"]) == (503, AWAY)
        assert answer.headers["retry-after"]
        # Who is known goes on with what was known last, and never becomes `free`.
        await silence_is_over(running)
        if wrong.get("raw", b"").count(b"<me>"):
            upstream.raw = wrong["raw"].replace(b"<me>", known.id.encode())
        assert (await chips(known)).status_code == 200
        assert await plan_of(running, known) == "business"
        assert await plan_of(running, stranger) is None
        # It comes back by itself.
        upstream.status = upstream.raw = None
        upstream.delay_s = 0
        await silence_is_over(running)
        assert (await chips(stranger)).status_code == 200
        assert (await plan_of(running, stranger), await plan_of(running, known)) == ("enterprise", "business")


async def test_one_that_is_silent_costs_the_known_little(start: Start, upstream: Upstream) -> None:
    async with attached(start, upstream) as running:
        people = [somebody(running) for _ in range(5)]
        for person in people:
            upstream.tells(person.id, "free")
            await chips(person)
        await old_profile(running)
        upstream.asked.clear()
        upstream.delay_s = 3
        for person in people * 4:
            assert (await chips(person)).status_code == 200
        assert len(upstream.asked) == 1


async def test_one_that_is_not_there_at_all(start: Start) -> None:
    async with running_upstream() as gone:
        pass
    async with attached(start, gone) as running:
        person = somebody(running)
        assert (await chips(person)).status_code == 503
        assert await running.sql("SELECT 1 FROM users") == []
        # An unknown path and a bad token are what they are.
        assert (await person.get("/nothing")).status_code == 404
        assert (await running.client.get("/api/v1/chips")).status_code == 401


async def test_a_token_that_it_refuses_is_refused_and_no_other(start: Start, upstream: Upstream) -> None:
    async with attached(start, upstream) as running:
        person = somebody(running)
        upstream.tells(person.id, "free")
        upstream.refused_tokens.add(person.token)
        for _ in range(3):
            answer = await chips(person)
            assert (answer.status_code, answer.json()["detail"]) == (401, BAD)
        assert len(upstream.asked) == 1
        other = somebody(running, person.id)
        assert (await chips(other)).status_code == 200


async def test_a_refused_token_takes_no_other_with_it(start: Start, upstream: Upstream) -> None:
    async with attached(start, upstream) as running:
        good = somebody(running)
        bad = somebody(running, good.id)
        upstream.tells(good.id, "free")
        upstream.refused_tokens.add(bad.token)
        upstream.delay_s = 0.3
        first = asyncio.create_task(chips(bad))
        while not upstream.asked:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.005)
        # The flight is the bad token's; those of the good one that waited for it ask for themselves.
        answers = await asyncio.gather(first, chips(good), chips(bad), chips(good))
        assert [answer.status_code for answer in answers] == [401, 200, 401, 200]
        assert len(upstream.asked) == 2


async def test_a_token_is_good_while_its_user_is_fresh_unless_it_was_refused_itself(
    start: Start, upstream: Upstream
) -> None:
    async with attached(start, upstream) as running:
        good = somebody(running)
        bad = somebody(running, good.id)
        upstream.tells(good.id, "free")
        upstream.refused_tokens.add(bad.token)
        assert (await chips(good)).status_code == 200
        # Signed, not expired, and its user was asked about only just: nobody asks about each token.
        assert (await chips(bad)).status_code == 200
        assert len(upstream.asked) == 1
        await old_profile(running)
        assert (await chips(bad)).status_code == 401
        # What was said of it holds, though the other one brings the user up to date.
        assert (await chips(good)).status_code == 200
        assert (await chips(bad)).status_code == 401
        assert len(upstream.asked) == 3


async def test_a_user_that_it_does_not_know_is_nobody(start: Start, upstream: Upstream) -> None:
    async with attached(start, upstream) as running:
        assert (await chips(somebody(running))).status_code == 401
        assert await running.sql("SELECT 1 FROM users") == []


async def test_a_user_whom_it_suspended(start: Start, upstream: Upstream) -> None:
    async with attached(start, upstream) as running:
        person = somebody(running)
        upstream.status = 403
        answer = await chips(person)
        assert (answer.status_code, answer.json()["code"]) == (403, "account_suspended")
        assert answer.json()["detail"] == "Sua conta está suspensa. Entre em contato com o suporte."


async def test_an_operators_suspension_outlives_what_it_tells(start: Start, upstream: Upstream) -> None:
    async with attached(start, upstream) as running:
        person = somebody(running)
        upstream.tells(person.id, "free")
        await chips(person)
        await running.sql("UPDATE users SET suspended_at = now()")
        await old_profile(running)
        assert (await chips(person)).json()["code"] == "account_suspended"


async def test_a_plan_that_is_not_known_here_is_refused_and_never_free(
    start: Start, upstream: Upstream
) -> None:
    async with attached(start, upstream) as running:
        stranger, known = somebody(running), somebody(running)
        upstream.tells(known.id, "business")
        await chips(known)
        await old_profile(running)
        for person in (stranger, known):
            upstream.tells(person.id, "platinum")
            for _ in range(2):
                answer = await chips(person)
                assert (answer.status_code, answer.json()["code"]) == (403, "plan_not_known")
        assert await plan_of(running, stranger) is None
        await running.sql(
            "INSERT INTO plans (slug, title, max_chips, cpu_mhz, memory_mb, memory_max_mb) "
            "VALUES ('platinum', 'Plano Platinum', 5, 200, 300, 1024)"
        )
        await silence_is_over(running)
        for person in (stranger, known):
            assert (await chips(person)).status_code == 200
            assert await plan_of(running, person) == "platinum"


async def test_claims_win(start: Start, upstream: Upstream) -> None:
    async with attached(start, upstream) as running:
        person = somebody(running, plan_slug="enterprise", name="Carla")
        upstream.tells(person.id, "free")
        assert (await chips(person)).status_code == 200
        [row] = await running.sql("SELECT plan_slug, name FROM users")
        assert tuple(row) == ("enterprise", "Carla")
        # A token that claims nothing sees what is stored, until the upstream is asked again.
        plain = somebody(running, person.id)
        await chips(plain)
        assert await plan_of(running, person) == "enterprise"
        await old_profile(running)
        await chips(plain)
        assert await plan_of(running, person) == "free"
        await chips(person)
        assert await plan_of(running, person) == "enterprise"
        inactive = somebody(running, person.id, is_active=False)
        assert (await chips(inactive)).json()["detail"] == NOBODY


async def test_a_claimed_plan_is_enough_while_it_is_away(start: Start, upstream: Upstream) -> None:
    upstream.status = 500
    async with attached(start, upstream) as running:
        person = somebody(running, plan_slug="business")
        assert (await chips(person)).status_code == 200
        [row] = await running.sql("SELECT * FROM users")
        assert (row.plan_slug, row.profile_at) == ("business", None)
        odd = somebody(running, plan_slug="gold")
        assert (await chips(odd)).json()["code"] == "plan_not_known"
        # It is asked as soon as it is back.
        upstream.status = None
        upstream.tells(person.id, "free", email="ANA@empresa.com.br")
        await silence_is_over(running)
        await chips(person)
        [row] = await running.sql("SELECT * FROM users")
        assert (row.plan_slug, row.email) == ("business", "ana@empresa.com.br")


async def test_operators(start: Start, upstream: Upstream) -> None:
    listed = str(uuid.uuid4())
    more = {"WAHAFLEET_OPERATORS": f"chefe@empresa.com.br,{listed}"}
    async with attached(start, upstream, **more) as running:
        by_role = somebody(running, role="operator")
        by_id, by_mail, nobody = somebody(running, listed), somebody(running), somebody(running)
        for person in (by_role, by_id, by_mail, nobody):
            mail = "Chefe@empresa.com.br" if person is by_mail else f"{person.id}@x.com"
            upstream.tells(person.id, "free", email=mail)
        await by_role.chip()
        for person in (by_role, by_id, by_mail):
            assert (await person.get(f"/containers/{by_role.id}")).status_code == 200
        assert (await nobody.get(f"/containers/{by_role.id}")).status_code == 403


async def test_an_e_mail_goes_with_its_user(start: Start, upstream: Upstream) -> None:
    async with attached(start, upstream) as running:
        before, after = somebody(running), somebody(running)
        upstream.tells(before.id, "free", email="ana@empresa.com.br")
        await chips(before)
        upstream.tells(after.id, "free", email="Ana@empresa.com.br")
        assert (await chips(after)).status_code == 200
        rows = await running.sql("SELECT id::text, email FROM users")
        assert {row.id: row.email for row in rows} == {
            after.id: "ana@empresa.com.br",
            before.id: f"{before.id}@replaced.invalid",
        }
        assert (await chips(before)).status_code == 200


async def test_two_new_users_of_one_e_mail_at_once(start: Start, upstream: Upstream) -> None:
    async with attached(start, upstream) as running:
        people = [somebody(running) for _ in range(4)]
        for person in people:
            upstream.tells(person.id, "free", email="ana@empresa.com.br")
        answers = await asyncio.gather(*(chips(person) for person in people))
        # Never a 401, and never a status that the route does not have.
        assert {answer.status_code for answer in answers} <= {200, 503}
        for person in people:
            assert (await chips(person)).status_code == 200
        mails = await running.sql("SELECT email FROM users")
        assert len({row.email for row in mails}) == 4


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/auth/register"),
        ("POST", "/auth/login"),
        ("POST", "/auth/refresh"),
        ("POST", "/auth/logout"),
        ("GET", "/users/me"),
        ("PUT", "/users/me"),
        ("GET", "/api-keys"),
        ("POST", "/api-keys"),
        ("DELETE", "/api-keys/x"),
    ],
)
async def test_what_stays_with_whago_is_not_ours(
    start: Start, upstream: Upstream, method: str, path: str
) -> None:
    async with attached(start, upstream) as running:
        person = somebody(running)
        upstream.tells(person.id, "enterprise")
        for headers in ({}, person.headers):
            answer = await running.client.request(method, f"/api/v1{path}", headers=headers)
            assert (answer.status_code, answer.json()["detail"]) == (404, "Rota não encontrada.")
        assert upstream.asked == []


async def test_keys_of_services_and_operators_work_and_those_of_users_do_not(
    start: Start, upstream: Upstream
) -> None:
    async with attached(start, upstream) as running:
        person = somebody(running)
        upstream.tells(person.id, "enterprise")
        await person.chip()
        _, operator = await api_keys.create(
            running.engine, name="op", role=KeyRole.OPERATOR, actor=COMMAND_LINE
        )
        _, users = await api_keys.create(running.engine, name="CRM", user_id=person.id, actor=COMMAND_LINE)
        path = f"/api/v1/containers/{person.id}"
        assert (await running.client.get(path, headers={"X-API-Key": operator})).status_code == 200
        answer = await running.client.get("/api/v1/chips", headers={"X-API-Key": users})
        assert (answer.status_code, answer.json()["detail"]) == (401, "API Key inválida.")


async def test_it_is_shown_the_callers_token_and_nothing_else(start: Start, upstream: Upstream) -> None:
    async with attached(start, upstream) as running:
        person = somebody(running)
        upstream.tells(person.id, "free")
        cookie = f"whago_access_token={person.token}; other=secret"
        answer = await running.client.get("/api/v1/chips", headers={"cookie": cookie, "X-API-Key": "x"})
        assert answer.status_code == 200
        [head] = upstream.headers_seen
        assert head.startswith("GET /api/v1/users/me HTTP/1.1\r\n")
        assert f"Bearer {person.token}" in head
        assert "cookie" not in head.lower()
        assert "x-api-key" not in head.lower()
        stored = json.dumps([str(row) for row in await running.sql("SELECT * FROM users")])
        assert person.token not in stored


# RS256


async def test_tokens_signed_with_a_published_key(start: Start, upstream: Upstream) -> None:
    key, other = generate_private_key(65537, 2048), generate_private_key(65537, 2048)
    more = {"JWT_SECRET_KEY": "", "WAHAFLEET_JWT_JWKS_URL": f"{upstream.url}/keys"}
    async with attached(start, upstream, **more) as running:
        person = somebody(running)
        upstream.tells(person.id, "business")
        now = datetime.now(UTC)
        body = {"sub": person.id, "type": "access", "iat": now, "exp": now + timedelta(hours=1)}
        person.token = jwt.encode(body, key, "RS256", headers={"kid": "2026"})
        upstream.status = 500
        answer = await chips(person)
        assert (answer.status_code, answer.json()["detail"]) == (503, AWAY)
        upstream.status = None
        upstream.keys = [jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": "2026"}]
        await asyncio.sleep(1.05)
        assert (await chips(person)).status_code == 200
        assert await plan_of(running, person) == "business"
        for forged in (
            jwt.encode(body, other, "RS256", headers={"kid": "2026"}),
            whago_token(person.id),
        ):
            answer = await chips(Person(person.id, "", forged, running.client))
            assert (answer.status_code, answer.json()["detail"]) == (401, BAD)
        assert upstream.keys_asked == 2
