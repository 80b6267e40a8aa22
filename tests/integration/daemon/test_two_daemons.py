"""Two daemons on one store: one ends in order or is killed, and the other goes on at once."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial

import pytest

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
    await asyncio.wait_for(first.reached.wait(), 15)
    second = await DaemonProcess.start(fleet)
    await first.kill()
    begun = time.monotonic()
    await until(lambda: fleet.chip_row(chip), has(phase="qr"), 15)
    took_s = time.monotonic() - begun
    await second.end()
    _tell(capsys, takeover_s=took_s)
