"""Two users, one after the other, in one browser profile."""

from __future__ import annotations

import pytest

from tests.integration.api.browser import Browser
from tests.integration.api.conftest import PASSWORD, Person, Running
from tests.integration.api.fleet import QR, WORKING


async def logged_in(running: Running, person: Person) -> None:
    running.client.cookies.clear()
    body = {"email": person.email, "password": PASSWORD}
    assert (await running.client.post("/api/v1/auth/login", json=body)).status_code == 200
    assert running.client.cookies


@pytest.mark.parametrize("careless", [False, True])
@pytest.mark.parametrize("by", ["cookie", "bearer"])
async def test_neither_ever_sees_the_others_chips(running: Running, by: str, *, careless: bool) -> None:
    people = [await running.person(), await running.person()]
    chips = [await person.chip("loja") for person in people]  # alike but for their ids
    browser = Browser(running.client, careless)

    async def look(number: int) -> None:
        person, chip = people[number], chips[number]
        token = None
        if by == "bearer":
            token = person.token
        else:
            await logged_in(running, person)
        for _ in range(2):
            assert [one["id"] for one in await browser.get("/chips", token)] == [chip["id"]]
            assert (await browser.get(f"/chips/{chip['id']}", token))["id"] == chip["id"]
            foreign = await browser.get(f"/chips/{chips[1 - number]['id']}", token)
            assert foreign["code"] == "chip_not_found"
            assert (await browser.get("/users/me", token))["id"] == person.id
        running.client.cookies.clear()
        assert (await browser.get("/chips"))["status"] == 401

    # The same number of writes each, so that a counter would stand where the other's stands.
    for state in (QR, WORKING):
        for number in (0, 1, 0, 1):
            await look(number)
        for person, chip in zip(people, chips, strict=True):
            await running.daemon.saw(person.id, chips={chip["id"]: state})
    assert browser.unchanged > 0


async def test_the_other_ones_empty_list_is_another_answer(running: Running) -> None:
    people = [await running.person(), await running.person()]
    browser = Browser(running.client, careless=True)
    for _ in range(2):
        for person in people:
            assert await browser.get("/chips", person.token) == []
    made = await people[0].chip()
    assert [one["id"] for one in await browser.get("/chips", people[0].token)] == [made["id"]]
    assert await browser.get("/chips", people[1].token) == []
