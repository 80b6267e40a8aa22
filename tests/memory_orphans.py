"""`core.store.orphans.OrphanStore` in memory, beside the in-memory store; one suite tests it and PostgreSQL's."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import timedelta

import msgspec

from core.domain.actor import Actor
from core.domain.belongings import Found, Key, Kind, Owner, Owners
from core.domain.orphans import GOING, Change, Forgot, Moved, Orphan, Saw, State
from core.store.interface import Lease
from core.store.orphans import HISTORY_S, Book, Tried
from tests.memory_store import MemoryStore


class MemoryOrphans:
    """Rows by key; `row(kind, name)` finds one for a test."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._rows: dict[Key, Orphan] = {}
        self._last_id = 0

    def row(self, kind: Kind, name: str) -> Orphan | None:
        return next((row for (k, n, _), row in self._rows.items() if (k, n) == (kind, name)), None)

    def grow_old(self, age_s: float) -> None:
        """As if everything had happened `age_s` earlier."""
        step = timedelta(seconds=age_s)
        for row in list(self._rows.values()):
            self._put(
                row,
                first_seen=row.first_seen - step,
                last_seen=row.last_seen - step,
                next_try_at=row.next_try_at and row.next_try_at - step,
            )

    async def owners(self, chip_ids: Collection[str]) -> Owners:
        self._store.up()
        chips = self._store.chips
        return Owners.of(
            (Owner(row.user_id, row.namespace, row.storage_id) for row in self._store.containers.values()),
            {id_: chips[id_].user_id for id_ in chip_ids if id_ in chips},
        )

    async def book(self) -> Book:
        self._store.up()
        rows = sorted(self._rows.values(), key=lambda row: (row.first_seen, row.id))
        return Book(self._store.clock.now(), tuple(rows))

    async def apply(self, lease: Lease, changes: Iterable[Change]) -> None:
        self._store.up()
        self._store.guard(lease)
        now = self._store.clock.now()
        for change in changes:
            match change:
                case Saw(found=found):
                    self._saw(found)
                case Moved(orphan_id=id_, before=before, after=after, decided_by=by):
                    row = self._by_id(id_)
                    if row is not None and row.state is before:
                        self._put(
                            row,
                            state=after,
                            next_try_at=None,
                            note=None,
                            decided_by=by or row.decided_by,
                        )
                case Forgot(orphan_id=id_, before=before):
                    row = self._by_id(id_)
                    if row is not None and row.state is before:
                        del self._rows[row.found.key]
        for row in list(self._rows.values()):
            if row.state is State.REMOVED and now - row.last_seen > timedelta(seconds=HISTORY_S):
                del self._rows[row.found.key]

    async def saw_sessions(self, user_id: str, found: Iterable[Found]) -> None:
        self._store.up()
        for one in found:
            if one.kind is Kind.SESSION and one.place == user_id:
                self._saw(one)

    async def tried(self, lease: Lease, orphan_id: int, tried: Tried) -> None:
        self._store.up()
        self._store.guard(lease)
        row = self._by_id(orphan_id)
        if row is None or row.state not in GOING:
            return
        now = self._store.clock.now()
        again = None if tried.again_in_s is None else now + timedelta(seconds=tried.again_in_s)
        self._put(
            row,
            state=tried.state,
            attempts=tried.attempts,
            note=tried.note,
            next_try_at=again,
            last_seen=now if tried.state is State.REMOVED else row.last_seen,
            decided_by=None if tried.state is State.WAITING else row.decided_by,
        )

    async def decide(
        self, orphan_ids: Collection[int], *, approve: bool, by: str, actor: Actor
    ) -> tuple[int, ...]:
        self._store.up()
        after = State.APPROVED if approve else State.KEPT
        open_to = {State.WAITING, State.KEPT} if approve else {*State} - {State.REMOVED, after}
        changed = []
        for id_ in sorted(orphan_ids):
            row = self._by_id(id_)
            if row is not None and row.state in open_to:
                self._put(row, state=after, decided_by=by, attempts=0, next_try_at=None, note=None)
                changed.append(id_)
        return tuple(changed)

    def _saw(self, found: Found) -> None:
        now = self._store.clock.now()
        row = self._rows.get(found.key)
        if row is None or row.state is State.REMOVED:
            # A row that comes back keeps its number, as the other store's does.
            self._last_id += 1
            id_ = self._last_id if row is None else row.id
            self._rows[found.key] = Orphan(id_, found, first_seen=now, last_seen=now)
            return
        if row.state in GOING:
            found = msgspec.structs.replace(found, fingerprint=row.found.fingerprint)
        self._put(row, found=found, last_seen=now)

    def _by_id(self, orphan_id: int) -> Orphan | None:
        return next((row for row in self._rows.values() if row.id == orphan_id), None)

    def _put(self, row: Orphan, **changes: object) -> None:
        self._rows[row.found.key] = msgspec.structs.replace(row, **changes)
