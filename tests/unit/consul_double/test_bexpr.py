"""The filter language beyond what the contract suite asks a real agent."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.consul_double.bexpr import MAP, compile_filter
from sandbox.consul_double.refusal import RefusalError, duration_s

SCHEMA: dict[str, Any] = {
    "Name": None,
    "Port": None,
    "On": None,
    "Meta": MAP,
    "Tags": None,
    "Parts": {"Status": None},
}
ITEM = {
    "Name": 'say "hi"',
    "Port": 3101,
    "On": True,
    "Meta": {"user": "42", "with-dash": "1"},
    "Tags": ["a", "b"],
    "Parts": [{"Status": "passing"}, {"Status": "critical"}],
}


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        (r'Name == "say \"hi\""', True),
        ("Port == 3101", True),
        ("Port != 3101", False),
        ("On == true", True),
        ('Meta["with-dash"] == "1"', True),
        ('Meta.user=="42"', True),
        ('Meta.none == "42"', False),
        ('Meta.none != "42"', True),
        ('Meta.none matches "^$"', True),
        ("Meta.none is empty", True),
        ("Meta.none is not empty", False),
        ("a in Tags and b in Tags", True),
        ("c not in Tags", True),
        ("Tags not contains c", True),
        ('Parts.Status == "critical"', True),
        ('Parts.Status != "critical"', True),
        ('not Parts.Status == "critical"', False),
        ('Parts.Status == "warning"', False),
        # `and` binds closer than `or`.
        ("Port == 1 and Port == 2 or Port == 3101", True),
        ("Port == 1 and (Port == 2 or Port == 3101)", False),
        ("not not Port == 3101", True),
    ],
)
def test_expressions(expression: str, holds: bool) -> None:
    assert compile_filter(expression, SCHEMA)(ITEM) is holds


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "",
            "Port",
            "Port ==",
            "Port == 1 and",
            "(Port == 1",
            "Port == 1)",
            '"a"',
            "Port is full",
            "Nope == 1",
        ),
        *("Name.first == 1", 'Name matches "("', "Port == 1 Port == 2", "Port = 1", "== 1", "not", "a in"),
        "Meta[ == 1",
    ],
)
def test_expressions_that_cannot_be_read(expression: str) -> None:
    with pytest.raises(RefusalError) as caught:
        compile_filter(expression, SCHEMA)
    assert caught.value.status == 500
    assert caught.value.text.startswith("Failed to create boolean expression evaluator: ")


@given(st.text(max_size=40))
def test_any_text_is_an_expression_or_a_refusal(text: str) -> None:
    with contextlib.suppress(RefusalError):
        assert compile_filter(text, SCHEMA)(ITEM) in (True, False)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1m30s", 90), ("100ms", 0.1), ("0", 0), ("1.5h", 5400), ("-2s", -2), ("10µs", 1e-5), ("+3s", 3)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "s", "1x", "1s2", "1 s", "--1s", "ten"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        duration_s(text)
