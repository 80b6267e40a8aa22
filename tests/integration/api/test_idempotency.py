"""`Idempotency-Key` on the running application: one effect, one answer, whatever happens in between."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx
import pytest
from litestar import Litestar, post

from api import idempotency, intents
from api.auth import requires_user
from core.domain.actor import Actor, ActorKind, Claim
from core.errors import StaleWrite, Unavailable
from core.store import idempotency as store
from core.store import intents as wishes
from core.store.idempotency import Taken
from tests.integration.api.conftest import OPERATOR_TOKEN, Person, Running, Start


def key() -> dict[str, str]:
    return {"Idempotency-Key": uuid.uuid4().hex}


async def create(person: Person, alias: str, **headers: str) -> httpx.Response:
    return await person.post("/chips", json={"alias": alias}, headers={"Prefer": "wait=0", **headers})


async def effects(running: Running, person: Person) -> int:
    [row] = await running.sql("SELECT count(*) AS n FROM chips WHERE user_id = :id", id=uuid.UUID(person.id))
    return int(row.n)


async def test_the_same_request_gives_the_first_answer(running: Running) -> None:
    person, mine = await running.person(), key()
    first = await create(person, "vendas", **mine)
    assert first.status_code == 201
    assert "idempotency-replayed" not in first.headers
    # What it says was true then, whatever has become of the chip.
    assert (await person.delete(f"/chips/{first.json()['id']}")).status_code == 204
    again = await create(person, "vendas", **mine)
    assert (again.status_code, again.content) == (201, first.content)
    for name in ("location", "preference-applied", "content-type", "cache-control"):
        assert again.headers[name] == first.headers[name]
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert await effects(running, person) == 1
    assert (await create(person, "vendas")).status_code == 201


async def test_another_request_under_the_same_key_is_refused(running: Running) -> None:
    person, mine = await running.person(), key()
    made = await create(person, "vendas", **mine)
    path = f"/chips/{made.json()['id']}"
    for answer in (
        await create(person, "suporte", **mine),
        await person.post(f"{path}/disconnect", headers=mine),
        await person.post("/chips?x=1", json={"alias": "vendas"}, headers=mine),
        await person.post("/chips", content=b'{"alias":  "vendas"}', headers=mine),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_reused")
    assert await effects(running, person) == 1


async def test_a_refusal_is_an_answer_too(running: Running) -> None:
    person, mine = await running.person("free"), key()
    assert (await create(person, "vendas")).status_code == 201
    first = await create(person, "suporte", **mine)
    assert (first.status_code, first.json()["code"]) == (403, "chip_limit")
    await running.sql("DELETE FROM chips WHERE user_id = :id", id=uuid.UUID(person.id))
    again = await create(person, "suporte", **mine)
    assert (again.status_code, again.json()) == (403, first.json())
    assert again.headers["content-type"] == "application/problem+json"


async def test_keys_of_two_callers_are_two_keys(running: Running) -> None:
    mine = key()
    one, two = await running.person(), await running.person()
    first, second = await create(one, "vendas", **mine), await create(two, "suporte", **mine)
    assert (first.status_code, second.status_code) == (201, 201)
    operator = {"Authorization": f"Bearer {OPERATOR_TOKEN}", **mine}
    path = f"/api/v1/containers/{one.id}/restart"
    early = await running.client.post(path, headers=operator)
    assert early.json()["code"] == "container_not_placed"
    await running.daemon.saw(one.id)
    assert (await running.client.post(path, headers=operator)).json() == early.json()


@pytest.mark.parametrize("bad", ["x" * 201, "\tx\x01", "ç"])
async def test_what_is_no_key_is_refused(running: Running, bad: str) -> None:
    person = await running.person()
    headers: Any = {"Idempotency-Key": bad.encode("latin-1")}
    answer = await person.client.post(
        "/api/v1/chips", json={"alias": "vendas"}, headers={**person.headers, **headers}
    )
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["field"] == "Idempotency-Key"
    assert answer.json()["detail"] == f"Idempotency-Key: {error['message']}"
    assert await effects(running, person) == 0
    assert (await create(person, "vendas", **{"Idempotency-Key": "x" * 200})).status_code == 201


async def test_without_a_caller_and_on_reads_there_is_no_key(running: Running) -> None:
    person, mine = await running.person(), key()
    login = {"email": person.email, "password": "Senha@123"}
    tokens = set()
    for _ in range(2):
        answer = await running.client.post("/api/v1/auth/login", json=login, headers=mine)
        tokens.add(answer.json()["access_token"])
    running.client.cookies.clear()
    assert len(tokens) == 2
    assert (await person.get("/chips", headers=mine)).json() == []
    assert (await person.put("/users/me", json={"name": "Bia"}, headers=mine)).status_code == 200
    assert await running.sql("SELECT 1 FROM idempotency_keys") == []


async def test_twins_over_two_applications_have_one_effect(start: Start) -> None:
    async with start() as one, start() as two:
        person = await one.person()
        twin = Person(person.id, person.email, person.token, two.client)
        for number in range(5):
            mine = key()
            answers = await asyncio.gather(
                *(create((person, twin)[n % 2], f"chip {number}", **mine) for n in range(4))
            )
            assert {answer.status_code for answer in answers} == {201}
            assert len({answer.content for answer in answers}) == 1
        assert await effects(one, person) == 5


async def test_a_twin_is_sent_away_when_the_first_takes_long(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, mine = await running.person(), key()
    monkeypatch.setattr(idempotency, "WAIT_S", 0.3)
    entered, go_on = asyncio.Event(), asyncio.Event()
    real = intents.disconnect

    async def slow(*args: Any, **more: Any) -> Any:
        entered.set()
        await go_on.wait()
        return await real(*args, **more)

    monkeypatch.setattr(intents, "disconnect", slow)
    path = f"/chips/{(await person.chip())['id']}/disconnect"
    first = asyncio.create_task(person.post(path, headers=mine))
    await entered.wait()
    twin = await person.post(path, headers=mine)
    assert (twin.status_code, twin.json()["code"]) == (409, "idempotency_in_progress")
    assert twin.headers["retry-after"] == "2"
    assert "2 segundos" in twin.json()["detail"]
    go_on.set()
    assert (await first).status_code == 200
    assert (await person.post(path, headers=mine)).content == (await first).content


async def test_what_failed_without_effect_may_be_tried_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, mine = await running.person(), key()

    async def away(*_: Any, **__: Any) -> Any:
        raise Unavailable("postgres", "away")

    with monkeypatch.context() as broken:
        broken.setattr(wishes, "create_chip", away)
        assert (await create(person, "vendas", **mine)).status_code == 503
    assert (await create(person, "vendas", **mine)).status_code == 201


async def test_an_effect_whose_answer_is_lost_is_never_had_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, mine = await running.person(), key()
    real = wishes.create_chip

    async def cut(*args: Any, **more: Any) -> Any:
        await real(*args, **more)
        raise RuntimeError("the process dies here")

    with monkeypatch.context() as broken:
        broken.setattr(wishes, "create_chip", cut)
        assert (await create(person, "vendas", **mine)).status_code == 500
    monkeypatch.setattr(idempotency, "WAIT_S", 0.1)
    assert (await create(person, "vendas", **mine)).json()["code"] == "idempotency_in_progress"
    await running.sql("UPDATE idempotency_keys SET claimed_at = now() - interval '3 minutes'")
    for _ in range(2):
        answer = await create(person, "vendas", **mine)
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_answer_lost")
    assert await effects(running, person) == 1


async def test_an_abandoned_claim_is_taken_over_and_its_first_holder_changes_nothing(
    running: Running,
) -> None:
    person, mine = await running.person(), key()
    assert (await create(person, "first", **mine)).status_code == 201
    # As a process leaves it that died before its effect.
    await running.sql(
        "UPDATE idempotency_keys SET status = NULL, sealed_body = NULL, took_effect = false, "
        "claimed_at = now() - interval '3 minutes'"
    )
    await running.sql("DELETE FROM chips WHERE user_id = :id", id=uuid.UUID(person.id))
    [row] = await running.sql("SELECT id, token FROM idempotency_keys")
    assert (await create(person, "first", **mine)).status_code == 201
    late = Actor(ActorKind.USER, user_id=person.id, claim=Claim(row.id, row.token))
    services = running.app.state.services
    with pytest.raises(StaleWrite):
        await wishes.create_chip(
            running.engine,
            services.vault.sealer,
            "main",
            user_id=person.id,
            chip_id=str(uuid.uuid4()),
            alias="late",
            actor=late,
        )
    assert await effects(running, person) == 1


async def test_a_key_is_free_again_after_a_day(running: Running) -> None:
    person, mine = await running.person(), key()
    assert (await create(person, "vendas", **mine)).status_code == 201
    await running.sql("UPDATE idempotency_keys SET created_at = now() - interval '23 hours 59 minutes'")
    assert (await create(person, "suporte", **mine)).status_code == 409
    await running.sql("UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 minute'")
    assert (await create(person, "suporte", **mine)).status_code == 201
    assert await effects(running, person) == 2


async def test_bodies_are_kept_sealed(running: Running) -> None:
    person = await running.person()
    answer = await create(person, "secreta", **key())
    [row] = await running.sql("SELECT * FROM idempotency_keys")
    assert b"secreta" not in bytes(row.sealed_body)
    assert "secreta" not in str({**row._mapping, "sealed_body": ""})
    assert running.app.state.services.vault.sealer.open(row.sealed_body) == answer.text


async def test_a_claim_outlives_what_gives_it_up_after_its_effect(running: Running) -> None:
    person = await running.person()
    held = await store.claim(running.engine, person.id, "k", "f")
    assert isinstance(held, Claim)
    await running.sql("UPDATE idempotency_keys SET took_effect = true")
    await store.give_up(running.engine, held)
    assert await store.claim(running.engine, person.id, "k", "f") is Taken.BUSY
    assert await store.claim(running.engine, person.id, "k", "g") is Taken.REUSED


async def test_every_post_of_a_known_caller_takes_a_key(running: Running) -> None:
    """The hook stands on the application: a route that is added has it too."""

    @post("/later", guards=[requires_user])
    async def later() -> dict[str, str]:
        return {"id": uuid.uuid4().hex}

    app: Litestar = running.app
    app.register(later)
    person, mine = await running.person(), key()
    first, again = [
        (await running.client.post("/later", headers={**person.headers, **mine})).json() for _ in range(2)
    ]
    assert first == again
