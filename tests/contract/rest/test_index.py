"""Every row of the contract's tables has a test, and every test that is named exists."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.contract.rest.index import BESIDES, TABLES

TESTS = Path(__file__).parents[2]
# The contract lies beside the repository where it is developed and checked.
CONTRACT = TESTS.parents[1] / "shared" / "contracts" / "rest-api.md"
# The first cell of a table's head -> the index that covers its rows.
HEADS = {"case": "messages", "situation": "statuses", "route": ""}
NAMED = sorted({name for rows in (*TABLES.values(), BESIDES) for names in rows.values() for name in names})


@functools.cache
def functions(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    return frozenset(
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


@pytest.mark.parametrize("name", NAMED)
def test_the_test_that_is_named_exists(name: str) -> None:
    file, _, function = name.partition("::")
    assert function in functions(file), f"{name}: name the test that shows this row now in index.py"


def test_no_row_is_without_a_test() -> None:
    empty = [key for rows in (*TABLES.values(), BESIDES) for key, names in rows.items() if not names]
    assert empty == []


def test_the_rows_are_those_of_the_contract() -> None:
    if not CONTRACT.is_file():
        pytest.skip("the contract is not beside the repository: rows were not compared with it")
    found: dict[str, list[str]] = {}
    for line in CONTRACT.read_text("utf-8").splitlines():
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if set(cells[0]) <= {"-", ":"}:
            continue
        if cells[0] in HEADS:
            table = HEADS[cells[0]] or ("chips" if cells[1] == "answer" else "containers")
            found[table] = []
            continue
        found[table].append(cells[0])
    assert {name: sorted(rows) for name, rows in found.items()} == {
        name: sorted(rows) for name, rows in TABLES.items()
    }
