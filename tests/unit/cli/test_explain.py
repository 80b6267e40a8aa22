"""`wahafleet chip explain`: an explanation in words."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from cli.main import main
from cli.target import Target
from tests.unit.domain.ways import CHIP, Way


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that the verb asks for; the answer is that of a chip that waits for a port."""
    way = Way()
    way.world.hosts.clear()
    answer = json.loads(msgspec.json.encode(way.run().explained()))
    paths: list[str] = []

    def get(_: Target, path: str, **__: Any) -> Any:
        paths.append(path)
        return answer

    monkeypatch.setattr(Target, "get", get)
    return paths


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["chip", "explain", CHIP, *arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_operators_part_is_told_with_what_was_seen(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(capsys)
    assert asked == [f"/chips/{CHIP}/explain"]
    for line in (
        "1. no_port: Sem porta livre em nenhum host; o chip inicia assim que houver capacidade.",
        "   by itself: waits; Nomad places it as soon as there is room",
        "   to do:     add a host, or widen the range of dynamic ports in the hosts' client.hcl",
        "   $ nomad node status",
        "budget qr_rounds: 2 of 2 left",
    ):
        assert line in shown.splitlines()
    assert '"network: dynamic port selection failed": 1' in shown


def test_as_json_for_tools(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(run(capsys, "-o", "json"))["causes"][0]["code"] == "no_port"
    assert asked
