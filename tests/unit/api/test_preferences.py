from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.preferences import Preference, preference


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", Preference(4)),
        ("wait=0", Preference(0, "wait=0")),
        ("wait=10", Preference(10, "wait=10")),
        ('Wait = "7"', Preference(7, "wait=7")),
        ("wait=31", Preference(30, "wait=30")),
        ("wait=99999999999999999999", Preference(30, "wait=30")),
        ("respond-async", Preference(0, "respond-async")),
        ("respond-async, wait=10", Preference(0, "respond-async")),
        ("return=minimal, wait=2; x=y", Preference(2, "wait=2")),
        ("wait=2, wait=9", Preference(2, "wait=2")),
        ("wait=-1", Preference(4)),
        ("wait=1.5", Preference(4)),
        ("wait=٣", Preference(4)),
        ("wait", Preference(4)),
        ("nonsense;;,=,", Preference(4)),
    ],
)
def test_preferences(header: str, expected: Preference) -> None:
    assert preference(header, 4) == expected


@given(st.text(max_size=40))
def test_nobody_waits_longer_than_allowed(header: str) -> None:
    assert 0 <= preference(header, 4).wait_s <= 30
