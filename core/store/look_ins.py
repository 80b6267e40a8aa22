"""Look-ins: marks of those who look into a container, and the samples that answer them.

The API writes `viewers` and reads the rest; a daemon writes samples, under the lease of that look (a key of
its own, so that a look never waits for a pass nor a pass for a look). All ages by PostgreSQL's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import Float, and_, case, cast, delete, exists, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.domain.log_lines import Position
from core.domain.look_ins import FRESH_S, VIEWED_S, Look, Meter, StoredLog, StoredStats, What
from core.store import leases
from core.store.engine import reading, transaction
from core.store.interface import Lease
from core.store.notify import LOOK_INS, LOOKED, notify
from core.store.tables import container_logs, container_stats, containers, placements, plans, users, viewers

_CLOCK: Final = func.clock_timestamp()


class LookIns(Protocol):
    """All methods raise Unavailable when the store is away; those that take a lease raise StaleWrite too."""

    async def watch(self, user_id: str, what: What, ttl_s: float = VIEWED_S) -> None:
        """Somebody looks: renew the mark, and tell daemons when nobody samples. Nothing without a container."""

    async def meter(self, user_id: str) -> Meter | None:
        """What a request for stats is answered from; None without a container."""

    async def log(self, user_id: str, after: int | None = None) -> StoredLog | None:
        """The log as it was read last; None when it was not. `after`: without its lines unless there are newer."""

    async def watched(self) -> tuple[str, ...]:
        """Users whose containers somebody looks into right now."""

    async def look(self, user_id: str) -> Look | None:
        """What to sample; None without a container."""

    async def write_stats(
        self, lease: Lease, user_id: str, allocation_id: str, cpu_percent: float, memory_bytes: int
    ) -> None:
        """Replace the sample."""

    async def write_log(
        self,
        lease: Lease,
        user_id: str,
        allocation_id: str,
        task: str,
        lines: tuple[str, ...] | None,
        last_line: int,
        positions: Mapping[str, Position],
    ) -> None:
        """Replace the log; `lines` None: there is nothing new, it was read again."""

    async def forget(self, older_than_s: float) -> int:
        """Remove marks, samples and logs that are older than that; how many."""


class PostgresLookIns:
    """`LookIns` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def watch(self, user_id: str, what: What, ttl_s: float = VIEWED_S) -> None:
        samples = container_stats if what is What.STATS else container_logs
        at = samples.c.sampled_at if what is What.STATS else samples.c.read_at
        marked = exists().where(*_mark(user_id, what), viewers.c.until > _CLOCK)
        sampled = exists().where(samples.c.user_id == user_id, at > _CLOCK - _seconds(FRESH_S))
        # Nobody without a container is looked into, and none that is being removed meanwhile.
        whose = select(containers.c.user_id, literal(what.value), _CLOCK + _seconds(ttl_s)).where(
            containers.c.user_id == user_id
        )
        made = insert(viewers).from_select(["user_id", "what", "until"], whose)
        renewed = made.on_conflict_do_update(
            index_elements=[viewers.c.user_id, viewers.c.what],
            set_={"until": func.greatest(viewers.c.until, made.excluded.until)},
        )
        async with transaction(self._engine) as connection:
            served = bool(await connection.scalar(select(and_(marked, sampled))))
            done = await connection.execute(renewed)
            if done.rowcount and not served:
                await notify(connection, LOOK_INS, user_id)

    async def meter(self, user_id: str) -> Meter | None:
        query = (
            select(
                containers.c.allocation_id.label("current"),
                plans.c.memory_max_mb,
                container_stats,
                _age_s(container_stats.c.sampled_at).label("age_s"),
            )
            .select_from(containers)
            .join(users, users.c.id == containers.c.user_id)
            .join(plans, plans.c.slug == users.c.plan_slug)
            .outerjoin(container_stats, container_stats.c.user_id == containers.c.user_id)
            .where(containers.c.user_id == user_id)
        )
        row = await self._one(query)
        if row is None:
            return None
        newest = None
        if row.sampled_at is not None:
            newest = StoredStats(
                row.allocation_id, row.cpu_percent, row.memory_bytes, row.sampled_at, row.age_s
            )
        return Meter(row.current, row.memory_max_mb, newest)

    async def log(self, user_id: str, after: int | None = None) -> StoredLog | None:
        lines: Any = container_logs.c.lines
        if after is not None:
            lines = case((container_logs.c.last_line > after, container_logs.c.lines), else_="")
        query = select(
            container_logs.c.allocation_id,
            lines.label("lines"),
            container_logs.c.last_line,
            container_logs.c.positions,
            container_logs.c.read_at,
            _age_s(container_logs.c.read_at).label("age_s"),
        ).where(container_logs.c.user_id == user_id)
        row = await self._one(query)
        if row is None:
            return None
        return StoredLog(
            row.allocation_id,
            tuple(row.lines.split("\n")[:-1]),
            row.last_line,
            msgspec.convert(row.positions, dict[str, Position]),
            row.read_at,
            row.age_s,
        )

    async def watched(self) -> tuple[str, ...]:
        query = select(viewers.c.user_id).where(viewers.c.until > _CLOCK).distinct()
        async with reading(self._engine) as connection:
            return tuple(sorted((await connection.execute(query)).scalars()))

    async def look(self, user_id: str) -> Look | None:
        current = and_(placements.c.user_id == containers.c.user_id, placements.c.is_current)
        marks = (
            select(func.array_agg(viewers.c.what))
            .where(viewers.c.user_id == containers.c.user_id, viewers.c.until > _CLOCK)
            .scalar_subquery()
        )
        query = (
            select(
                containers.c.allocation_id,
                placements.c.allocation_id.label("last_allocation_id"),
                marks.label("marks"),
            )
            .select_from(containers)
            .outerjoin(placements, current)
            .where(containers.c.user_id == user_id)
        )
        row = await self._one(query)
        if row is None:
            return None
        return Look(
            row.allocation_id,
            row.allocation_id or row.last_allocation_id,
            frozenset(What(mark) for mark in row.marks or ()),
        )

    async def write_stats(
        self, lease: Lease, user_id: str, allocation_id: str, cpu_percent: float, memory_bytes: int
    ) -> None:
        values = {
            "allocation_id": allocation_id,
            "cpu_percent": cpu_percent,
            "memory_bytes": memory_bytes,
            "sampled_at": _CLOCK,
        }
        await self._put(lease, user_id, container_stats, values, values)

    async def write_log(
        self,
        lease: Lease,
        user_id: str,
        allocation_id: str,
        task: str,
        lines: tuple[str, ...] | None,
        last_line: int,
        positions: Mapping[str, Position],
    ) -> None:
        values = {
            "allocation_id": allocation_id,
            "task": task,
            "lines": "".join(f"{line}\n" for line in lines or ()),
            "last_line": last_line,
            "positions": msgspec.to_builtins(dict(positions)),
            "read_at": _CLOCK,
        }
        unread = {"lines"} if lines is None else set()
        kept = {name: value for name, value in values.items() if name not in unread}
        await self._put(lease, user_id, container_logs, values, kept)

    async def forget(self, older_than_s: float) -> int:
        old = _CLOCK - _seconds(older_than_s)
        removed = 0
        async with transaction(self._engine) as connection:
            for column in (viewers.c.until, container_stats.c.sampled_at, container_logs.c.read_at):
                done = await connection.execute(delete(column.table).where(column < old))
                removed += int(done.rowcount)
        return removed

    async def _put(
        self, lease: Lease, user_id: str, table: Any, new: Mapping[str, Any], changed: Mapping[str, Any]
    ) -> None:
        """One row a user. A container that was removed meanwhile has none, and that is no error."""
        async with transaction(self._engine) as connection:
            await leases.guard(connection, lease)
            known = select(containers.c.user_id).where(containers.c.user_id == user_id)
            if (await connection.execute(known.with_for_update(key_share=True))).one_or_none() is None:
                return
            put = insert(table).values(user_id=user_id, **new)
            await connection.execute(
                put.on_conflict_do_update(index_elements=[table.c.user_id], set_=dict(changed))
            )
            await notify(connection, LOOKED, user_id)

    async def _one(self, query: Any) -> Any:
        async with reading(self._engine) as connection:
            return (await connection.execute(query)).one_or_none()


def _mark(user_id: str, what: What) -> tuple[Any, ...]:
    return viewers.c.user_id == user_id, viewers.c.what == what.value


def _seconds(seconds: float) -> Any:
    return func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _age_s(moment: Any) -> Any:
    return cast(func.extract("epoch", _CLOCK - moment), Float)
