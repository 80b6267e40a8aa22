"""`PUT`/`DELETE /chips/{id}/annotations/{key}`."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.domain.actor import Actor, ActorKind
from core.domain.views import ExtraData
from core.store.chip_annotations import annotate_chip_of_anybody
from tests.integration.api.conftest import OPERATOR_TOKEN, Person, Running
from tests.integration.api.live import listening, served, stream_url

SERVICE = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}


class Service:
    """A trusted caller."""

    def __init__(self, running: Running) -> None:
        self._client = running.client

    async def put(
        self, chip_id: str, key: str, value: Any = None, content: bytes | None = None
    ) -> httpx.Response:
        body = json.dumps(value).encode() if content is None else content
        return await self._client.put(self._path(chip_id, key), content=body, headers=SERVICE)

    async def delete(self, chip_id: str, key: str) -> httpx.Response:
        return await self._client.delete(self._path(chip_id, key), headers=SERVICE)

    @staticmethod
    def _path(chip_id: str, key: str) -> str:
        return f"/api/v1/chips/{chip_id}/annotations/{key}"


async def extra(person: Person, chip_id: str) -> Mapping[str, Any]:
    answer = await person.get(f"/chips/{chip_id}")
    shown: dict[str, Any] = answer.json()["extra_data"]
    return shown


async def test_what_a_service_keeps_is_shown_until_it_is_removed(running: Running) -> None:
    person, service = await running.person(), Service(running)
    chip = await person.chip()
    tag = (await person.get(f"/chips/{chip['id']}")).headers["etag"]
    value = {"status": "running", "day": 3, "ratio": 0.5, "steps": [None, True, "até já"]}
    answer = await service.put(chip["id"], "heat_up", value)
    assert (answer.status_code, answer.content) == (204, b"")
    shown = await extra(person, chip["id"])
    assert shown["heat_up"] == value
    assert set(ExtraData.__struct_fields__) <= shown.keys()
    changed = await person.get(f"/chips/{chip['id']}", headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert (await person.get("/chips")).json()[0]["extra_data"]["heat_up"] == value
    assert (await service.put(chip["id"], "heat_up", "outro")).status_code == 204
    assert (await extra(person, chip["id"]))["heat_up"] == "outro"
    assert (await service.delete(chip["id"], "heat_up")).status_code == 204
    assert "heat_up" not in await extra(person, chip["id"])
    assert (await service.delete(chip["id"], "heat_up")).status_code == 204


async def test_it_is_audited_without_what_was_kept_and_raises_the_revision_alone(running: Running) -> None:
    person, service = await running.person(), Service(running)
    chip = await person.chip()
    query = "SELECT revision, generation, updated_at FROM chips WHERE id = :id"
    before = (await running.sql(query, id=chip["id"]))[0]
    await service.put(chip["id"], "heat_up", {"name": "Ana de Souza"})
    await service.put(chip["id"], "heat_up", {"name": "Ana de Souza"})  # nothing new
    await service.delete(chip["id"], "heat_up")
    after = (await running.sql(query, id=chip["id"]))[0]
    assert (after.revision, after.generation) == (before.revision + 2, before.generation)
    assert after.updated_at > before.updated_at
    lines = await running.sql("SELECT * FROM audit_log WHERE action LIKE 'chip.annot%' ORDER BY id")
    assert [line.action for line in lines] == ["chip.annotate", "chip.annotation_delete"]
    assert {(str(line.user_id), line.target, line.actor_kind) for line in lines} == {
        (person.id, chip["id"], "operator")
    }
    assert [line.detail for line in lines] == [{"key": "heat_up"}] * 2
    assert "Ana de Souza" not in str(lines)


async def test_it_wakes_no_daemon_and_whoever_watches(running: Running) -> None:
    person, service = await running.person(), Service(running)
    chip = await person.chip()
    looked = running.app.state.services.observed
    with looked.subscribed(person.id) as news:
        await asyncio.sleep(0.1)
        news.clear()
        await service.put(chip["id"], "heat_up", 1)
        async with asyncio.timeout(1):
            await news.wait()
    async with served(running) as base, listening(stream_url(base, chip["id"]), person.headers) as ear:
        await ear.until("qr")
        known = len(ear.heard)
        await service.put(chip["id"], "heat_up", 2)
        await asyncio.sleep(0.3)
        assert len(ear.heard) == known  # nothing of what a stream tells


async def test_users_may_not(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    path = f"/chips/{chip['id']}/annotations/heat_up"
    for answer in (await person.put(path, json=1), await person.delete(path)):
        assert answer.status_code == 403
        assert answer.json()["detail"] == "Recurso disponível apenas para serviços autorizados."
    assert (await running.client.put(f"/api/v1{path}", json=1)).status_code == 401


@pytest.mark.parametrize(
    "key", [*ExtraData.__struct_fields__, "waha_x", "WAHA", "wahafleet_x", "1a", "a b", "a" * 65, "ção"]
)
async def test_keys_that_are_not_theirs(running: Running, key: str) -> None:
    person, service = await running.person(), Service(running)
    chip = await person.chip()
    for answer in (await service.put(chip["id"], key, 1), await service.delete(chip["id"], key)):
        assert (answer.status_code, answer.json()["code"]) == (422, "annotation_key")
        assert answer.json()["errors"][0]["field"] == "key"


async def test_sizes(running: Running) -> None:
    person, service = await running.person(), Service(running)
    chip = await person.chip()
    fits = "x" * (16 * 1024 - 2)
    assert (await service.put(chip["id"], "a", fits)).status_code == 204
    larger = await service.put(chip["id"], "b", fits + "x")
    assert (larger.status_code, larger.json()["code"]) == (413, "annotation_too_large")
    for key in "bc":
        assert (await service.put(chip["id"], key, fits)).status_code == 204
    full = await service.put(chip["id"], "d", fits)
    assert (full.status_code, full.json()["code"]) == (409, "annotations_full")
    assert "remova alguma" in full.json()["detail"]
    assert (await service.put(chip["id"], "a", "small")).status_code == 204
    for number in range(29):
        assert (await service.put(chip["id"], f"key{number}", number)).status_code == 204
    assert (await service.put(chip["id"], "one_more", 1)).status_code == 409
    assert (await service.delete(chip["id"], "key0")).status_code == 204
    assert (await service.put(chip["id"], "one_more", 1)).status_code == 204


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"),
        (b"NaN", 400, "invalid_json"),
        (b'"\\ud800"', 400, "invalid_json"),
        (b"[" * 3000, 400, "invalid_json"),
        (b'"a\\u0000"', 422, "annotation_value"),
        (b'{"a\\u0000":1}', 422, "annotation_value"),
        (b"1e300", 422, "annotation_value"),
        (b"9223372036854775808", 422, "annotation_value"),
        (b"[" * 40 + b"]" * 40, 422, "annotation_value"),
    ],
)
async def test_what_is_no_json_or_cannot_be_kept(
    running: Running, content: bytes, status: int, code: str
) -> None:
    person, service = await running.person(), Service(running)
    chip = await person.chip()
    answer = await service.put(chip["id"], "heat_up", content=content)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert "heat_up" not in await extra(person, chip["id"])


async def test_unknown_malformed_and_deleted_chips(running: Running) -> None:
    person, service = await running.person(), Service(running)
    chip = await person.chip()
    await person.delete(f"/chips/{chip['id']}")
    for chip_id in (chip["id"], str(uuid.uuid4()), "x"):
        for answer in (await service.put(chip_id, "heat_up", 1), await service.delete(chip_id, "heat_up")):
            assert (answer.status_code, answer.json()["detail"]) == (404, "Chip não encontrado.")


async def test_changes_at_the_same_time_lose_nothing(running: Running) -> None:
    person, service = await running.person(), Service(running)
    chip = await person.chip()
    answers = await asyncio.gather(*(service.put(chip["id"], f"key{number}", number) for number in range(20)))
    assert {answer.status_code for answer in answers} == {204}
    shown = await extra(person, chip["id"])
    assert {key: value for key, value in shown.items() if key.startswith("key")} == {
        f"key{number}": number for number in range(20)
    }


numbers = st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(-1e15, 1e15, allow_nan=False)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


async def test_whatever_is_accepted_is_given_back(running: Running) -> None:
    person, service = await running.person(), Service(running)
    chip = await person.chip()
    actor = Actor(ActorKind.SERVICE)

    @given(values)
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def kept(value: Any) -> None:
        drawn.append(value)

    drawn: list[Any] = []
    await asyncio.to_thread(kept)
    assert len(drawn) > 30
    for value in drawn:
        assert (
            await service.put(chip["id"], "heat_up", content=msgspec.json.encode(value))
        ).status_code == 204
        assert (await extra(person, chip["id"]))["heat_up"] == value
    await annotate_chip_of_anybody(running.engine, chip["id"], "heat_up", drawn[0], actor=actor)
