from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.quota import GIB, Refusal, Standing, refusal, refusal_text

FULL = Standing(alias_taken=True, chips=1, max_chips=1, proxy_bytes=5 * GIB, proxy_limit_gb=Decimal(5))


def test_the_order_of_the_checks_is_alias_limit_quota() -> None:
    assert refusal(FULL) is Refusal.ALIAS_TAKEN
    without_alias = Standing(False, 1, 1, FULL.proxy_bytes, FULL.proxy_limit_gb)
    assert refusal(without_alias) is Refusal.CHIP_LIMIT
    assert refusal(Standing(False, 0, 1, FULL.proxy_bytes, FULL.proxy_limit_gb)) is Refusal.PROXY_QUOTA


@given(st.integers(0, 20), st.integers(0, 10), st.integers(0, 100 * GIB), st.integers(0, 50))
def test_a_chip_is_allowed_exactly_within_limit_and_quota(
    chips: int, most: int, used: int, limit: int
) -> None:
    allowed = refusal(Standing(False, chips, most, used, Decimal(limit))) is None
    assert allowed == (chips < most and (limit == 0 or used < limit * GIB))


@pytest.mark.parametrize(
    ("used", "limit", "shown"),
    [
        (5 * GIB, Decimal(5), "5/5 GB"),
        (GIB * 3 // 2, Decimal("1.5"), "1.5/1.5 GB"),
        (GIB * 10, Decimal("10.000"), "10/10 GB"),
        (GIB * 100, Decimal("100"), "100/100 GB"),
    ],
)
def test_the_quota_is_told_in_gigabytes(used: int, limit: Decimal, shown: str) -> None:
    standing = Standing(False, 0, 1, used, limit)
    text = refusal_text(Refusal.PROXY_QUOTA, standing)
    assert text == f"Limite de proxy excedido ({shown}). Faça upgrade ou aguarde renovação mensal."


def test_the_other_texts() -> None:
    assert refusal_text(Refusal.ALIAS_TAKEN, FULL) == "Já existe um chip com esse apelido."
    assert refusal_text(Refusal.CHIP_LIMIT, FULL) == "Limite de chips do plano atingido."
