"""One chip, end to end: from a row in the store to a QR, a phone, and nothing left."""

from __future__ import annotations

import pytest

from tests.integration.daemon.fleet import Fleet, has, until

pytestmark = pytest.mark.timeout(90)


@pytest.mark.parametrize("cache", [True, False], ids=["redis", "no redis"])
async def test_from_wish_to_qr_to_connected_to_gone(
    fleet: Fleet, cache: bool, request: pytest.FixtureRequest
) -> None:
    env = {"WAHAFLEET_REDIS_URL": request.getfixturevalue("redis_url")} if cache else {}
    async with fleet.daemon(**env):
        user = await fleet.user()
        chip = await fleet.chip(user)

        row = await until(lambda: fleet.chip_row(chip), has(phase="qr", status="WAITING_QR"))
        assert row["waha_status"] == "SCAN_QR_CODE"
        container = await fleet.container_row(user)
        assert container is not None
        assert container["phase"] == "ready"
        assert container["endpoint_allocation_id"] == container["allocation_id"]

        await fleet.scan(user, chip)
        row = await until(lambda: fleet.chip_row(chip), has(status="CONNECTED"), 2.0)
        assert row["phone_number"] == "+5511988887777"

        await fleet.delete(user, chip)
        await until(lambda: fleet.chip_row(chip), lambda row: row is None)
        await until(lambda: fleet.container_row(user), lambda row: row is None)
        assert await fleet.nomad_status(user) == (404, 404)
