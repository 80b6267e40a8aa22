"""What proxies carried and what that costs: for a user, and for the whole fleet."""

from __future__ import annotations

from typing import Any

import pytest

from core.domain.quota import GIB
from tests.integration.api.conftest import Running, Start
from tests.integration.api.proxied import operator, provider, used


@pytest.mark.parametrize(("limit", "shown"), [("0", "0"), ("5", "5"), ("0.5", "0.5"), ("10", "10")])
async def test_nothing_used(running: Running, limit: str, shown: str) -> None:
    person = await running.person("business")
    await running.sql(
        "UPDATE plans SET proxy_gb_limit = CAST(CAST(:limit AS text) AS numeric) WHERE slug = 'business'",
        limit=limit,
    )
    answer = await person.get("/user/proxy/usage")
    assert answer.status_code == 200
    assert answer.json() == {
        "bytes_used": 0,
        "gb_used": 0.0,
        "cost": "0.00",
        "limit_gb": shown,
        "percentage_used": 0.0,
    }
    assert answer.headers["cache-control"] == "no-store"
    assert (await running.client.get("/api/v1/user/proxy/usage")).status_code == 401


@pytest.mark.parametrize("egress", ["direct", "guard"])
async def test_a_chip_without_a_label(start: Start, egress: str) -> None:
    async with start(WAHAFLEET_EGRESS=egress) as running:
        person, other = await running.person(), await running.person()
        chip = await person.chip()
        answer = await person.get(f"/chips/{chip['id']}/proxy")
        assert answer.status_code == 200
        assert answer.json() == {
            "enabled": egress == "guard",
            "provider": None,
            "label": None,
            "country": None,
            "exit_ip": None,
            "exit_ip_since": None,
            "bytes_this_month": 0,
            "message": {
                "direct": "Este chip sai para a internet sem proxy.",
                "guard": "Este chip ainda não tem um proxy; ele recebe um quando iniciar.",
            }[egress],
        }
        for chip_id in (chip["id"], "x"):
            assert (await other.get(f"/chips/{chip_id}/proxy")).status_code == 404


async def test_what_was_used_and_what_it_costs(running: Running) -> None:
    person, other = await running.person("business"), await running.person("business")
    await running.sql("UPDATE plans SET proxy_gb_limit = 5 WHERE slug = 'business'")
    first, second = (await person.chip("chip um"))["id"], (await person.chip("chip dois"))["id"]
    await provider(running, "dataimpulse", cost_per_gb="5.20")
    await provider(running, "caro", cost_per_gb="20")
    await used(running, person, first, GIB, GIB // 2)
    await used(running, person, second, 0, GIB // 2)
    await used(running, person, first, GIB // 4, provider="caro")
    await used(running, person, first, 100 * GIB, month="2020-01-01")
    await used(running, other, (await other.chip())["id"], 3 * GIB)
    assert (await person.get("/user/proxy/usage")).json() == {
        "bytes_used": 2 * GIB + GIB // 4,
        "gb_used": 2.25,
        "cost": "15.40",  # 2 x 5.20 + 0.25 x 20
        "limit_gb": "5",
        "percentage_used": 45.0,
    }
    # A chip that is gone was used all the same.
    await person.delete(f"/chips/{second}")
    assert (await person.get("/user/proxy/usage")).json()["gb_used"] == 2.25


async def test_the_fleet_by_provider_and_user_in_pages(running: Running) -> None:
    boss, people = operator(running), [await running.person() for _ in range(5)]
    await provider(running, cost_per_gb="4")
    for number, person in enumerate(people, 1):
        chip = (await person.chip())["id"]
        await used(running, person, chip, number * GIB, errors='{"no_peer": 2, "proxy_auth": 1}')
        await used(running, person, chip, GIB // 2, provider="antigo")
        await used(running, person, chip, 50 * GIB, month="2026-02-01")
    first = await boss.get("/fleet/proxy/usage?limit=2")
    assert first.status_code == 200, first.text
    body = first.json()
    assert (body["bytes_used"], body["gb_used"], body["cost"]) == (17 * GIB + GIB // 2, 17.5, "60.00")
    gone, kept = body["providers"]
    assert (gone["provider"], gone["cost"], gone["gb_used"], gone["errors"]) == ("antigo", None, 2.5, {})
    assert (kept["provider"], kept["cost"], kept["gb_used"]) == ("dataimpulse", "60.00", 15.0)
    assert (kept["errors"], kept["tunnels"]) == ({"no_peer": 10, "proxy_auth": 5}, 15)
    seen: list[dict[str, Any]] = []
    path = "/fleet/proxy/usage?limit=2"
    while path:
        page = await boss.get(path)
        assert page.json()["gb_used"] == 17.5
        seen += page.json()["users"]
        path = page.links.get("next", {}).get("url", "").removeprefix("/api/v1")
    assert [one["user_id"] for one in seen[::2]] == sorted(person.id for person in people)
    assert len(seen) == 10
    last = people[4]
    mine = (await boss.get(f"/fleet/proxy/usage?user={last.email}")).json()
    assert [(one["email"], one["provider"], one["gb_used"], one["cost"]) for one in mine["users"]] == [
        (last.email, "antigo", 0.5, None),
        (last.email, "dataimpulse", 5.0, "20.00"),
    ]
    assert mine["gb_used"] == 5.5
    earlier = (await boss.get("/fleet/proxy/usage?month=2026-02")).json()
    assert (earlier["month"], earlier["gb_used"], earlier["cost"]) == ("2026-02", 250.0, "1000.00")
    empty = (await boss.get("/fleet/proxy/usage?month=2026-03")).json()
    assert (empty["bytes_used"], empty["cost"], empty["providers"], empty["users"]) == (0, "0.00", [], [])


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("month=2026-13", 422, "invalid_input"),
        ("month=202607", 422, "invalid_input"),
        ("limit=0", 422, "invalid_input"),
        ("cursor=x", 422, "invalid_input"),
        ("user=ninguem@empresa.com.br", 404, "user_not_found"),
    ],
)
async def test_what_nobody_can_be_told(running: Running, query: str, status: int, code: str) -> None:
    answer = await operator(running).get(f"/fleet/proxy/usage?{query}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
