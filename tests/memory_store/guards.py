"""Leases of guards; see core/store/guard_leases.py for the rule. One call is one transaction here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from core.clock import Clock
from core.domain.guard_grants import Granting, Reading, ServerView, doubt, granting
from core.store.guard_leases import TTL_S, Answer, Ask, Standing
from tests.memory_store.database import Database
from tests.memory_store.rows import Placement


class MemoryGuardLeases:
    """`core.store.guard_leases.GuardLeases` over a store in memory, as one process of the API keeps it."""

    def __init__(self, store: Database, *, ttl_s: float = TTL_S, clock: Clock | None = None) -> None:
        """`clock`: that process's own; its monotonic half shows steps of the store's."""
        self._store = store
        self._ttl_s = ttl_s
        self._clock = clock or store.clock
        self._last: Reading | None = None
        self.watches_since: datetime | None = None

    async def renew(self, node_id: str, asks: Sequence[Ask]) -> tuple[Answer, ...]:
        self._store.up()
        if not asks:
            return ()
        now = self._store.clock.now()
        giving = self._may_grant(now)
        return tuple(self._answer(node_id, ask, now, giving) for ask in asks)

    async def confirm_closed(self, node_id: str, closed: Sequence[Ask]) -> int:
        self._store.up()
        freed = 0
        for ask in closed:
            row = self._store.placement_of.get(ask.allocation_id)
            if row is None or row.node_id != node_id or ask.grant is None:
                continue
            if row.grant_number == ask.grant and row.lease_until is not None:
                row.lease_until = None
                freed += 1
        return freed

    async def hold(self, seconds: float | None = None) -> datetime:
        self._store.up()
        now = self._store.clock.now()
        return self._held(now, self._ttl_s if seconds is None else seconds)

    def _may_grant(self, now: datetime) -> Granting:
        store, sent_at = self._store, self._clock.monotonic()
        this = Reading(now, sent_at, sent_at)
        if store.granted_after is None:  # a store that never gave a lease has none to forget
            store.granted_after = now
            store.guards_saw = ServerView(store.server_started_at, now)
        assert store.guards_saw is not None
        seen = ServerView(store.server_started_at, now)
        why = doubt(stored=store.guards_saw, seen=seen, last=self._last, this=this)
        if why is not None:
            self._held(now, self._ttl_s)
        else:
            store.guards_saw = seen
        self._last = this
        self.watches_since = self.watches_since or now
        return granting(now, store.granted_after, self.watches_since, self._ttl_s)

    def _held(self, now: datetime, seconds: float) -> datetime:
        store, until = self._store, now + timedelta(seconds=seconds)
        store.granted_after = max(store.granted_after or until, until)
        store.guards_saw = ServerView(store.server_started_at, now)
        return store.granted_after

    def _answer(self, node_id: str, ask: Ask, now: datetime, giving: Granting) -> Answer:
        row = self._store.placement_of.get(ask.allocation_id)
        if row is None or row.node_id != node_id or not row.is_current:
            return Answer(ask.allocation_id, Standing.REVOKED)
        if not (_is_held(row, now) and row.grant_number == ask.grant):
            trusting = giving is Granting.ALL
            others = [one for one in self._store.users[row.user_id].placements if one is not row]
            if giving is Granting.NONE or any(_may_hold(one, now, trusting=trusting) for one in others):
                return Answer(ask.allocation_id, Standing.WAITING)
            row.grant_number = next(self._store.grant_numbers)
            for one in others:
                one.lease_until = None
        row.lease_until = now + timedelta(seconds=self._ttl_s)
        return Answer(ask.allocation_id, Standing.GRANTED, row.grant_number, row.epoch, self._ttl_s)


def _is_held(row: Placement, now: datetime) -> bool:
    return row.lease_until is not None and row.lease_until > now


def _may_hold(row: Placement, now: datetime, *, trusting: bool) -> bool:
    return _is_held(row, now) or (row.lease_until is not None and not trusting)
