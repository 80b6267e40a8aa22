"""P8: pauses never shrink while something goes on failing, and never pass their cap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain import backoff

seconds = st.floats(0.01, 1e6)


@given(st.integers(0, 10_000), seconds, seconds)
def test_it_never_shrinks_and_never_passes_its_cap(failures: int, base_s: float, cap_s: float) -> None:
    now, then = (backoff.delay(n, base_s, cap_s) for n in (failures, failures + 1))
    assert 0 <= now <= then <= cap_s


@given(seconds, st.integers(1, 60))
def test_it_doubles_until_the_cap(base_s: float, failures: int) -> None:
    assert backoff.delay(1, base_s, float("inf")) == base_s
    twice = backoff.delay(failures + 1, base_s, float("inf"))
    assert twice == pytest.approx(2 * backoff.delay(failures, base_s, float("inf")))


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        backoff.delay(-1, 1.0, 10.0)
