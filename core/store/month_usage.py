"""What users used of their proxies this calendar month (UTC, by the store's clock)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Date, cast, func, select

from core.store.tables import proxy_usage


def this_month() -> ColumnElement[Any]:
    """First day of the month. Connections speak UTC."""
    return cast(func.date_trunc("month", func.clock_timestamp()), Date)


def used_bytes(user_id: Any) -> ColumnElement[int]:
    """Bytes in and out of the user's chips, deleted ones too; `user_id`: a column or a value."""
    used = func.coalesce(func.sum(proxy_usage.c.bytes_in + proxy_usage.c.bytes_out), 0)
    return (
        select(cast(used, BigInteger))
        .where(proxy_usage.c.user_id == user_id, proxy_usage.c.month == this_month())
        .scalar_subquery()
    )
