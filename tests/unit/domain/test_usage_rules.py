"""What a batch of usage says of providers, and when a quota is told of."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.egress_errors import EgressError
from core.domain.quota import GIB
from core.domain.usage_rules import Carried, Verdict, left_bytes, notice_text, percents_reached, verdicts

E = EgressError
WELL = Verdict(None)


def carried(tunnels: int = 0, sub_user: str = "s", **errors: int) -> Carried:
    return Carried("local", sub_user, tunnels, {E(name): count for name, count in errors.items()})


@pytest.mark.parametrize(
    ("batch", "provider", "sub_user"),
    [
        ([], None, None),
        ([carried()], None, None),
        ([carried(1)], WELL, WELL),
        ([carried(no_peer=3)], None, None),  # says nothing of either
        ([carried(1, no_peer=3)], WELL, WELL),
        ([carried(traffic_exhausted=1)], Verdict(E.TRAFFIC_EXHAUSTED), None),
        ([carried(traffic_exhausted=1), carried(1)], WELL, WELL),  # some got through: it is not used up
        ([carried(proxy_auth=2)], None, Verdict(E.PROXY_AUTH)),
        ([carried(proxy_auth=2), carried(1)], WELL, WELL),
        ([carried(5, threads_exhausted=1)], WELL, Verdict(E.THREADS_EXHAUSTED)),
        ([carried(proxy_auth=1, threads_exhausted=1)], None, Verdict(E.THREADS_EXHAUSTED)),
        ([carried(proxy_auth=0)], None, None),
    ],
)
def test_trouble_by_what_is_met(
    batch: list[Carried], provider: Verdict | None, sub_user: Verdict | None
) -> None:
    by_provider, by_sub_user = verdicts(batch)
    assert (by_provider.get("local"), by_sub_user.get("s")) == (provider, sub_user)


def test_one_sub_user_is_not_the_other() -> None:
    by_provider, by_sub_user = verdicts([carried(proxy_auth=1), carried(2, "other")])
    assert by_sub_user == {"s": Verdict(E.PROXY_AUTH), "other": WELL}
    assert by_provider == {"local": WELL}


def test_a_plan_without_a_limit_leaves_everything() -> None:
    assert left_bytes(Decimal(0), 10**15) is None
    assert percents_reached(Decimal(0), 10**15) == ()


@pytest.mark.parametrize(
    ("used", "left", "reached"),
    [
        (0, GIB, ()),
        (GIB * 8 // 10, GIB - GIB * 8 // 10, ()),
        (GIB * 8 // 10 + 1, GIB - GIB * 8 // 10 - 1, (80,)),
        (GIB - 1, 1, (80,)),
        (GIB, 0, (80, 100)),
        (3 * GIB, 0, (80, 100)),
    ],
)
def test_what_a_plan_leaves(used: int, left: int, reached: tuple[int, ...]) -> None:
    assert left_bytes(Decimal(1), used) == left
    assert percents_reached(Decimal(1), used) == reached


@given(st.decimals(0, 100, places=3), st.integers(0, 200 * GIB))
def test_nothing_is_left_exactly_when_all_is_reached(limit: Decimal, used: int) -> None:
    left = left_bytes(limit, used)
    if left is None:
        assert limit == 0
    else:
        assert 0 <= left <= limit * GIB
        assert (left == 0) == (100 in percents_reached(limit, used) or int(limit * GIB) == used)


def test_texts() -> None:
    assert notice_text(80).startswith("80% ")
    assert "bloqueadas" in notice_text(100)
