from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.document import as_markdown, document
from cli.main import main
from core.domain.problem_codes import PROBLEM_KINDS

PAGE = Path(__file__).parents[3] / "docs" / "errors.md"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_catalogue_of_errors_is_the_table() -> None:
    assert PAGE.read_text("utf-8") == as_markdown(), (
        "write it anew: wahafleet problems --markdown > docs/errors.md"
    )


def test_every_code_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "problems").splitlines()
    assert {line.split()[1] for line in lines} == set(PROBLEM_KINDS)


def test_the_document_is_printed_without_any_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WAHAFLEET_DATABASE_URL", raising=False)
    shown = json.loads(printed(capsys, "openapi"))
    assert shown == document()
    assert shown["openapi"].startswith("3.1")
