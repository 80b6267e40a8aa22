"""Look-ins; see core/store/look_ins.py."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from core.domain.log_lines import Position
from core.domain.look_ins import FRESH_S, VIEWED_S, Look, Meter, StoredLog, StoredStats, What
from core.store.interface import Lease
from core.store.notify import LOOK_INS, LOOKED
from tests.memory_store.rows import Container
from tests.memory_store.store import MemoryStore


class _Stats(msgspec.Struct, frozen=True):
    allocation_id: str
    cpu_percent: float
    memory_bytes: int
    at: datetime


class _Log(msgspec.Struct, frozen=True):
    allocation_id: str
    lines: tuple[str, ...]
    last_line: int
    positions: dict[str, Position]
    at: datetime


class MemoryLookIns:
    """`core.store.look_ins.LookIns` over the containers of a `MemoryStore`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._rows: dict[str, Container] = {}  # those that all below belongs to
        self._marks: dict[tuple[str, What], datetime] = {}
        self._stats: dict[str, _Stats] = {}
        self._logs: dict[str, _Log] = {}

    def age(self, step: timedelta) -> None:
        """Everything stored is that much older."""
        self._marks = {key: until - step for key, until in self._marks.items()}
        self._stats = {u: msgspec.structs.replace(one, at=one.at - step) for u, one in self._stats.items()}
        self._logs = {u: msgspec.structs.replace(one, at=one.at - step) for u, one in self._logs.items()}

    async def watch(self, user_id: str, what: What, ttl_s: float = VIEWED_S) -> None:
        self._clean()
        if user_id not in self._store.containers:
            return
        now = self._store.clock.now()
        samples: Mapping[str, _Stats | _Log] = self._stats if what is What.STATS else self._logs
        marked = self._marks.get((user_id, what), now) > now
        sampled = user_id in samples and samples[user_id].at > now - timedelta(seconds=FRESH_S)
        until = now + timedelta(seconds=ttl_s)
        self._marks[user_id, what] = max(until, self._marks.get((user_id, what), until))
        if not (marked and sampled):
            self._store.tell(LOOK_INS, user_id)

    async def meter(self, user_id: str) -> Meter | None:
        self._clean()
        row = self._store.containers.get(user_id)
        if row is None:
            return None
        newest = None
        found = self._stats.get(user_id)
        if found is not None:
            age_s = self._age_s(found.at)
            newest = StoredStats(found.allocation_id, found.cpu_percent, found.memory_bytes, found.at, age_s)
        return Meter(row.observed.allocation_id, row.plan.resources.memory_max_mb, newest)

    async def log(self, user_id: str, after: int | None = None) -> StoredLog | None:
        self._clean()
        found = self._logs.get(user_id)
        if found is None:
            return None
        lines = found.lines if after is None or found.last_line > after else ()
        return StoredLog(
            found.allocation_id,
            lines,
            found.last_line,
            dict(found.positions),
            found.at,
            self._age_s(found.at),
        )

    async def watched(self) -> tuple[str, ...]:
        self._clean()
        now = self._store.clock.now()
        return tuple(sorted({user for (user, _), until in self._marks.items() if until > now}))

    async def look(self, user_id: str) -> Look | None:
        self._clean()
        row, now = self._store.containers.get(user_id), self._store.clock.now()
        if row is None:
            return None
        watched = {what for (user, what), until in self._marks.items() if user == user_id and until > now}
        runs = row.observed.allocation_id
        last = row.current.allocation_id if row.current is not None else None
        return Look(runs, runs or last, frozenset(watched))

    async def write_stats(
        self, lease: Lease, user_id: str, allocation_id: str, cpu_percent: float, memory_bytes: int
    ) -> None:
        if self._may_write(lease, user_id):
            now = self._store.clock.now()
            self._stats[user_id] = _Stats(allocation_id, cpu_percent, memory_bytes, now)
            self._store.tell(LOOKED, user_id)

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
        if self._may_write(lease, user_id):
            if lines is None:
                before = self._logs.get(user_id)
                lines = before.lines if before is not None else ()
            now = self._store.clock.now()
            self._logs[user_id] = _Log(allocation_id, lines, last_line, dict(positions), now)
            self._store.tell(LOOKED, user_id)

    async def forget(self, older_than_s: float) -> int:
        self._clean()
        old = self._store.clock.now() - timedelta(seconds=older_than_s)
        marks = [key for key, until in self._marks.items() if until < old]
        stats = [user for user, one in self._stats.items() if one.at < old]
        logs = [user for user, one in self._logs.items() if one.at < old]
        for key in marks:
            del self._marks[key]
        for user in stats:
            del self._stats[user]
        for user in logs:
            del self._logs[user]
        return len(marks) + len(stats) + len(logs)

    def _may_write(self, lease: Lease, user_id: str) -> bool:
        self._store.guard(lease)
        self._clean()
        return user_id in self._store.containers

    def _age_s(self, moment: datetime) -> float:
        return (self._store.clock.now() - moment).total_seconds()

    def _clean(self) -> None:
        """Everything of a container goes with its row."""
        self._store.up()
        held = self._store.containers
        for user in [user for user, row in self._rows.items() if held.get(user) is not row]:
            del self._rows[user]
            self._stats.pop(user, None)
            self._logs.pop(user, None)
            for what in What:
                self._marks.pop((user, what), None)
        self._rows = dict(held)
