from __future__ import annotations

import pytest

from tests.integration.api.conftest import Running
from tests.integration.api.fleet import QR, WORKING

VARY = "Cookie, Authorization, Sec-Fetch-Mode"


@pytest.mark.parametrize("path", ["/chips", "/chips/{id}"])
async def test_the_same_bytes_are_not_sent_twice(running: Running, path: str) -> None:
    person = await running.person()
    path = path.replace("{id}", (await person.chip())["id"])
    first = await person.get(path)
    assert first.headers["cache-control"] == "private, no-cache"
    assert first.headers["vary"] == VARY
    tag = first.headers["etag"]
    assert tag.startswith('W/"')
    for sent in (tag, f'"other", {tag}', tag.removeprefix("W/"), "*"):
        again = await person.get(path, headers={"If-None-Match": sent})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
        assert again.headers["vary"] == VARY
        assert again.headers["cache-control"] == "private, no-cache"
    assert (await person.get(path, headers={"If-None-Match": '"other"'})).status_code == 200


async def test_every_change_that_is_shown_changes_the_tag(running: Running) -> None:
    person = await running.person()
    chip_id = (await person.chip())["id"]
    tags: list[str] = []

    async def look(**headers: str) -> None:
        answer = await person.get(f"/chips/{chip_id}", headers=headers)
        listed = await person.get("/chips", headers=headers)
        tags.extend((answer.headers["etag"], listed.headers["etag"]))

    await look()
    await look(**{"Sec-Fetch-Mode": "cors"})  # the other letter case
    await running.daemon.saw(person.id, phase="waiting", reason="no_port", port=None)
    await look()
    await running.daemon.saw(person.id, phase="booting", port=3100)
    await look()
    await running.daemon.saw(person.id, port=3100, chips={chip_id: QR})
    await look()
    await running.daemon.saw(person.id, port=3100, chips={chip_id: WORKING})
    await look()
    await running.sql("""UPDATE chips SET annotations = '{"heat_up": 1}'""")
    await look()
    await running.sql("UPDATE containers SET node_name = 'host-2'")
    await look()
    await person.post(f"/chips/{chip_id}/disconnect")
    await look()
    assert len(set(tags)) == len(tags)


async def test_a_tag_belongs_to_its_user(running: Running) -> None:
    one, other = await running.person(), await running.person()
    tag = (await one.get("/chips")).headers["etag"]
    assert (await one.get("/chips")).json() == (await other.get("/chips")).json() == []
    answer = await other.get("/chips", headers={"If-None-Match": tag})
    assert answer.status_code == 200
    assert answer.headers["etag"] != tag


async def test_everything_else_is_kept_nowhere(running: Running) -> None:
    person = await running.person()
    chip = await person.chip()
    path = f"/chips/{chip['id']}"
    for answer in (
        await person.get("/users/me"),
        await person.get(f"{path}/qr"),
        await person.post(f"{path}/reconnect"),
        await person.get("/chips/x"),
        await person.get("/nowhere"),
        await running.client.get("/api/v1/chips"),
    ):
        assert answer.headers["cache-control"] == "no-store"
        assert "etag" not in answer.headers
