"""What a user's chips used of their proxies this month, in the shape that pages show."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from core.domain.quota import GIB


class ProxyUsage(msgspec.Struct, frozen=True):
    """One calendar month.

    Attributes:
        gb_used: GiB, three decimals.
        cost: in R$, with two decimals.
        limit_gb: GiB that the plan allows; `0` = no limit.
        percentage_used: of that limit, two decimals; 0 without one.
    """

    bytes_used: int
    gb_used: float
    cost: str
    limit_gb: str
    percentage_used: float


def proxy_usage(bytes_used: int, limit_gb: Decimal, cost: Decimal = Decimal(0)) -> ProxyUsage:
    """`limit_gb`: of the plan, 0 = none. `cost`: what the provider charged for these bytes, in R$."""
    used_gb = Decimal(bytes_used) / GIB
    share = 100 * used_gb / limit_gb if limit_gb > 0 else Decimal(0)
    return ProxyUsage(
        bytes_used=bytes_used,
        gb_used=float(round(used_gb, 3)),
        cost=f"{cost:.2f}",
        limit_gb=_plain(limit_gb),
        percentage_used=float(round(share, 2)),
    )


def _plain(value: Decimal) -> str:
    """5, 1.5, 0.125: no zeros that say nothing, no exponent."""
    text = f"{value:.3f}".rstrip("0").rstrip(".")
    return text or "0"
