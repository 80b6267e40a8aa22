"""Two daemons on one store: one ends in order or is killed, and the other goes on at once."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial

import pytest
from sqlalchemy import func, select

from core.store.tables import leases
from tests.integration.daemon.fleet import Fleet, has, until
from tests.integration.daemon.process import DaemonProcess
from tests.integration.daemon.traces import User

pytestmark = pytest.mark.timeout(120)


def _tell(capsys: pytest.CaptureFixture[str], **figures: float) -> None:
    """Figures for whoever watches the run."""
    words = " ".join(f"{name}={value:.2f}" for name, value in figures.items())
    with capsys.disabled():
        sys.stdout.write(f"\n{words}\n")


async def _create(fleet: Fleet) -> User:
    user = await fleet.user()
    chip = await fleet.chip(user)
    return User(user, (chip,))


async def test_sigterm_hands_over_at_once(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    """The other daemon goes on with the users of one that was told to end."""
    first, second = await DaemonProcess.start(fleet), await DaemonProcess.start(fleet)
    await first.ready()
    await second.ready()
    users = [await _create(fleet) for _ in range(8)]
    ended_s = await first.end()
    begun = time.monotonic()
    for user in users:
        await until(partial(fleet.chip_row, user.chips[0]), has(phase="qr"), 15)
    took_s = time.monotonic() - begun
    late = await _create(fleet)
    await until(lambda: fleet.chip_row(late.chips[0]), has(phase="qr"), 10)
    await second.end()
    _tell(capsys, ended_s=ended_s, eight_users_at_the_other_s=took_s)


async def test_takeover_of_a_killed_daemons_user(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    """A parent that saw a daemon end frees its leases, and another one goes on at once."""
    first = await DaemonProcess.start(fleet)
    user = await fleet.user()
    first.stop_at(user, "effect_recorded RegisterJob")
    chip = await fleet.chip(user)
    await first.reaches(15)
    second = await DaemonProcess.start(fleet)
    await first.kill()
    begun = time.monotonic()
    await until(lambda: fleet.chip_row(chip), has(phase="qr"), 15)
    took_s = time.monotonic() - begun
    await second.end()
    _tell(capsys, takeover_s=took_s)


async def _owners(fleet: Fleet) -> dict[str, tuple[str, float]]:
    """Who holds each key, and for how many seconds more."""
    left_s = func.extract("epoch", leases.c.expires_at - func.clock_timestamp()).label("left_s")
    rows = await fleet.rows(select(leases.c.key, leases.c.owner, left_s))
    return {row["key"]: (row["owner"], float(row["left_s"])) for row in rows if row["left_s"] > 0}


async def test_takeover_when_nobody_saw_the_daemon_die(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its leases, of users and of the fleet, run out; not earlier, and hardly later, the other has them."""
    ttl_s, retry_s = 46.0, 6.0  # the shortest that calls to WAHA leave
    quick = {"LEASE_TTL": ttl_s, "PASS_DEADLINE": 45}
    first = await DaemonProcess.start(fleet, {f"WAHAFLEET_{k}_S": str(v) for k, v in quick.items()})

    async def holder() -> str:
        return (await _owners(fleet)).get("fleet", ("", 0.0))[0]

    await until(holder, lambda owner: owner.startswith(first.lease_owner))
    users = [await fleet.user() for _ in range(6)]
    first.stop_at(users[-1], "observed")
    chips = [await fleet.chip(user) for user in users]
    await first.reaches(15)
    second = await (await DaemonProcess.start(fleet)).ready()
    await first.kill(free=False)
    killed = time.monotonic()
    held = {
        key: left_s
        for key, (owner, left_s) in (await _owners(fleet)).items()
        if owner.startswith(first.lease_owner)
    }
    assert {"fleet", users[-1]} <= set(held)
    assert max(held.values()) <= ttl_s
    taken: dict[str, float] = {}
    while set(taken) < set(held):
        owners = await _owners(fleet)
        now_s = time.monotonic() - killed
        # A pass may be over between two looks, so its mark counts as well: the row is free, or gone.
        gone = {key for key in held if not owners.get(key, ("",))[0].startswith(first.lease_owner)}
        free = {"fleet"} if owners.get("fleet", ("",))[0] == "" else set()
        taken |= dict.fromkeys(gone - free - set(taken), now_s)
        assert now_s < ttl_s + retry_s, f"left to {set(held) - set(taken)}"
        await asyncio.sleep(0.05)
    assert all(taken[key] > held[key] - 0.5 for key in held), (taken, held)
    for chip in chips:
        await until(partial(fleet.chip_row, chip), has(phase="qr"), 20)
    all_s = time.monotonic() - killed
    await second.end()
    _tell(
        capsys,
        ttl_s=ttl_s,
        leases_of_users=len(held) - 1,
        fleet_left_s=held["fleet"],
        fleet_taken_s=taken["fleet"],
        users_left_s=max(left for key, left in held.items() if key != "fleet"),
        six_users_at_their_qr_s=all_s,
    )
