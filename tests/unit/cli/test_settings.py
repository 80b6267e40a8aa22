"""docs/settings.md says what the code says, and no secret's value is ever listed."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import wahafleet
from cli.settings import as_markdown
from core.variables import VARIABLES

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == as_markdown(VARIABLES), (
        "write it anew: wahafleet settings --markdown > docs/settings.md"
    )


def test_every_setting_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAHAFLEET_OPERATOR_TOKEN", "do-not-show-me")
    shown = CliRunner().invoke(wahafleet, ["settings"]).output
    assert all(variable.name in shown for variable in VARIABLES)
    assert "* WAHAFLEET_OPERATOR_TOKEN" in shown
    assert "do-not-show-me" not in shown
