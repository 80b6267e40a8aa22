"""Every warning and error that the system can log, and every reason that it can give, is explained."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from core.domain.egress_errors import EgressError
from core.domain.states import Reason

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "runbook.md").read_text()
LOUD = {"warning", "error", "exception", "critical"}


def messages() -> dict[str, str]:
    """Constant first argument of each `log.warning(...)` and its like -> where it stands."""
    found = {}
    for folder in ("api", "core", "daemon", "egress"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
                    continue
                names = {leaf.attr for leaf in ast.walk(node.func) if isinstance(leaf, ast.Attribute)}
                names |= {leaf.id for leaf in ast.walk(node.func) if isinstance(leaf, ast.Name)}
                logs = any(name.endswith("log") for name in names)
                if logs and (names & LOUD or isinstance(node.func, ast.Name)):
                    found[str(node.args[0].value)] = f"{path.relative_to(ROOT)}:{node.lineno}"
    return found


def test_there_is_something_to_explain() -> None:
    assert {"dependency_away", "pass_broke", "cache_away"} <= messages().keys()


@pytest.mark.parametrize(("message", "where"), messages().items())
def test_every_warning_is_explained(message: str, where: str) -> None:
    assert f"`{message}`" in PAGE, f"{where} logs {message!r}, which docs/runbook.md does not explain"


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_explained(reason: Reason) -> None:
    assert f"`{reason}`" in PAGE


@pytest.mark.parametrize("error", list(EgressError))
def test_every_refusal_of_the_guard_is_explained(error: EgressError) -> None:
    assert f"`{error}`" in PAGE
