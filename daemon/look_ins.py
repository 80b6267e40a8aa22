"""Looks into containers: while somebody looks at what one uses or prints, one daemon samples it.

All daemons hear that somebody looks. Each look has a lease of its own, `look:<user>`, so one of them samples,
looks are spread over daemons, and a daemon that cannot reach a node hands it to another: whoever still looks
finds the sample old and says so once more. With nobody looking nothing is asked of anybody; the channel is one
more on the connection that hears wishes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import structlog

from core.clients.scheduler_look_ins import LookInScheduler
from core.clock import Clock
from core.domain.look_ins import lease_key
from core.domain.redaction import Redactor
from core.errors import DependencyError, StaleWrite
from core.settings import JobSettings
from core.store.interface import Lease, ReconcileStore
from core.store.look_ins import LookIns as LookInStore
from daemon.sampling import Sampler, known_secrets

LEASE_S: Final = 30.0
# A daemon takes on no more at a time; each costs at most three requests to a node every two seconds.
MOST_AT_ONCE: Final = 200
_BEAT_S: Final = 10.0
_FAILURES_UNTIL_YIELD: Final = 3
_AFTER_FAILURE_S: Final = 2.0
# How long a look that failed is left to other daemons, which may reach what this one does not.
_YIELD_S: Final = 10.0
# What nobody looks at is of no use to the next one, and a log is nothing to keep.
_FORGET_AFTER_S: Final = 600.0

_log = structlog.get_logger(__name__)


class _Follow(NamedTuple):
    """A look under way; `wake` has it see what is looked at by now."""

    task: asyncio.Task[None]
    wake: asyncio.Event


class LookIns:
    """Source `look-ins`."""

    name = "look-ins"
    quiet_s = 3 * _BEAT_S

    def __init__(
        self,
        *,
        owner: str,
        store: ReconcileStore,
        look_ins: LookInStore,
        scheduler: LookInScheduler,
        settings: JobSettings,
        clock: Clock,
    ) -> None:
        self._owner = owner
        self._store = store
        self._look_ins = look_ins
        self._scheduler = scheduler
        self._settings = settings
        self._clock = clock
        self._asked: dict[str, None] = {}
        self._missed = False
        self._news = asyncio.Event()
        self._following: dict[str, _Follow] = {}
        self._yielded: dict[str, float] = {}  # until when, on the clock's monotonic half

    def wanted(self, user_id: str) -> None:
        """Somebody looks, and nobody samples."""
        self._asked[user_id] = None
        self._news.set()

    def relist(self) -> None:
        """Something may have been missed."""
        self._missed = True
        self._news.set()

    async def listen(self, alive: Callable[[], None]) -> None:
        """Run until cancelled; looks under way end with it. Raises Unavailable when the store is away."""
        try:
            while True:
                alive()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_BEAT_S):
                        await self._news.wait()
                self._news.clear()
                if self._missed:
                    self._missed = False
                    self._asked |= dict.fromkeys(await self._look_ins.watched())
                self._begin()
        finally:
            tasks = [follow.task for follow in self._following.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self) -> None:
        now = self._clock.monotonic()
        self._yielded = {user: until for user, until in self._yielded.items() if until > now}
        for user_id in list(self._asked):
            if user_id in self._yielded:
                del self._asked[user_id]
                continue
            if user_id in self._following:
                # It stays asked for until the look under way has seen why: it may be at its end already.
                self._following[user_id].wake.set()
                continue
            if len(self._following) >= MOST_AT_ONCE:
                # Whoever looks goes on saying so; another daemon may have room.
                _log.warning("look_ins_full", most=MOST_AT_ONCE)
                self._asked.clear()
                return
            del self._asked[user_id]
            wake = asyncio.Event()
            self._following[user_id] = _Follow(asyncio.create_task(self._follow(user_id, wake)), wake)

    async def _follow(self, user_id: str, wake: asyncio.Event) -> None:
        log = _log.bind(user_id=user_id)
        try:
            await self._sample(user_id, wake)
        except StaleWrite:
            log.debug("look_in_lost")
        except DependencyError as error:
            self._yielded[user_id] = self._clock.monotonic() + _YIELD_S
            log.warning("look_in_failed", code=error.code, error=error.message)
        except Exception:
            log.exception("look_in_broke")
        finally:
            del self._following[user_id]
            if user_id in self._asked:
                self._news.set()
        if not self._following:
            with suppress(DependencyError):  # the next look tidies up as well
                await self._look_ins.forget(_FORGET_AFTER_S)

    async def _sample(self, user_id: str, wake: asyncio.Event) -> None:
        lease = await self._store.claim(lease_key(user_id), self._owner, LEASE_S)
        if not isinstance(lease, Lease):
            return
        try:
            snapshot = await self._store.load(user_id)
            if snapshot is None:
                return
            redactor = Redactor(known_secrets(snapshot.container.secrets, self._settings))
            sampler = Sampler(user_id, self._look_ins, self._scheduler, self._clock, redactor)
            failures = 0
            while True:
                wake.clear()
                self._asked.pop(user_id, None)
                look = await self._look_ins.look(user_id)
                if look is None or not look.watched:
                    return
                held = await self._store.extend(lease)
                if held is None:
                    return
                lease = held
                try:
                    pause_s = await sampler.round(look, lease)
                    failures = 0
                except StaleWrite:
                    raise
                except DependencyError:
                    failures += 1
                    if failures >= _FAILURES_UNTIL_YIELD:
                        raise
                    pause_s = _AFTER_FAILURE_S
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await wake.wait()
        finally:
            with suppress(DependencyError):
                await asyncio.shield(self._store.release(lease))
