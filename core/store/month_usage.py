"""What users used of their proxies this calendar month (UTC, by the store's clock)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Date,
    Integer,
    case,
    cast,
    exists,
    false,
    func,
    literal_column,
    select,
)

from core.domain.quota import GIB
from core.store.tables import plans, proxy_usage, users


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


def is_used_up(user_id: Any) -> ColumnElement[bool]:
    """Whether the plan of the user has a limit and it is reached; nothing is summed up where there is none."""
    # Aliases: the statement around it may hold users and plans of its own.
    user, plan = users.alias("quota_of"), plans.alias("quota_plan")
    reached = used_bytes(user.c.id) >= plan.c.proxy_gb_limit * literal_column(str(GIB), BigInteger)
    return exists().where(
        user.c.id == user_id,
        plan.c.slug == user.c.plan_slug,
        case((plan.c.proxy_gb_limit > literal_column("0", Integer), reached), else_=false()),
    )
