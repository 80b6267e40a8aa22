"""Operators' routes over containers: made, listed, deleted, and what nobody explains."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from core.domain.belongings import Found, Kind
from core.domain.orphans import Moved, Saw, State
from core.store.interface import Lease
from core.store.orphans import PostgresOrphans
from tests.integration.api.conftest import OPERATOR_TOKEN, Person, Running
from tests.integration.api.fleet import WORKING

NOBODY = "0b5d1c52-6f0e-4f57-9d6a-3f1f0f8f3a11"


def operator(running: Running) -> Person:
    return Person("", "", OPERATOR_TOKEN, running.client)


async def audited(running: Running, action: str) -> list[Any]:
    return await running.sql(
        "SELECT actor_kind, user_id::text, detail FROM audit_log WHERE action = :action ORDER BY id",
        action=action,
    )


# PUT


async def test_a_container_is_made_once_and_kept_without_chips(running: Running) -> None:
    person, boss = await running.person(), operator(running)
    made = await boss.put(f"/containers/{person.email.upper()}")
    assert made.status_code == 201, made.text
    body = made.json()
    assert (body["user_id"], body["phase"], body["chips"]) == (person.id, "absent", 0)
    again = await boss.put(f"/containers/{person.id}")
    assert (again.status_code, again.json()) == (200, body)
    rows = await running.sql("SELECT pinned, deleted_at, generation FROM containers")
    assert [(row.pinned, row.deleted_at) for row in rows] == [(True, None)]
    assert [row.actor_kind for row in await audited(running, "container.create")] == ["operator"]


async def test_a_container_that_is_there_is_pinned_and_left_as_it_is(running: Running) -> None:
    person, boss = await running.person(), operator(running)
    await person.chip()
    await running.daemon.saw(person.id, port=3104)
    answer = await boss.put(f"/containers/{person.id}")
    assert (answer.status_code, answer.json()["port"]) == (200, 3104)
    assert (await running.sql("SELECT pinned FROM containers"))[0].pinned
    assert await audited(running, "container.create") == []
    assert len(await audited(running, "container.pin")) == 1


@pytest.mark.parametrize("name", [NOBODY, "ninguem@empresa.com.br", "x", "@", "a@b@c"])
async def test_nobody_gets_no_container(running: Running, name: str) -> None:
    answer = await operator(running).put(f"/containers/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "user_not_found")
    assert await running.sql("SELECT 1 FROM containers") == []


# DELETE


async def test_deleting_takes_all_chips_and_says_which(running: Running) -> None:
    person, boss = await running.person(), operator(running)
    chips = [(await person.chip(name))["id"] for name in ("vendas", "suporte")]
    await boss.put(f"/containers/{person.id}")
    answer = await boss.delete(f"/containers/{person.email}")
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert (body["user_id"], body["status"]) == (person.id, "removing")
    assert sorted(body["chips_deleted"]) == sorted(chips)
    assert (await person.get("/chips")).json() == []
    row = (await running.sql("SELECT pinned, deleted_at FROM containers"))[0]
    assert not row.pinned
    assert row.deleted_at is not None
    assert {r.wanted for r in await running.sql("SELECT wanted FROM chips")} == {"deleted"}
    assert [row.detail["chips"] for row in await audited(running, "container.delete")] == [sorted(chips)]
    # While it goes it is gone for everybody.
    second = await boss.delete(f"/containers/{person.id}")
    assert (second.status_code, second.json()["code"]) == (404, "container_not_found")
    assert (await boss.get(f"/containers/{person.id}")).status_code == 404
    assert (await boss.get("/containers")).json() == []
    # Its user begins anew.
    assert (await boss.put(f"/containers/{person.id}")).status_code == 201


async def test_what_is_not_there_cannot_be_deleted(running: Running) -> None:
    bare = await running.person()
    for name in (bare.id, NOBODY, "x", "ninguem@empresa.com.br"):
        answer = await operator(running).delete(f"/containers/{name}")
        assert (answer.status_code, answer.json()["code"]) == (404, "container_not_found")


# GET, all of them


async def test_the_list_in_pages_skips_and_repeats_nobody(running: Running) -> None:
    boss = operator(running)
    people = [await running.person() for _ in range(5)]
    for one in people:
        await boss.put(f"/containers/{one.id}")
    ids = sorted(one.id for one in people)
    seen: list[str] = []
    url, changed = "/containers?limit=2", False
    while url:
        answer = await boss.get(url)
        assert answer.status_code == 200
        page = [one["user_id"] for one in answer.json()]
        assert len(page) <= 2
        seen += page
        link = answer.headers.get("link")
        url = link[1 : link.index(">")].removeprefix("/api/v1") if link else ""
        if link:
            assert link.endswith('; rel="next"')
        if not changed:
            # One that was shown already goes, and one that was not.
            changed = True
            await boss.delete(f"/containers/{ids[0]}")
            await boss.delete(f"/containers/{ids[3]}")
    assert seen == [ids[0], ids[1], ids[2], ids[4]]


async def test_the_list_by_phase_and_node(running: Running) -> None:
    boss = operator(running)
    placed, waiting = await running.person(), await running.person()
    for one in (placed, waiting):
        await one.chip()
    await running.daemon.saw(placed.id, port=3101)
    await running.daemon.saw(waiting.id, phase="waiting", reason="no_port", port=None)

    async def found(query: str) -> list[str]:
        return [one["user_id"] for one in (await boss.get(f"/containers?{query}")).json()]

    assert await found("phase=waiting") == [waiting.id]
    assert await found("node=host-1") == [placed.id]
    assert await found("phase=ready&node=host-1") == [placed.id]
    assert await found("node=host-2") == []
    one = (await boss.get("/containers?phase=ready")).json()[0]
    assert one == (await boss.get(f"/containers/{placed.id}")).json()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
        ("phase=running", "phase"),
        ("node=%00", "node"),
    ],
)
async def test_a_list_that_is_asked_for_wrongly(running: Running, query: str, field: str) -> None:
    answer = await operator(running).get(f"/containers?{query}")
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_pages_keep_their_filters(running: Running) -> None:
    boss = operator(running)
    for number in range(3):
        person = await running.person()
        await person.chip()
        await running.daemon.saw(person.id, port=3101 + number, allocation=str(uuid.uuid4()))
    link = (await boss.get("/containers?phase=ready&node=host-1&limit=1")).headers["link"]
    assert "phase=ready" in link
    assert "node=host-1" in link
    assert "limit=1" in link


# POST cleanup


async def orphans(running: Running, *names: str) -> PostgresOrphans:
    """Each waits for a yes; the first one's twin is too young to judge."""
    store = PostgresOrphans(running.engine)
    lease = await running.daemon.store.claim("fleet", "test", 60)
    assert isinstance(lease, Lease)
    await store.apply(lease, [Saw(Found(Kind.JOB, name, "", None, "1", {})) for name in (*names, "young")])
    rows = {row.found.name: row for row in (await store.book()).rows}
    await store.apply(lease, [Moved(rows[name].id, State.SEEN, State.WAITING) for name in names])
    await running.daemon.store.release(lease)
    return store


async def test_cleanup_lists_by_default_and_approves_only_when_told(running: Running) -> None:
    boss = operator(running)
    store = await orphans(running, "job-a", "job-b")
    for query in ("", "?dry_run=true", "?dry_run=1"):
        answer = await boss.post(f"/containers/cleanup{query}")
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["dry_run"], body["count"], body["others"]) == (True, 2, {"seen": 1})
        assert [item["name"] for item in body["items"]] == ["job-a", "job-b"]
        assert {item["state"] for item in body["items"]} == {"waiting"}
        assert body["observed_at"]
    done = (await boss.post("/containers/cleanup?dry_run=false")).json()
    assert (done["dry_run"], done["count"]) == (False, 2)
    assert {item["state"] for item in done["items"]} == {"approved"}
    rows = {row.found.name: row for row in (await store.book()).rows}
    assert rows["job-a"].state is State.APPROVED
    assert rows["job-a"].decided_by == "operator_token"
    assert rows["young"].state is State.SEEN
    lines = await audited(running, "orphan.approve")
    assert sorted(row.detail["name"] for row in lines) == ["job-a", "job-b"]
    again = (await boss.post("/containers/cleanup?dry_run=false")).json()
    assert (again["count"], again["others"]) == (0, {"approved": 2, "seen": 1})


async def test_a_cleanup_of_nothing(running: Running) -> None:
    body = (await operator(running).post("/containers/cleanup")).json()
    assert body == {"dry_run": True, "count": 0, "items": [], "others": {}, "observed_at": None}
    wrong = await operator(running).post("/containers/cleanup?dry_run=maybe")
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "dry_run")


# Who may


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/containers"),
        ("PUT", "/containers/{id}"),
        ("DELETE", "/containers/{id}"),
        ("POST", "/containers/cleanup"),
    ],
)
async def test_users_are_refused_even_for_what_is_theirs(running: Running, method: str, path: str) -> None:
    person = await running.person()
    await person.chip()
    url = "/api/v1" + path.format(id=person.id)
    refused = await running.client.request(method, url, headers=person.headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "operator_required")
    nobody = await running.client.request(method, url)
    assert (nobody.status_code, nobody.json()["code"]) == (401, "token_missing")
    assert (await person.get("/chips")).json() != []


async def test_reading_the_key_is_written_down(running: Running) -> None:
    person = await running.person()
    await person.chip()
    await running.daemon.saw(person.id, chips=dict.fromkeys((), WORKING))
    assert (await operator(running).get(f"/containers/{person.id}/access")).status_code == 200
    assert [row.user_id for row in await audited(running, "container.access")] == [person.id]
