"""`GET /user/proxy/usage` and `GET /chips/{id}/proxy`, before anything is metered."""

from __future__ import annotations

import pytest

from tests.integration.api.conftest import Running, Start


@pytest.mark.parametrize(("limit", "shown"), [("0", "0"), ("5", "5"), ("0.5", "0.5"), ("10", "10")])
async def test_usage(running: Running, limit: str, shown: str) -> None:
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
async def test_a_chips_proxy(start: Start, egress: str) -> None:
    async with start(WAHAFLEET_EGRESS=egress) as running:
        person, other = await running.person(), await running.person()
        chip = await person.chip()
        answer = await person.get(f"/chips/{chip['id']}/proxy")
        assert answer.status_code == 200
        body = answer.json()
        assert body.pop("message")
        assert body == {
            "enabled": egress == "guard",
            "provider": None,
            "label": None,
            "country": None,
            "exit_ip": None,
            "exit_ip_since": None,
            "bytes_this_month": 0,
        }
        for chip_id in (chip["id"], "x"):
            assert (await other.get(f"/chips/{chip_id}/proxy")).status_code == 404
