"""Each token once: a model that remembers every token ever given against the two hashes that are kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from core.domain.refresh import GRACE, Family, Verdict, judge

START = datetime(2026, 7, 1, tzinfo=UTC)
LIFE = timedelta(days=7)


def token(number: int) -> bytes:
    return b"token %d" % number


def test_the_table() -> None:
    fresh = Family(token(0), None, None, START + LIFE)
    assert judge(fresh, token(0), START) is Verdict.ROTATE
    assert judge(fresh, token(9), START) is Verdict.REUSED
    turned = Family(token(1), token(0), START, START + LIFE)
    assert judge(turned, token(1), START) is Verdict.ROTATE
    assert judge(turned, token(0), START - timedelta(seconds=1)) is Verdict.REPEAT
    assert judge(turned, token(0), START + GRACE) is Verdict.REPEAT
    assert judge(turned, token(0), START + GRACE + timedelta(milliseconds=1)) is Verdict.REUSED
    for number in (0, 1, 2):
        assert judge(turned, token(number), START + LIFE) is Verdict.REFUSED
        ended = Family(token(1), token(0), START, START + LIFE, ended=True)
        assert judge(ended, token(number), START) is Verdict.REFUSED


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 40)), max_size=40))
def test_a_token_that_was_used_up_ends_the_family_and_no_token_is_worth_anything_then(
    uses: list[tuple[int, float]],
) -> None:
    """`uses`: how many tokens before the newest one is shown, and the seconds since the last use."""
    family = Family(token(0), None, None, START + LIFE)
    newest, now, rotated_at = 0, START, START
    ended = False
    for back, seconds in uses:
        now += timedelta(seconds=seconds)
        shown = max(0, newest - back)
        verdict = judge(family, token(shown), now)
        if ended:
            assert verdict is Verdict.REFUSED
        elif shown == newest:
            assert verdict is Verdict.ROTATE
            newest, rotated_at = newest + 1, now
            family = Family(token(newest), token(shown), now, now + LIFE)
        elif shown == newest - 1 and now - rotated_at <= GRACE:
            assert verdict is Verdict.REPEAT
        else:
            assert verdict is Verdict.REUSED
            ended = True
            family = Family(family.newest, family.before, family.rotated_at, family.expires_at, ended=True)
