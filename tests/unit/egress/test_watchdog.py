"""The watchdog refuses to be of no use."""

from __future__ import annotations

import pytest

from core.clock import boottime
from core.settings_guard import _MARGIN_LEAST_S
from core.settings_reader import SettingsError
from egress.watchdog import EVERY_S, GRACE_S, Watchdog


def test_the_first_process_of_a_container_is_no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egress.watchdog.os.getpid", lambda: 1)
    monkeypatch.setattr("egress.watchdog.os.fork", lambda: pytest.fail("it was started"))
    with pytest.raises(SettingsError, match="--init"):
        Watchdog().start(boottime())


def test_it_acts_before_the_store_gives_a_lease_on() -> None:
    assert GRACE_S + 2 * EVERY_S < _MARGIN_LEAST_S
