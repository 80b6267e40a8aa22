"""One table of codes: whatever the code raises stands in it, and nothing else does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import problems
from api.app import create_app
from api.openapi import with_examples
from core.domain.problem_codes import PROBLEM_KINDS
from core.domain.quota import Refusal
from core.errors import DomainError
from core.settings import Settings

ROOT = Path(__file__).parents[3]
KINDS = {kind.__name__: kind for kind in DomainError.__subclasses__()}
SOURCES = sorted(
    path
    for folder in ("api", "core/store", "core/domain", "core/clients")
    for path in (ROOT / folder).rglob("*.py")
    if "migrations" not in path.parts
)
# Codes that are chosen while the program runs, from an enumeration.
CHOSEN = {refusal.value for refusal in Refusal}


def constants(tree: ast.Module) -> dict[str, str]:
    """Texts that a module gives a name to."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            found.update({t.id: value.value for t in targets if isinstance(t, ast.Name)})
    return found


def raised(path: Path) -> Iterator[tuple[str, str]]:
    """Each code that a file names for a refusal, and where."""
    tree = ast.parse(path.read_text())
    names = constants(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        if called in KINDS:
            given = next((word.value for word in node.keywords if word.arg == "code"), None)
        elif called == "problem" and len(node.args) > 1:
            given = node.args[1]
        else:
            continue
        where = f"{path.relative_to(ROOT)}:{node.lineno}"
        if given is None:
            yield KINDS[called].default_code, where
        elif isinstance(given, ast.Constant):
            yield str(given.value), where
        elif isinstance(given, ast.Name) and given.id in names:
            yield names[given.id], where


def test_every_code_that_is_raised_stands_in_the_table() -> None:
    missing = {code: where for path in SOURCES for code, where in raised(path) if code not in PROBLEM_KINDS}
    assert missing == {}, "put these into core/domain/problem_codes.py"
    assert PROBLEM_KINDS.keys() >= CHOSEN


def test_every_code_of_the_table_is_raised_somewhere() -> None:
    used = {code for path in SOURCES for code, _ in raised(path)} | CHOSEN
    # What a refusal without a code of its own is called; its status stands for its whole kind.
    used |= {kind.default_code for kind in KINDS.values()}
    assert PROBLEM_KINDS.keys() - used == set(), "nothing raises these; take them out of the table"


def test_direct_answers_have_the_status_of_their_code() -> None:
    wrong = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "problem"
                and len(node.args) > 1
                and isinstance(node.args[0], ast.Constant)
                and isinstance(node.args[1], ast.Constant)
                and PROBLEM_KINDS[str(node.args[1].value)].status != node.args[0].value
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


@pytest.mark.parametrize("code", PROBLEM_KINDS)
def test_a_code_is_told_whole(code: str) -> None:
    kind = PROBLEM_KINDS[code]
    assert code.isascii()
    assert code.replace("_", "").islower()
    assert 400 <= kind.status < 600
    assert kind.status in problems.TITLES
    assert kind.detail[0].isupper()
    assert kind.detail.endswith(".")
    assert kind.remedy.endswith(".")


def test_examples_show_codes_of_the_table(settings: Settings) -> None:
    document = with_examples(create_app(settings).openapi_schema.to_schema())
    shown = [
        (int(status), content["example"]["code"])
        for item in document["paths"].values()
        for operation in item.values()
        for status, answer in operation["responses"].items()
        for content in answer.get("content", {}).values()
        if int(status) >= 400
    ]
    assert len(shown) > 50
    assert [(status, code) for status, code in shown if PROBLEM_KINDS[code].status != status] == []
