"""Usage that guards report, counted once: bytes, the trouble of providers and sub-users, and who reached a quota.

One batch is one transaction, so what comes twice finds all of it done or nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog
from sqlalchemy import (
    ARRAY,
    BigInteger,
    String,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.domain.guard_wire import Usage, UsageRow
from core.domain.names import parse_id
from core.domain.usage_rules import Carried, Verdict, notice_text, percents_reached, verdicts
from core.store.engine import transaction
from core.store.intents import record
from core.store.month_usage import this_month, used_bytes
from core.store.notify import OBSERVED, notify
from core.store.schema import Id
from core.store.tables import (
    chips,
    labels,
    placements,
    plans,
    providers,
    proxy_usage,
    quota_notices,
    sub_users,
    usage_batches,
    users,
)

_MOST: Final = 2**62
# Trouble that goes on is noted anew no more often than this, in seconds: it counts for far longer.
_NOTED_EVERY_S: Final = 60.0
_CLOCK: Final = func.clock_timestamp()
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Sum:
    """What one chip used of one provider."""

    user_id: str
    bytes_in: int = 0
    bytes_out: int = 0
    tunnels: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def add(self, row: UsageRow) -> None:
        self.bytes_in += row.bytes_in
        self.bytes_out += row.bytes_out
        self.tunnels += row.tunnels
        for error, count in row.errors.items():
            self.errors[error.value] = self.errors.get(error.value, 0) + count


async def count(engine: AsyncEngine, usage: Usage) -> bool:
    """Count a batch of one node's guard; False when that was done before. Raises Unavailable, StaleWrite.

    Rows of allocations that never ran on the node count for nothing.
    """
    async with transaction(engine) as connection:
        new = insert(usage_batches).values(batch_id=usage.batch_id, node_id=usage.node_id)
        made = await connection.execute(new.on_conflict_do_nothing().returning(usage_batches.c.batch_id))
        if made.one_or_none() is None:
            return False
        rows = await _believed(connection, usage)
        if rows:
            names = await _providers_of(connection, rows)
            sums: dict[tuple[str, str], _Sum] = {}
            for row in rows:
                sums.setdefault((row.chip_id, names(row)), _Sum(row.user_id)).add(row)
            await _add(connection, sums)
            await _judge(connection, rows, names)
            await _tell_quotas(connection, sums)
    return True


async def _believed(connection: AsyncConnection, usage: Usage) -> list[UsageRow]:
    readable = [row for row in usage.rows if _is_readable(row)]
    query = select(placements.c.allocation_id, placements.c.user_id).where(
        placements.c.allocation_id == any_(_ids("allocations")), placements.c.node_id == usage.node_id
    )
    asked = {"allocations": sorted({row.allocation_id for row in readable})}
    owners = {row.allocation_id: row.user_id for row in await connection.execute(query, asked)}
    found = [row for row in readable if owners.get(row.allocation_id) == row.user_id]
    if len(found) < len(usage.rows):
        _log.warning("usage_rows_refused", node=usage.node_id, rows=len(usage.rows) - len(found))
    return found


def _is_readable(row: UsageRow) -> bool:
    ids = (row.chip_id, row.allocation_id, row.user_id)
    figures = (row.bytes_in, row.bytes_out, row.tunnels, *row.errors.values())
    return all(parse_id(one) == one for one in ids) and all(0 <= one <= _MOST for one in figures)


class _Names(msgspec.Struct):
    """Which provider a row is of: its sub-user's, else that of the chip's label; else its template alone is known."""

    by_sub_user: Mapping[str, str]
    by_chip: Mapping[str, str]

    def __call__(self, row: UsageRow) -> str:
        known = self.by_sub_user.get(row.sub_user_id) or self.by_chip.get(row.chip_id)
        return known or row.provider[:40]


async def _providers_of(connection: AsyncConnection, rows: Iterable[UsageRow]) -> _Names:
    named = sorted({row.sub_user_id for row in rows if parse_id(row.sub_user_id) == row.sub_user_id})
    of_sub_users = select(sub_users.c.id, sub_users.c.provider_slug).where(
        sub_users.c.id == any_(_ids("ids"))
    )
    of_chips = select(labels.c.chip_id, labels.c.provider_slug).where(labels.c.chip_id == any_(_ids("ids")))
    chip_ids = sorted({row.chip_id for row in rows})
    return _Names(
        {row.id: row.provider_slug for row in await connection.execute(of_sub_users, {"ids": named})},
        {row.chip_id: row.provider_slug for row in await connection.execute(of_chips, {"ids": chip_ids})},
    )


async def _add(connection: AsyncConnection, sums: Mapping[tuple[str, str], _Sum]) -> None:
    # In one order everywhere, so that two batches never wait for each other.
    ordered = sorted(sums.items())
    await connection.execute(
        _ADD,
        {
            "chips": [chip_id for (chip_id, _), _ in ordered],
            "users": [one.user_id for _, one in ordered],
            "providers": [provider for (_, provider), _ in ordered],
            "bytes_in": [one.bytes_in for _, one in ordered],
            "bytes_out": [one.bytes_out for _, one in ordered],
            "tunnels": [one.tunnels for _, one in ordered],
            "errors": [msgspec.json.encode(one.errors).decode() for _, one in ordered],
        },
    )


async def _judge(connection: AsyncConnection, rows: Iterable[UsageRow], names: _Names) -> None:
    carried = [
        Carried(names(row), row.sub_user_id, row.tunnels, row.errors)
        for row in rows
        if row.sub_user_id in names.by_sub_user
    ]
    by_provider, by_sub_user = verdicts(carried)
    await _note(connection, providers, providers.c.slug, by_provider)
    await _note(connection, sub_users, sub_users.c.id, by_sub_user)


async def _note(connection: AsyncConnection, table: Any, key: Any, found: Mapping[str, Verdict]) -> None:
    healed = sorted(name for name, verdict in found.items() if verdict.trouble is None)
    if healed:
        well = update(table).where(key.in_(healed), table.c.trouble.is_not(None))
        await connection.execute(well.values(trouble=None, trouble_at=None))
    for name, verdict in sorted(found.items()):
        if verdict.trouble is None:
            continue
        noted_before = _CLOCK - func.make_interval(0, 0, 0, 0, 0, 0, _NOTED_EVERY_S)
        changes = table.c.trouble.is_distinct_from(verdict.trouble.value)
        troubled = update(table).where(key == name, or_(changes, table.c.trouble_at < noted_before))
        values = {"trouble": verdict.trouble.value, "trouble_at": _CLOCK}
        if (await connection.execute(troubled.values(values))).rowcount:
            _log.warning("upstream_in_trouble", of=table.name, name=name, trouble=verdict.trouble.value)


async def _tell_quotas(connection: AsyncConnection, sums: Mapping[tuple[str, str], _Sum]) -> None:
    owners = sorted({one.user_id for one in sums.values()})
    query = (
        select(users.c.id, plans.c.proxy_gb_limit, used_bytes(users.c.id).label("used"))
        .join(plans, plans.c.slug == users.c.plan_slug)
        .where(users.c.id == any_(_ids("owners")), plans.c.proxy_gb_limit > 0)
        .order_by(users.c.id)
    )
    for row in (await connection.execute(query, {"owners": owners})).all():
        for percent in percents_reached(row.proxy_gb_limit, row.used):
            notice = insert(quota_notices).values(month=this_month(), user_id=row.id, percent=percent)
            told = notice.on_conflict_do_nothing().returning(quota_notices.c.percent)
            if (await connection.execute(told)).one_or_none() is not None:
                await _tell(connection, row.id, percent, sums)


async def _tell(
    connection: AsyncConnection, user_id: str, percent: int, sums: Mapping[tuple[str, str], _Sum]
) -> None:
    """In the history of the chip that used most just now; of none when no chip of the batch is left."""
    theirs = {
        chip_id: one.bytes_in + one.bytes_out for (chip_id, _), one in sums.items() if one.user_id == user_id
    }
    live = and_(chips.c.user_id == user_id, chips.c.id == any_(_ids("ids")), chips.c.deleted_at.is_(None))
    query = select(chips.c.id, chips.c.generation).where(live).order_by(chips.c.id).with_for_update()
    found = (await connection.execute(query, {"ids": sorted(theirs)})).all()
    if not found:
        return
    chip = max(found, key=lambda one: (theirs[one.id], one.id))
    code = f"proxy_quota_{percent}"
    await record(connection, user_id, chip.id, chip.generation, "system", code, notice_text(percent))
    await notify(connection, OBSERVED, user_id)


def _ids(name: str) -> Any:
    return bindparam(name, type_=ARRAY(Id))


def _adding() -> Any:
    arrays: dict[str, Any] = {
        "chips": Id,
        "users": Id,
        "providers": String(40),
        "bytes_in": BigInteger(),
        "bytes_out": BigInteger(),
        "tunnels": BigInteger(),
        "errors": Text(),
    }
    rows = (
        func.unnest(*(bindparam(name, type_=ARRAY(type_)) for name, type_ in arrays.items()))
        .table_valued(*(column(name, type_) for name, type_ in arrays.items()))
        .render_derived("reported")
    )
    made = insert(proxy_usage).from_select(
        ["month", "chip_id", "user_id", "provider_slug", "bytes_in", "bytes_out", "tunnels", "errors"],
        select(
            this_month(),
            rows.c.chips,
            rows.c.users,
            rows.c.providers,
            rows.c.bytes_in,
            rows.c.bytes_out,
            rows.c.tunnels,
            cast(rows.c.errors, JSONB),
        ),
    )
    new = made.excluded
    return made.on_conflict_do_update(
        index_elements=[proxy_usage.c.month, proxy_usage.c.chip_id, proxy_usage.c.provider_slug],
        set_={
            "bytes_in": proxy_usage.c.bytes_in + new.bytes_in,
            "bytes_out": proxy_usage.c.bytes_out + new.bytes_out,
            "tunnels": proxy_usage.c.tunnels + new.tunnels,
            "errors": case((cast(new.errors, Text) == "{}", proxy_usage.c.errors), else_=_SUMMED),
            "updated_at": _CLOCK,
        },
    )


_SUMMED: Final[Any] = literal_column(
    "(SELECT jsonb_object_agg(key, total) FROM (SELECT key, sum(value::bigint) AS total FROM ("
    "SELECT * FROM jsonb_each_text(proxy_usage.errors) UNION ALL SELECT * FROM jsonb_each_text(excluded.errors)"
    ") AS both_of_them GROUP BY key) AS summed)",
    JSONB,
)
_ADD: Final = _adding()
