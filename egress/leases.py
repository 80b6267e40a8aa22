"""The guard's side of leases: for which allocations it may forward right now.

- A lease is counted from the moment its request was sent, on a clock that goes on while the machine sleeps, and ends
  `margin_s` before the store's own does. Whoever forwards looks at `Lease.deadline` before each chunk.
- A timer closes what is open when the deadline comes; the look before each chunk is for a process that was held up.
- Any answer but GRANTED ends a lease at once. What it carried is closed first and confirmed then, by the number of
  its grant, with a request that is sent at once and repeated until it was heard.
- A lease under which nothing is open any more is asked for more often: its container may have been moved, and
  the next one waits for the confirmation.
- One request is under way at a time, so answers cannot overtake each other. All allocations are asked for in one
  batch a period; what cannot wait (a chip of an allocation that is not held, a confirmation) goes in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from math import inf
from typing import Final, Protocol

import msgspec
import structlog

from core.clock import Boottime
from core.domain.guard_wire import Answer, Ask, Renew, Renewed, Route, Standing
from core.errors import DependencyError, Rejected

_ALLOCATIONS: Final = 4096
# Who was answered so recently is not asked for again by the next chip that knocks.
_ANSWER_HOLDS_S: Final = 1.0
# The same for a chip of a lease that is held, whose route is not known or older than the chip's own credential.
_ROUTES_HOLD_S: Final = 0.1
_FORGET_PERIODS: Final = 6
_log = structlog.get_logger(__name__)


class LeaseApi(Protocol):
    async def renew(self, renew: Renew) -> Renewed:
        """One batch. Raises DependencyError."""


class Closable(Protocol):
    """Open under a lease, by the route that its chip had then."""

    route: Route

    def abort(self) -> None:
        """Forward nothing any more, not even what is buffered."""


class Times(msgspec.Struct, frozen=True):
    """Seconds; `core.settings_guard.lease_problems` says which go together."""

    ttl_s: float
    renew_s: float
    margin_s: float

    @property
    def flight_s(self) -> float:
        """Longest wait for one answer."""
        return min(5.0, self.renew_s / 4)

    @property
    def retry_s(self) -> float:
        """Pause after a request that was not answered."""
        return self.renew_s / 20

    @property
    def period_s(self) -> float:
        """From one batch to the next.

        So much less than `renew_s` that an API that is away for ttl - margin - renew closes nothing: the last batch
        before went a period ago, and the next one goes a flight and a pause after its return, when the one
        before hangs.
        """
        return self.renew_s - self.flight_s - 2 * self.retry_s


class Lease:
    """One allocation. `deadline`: boot time after which nothing is forwarded for it; -inf = no lease.

    Attributes:
        grant: the lease's number; given up with it. None = no lease.
        open: tunnels, and openings of tunnels, that end with it. Each leaves by `leave`.
        routes: by chip id.
        cut: tunnels that found the deadline passed before the timer did.
    """

    __slots__ = (
        "allocation_id",
        "answered_at",
        "cut",
        "deadline",
        "emptied",
        "grant",
        "open",
        "routes",
        "timer",
        "used_at",
        "waiting",
        "waits",
    )

    def __init__(self, allocation_id: str, now: float, emptied: Callable[[], object]) -> None:
        self.allocation_id = allocation_id
        self.emptied = emptied  # called when the last one leaves
        self.cut = 0
        self.deadline = -inf
        self.grant: int | None = None
        self.open: set[Closable] = set()
        self.routes: dict[str, Route] = {}
        self.timer: asyncio.TimerHandle | None = None
        self.waiting: list[asyncio.Future[None]] = []  # chips that wait for the answer
        self.waits = False  # the store said WAITING
        self.answered_at = -inf
        self.used_at = now

    def leave(self, one: Closable, now: float) -> None:
        self.open.discard(one)
        self.used_at = now
        if self.is_empty:
            self.emptied()

    @property
    def is_empty(self) -> bool:
        """Whether it is held for nothing."""
        return not self.open and self.grant is not None

    def abort(self) -> int:
        """Close everything that is open; how much that was."""
        closing, self.open = self.open, set()
        for one in closing:
            one.abort()
        return len(closing)


class Leases:
    """All leases of one guard."""

    def __init__(
        self,
        api: LeaseApi,
        times: Times,
        node_id: str,
        boottime: Boottime,
        first_end: Callable[[float], None] | None = None,
    ) -> None:
        """`first_end`: told the boot time at which the first lease ends, `inf` when there is none."""
        self._first_end = first_end
        self._api = api
        self._times = times
        self._node_id = node_id
        self._boottime = boottime
        self._known: dict[str, Lease] = {}
        self._closed: dict[tuple[str, int], Ask] = {}  # closed, and the API has not heard it yet
        self._wake = asyncio.Event()
        self._sent_no = 0
        self._away = False
        self.answered_at: float | None = None  # boot time of the last answer of the API
        self.failures = 0
        self.ran_out = 0

    def find(self, allocation_id: str) -> Lease | None:
        return self._known.get(allocation_id)

    def holds(self, lease: Lease) -> bool:
        return self._boottime() < lease.deadline

    @property
    def held(self) -> int:
        """How many allocations it may forward for."""
        now = self._boottime()
        return sum(now < lease.deadline for lease in self._known.values())

    @property
    def unconfirmed(self) -> int:
        return len(self._closed)

    async def of(self, allocation_id: str) -> Lease | None:
        """The lease of an allocation, asked for at once when it is not held. None = it is not to be had now."""
        now = self._boottime()
        lease = self._known.get(allocation_id)
        if lease is None:
            if len(self._known) >= _ALLOCATIONS:
                return None
            lease = self._known[allocation_id] = Lease(allocation_id, now, self._wake.set)
        lease.used_at = now
        if now < lease.deadline:
            return lease
        if now - lease.answered_at >= _ANSWER_HOLDS_S:
            await self._asked(lease)
        return lease if self.holds(lease) else None

    async def renewed(self, lease: Lease) -> bool:
        """Ask for a lease that is held once more, a few times a second at most; whether it still is held.

        What a chip needs may be younger than the last answer: its label, or the chip itself.
        """
        wait_s = lease.answered_at + _ROUTES_HOLD_S - self._boottime()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        await self._asked(lease)
        return self.holds(lease)

    async def _asked(self, lease: Lease) -> None:
        answered = asyncio.get_running_loop().create_future()
        lease.waiting.append(answered)
        self._wake.set()
        try:
            # It may have to wait for the request that is under way.
            async with asyncio.timeout(4 * self._times.flight_s):
                await answered
        except TimeoutError:
            pass
        finally:
            if answered in lease.waiting:
                lease.waiting.remove(answered)

    async def run(self) -> None:
        """Ask until cancelled."""
        batch_at = empty_at = self._boottime()
        while True:
            next_at = min(batch_at, empty_at) if self._has_empty() else batch_at
            try:
                async with asyncio.timeout(max(0.0, next_at - self._boottime())):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            now = self._boottime()
            whole, empty = now >= batch_at, now >= empty_at
            if whole:
                self._forget(now)
            if empty:
                empty_at = now + 2 * self._times.retry_s
            asks = tuple(Ask(one.allocation_id, one.grant) for one in self._to_ask(whole=whole, empty=empty))
            if whole or asks or self._closed:
                answered = await self._request(asks)
                if not answered:
                    batch_at = self._boottime() + self._times.retry_s
                elif whole:
                    batch_at = now + self._times.period_s

    async def stop(self) -> None:
        """Close everything and tell the API; `run` has been cancelled by now."""
        for lease in list(self._known.values()):
            self._end(lease)
        self._tell()
        if self._closed:
            await self._request(())

    def _has_empty(self) -> bool:
        return any(lease.is_empty for lease in self._known.values())

    def _to_ask(self, *, whole: bool, empty: bool) -> Iterable[Lease]:
        for lease in self._known.values():
            due = whole and (lease.grant is not None or lease.waits)
            if lease.waiting or due or (empty and lease.is_empty):
                yield lease

    async def _request(self, asks: tuple[Ask, ...]) -> bool:
        self._sent_no += 1
        closed = tuple(self._closed.values())
        asked = [self._known[ask.allocation_id] for ask in asks]
        waiting = [one for lease in asked for one in lease.waiting]
        sent_at = self._boottime()
        try:
            async with asyncio.timeout(self._times.flight_s):
                renewed = await self._api.renew(Renew(self._node_id, self._sent_no, asks, closed))
        except TimeoutError:
            self._failed("timeout", f"no answer within {self._times.flight_s:g} s")
            return False
        except DependencyError as error:
            self._failed(error.code, error.message, refused=isinstance(error, Rejected))
            return False
        else:
            self._returned()
            for ask in closed:
                self._closed.pop((ask.allocation_id, ask.grant or 0), None)
            self._apply(asks, renewed, sent_at)
            return True
        finally:
            for lease in asked:
                lease.answered_at = self._boottime()  # or that there is no answer: the next one waits too
            for one in waiting:
                if not one.done():
                    one.set_result(None)

    def _apply(self, asks: tuple[Ask, ...], renewed: Renewed, sent_at: float) -> None:
        asked = {ask.allocation_id for ask in asks}
        routes: dict[str, dict[str, Route]] = {}
        for route in renewed.routes:
            routes.setdefault(route.allocation_id, {})[route.chip_id] = route
        for answer in renewed.answers:
            lease = self._known.get(answer.allocation_id)
            if lease is None or answer.allocation_id not in asked:
                continue
            _waiting(lease, answer.standing is Standing.WAITING)
            if answer.standing is Standing.GRANTED and answer.grant is not None:
                _rerouted(lease, routes.get(answer.allocation_id, {}))
                self._granted(lease, answer, answer.grant, sent_at)
            else:
                self._end(lease)
        self._tell()

    def _tell(self) -> None:
        if self._first_end is not None:
            ends = (lease.deadline for lease in self._known.values() if lease.deadline != -inf)
            self._first_end(min(ends, default=inf))

    def _granted(self, lease: Lease, answer: Answer, grant: int, sent_at: float) -> None:
        if lease.grant is not None and lease.grant != grant:
            # In between it was nobody's, or somebody else's.
            lease.abort()
        # It ran out while this answer was on its way, and nobody was told so yet.
        self._closed.pop((lease.allocation_id, grant), None)
        lease.grant = grant
        lease.deadline = sent_at + min(answer.ttl_s, self._times.ttl_s) - self._times.margin_s
        if lease.timer is None:
            self._arm(lease)

    def _arm(self, lease: Lease) -> None:
        # Never at once again: the loop's clock is coarser than the one that counts.
        delay_s = max(0.001, lease.deadline - self._boottime())
        lease.timer = asyncio.get_running_loop().call_later(delay_s, self._due, lease)

    def _due(self, lease: Lease) -> None:
        lease.timer = None
        if lease.deadline == -inf:
            return
        if self._boottime() < lease.deadline:
            self._arm(lease)  # it was renewed meanwhile
            return
        closed, lease.cut = len(lease.open) + lease.cut, 0
        self.ran_out += 1
        if closed:
            _log.warning("lease_ran_out", allocation_id=lease.allocation_id, tunnels=closed)
            lease.used_at = self._boottime()
        # Its number goes too: a store that forgot what came after could take it for one that still lives.
        self._end(lease)
        self._tell()

    def _end(self, lease: Lease) -> None:
        lease.deadline = -inf
        closed = lease.abort()
        if closed:
            _log.info("tunnels_closed", allocation_id=lease.allocation_id, tunnels=closed)
        if lease.timer is not None:
            lease.timer.cancel()
            lease.timer = None
        if lease.grant is not None:
            # Only now: nothing is open under it any more.
            self._closed[lease.allocation_id, lease.grant] = Ask(lease.allocation_id, lease.grant)
            lease.grant = None
            self._wake.set()

    def _forget(self, now: float) -> None:
        keep_s = _FORGET_PERIODS * self._times.renew_s
        for lease in list(self._known.values()):
            if not lease.open and not lease.waiting and now - lease.used_at > keep_s:
                self._end(lease)
                del self._known[lease.allocation_id]

    def _failed(self, code: str, message: str, *, refused: bool = False) -> None:
        self.failures += 1
        if not self._away:
            self._away = True
            told = _log.error if refused else _log.warning
            told("guard_api_away", code=code, error=message, leases=self.held)

    def _returned(self) -> None:
        self.answered_at = self._boottime()
        if self._away:
            self._away = False
            _log.info("guard_api_returned")


def _waiting(lease: Lease, waits: bool) -> None:
    if waits and not lease.waits:
        # Said once: a chip of it has no way out for as long as another lease can last.
        _log.warning("lease_waits", allocation_id=lease.allocation_id)
    lease.waits = waits


def _rerouted(lease: Lease, routes: dict[str, Route]) -> None:
    """Close what goes another way than its chip's route does now; the chip comes again and goes by that."""
    lease.routes = routes
    closing = [one for one in lease.open if not _same_way(one.route, routes.get(one.route.chip_id))]
    for one in closing:
        lease.open.discard(one)
        one.abort()
    if closing:
        _log.info("routes_changed", allocation_id=lease.allocation_id, tunnels=len(closing))


def _same_way(before: Route, after: Route | None) -> bool:
    if after is None or after.upstream is None:
        return False
    return after.upstream == before.upstream and after.label_generation == before.label_generation
