from __future__ import annotations

from decimal import Decimal

import pytest

from core.domain.proxy_usage import ProxyUsage, proxy_usage

GIB = 1024**3


@pytest.mark.parametrize(
    ("bytes_used", "limit", "cost", "shown"),
    [
        (0, "0", "0", ProxyUsage(0, 0.0, "0.00", "0", 0.0)),
        (0, "0.000", "0", ProxyUsage(0, 0.0, "0.00", "0", 0.0)),
        (GIB, "0", "12.5", ProxyUsage(GIB, 1.0, "12.50", "0", 0.0)),
        (GIB // 2, "5.000", "1.999", ProxyUsage(GIB // 2, 0.5, "2.00", "5", 10.0)),
        (GIB // 3, "1.125", "0", ProxyUsage(GIB // 3, 0.333, "0.00", "1.125", 29.63)),
        (7 * GIB, "5", "0", ProxyUsage(7 * GIB, 7.0, "0.00", "5", 140.0)),
        (0, "100", "0", ProxyUsage(0, 0.0, "0.00", "100", 0.0)),
    ],
)
def test_usage_as_pages_show_it(bytes_used: int, limit: str, cost: str, shown: ProxyUsage) -> None:
    assert proxy_usage(bytes_used, Decimal(limit), Decimal(cost)) == shown
