"""A key's lease while a pass works: kept alive in the background, asked before each effect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from core.clock import Clock
from core.errors import DependencyError
from core.store.interface import Lease, ReconcileStore

_log = structlog.get_logger(__name__)


class HeldLease:
    """One claimed lease. `deadline_at`: when the pass has to be over, on the same monotonic clock."""

    def __init__(self, lease: Lease, clock: Clock, *, deadline_at: float) -> None:
        self.lease = lease
        self.lost = False
        self.deadline_at = deadline_at
        self._clock = clock
        self._effects = 0

    @property
    def effects_under_way(self) -> bool:
        """Whether an effect was started whose end was not seen; the lease may not be given back then."""
        return self._effects > 0

    def allows(self, timeout_s: float) -> bool:
        """Whether an effect that takes `timeout_s` at most may start now.

        Counted from when the claim was *sent*: whoever claims next cannot begin before that time is over.
        """
        now = self._clock.monotonic()
        return not self.lost and now + timeout_s < min(self.lease.ends_at, self.deadline_at)

    @asynccontextmanager
    async def effect(self) -> AsyncIterator[None]:
        """Around each effect. One that is cut off half-way stays counted: it may still be going on."""
        self._effects += 1
        try:
            yield
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._effects -= 1
            raise
        else:
            self._effects -= 1

    async def keep(self, store: ReconcileStore, every_s: float) -> None:
        """Extend the lease for ever; returns when it turns out to be lost."""
        while True:
            await self._clock.sleep(every_s)
            try:
                extended = await store.extend(self.lease)
            except DependencyError as error:
                # It lives on until its end; the next try may work.
                _log.warning("lease_not_extended", error=error.message)
                continue
            if extended is None:
                self.lost = True
                _log.warning("lease_lost")
                return
            self.lease = extended


@asynccontextmanager
async def kept(held: HeldLease, store: ReconcileStore, every_s: float) -> AsyncIterator[HeldLease]:
    """Keep `held` alive while the block runs."""
    keeper = asyncio.create_task(held.keep(store, every_s))
    try:
        yield held
    finally:
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper
