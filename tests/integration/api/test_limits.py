"""Limits of the running application: who is counted, what is said, and what is never counted."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import httpx

from core.crypto import Sealer, webhook_signature
from core.store.containers import container_secrets
from sandbox.valkey import EmbeddedValkey
from tests.integration.api.conftest import OPERATOR_TOKEN, PASSWORD, Person, Start


def refused(answer: httpx.Response, sentence: str, code: str = "too_many_requests") -> int:
    """Seconds to wait of a 429, whose sentence has them in the place of N."""
    assert answer.status_code == 429, answer.text
    after_s = int(answer.headers["retry-after"])
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (body["code"], body["detail"]) == (code, sentence.replace("N", str(after_s)))
    assert after_s > 0
    return after_s


GENERAL = "Muitas requisições. Tente novamente em N segundos."
KEY = "Limite de requisições por minuto atingido para esta API Key."
LOGIN = "Muitas tentativas de login. Tente novamente em N segundos."


async def codes(asked: Any) -> list[int]:
    """Statuses of requests, eight at a time: more of them would wait for the few connections of a test's pool."""
    waiting, told = list(asked), []
    while waiting:
        now, waiting = waiting[:8], waiting[8:]
        told += [answer.status_code for answer in await asyncio.gather(*now)]
    return told


async def test_reads_and_writes_of_a_user_are_counted_apart(start: Start, cache_url: str | None) -> None:
    async with start(redis_url=cache_url, WAHAFLEET_LIMIT_READS="6", WAHAFLEET_LIMIT_WRITES="3") as running:
        person, other = await running.person(), await running.person()
        for _ in range(6):
            assert (await person.get("/chips")).status_code == 200
        assert refused(await person.get("/users/me"), GENERAL) <= 65
        for number in range(3):
            assert (await person.post("/chips", json={"alias": f"chip {number}"})).status_code == 201
        refused(await person.post("/chips", json={"alias": "one more"}), GENERAL)
        refused(await person.delete(f"/chips/{uuid.uuid4()}"), GENERAL)
        # Nobody else, and nothing that has no user.
        assert (await other.get("/chips")).status_code == 200
        assert (await person.get("/notifications")).status_code == 404
        assert (await person.delete("/chips")).status_code == 405
        assert (await running.client.get("/health/ready")).status_code == 200
        assert (await running.client.get("/api/v1/chips")).status_code == 401


async def test_a_key_has_a_limit_of_its_own(start: Start, cache_url: str | None) -> None:
    async with start(redis_url=cache_url, WAHAFLEET_LIMIT_KEY="30") as running:
        person = await running.person()
        key, other = [
            (await person.post("/api-keys", json={"name": name})).json()["key"] for name in ("CRM", "ERP")
        ]
        for _ in range(30):
            assert (await running.client.get("/api/v1/chips", headers={"X-API-Key": key})).status_code == 200
        refused(await running.client.get("/api/v1/chips", headers={"X-API-Key": key}), KEY, "key_limit")
        assert (await running.client.get("/api/v1/chips", headers={"X-API-Key": other})).status_code == 200
        assert (await person.get("/chips")).status_code == 200


async def test_two_applications_count_together(start: Start, redis_url: str) -> None:
    more = {"redis_url": redis_url, "WAHAFLEET_LIMIT_READS": "60", "WAHAFLEET_LIMIT_WRITES": "5"}
    async with start(**more) as one, start(**more) as two:
        person = await one.person()
        twin = Person(person.id, person.email, person.token, two.client)
        told = await codes((person, twin)[n % 2].get("/users/me") for n in range(200))
        # A batch is two here: two processes may hold one more each than was asked for.
        assert 60 - 4 <= told.count(200) <= 60
        assert set(told) == {200, 429}
        writes = await codes((person, twin)[n % 2].delete(f"/chips/{uuid.uuid4()}") for n in range(30))
        assert (writes.count(404), writes.count(429)) == (5, 25)


async def test_login_after_five_failures(start: Start, cache_url: str | None) -> None:
    async with start(redis_url=cache_url, WAHAFLEET_LIMIT_LOGIN="5") as running:
        person = await running.person()

        async def login(password: str, email: str = person.email) -> httpx.Response:
            answer = await running.client.post(
                "/api/v1/auth/login", json={"email": email, "password": password}
            )
            running.client.cookies.clear()
            return answer

        for _ in range(4):
            assert (await login("Errada@123")).status_code == 401
        # A success clears what was counted.
        assert (await login(PASSWORD)).status_code == 200
        for spelt in (person.email, person.email.upper(), f"  {person.email} ", person.email, person.email):
            assert (await login("Errada@123", spelt)).status_code == 401
        after_s = refused(await login(PASSWORD), LOGIN, "login_throttled")
        assert 800 < after_s <= 975
        # Another e-mail from there, whether anybody has it or not, is not meant.
        other = await running.person()
        assert (await login(PASSWORD, other.email)).status_code == 200
        assert (await login(PASSWORD, f"{uuid.uuid4().hex}@empresa.com.br")).status_code == 401


async def test_many_logins_at_once_are_as_many_tries(start: Start, cache_url: str | None) -> None:
    async with start(redis_url=cache_url, WAHAFLEET_LIMIT_LOGIN="5") as running:
        body = {"email": f"{uuid.uuid4().hex}@empresa.com.br", "password": "Errada@123"}
        told = await codes(running.client.post("/api/v1/auth/login", json=body) for _ in range(20))
        assert (told.count(401), told.count(429)) == (5, 15)


async def test_a_right_password_of_a_suspended_account_is_no_failure(start: Start) -> None:
    async with start(WAHAFLEET_LIMIT_LOGIN="2") as running:
        person = await running.person()
        await running.sql("UPDATE users SET suspended_at = now() WHERE id = :id", id=uuid.UUID(person.id))
        body = {"email": person.email, "password": PASSWORD}
        for _ in range(4):
            assert (await running.client.post("/api/v1/auth/login", json=body)).status_code == 403


async def test_registering_is_counted_by_address(start: Start) -> None:
    async with start(WAHAFLEET_LIMIT_REGISTER="2", WAHAFLEET_TRUSTED_PROXIES="127.0.0.1") as running:

        async def register(address: str) -> httpx.Response:
            body = {
                "name": "Ana Souza",
                "email": f"{uuid.uuid4().hex}@empresa.com.br",
                "password": PASSWORD,
                "phone": "+5511999999999",
            }
            headers = {"X-Forwarded-For": address}
            answer = await running.client.post("/api/v1/auth/register", json=body, headers=headers)
            running.client.cookies.clear()
            return answer

        # One line of a provider has a whole /64.
        for address in ("2001:db8::1", "2001:db8::2:3"):
            assert (await register(address)).status_code == 201
        refused(await register("2001:db8:0:0:ffff::9"), GENERAL)
        assert (await register("2001:db8:0:1::1")).status_code == 201
        assert (await register("203.0.113.7")).status_code == 201


async def test_an_address_is_counted_before_anything_is_known_of_it(start: Start) -> None:
    async with start(WAHAFLEET_LIMIT_ADDRESS="10", WAHAFLEET_TRUSTED_PROXIES="127.0.0.1") as running:

        async def ask(path: str, address: str = "203.0.113.7", token: str = "x") -> httpx.Response:
            headers = {"X-Forwarded-For": address, "Authorization": f"Bearer {token}"}
            return await running.client.get(path, headers=headers)

        told = [(await ask(path)).status_code for path in ("/api/v1/nowhere", "/api/v1/chips") * 5]
        assert told == [404, 401] * 5
        for path in ("/api/v1/nowhere", "/api/v1/chips", "/schema"):
            answer = await ask(path)
            assert refused(answer, GENERAL) <= 65
            assert answer.headers["x-request-id"]
            assert answer.headers["cache-control"] == "no-store"
        for path in ("/health", "/health/live", "/health/ready"):
            assert (await ask(path)).status_code == 200
        # The same from elsewhere; and what a caller adds to the header itself is not believed.
        assert (await ask("/api/v1/chips", "198.51.100.1, 203.0.113.8", OPERATOR_TOKEN)).status_code == 403
        assert (await ask("/api/v1/nowhere", "9.9.9.9, 203.0.113.7")).status_code == 429


async def test_webhooks_count_for_nobody_once_they_are_signed(start: Start) -> None:
    async with start(WAHAFLEET_LIMIT_ADDRESS="20", WAHAFLEET_LIMIT_WRITES="2") as running:
        person = await running.person()
        await person.chip()
        sealer = Sealer(tuple(key.reveal() for key in running.settings.store.secret_keys))
        secrets = await container_secrets(running.engine, person.id, sealer)
        assert secrets is not None

        async def hook(key: str) -> httpx.Response:
            body = b'{"id": "%s", "event": "message", "session": "s"}' % uuid.uuid4().hex.encode()
            headers = {"X-Webhook-Hmac": webhook_signature(key, body)}
            path = f"/api/v1/webhooks/waha/{person.id}"
            return await running.client.post(path, content=body, headers=headers)

        assert set(await codes(hook(secrets.hook_key) for _ in range(60))) == {200}
        told = await codes(hook("forged") for _ in range(60))
        assert told.count(401) == 18  # registering and the chip were two of the twenty
        assert told.count(429) == 42
        assert (await hook(secrets.hook_key)).status_code == 200


async def test_the_operators_command_line_is_nobody_in_particular(start: Start) -> None:
    async with start(WAHAFLEET_LIMIT_READS="1", WAHAFLEET_LIMIT_WRITES="1") as running:
        headers = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
        for _ in range(5):
            answer = await running.client.get(f"/api/v1/containers/{uuid.uuid4()}", headers=headers)
            assert answer.status_code == 404


async def test_redis_dies_and_each_application_counts_alone(start: Start, mortal: EmbeddedValkey) -> None:
    more = {"redis_url": mortal.url(), "WAHAFLEET_LIMIT_READS": "20", "WAHAFLEET_LIMIT_WRITES": "2"}
    async with start(**more) as one, start(**more) as two:
        person = await one.person()
        twin = Person(person.id, person.email, person.token, two.client)
        assert await codes((person, twin)[n % 2].get("/users/me") for n in range(10)) == [200] * 10
        mortal.kill()
        began = time.monotonic()
        told = await codes(caller.get("/users/me") for caller in (person, twin) for _ in range(50))
        assert time.monotonic() - began < 3
        assert set(told) == {200, 429}
        # Each counts to twenty by itself now, and spends what it may still have of a batch.
        assert 40 <= told.count(200) <= 42
