"""A held lease whose key is freed with a status write, while its heartbeat may be on its way."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from core.clock import SystemClock
from core.store.interface import Lease, ReconcileStore
from daemon.lease import HeldLease

LEASE = Lease("k", "one", 1, sent_at=0.0, ttl_s=60.0)


class Lost:
    """A store in which the lease is nobody's any more."""

    def __init__(self) -> None:
        self.released = 0

    async def extend(self, lease: Lease) -> Lease | None:
        assert lease == LEASE
        return None

    async def release(self, lease: Lease, *, looked: bool = False) -> int | None:
        assert lease == LEASE
        assert not looked
        self.released += 1
        return None


def lost() -> tuple[Lost, ReconcileStore]:
    store = Lost()
    return store, store  # type: ignore[return-value]  # no more of it is needed


def held() -> HeldLease:
    return HeldLease(LEASE, SystemClock(), deadline_at=float("inf"))


@pytest.mark.parametrize("answered", [False, True])
async def test_a_heartbeat_behind_the_write_that_freed_the_key_is_no_loss(answered: bool) -> None:
    lease, (store, as_store) = held(), lost()
    with capture_logs() as logs, lease.freeing():
        if answered:
            lease.freed(7)
        await asyncio.wait_for(lease.keep(as_store, 0.0), 5)
    assert not lease.lost
    assert logs == []
    lease.freed(7)
    assert await lease.give_back(as_store, looked=True) == 7
    assert store.released == 0


async def test_a_lease_that_is_gone_without_such_a_write_is_lost() -> None:
    lease, (store, as_store) = held(), lost()
    with lease.freeing():
        pass  # the write freed nothing
    with capture_logs() as logs:
        await asyncio.wait_for(lease.keep(as_store, 0.0), 5)
    assert lease.lost
    assert not lease.may_be_freed
    assert [line["event"] for line in logs] == ["lease_lost"]
    assert await lease.give_back(as_store) is None
    assert store.released == 0


async def test_under_an_effect_whose_end_was_not_seen_the_key_may_not_be_freed() -> None:
    lease = held()
    assert lease.may_be_freed
    with pytest.raises(asyncio.CancelledError):
        async with lease.effect():
            raise asyncio.CancelledError
    assert not lease.may_be_freed
