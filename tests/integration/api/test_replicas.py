"""Two processes of the API on one store: what one of them answered, both show from then on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import event

from api.services import Services
from core.store.standings import StandingReader
from tests.integration.api.conftest import Person, Running, Start
from tests.integration.api.fleet import QR, WORKING
from tests.scale import examples


@pytest.fixture
async def replicas(start: Start) -> AsyncIterator[tuple[Running, Running]]:
    async with start() as one, start() as other:
        yield one, other


def at(running: Running, person: Person) -> Person:
    return Person(person.id, person.email, person.token, running.client)


class Reader:
    """A page that remembers its tags; it never shows what a write replaced that was answered before."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self._known: dict[str, tuple[str, Any]] = {}

    async def get(self, path: str) -> Any:
        tag, body = self._known.get(path, ("", None))
        answer = await self.person.get(path, headers={"If-None-Match": tag} if tag else {})
        if answer.status_code == 304:
            return body
        if answer.status_code == 200:
            self._known[path] = (answer.headers["etag"], answer.json())
        return answer.json()


async def test_both_show_at_once_what_either_accepted(replicas: tuple[Running, Running]) -> None:
    person = await replicas[0].person()
    there = [at(running, person) for running in replicas]
    readers = [Reader(one) for one in there]
    ended = asyncio.Event()

    async def poll(reader: Reader) -> None:
        while not ended.is_set():
            await reader.get("/chips")
            await asyncio.sleep(0)

    # Other pages keep both processes' caches as warm as they can get.
    others = [asyncio.create_task(poll(Reader(one))) for one in there for _ in range(2)]
    drawn = random.Random(7)
    alive: dict[str, str] = {}
    try:
        for number in range(examples(40)):
            writer = drawn.choice(there)
            deed = drawn.choice(["create", "create", "disconnect", "reconnect", "delete"])
            if not alive or (deed == "create" and len(alive) < 10):
                made = await writer.chip(f"loja {number}")
                alive[made["id"]] = made["status"]
            else:
                chip = drawn.choice(list(alive))
                if deed == "delete" or len(alive) == 10:
                    assert (await writer.delete(f"/chips/{chip}")).status_code == 204
                    del alive[chip]
                    for reader in readers:
                        assert (await reader.get(f"/chips/{chip}"))["code"] == "chip_not_found"
                else:
                    verb = "disconnect" if deed == "create" else deed
                    answer = await writer.post(f"/chips/{chip}/{verb}")
                    alive[chip] = answer.json()["status"]
                    assert (alive[chip] == "DISCONNECTED") == (verb == "disconnect")
            for reader in readers:
                assert {one["id"]: one["status"] for one in await reader.get("/chips")} == alive
                for chip in alive:
                    assert (await reader.get(f"/chips/{chip}"))["status"] == alive[chip]
    finally:
        ended.set()
        await asyncio.gather(*others)


async def test_what_a_pass_wrote_is_shown_at_once_without_any_news(
    replicas: tuple[Running, Running],
) -> None:
    one, other = replicas
    person = await one.person()
    chip = await person.chip()
    readers = [Reader(at(running, person)) for running in replicas]
    for state, status in ((QR, "WAITING_QR"), (WORKING, "CONNECTED"), (QR, "WAITING_QR")):
        # Nobody is told: the connections that hear of it are cut, again and again.
        await other.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'wahafleet api listen' AND datname = current_database()"
        )
        await one.daemon.saw(person.id, chips={chip["id"]: state})
        for reader in readers:
            [shown] = await reader.get("/chips")
            assert (shown["status"], shown["extra_data"]["waha_status"]) == (status, state.waha_status)
    await one.sql("UPDATE containers SET node_name = 'host-9'")
    for reader in readers:
        assert (await reader.get(f"/chips/{chip['id']}"))["extra_data"]["node"] == "host-9"


async def test_a_suspended_user_is_out_with_the_next_request(replicas: tuple[Running, Running]) -> None:
    one, _ = replicas
    person = await one.person()
    for statement, status in (
        ("suspended_at = now()", 403),
        ("suspended_at = NULL", 200),
        ("is_active = false", 401),
        ("is_active = true", 200),
    ):
        await one.sql(f"UPDATE users SET {statement} WHERE id = :id", id=person.id)
        for running in replicas:
            for path in ("/chips", "/users/me"):
                assert (await at(running, person).get(path)).status_code == status
    await person.put("/users/me", json={"name": "Outro Nome"})
    assert (await at(replicas[1], person).get("/users/me")).json()["name"] == "Outro Nome"
    # The plan is a row of its own.
    await one.sql("UPDATE plans SET title = 'Plano Novo' WHERE slug = 'enterprise'")
    for running in replicas:
        assert (await at(running, person).get("/users/me")).json()["plan"] == "Plano Novo"


async def test_many_polls_cost_one_statement(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    person = await running.person()
    path = f"/chips/{(await person.chip())['id']}"
    services: Services = running.app.state.services
    statements: list[str] = []
    asked: list[int] = []
    real = StandingReader.read

    async def read(self: StandingReader, user_ids: Any) -> Any:
        asked.append(len(user_ids))
        return await real(self, user_ids)

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(services.engine.sync_engine, "before_cursor_execute", note)
    monkeypatch.setattr(StandingReader, "read", read)
    await person.get("/chips")
    assert len(asked) == 1
    assert len(statements) <= 2  # its account and its chips, as far as they changed
    statements.clear()
    asked.clear()
    answers = await asyncio.gather(*(person.get(one) for one in ("/chips", path, f"{path}/qr") * 4))
    assert {answer.status_code for answer in answers} == {200}
    assert statements == []
    assert len(asked) <= 3  # what comes while two are under way waits for the third
