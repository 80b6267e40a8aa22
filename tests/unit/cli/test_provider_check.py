"""What `wahafleet doctor` says of providers: the worst first, each with the next thing to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli.findings import State
from cli.provider_check import judged, providers
from cli.target import Target

GOOD: dict[str, Any] = {
    "slug": "dataimpulse",
    "enabled": True,
    "is_default": True,
    "sub_users": 1,
    "trouble": None,
    "chips": 12,
    "room": 188,
}
SHARED = [{"exit_ip": "203.0.113.7", "chips": [{}, {}]}]


@pytest.mark.parametrize(
    ("rows", "shared", "words"),
    [
        ([], [], "no enabled provider is the default"),
        ([GOOD | {"enabled": False}], [], "no enabled provider is the default"),
        ([GOOD | {"is_default": False}], [], "no enabled provider is the default"),
        ([GOOD | {"sub_users": 0, "room": 0}], [], "sub-user add dataimpulse LOGIN"),
        ([GOOD | {"trouble": "traffic_exhausted"}], [], "(traffic_exhausted)"),
        ([GOOD | {"room": 0}], [], "no room for another chip"),
        ([GOOD], SHARED, "203.0.113.7 is the exit of 2 live chips"),
    ],
)
def test_what_keeps_chips_from_a_label(rows: list[dict[str, Any]], shared: list[Any], words: str) -> None:
    found = judged(rows, shared)
    assert found.state is State.WRONG
    assert words in found.text
    assert found.text.endswith(".")


def test_a_provider_with_room_is_well_whatever_the_others_are() -> None:
    other = GOOD | {"slug": "reserva", "is_default": False, "enabled": False, "trouble": "traffic_exhausted"}
    found = judged([GOOD, other], [])
    assert found == (State.OK, "dataimpulse carries 12 chips and has room for 188 more.")


def test_without_an_api_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("WAHAFLEET_OPERATOR_TOKEN", raising=False)
    assert providers(Target(None), {}).state is State.UNKNOWN
    monkeypatch.setenv("WAHAFLEET_OPERATOR_TOKEN", "t" * 32)
    found = providers(Target("http://127.0.0.1:9"), {})
    assert found.state is State.UNKNOWN
    assert "t" * 32 not in found.text
    assert providers(Target(None), {"WAHAFLEET_EGRESS": "direct"}).state is State.OK
