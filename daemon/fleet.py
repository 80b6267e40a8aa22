"""The fleet's own work: done by one daemon at a time, the holder of the lease `fleet`.

A duty is something that concerns all users at once: the sweep that compares the store with the world, the
janitor that looks for what nobody explains. Each is run by the holder alone, one after the other, with the
same listing:

    class Janitor:
        name = "janitor"     # in logs and metrics
        every_s = 300.0      # the pause between two runs
        async def run(self, held: HeldLease, listing: Listing) -> None: ...

- A run begins only while the lease is held, and is cut off after `DUTY_DEADLINE_S`. Before each effect it asks
  `held.allows(timeout_s)`, with the longest that the effect may take, and puts `async with held.effect():`
  around it: the lease may have been lost meanwhile, and then somebody else is the holder.
- What acts on one user claims that user's own lease besides (a `HeldLease` of its own), and looks again under it.
- `listing` was read just before; a list that failed stands in it as Unknown, and nothing follows from it.
- A DependencyError ends the run and is told; the next one comes at its time. Anything else is a bug: it is
  logged, and the other duties go on.

All daemons try for the lease every few seconds, so one that dies is replaced when its lease runs out, and one
that is told to end gives it back and is replaced at once. A new holder begins with a listing. A holder that
cannot read a list several times in a row lets the lease go for a while: another daemon may see more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from random import Random
from typing import Final, Protocol, TypeVar

import structlog

from core.clients.discovery import Discovery
from core.clients.scheduler import Scheduler
from core.clock import Clock
from core.domain.facts import Fact, Missing, Unknown
from core.domain.states import Reason
from core.domain.sweep import Listing
from core.errors import DependencyError
from core.store.interface import Answered, Busy, Lease, ReconcileStore
from daemon.ended import end_if_told, ended
from daemon.lease import HeldLease, kept
from daemon.metrics import Metrics
from daemon.outages import Outages

T = TypeVar("T")

KEY: Final = "fleet"
DUTY_DEADLINE_S: Final = 300.0
# How often the lease is tried for, and a sign of life given while there is nothing to do.
TRY_EVERY_S: Final = 3.0
# Between two listings, however often something may have been missed.
_LEAST_PAUSE_S: Final = 1.0
# A stream that is cut again and again asks for a sweep each time, and each reads everything there is: so a sweep
# that was asked for begins when what the one before took was a tenth of the time since, or after this.
_READING_SHARE: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_AFTER_FAILURE_S: Final = 5.0
_FAILURES_UNTIL_YIELD: Final = 3
_YIELD_S: Final = 20.0

_log = structlog.get_logger(__name__)


class Duty(Protocol):
    """One kind of work for the whole fleet."""

    @property
    def name(self) -> str: ...

    @property
    def every_s(self) -> float:
        """Seconds between the beginnings of two runs."""

    async def run(self, held: HeldLease, listing: Listing, /) -> None:
        """Do it once; see the module's own words."""


class Errand(Protocol):
    """A duty that needs no listing: it costs little, so it may be run every few seconds."""

    @property
    def name(self) -> str: ...

    @property
    def every_s(self) -> float:
        """Seconds from the end of a run to the beginning of the next."""

    async def run(self, held: HeldLease, /) -> None:
        """Do it once; what holds for a duty holds here too."""


class Sweeping(Duty, Protocol):
    """The duty that is run out of turn when something may have been missed."""

    def begin(self) -> None:
        """The lease has just become ours: what the holder before had in mind may be lost."""

    def end(self) -> None:
        """The lease is no longer ours."""


class Lister:
    """Reads everything that a duty needs, in requests that depend on the number of users by pages alone."""

    def __init__(
        self,
        scheduler: Scheduler,
        discovery: Discovery,
        store: ReconcileStore,
        clock: Clock,
        outages: Outages,
    ) -> None:
        self._scheduler = scheduler
        self._discovery = discovery
        self._store = store
        self._clock = clock
        self._outages = outages

    async def read(self) -> Listing:
        """Raises Unavailable when the store is away; a list of others that failed is Unknown."""
        began = self._clock.monotonic()
        nomad, consul = Reason.DEPENDENCY_NOMAD, Reason.DEPENDENCY_CONSUL
        jobs, allocations, instances = await asyncio.gather(
            self._fact(self._scheduler.jobs(), "nomad", nomad),
            self._fact(self._scheduler.all_allocations(), "nomad", nomad),
            self._fact(self._discovery.instances(), "consul", consul),
        )
        # Behind these: a user that a pass looks at meanwhile must not be compared with an older world.
        users = await self._store.summaries()
        read_s = self._clock.monotonic() - began
        # Behind the users: secrets are written first and put on record then, without a look's time beside it. So what
        # is on record by now must be in this list; in an older one the secrets of whoever is on the way are not yet.
        variables = await self._fact(self._scheduler.variable_paths(), "nomad", nomad)
        return Listing(jobs, allocations, instances, variables, users, read_s=read_s)

    async def _fact(self, read: Awaitable[T], system: str, why: Reason) -> Fact[T]:
        fact = await self._outages.fact(read, system, why)
        if isinstance(fact, Missing):
            # A list has no "no such thing": a 404 is not the system's own answer.
            _log.warning("listing_failed", system=system)
            return Unknown(why)
        return fact


class Fleet:
    """Source `resync`: holds the lease `fleet` when nobody else does, and runs the duties under it.

    `relist()` asks for a sweep now; any source may call it, at each (re)connect. A burst of calls costs one
    sweep. On a daemon that does not hold the lease it does nothing: the holder hears the same sources, and
    sweeps itself when one of *its* connections had a gap.
    """

    name = "resync"

    def __init__(
        self,
        *,
        owner: str,
        store: ReconcileStore,
        lister: Lister,
        sweep: Sweeping,
        duties: Sequence[Duty] = (),
        errands: Sequence[Errand] = (),
        clock: Clock,
        random: Random,
        metrics: Metrics | None = None,
        hail: Callable[[], Awaitable[None]] | None = None,
        release: str = "",
        ttl_s: float,
        heartbeat_s: float,
        try_every_s: float = TRY_EVERY_S,
    ) -> None:
        """`hail`: tells the holder that a daemon has started, when that is another one.

        `release`: of this daemon's settings, announced once at its start, whoever holds the lease.
        """
        self.quiet_s = 10 * try_every_s
        self._try_every_s = try_every_s
        self._hail = hail
        self._release: str | None = release or None
        self._owner = owner
        self._store = store
        self._lister = lister
        self._sweep = sweep
        self._duties: tuple[Duty, ...] = (sweep, *duties)
        self._errands = tuple(errands)
        self._clock = clock
        self._random = random
        self._metrics = metrics or Metrics()
        self._ttl_s = ttl_s
        self._heartbeat_s = heartbeat_s
        self._wanted = asyncio.Event()
        self._holding = False
        self._failures = 0

    @property
    def holding(self) -> bool:
        """Whether this daemon holds the lease."""
        return self._holding

    def relist(self, *, takeover: bool = False) -> None:
        """Something may have been missed. `takeover`: what other daemons had in mind may be lost as well."""
        if takeover and self._holding:
            self._sweep.begin()
        self._wanted.set()

    async def listen(self, alive: Callable[[], None]) -> None:
        """Run until cancelled; the lease is given back then. Raises Unavailable when the store is away."""
        if self._release is not None:
            await self._store.announce_release(self._release)
            self._release = None
        while True:
            claim = await self._store.claim(KEY, self._owner, self._ttl_s)
            alive()
            if isinstance(claim, Lease):
                async with self._tenure(claim) as held:
                    await self._serve(held, alive)
                if self._failures >= _FAILURES_UNTIL_YIELD:
                    await self._stay_away(alive)
                continue
            assert not isinstance(claim, Answered)  # nobody asks with news here
            if self._hail is not None:
                await self._hail()
                self._hail = None
            await self._clock.sleep(self._until_next_try(claim))

    def _until_next_try(self, claim: Busy) -> float:
        # Spread, so that daemons do not all come at the instant at which the lease runs out.
        return min(self._try_every_s, max(0.05, claim.retry_after_s)) * self._random.uniform(0.7, 1.0)

    async def _stay_away(self, alive: Callable[[], None]) -> None:
        """Let somebody else try, who may see more; with nobody there it is us again."""
        _log.warning("fleet_yielded", pause_s=_YIELD_S)
        self._failures = 0
        until = self._clock.monotonic() + _YIELD_S
        while (left_s := until - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(left_s, self._try_every_s))
            alive()

    @asynccontextmanager
    async def _tenure(self, claim: Lease) -> AsyncIterator[HeldLease]:
        held = HeldLease(claim, self._clock, deadline_at=float("inf"))
        self._holding = True
        self._failures = 0
        self._metrics.fleet_holder.set(1)
        self._sweep.begin()
        self._wanted.set()
        _log.info("fleet_held", owner=self._owner)
        try:
            async with kept(held, self._store, self._heartbeat_s):
                yield held
        finally:
            self._holding = False
            self._metrics.fleet_holder.set(0)
            self._metrics.forget_users()
            self._sweep.end()
            _log.info("fleet_left", lost=held.lost)
            await held.give_back(self._store)

    async def _serve(self, held: HeldLease, alive: Callable[[], None]) -> None:
        """Run duties at their times; returns when the lease is no longer ours or should not be."""
        due = dict.fromkeys(self._duties, self._clock.monotonic())
        errands = dict.fromkeys(self._errands, self._clock.monotonic())
        earliest = 0.0
        while held.allows(0.0) and self._failures < _FAILURES_UNTIL_YIELD:
            now = self._clock.monotonic()
            if self._wanted.is_set():
                self._wanted.clear()  # first: what is missed during the listing asks for another one
                due[self._sweep] = min(due[self._sweep], max(now, earliest))
            ready = [duty for duty in self._duties if due[duty] <= now]
            if ready:
                async with self._beating(alive):
                    listing = await self._lister.read()
                    for duty in ready:
                        due[duty] = self._clock.monotonic() + duty.every_s
                        await self._run(duty.name, held, partial(duty.run, held, listing))
                self._metrics.observe_listing(listing.read_s)
                earliest = self._clock.monotonic() + min(_LONGEST_PAUSE_S, listing.read_s / _READING_SHARE)
                self._failures = self._failures + 1 if listing.unread else 0
                if listing.unread:
                    due[self._sweep] = self._clock.monotonic() + _AFTER_FAILURE_S
                await self._clock.sleep(_LEAST_PAUSE_S)
            else:
                await self._pause(min([*due.values(), *errands.values()]) - now)
            alive()
            for errand in [one for one, at in errands.items() if at <= self._clock.monotonic()]:
                async with self._beating(alive):
                    await self._run(errand.name, held, partial(errand.run, held))
                errands[errand] = self._clock.monotonic() + errand.every_s

    @asynccontextmanager
    async def _beating(self, alive: Callable[[], None]) -> AsyncIterator[None]:
        """Give signs of life while a duty works: it has a deadline of its own."""

        async def beat() -> None:
            while True:
                await self._clock.sleep(self._try_every_s)
                alive()

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            await ended(beating)

    async def _pause(self, limit_s: float) -> None:
        """Wait until something may have been missed, or for a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(limit_s, self._try_every_s)):
                await self._wanted.wait()

    async def _run(self, name: str, held: HeldLease, work: Callable[[], Awaitable[None]]) -> None:
        if not held.allows(0.0):
            return
        began = self._clock.monotonic()
        outcome = "done"
        try:
            async with asyncio.timeout(DUTY_DEADLINE_S):
                await work()
        except TimeoutError:
            outcome = "late"
            _log.error("duty_late", duty=name, deadline_s=DUTY_DEADLINE_S)
        except DependencyError as error:
            outcome = "unavailable"
            _log.warning("duty_failed", duty=name, code=error.code, error=error.message)
        except Exception:
            # A bug in one duty must not keep the others from their work.
            outcome = "broke"
            _log.exception("duty_broke", duty=name)
        end_if_told()
        self._metrics.count_duty(name, outcome, self._clock.monotonic() - began)
