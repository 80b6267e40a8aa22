"""A key's lease while a pass works: kept alive in the background, asked before each effect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import structlog

from core.clock import Clock
from core.errors import DependencyError, StaleWrite
from core.store.interface import Lease, ReconcileStore
from daemon.ended import ended

_log = structlog.get_logger(__name__)


class HeldLease:
    """One claimed lease. `deadline_at`: when the pass has to be over, on the same monotonic clock."""

    def __init__(self, lease: Lease, clock: Clock, *, deadline_at: float) -> None:
        self.lease = lease
        self.lost = False
        self.deadline_at = deadline_at
        self._clock = clock
        self._effects = 0
        self._freeing = False
        self._newest: int | None = None

    @property
    def effects_under_way(self) -> bool:
        """Whether an effect was started whose end was not seen; the lease may not be given back then."""
        return self._effects > 0

    @property
    def may_be_freed(self) -> bool:
        """Whether nothing that needs it may still be going on; else the lease has to run out."""
        return not (self.lost or self.effects_under_way)

    @contextmanager
    def freeing(self) -> Iterator[None]:
        """Around a write that frees the key itself: a heartbeat that comes behind it finds no lease and is right."""
        self._freeing = True
        try:
            yield
        finally:
            self._freeing = False

    def freed(self, newest: int) -> None:
        """The key was freed by a write; `newest` as `ReconcileStore.release` returns it."""
        self._newest = newest

    def allows(self, timeout_s: float) -> bool:
        """Whether an effect that takes `timeout_s` at most may start now.

        Counted from when the claim was *sent*: whoever claims next cannot begin before that time is over.
        """
        now = self._clock.monotonic()
        return not self.lost and now + timeout_s < min(self.lease.ends_at, self.deadline_at)

    def require(self, timeout_s: float) -> None:
        """Raises StaleWrite: a process that was frozen since `allows` must not send what it was allowed then."""
        if not self.allows(timeout_s):
            raise StaleWrite("postgres", "the lease would end before the effect does")

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
        """Extend the lease now and then for ever; returns when it turns out to be lost."""
        while True:
            try:
                extended = await store.extend(self.lease)
            except DependencyError as error:
                # It lives on until its end; the next try may work.
                _log.warning("lease_not_extended", error=error.message)
            else:
                if extended is None and (self._freeing or self._newest is not None):
                    return
                if extended is None:
                    self.lost = True
                    _log.warning("lease_lost")
                    return
                self.lease = extended
            await self._clock.sleep(every_s)

    async def give_back(self, store: ReconcileStore, *, looked: bool = False) -> int | None:
        """Free the key if it still is ours to free, unless an effect may still be going on.

        Returns what `ReconcileStore.release` does; None when nothing was given back.
        """
        if self._newest is not None:
            return self._newest  # with the status
        if not self.may_be_freed:
            return None
        try:
            return await asyncio.shield(store.release(self.lease, looked=looked))
        except DependencyError as error:
            _log.warning("lease_not_released", code=error.code, error=error.message)
            return None


def kept(held: HeldLease, store: ReconcileStore, every_s: float) -> AbstractAsyncContextManager[HeldLease]:
    """Keep `held` alive while the block runs."""
    return _Kept(held, store, every_s)


class _Kept:
    """Most passes are over long before the first heartbeat: they pay for a timer, not for a task."""

    __slots__ = ("_every_s", "_held", "_keeper", "_store", "_timer")

    def __init__(self, held: HeldLease, store: ReconcileStore, every_s: float) -> None:
        self._held = held
        self._store = store
        self._every_s = every_s
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> HeldLease:
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._begin)
        return self._held

    async def __aexit__(self, *_raised: object) -> None:
        self._timer.cancel()
        if self._keeper is not None:
            await ended(self._keeper)

    def _begin(self) -> None:
        self._keeper = asyncio.get_running_loop().create_task(self._held.keep(self._store, self._every_s))
