"""A pause of the whole fleet with two real daemons: nothing goes out, the plan tells what will, and it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from core import policies
from core.domain.actor import COMMAND_LINE
from core.domain.fleet_plan import Planned, plan_of
from core.settings import load
from core.store import fleet_control, fleet_plan
from core.store.tables import hosts
from tests.integration.daemon.fleet import Fleet, has, until

pytestmark = pytest.mark.timeout(120)


async def set_paused(fleet: Fleet, *, paused: bool) -> None:
    _, changed = await fleet_control.set_paused(
        fleet.engine, paused=paused, reason=None, by="test", actor=COMMAND_LINE
    )
    assert changed


async def planned(fleet: Fleet, user: str) -> tuple[Planned, ...] | None:
    policy = policies.policy_of(load(fleet.env, part="daemon").loop)
    for row in await fleet_plan.page(fleet.engine, after=None, limit=200):
        if row.desired.container.user_id == user:
            return plan_of(row.desired, row.look, row.starts_at, datetime.now(UTC), policy)
    return ()


async def test_a_pause_holds_everything_and_the_plan_comes_true(fleet: Fleet) -> None:
    async with fleet.daemon(), fleet.daemon():
        one, two = await fleet.user(), await fleet.user()
        chip = await fleet.chip(one)
        await until(lambda: fleet.chip_row(chip), has(phase="qr"))
        await fleet.scan(one, chip)
        await until(lambda: fleet.chip_row(chip), has(status="CONNECTED"))
        # A sweep keeps what it sees of the hosts.
        seen = await until(lambda: fleet.rows(select(hosts)), bool, 70.0)
        assert seen[0]["containers"] >= 0

        await set_paused(fleet, paused=True)
        await fleet.disconnect(one, chip)
        other = await fleet.chip(two)
        row = await until(lambda: fleet.chip_row(chip), has(phase="disconnecting", reason="paused"))
        assert (row["status"], row["waha_status"]) == ("DISCONNECTED", "WORKING")
        row = await until(lambda: fleet.chip_row(other), has(phase="queued", reason="paused"))
        assert row["status"] == "WAITING_QR"
        assert await fleet.nomad_status(two) == (404, 404)
        await asyncio.sleep(3)
        assert await fleet.nomad_status(two) == (404, 404)
        assert await planned(fleet, one) == (Planned(chip, "StopSession", "paused"),)
        assert await planned(fleet, two) == (
            Planned(None, "WriteVariables", "paused"),
            Planned(None, "RegisterJob", "paused"),
        )

        began = time.monotonic()
        await set_paused(fleet, paused=False)
        row = await until(lambda: fleet.chip_row(chip), has(phase="disconnected", status="DISCONNECTED"))
        assert row["waha_status"] == "STOPPED"
        await until(lambda: fleet.chip_row(other), has(phase="qr"))
        assert time.monotonic() - began < 30

        def is_ready(row: Mapping[str, Any] | None) -> bool:
            return row is not None and row["phase"] == "ready" and row["reason"] is None

        await until(lambda: fleet.container_row(two), is_ready)
