from __future__ import annotations

from pathlib import Path

import pytest

from cli.explain import as_markdown
from cli.main import main
from core.domain.causes import CAUSES

PAGE = Path(__file__).parents[3] / "docs" / "explain.md"


def test_the_catalogue_is_the_table() -> None:
    assert PAGE.read_text("utf-8") == as_markdown(), (
        "write it anew: wahafleet chip causes --markdown > docs/explain.md"
    )


def test_every_cause_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["chip", "causes"])
    assert ended.value.code == 0
    assert [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()] == [str(c) for c in CAUSES]
