"""Turn a decision's actions into effects: container actions in order, then chip actions side by side.

An effect starts only while the lease outlives it. What was done is recorded at once, so that a crash
between two effects leaves at most one of them unrecorded, and each of them can be done twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Final, TypeAlias

from core.clients.scheduler import Scheduler
from core.clients.storage import Storage, Storages
from core.clients.waha import WRITE_TIMEOUT_S, WrongState
from core.clock import Clock
from core.domain import actions as act
from core.domain.actions import OF_LABELS, STARTS, Action, ChipAction, Decision, is_start
from core.domain.desired import Registered
from core.domain.fleet_pause import changes_outside
from core.domain.names import job_id, variable_path
from core.domain.pacing import Ask, Pace
from core.errors import DependencyError, Missing, Rejected, StaleWrite, Throttled, Unavailable
from core.logging import direct
from core.store.interface import ReconcileStore, UserSnapshot
from daemon.act_sessions import Sessions
from daemon.announce import Step, Steps
from daemon.lease import HeldLease
from daemon.load import Loader, generation_of
from daemon.metrics import Metrics
from daemon.outcome import PACED, Result, Verdict, starts_of
from daemon.refusals import Refusals
from daemon.waha import WahaContainers
from daemon.ways_out import WaysOut

STORE_TIMEOUT_S: Final = 5.0
STORAGE_TIMEOUT_S: Final = 10.0
# Why an action was deferred, unless it is paced. These end with the pass, the last but one with what
# stands in its way.
LEASE_TOO_SHORT: Final = "lease_too_short"
UNSETTLED: Final = "unsettled"
BLOCKED: Final = "blocked"
FLEET_PAUSED: Final = "fleet_paused"
# It takes its turn later: as many exits are read as may be at once.
READERS_BUSY: Final = "readers_busy"
_STORE_ACTIONS: Final = (
    act.AdoptJob,
    act.RemoveContainer,
    act.RemoveChip,
    act.AskSeat,
    act.LeaveSeat,
    act.SettleSeat,
)
_CHIP_ACTIONS: Final = (
    *STARTS,
    *OF_LABELS,
    act.RouteSession,
    act.StopSession,
    act.DeleteSession,
    act.RemoveChip,
)
# What needs no container.
_BESIDE_WAHA: Final = (*OF_LABELS, act.RemoveChip)
# After these the container may be on its way out or be replaced; what WAHA is told now would be lost.
_UNSETTLING: Final = (
    act.RegisterJob,
    act.ReplaceAllocation,
    act.RestartAllocation,
    act.StopJob,
    act.PurgeJob,
)

Record: TypeAlias = Callable[[], Awaitable[None]]


class Actor:
    """Does what was decided for one user at a time.

    Args:
        storages: the servers that hold WAHA's sessions; without them no storage is ever deleted.
        pace: how many sessions may start, of all daemons together.
        ways: what chips go out through; None without a guard, and then no config names a proxy.
        waha_timeout_s, storage_timeout_s: the longest that one changing call there may take.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        waha: WahaContainers,
        store: ReconcileStore,
        loader: Loader,
        clock: Clock,
        steps: Steps,
        refusals: Refusals,
        *,
        storages: Storages | None = None,
        pace: Pace | None = None,
        ways: WaysOut | None = None,
        metrics: Metrics | None = None,
        waha_timeout_s: float = WRITE_TIMEOUT_S,
        storage_timeout_s: float = STORAGE_TIMEOUT_S,
    ) -> None:
        self._scheduler = scheduler
        self._waha = waha
        self._store = store
        self._loader = loader
        self._clock = clock
        self._steps = steps
        self._refusals = refusals
        self._storages = storages
        self._pace = pace or Pace()
        self._ways = ways
        self._metrics = metrics or Metrics()
        self._waha_timeout_s = waha_timeout_s
        self._storage_timeout_s = storage_timeout_s

    async def perform(self, held: HeldLease, snapshot: UserSnapshot, decision: Decision) -> list[Result]:
        """Do all actions that may be done, each at most once; one result for each, in the same order.

        Raises what the store raises: StaleWrite when the lease is no longer ours, Unavailable.
        """
        one = _Performance(self, held, snapshot, decision.container)
        results: dict[int, Result] = {}
        unsettled = blocked = False
        for place, action in enumerate(decision.actions):
            if isinstance(action, _CHIP_ACTIONS):
                continue
            if blocked:
                result = Result(action, Verdict.DEFERRED, BLOCKED)
            elif changes_outside(action) and await self._store.is_fleet_paused():
                result = Result(action, Verdict.DEFERRED, FLEET_PAUSED)
            else:
                result = await one.attempt(action)
            results[place] = result
            blocked = blocked or result.verdict is not Verdict.DONE
            unsettled = unsettled or (result.verdict is Verdict.DONE and isinstance(action, _UNSETTLING))
        of_chips: dict[int, ChipAction] = {
            p: a for p, a in enumerate(decision.actions) if isinstance(a, _CHIP_ACTIONS)
        }
        ready = {p: a for p, a in of_chips.items() if not unsettled or isinstance(a, _BESIDE_WAHA)}
        results |= {p: Result(a, Verdict.DEFERRED, UNSETTLED) for p, a in of_chips.items() if p not in ready}
        results |= await self._side_by_side(one, held, ready, decision)
        return [results[place] for place in range(len(decision.actions))]

    async def _side_by_side(
        self, one: _Performance, held: HeldLease, ready: dict[int, ChipAction], decision: Decision
    ) -> dict[int, Result]:
        hindrances = {place: one.hindrance(action) for place, action in ready.items()}
        sendable = {place: action for place, action in ready.items() if hindrances[place] is None}
        outside = [place for place, action in sendable.items() if changes_outside(action)]
        # Who takes start tokens is told of a pause with them.
        if any(not is_start(sendable[place]) for place in outside) and await self._store.is_fleet_paused():
            for place in outside:
                hindrances[place] = Result(sendable.pop(place), Verdict.DEFERRED, FLEET_PAUSED)
        hindrances |= await self._held_up(one, held, sendable, decision)
        sendable = {place: action for place, action in sendable.items() if hindrances[place] is None}
        attempts = (one.attempt(action) for action in sendable.values())
        ended = await asyncio.gather(*attempts, return_exceptions=True) if sendable else []
        results = {place: result for place, result in hindrances.items() if result is not None}
        for place, result in zip(sendable, ended, strict=True):
            # All have ended by now, so none goes on behind the back of a pass that failed.
            if isinstance(result, BaseException):
                raise result
            results[place] = result
        return results

    async def _held_up(
        self, one: _Performance, held: HeldLease, sendable: dict[int, ChipAction], decision: Decision
    ) -> dict[int, Result | None]:
        """Take the start tokens of what would be sent; who gets none, by place. Nothing starts without.

        What a start costs is recorded with its token: a crash before it is sent costs a try, never gives one away.
        """
        starts = {a.chip_id: place for place, a in sendable.items() if is_start(a)}
        if not starts:
            return {}
        asks = one.asks(starts, decision.container.node_name or "")
        tries = starts_of(list(sendable.values()), decision.chips)
        turns = await self._store.take_starts(held.lease, asks, self._pace, tries)
        if turns is None:
            places = starts.values()
            return {place: Result(sendable[place], Verdict.DEFERRED, FLEET_PAUSED) for place in places}
        self._steps.announce(Step.STARTS_TAKEN, held.lease.key)
        self._metrics.count_starts(turns)
        if turns.waited_s:
            self._steps.announce(Step.TRIES_RECORDED, held.lease.key)
        return {
            starts[chip_id]: Result(
                sendable[starts[chip_id]], Verdict.DEFERRED, PACED, wait.look_again_s, wait.wait_s
            )
            for chip_id, wait in turns.waits.items()
        }


class _Performance:
    """One user's effects in one pass."""

    def __init__(
        self, actor: Actor, held: HeldLease, snapshot: UserSnapshot, container: act.ContainerStatus
    ) -> None:
        self._actor = actor
        self._held = held
        self._snapshot = snapshot
        self._endpoint = container.endpoint
        self._placed = container.placed
        self._routes = {chip.id: chip.route for chip in snapshot.chips}
        self._user_id = snapshot.container.user_id
        self._generations = {chip.id: chip.generation for chip in snapshot.chips}

    def hindrance(self, action: Action) -> Result | None:
        """Why the action may not be sent, None when it may."""
        actor = self._actor
        now = actor._clock.monotonic()
        code = actor._refusals.code(self._user_id, action, self._generation(action), now)
        if code is not None:
            return Result(action, Verdict.REFUSED, code)
        if not self._held.allows(self._timeout_s(action)):
            return Result(action, Verdict.DEFERRED, LEASE_TOO_SHORT)
        needs_waha = isinstance(action, _CHIP_ACTIONS) and not isinstance(action, _BESIDE_WAHA)
        if needs_waha and self._endpoint is None:
            return Result(action, Verdict.DEFERRED, BLOCKED)
        if isinstance(action, act.ReadExit) and actor._ways is not None and actor._ways.is_busy:
            return Result(action, Verdict.DEFERRED, READERS_BUSY)
        return None

    def asks(self, chip_ids: Collection[str], host: str) -> list[Ask]:
        """What the store needs to know of chips that would start on `host`."""
        order = self._snapshot.container.start_order
        return [
            Ask(chip.id, host, self._provider(chip.id), order, chip.waiting_since)
            for chip in self._snapshot.chips
            if chip.id in chip_ids
        ]

    def _provider(self, chip_id: str) -> str | None:
        """What its start draws on beside its host."""
        route = self._routes[chip_id]
        return route.provider if route is not None and self._actor._ways is not None else None

    async def attempt(self, action: Action) -> Result:
        """Do it if it may be done. Raises only what the store raises."""
        hindrance = self.hindrance(action)
        if hindrance is not None:
            return hindrance
        if isinstance(action, OF_LABELS):
            return await self._way_out(action)
        actor, started_at = self._actor, self._actor._clock.monotonic()
        name = type(action).__name__
        log = direct().bind(action=name, chip_id=getattr(action, "chip_id", None))
        async with self._held.effect():
            try:
                record = await self._do(action)
            except DependencyError as error:
                if isinstance(action, _STORE_ACTIONS):
                    raise
                result = _failed(action, error)
                if result.verdict is Verdict.REFUSED:
                    actor._refusals.add(
                        self._user_id, action, self._generation(action), error.code, actor._clock.monotonic()
                    )
                log.warning(
                    "effect_failed", verdict=result.verdict.value, code=error.code, error=error.message
                )
                return result
        actor._steps.announce(Step.EFFECT_DONE, self._held.lease.key, name)
        if record is not None:
            await record()
            actor._steps.announce(Step.EFFECT_RECORDED, self._held.lease.key, name)
        actor._refusals.forget(self._user_id, action)
        log.info("effect_done", took_s=round(actor._clock.monotonic() - started_at, 3))
        return Result(action, Verdict.DONE)

    async def _do(self, action: Action) -> Record | None:
        """Send the effect; what is to be recorded once it worked."""
        if isinstance(action, _CHIP_ACTIONS):
            await self._do_chip(action)
            return None
        return await self._do_container(action)

    async def _do_chip(self, action: ChipAction) -> None:
        if isinstance(action, act.RemoveChip):
            known = generation_of(self._snapshot)
            await self._actor._store.remove_chip(self._held.lease, action.chip_id, known)
            return
        assert self._endpoint is not None
        sessions = Sessions(
            self._actor._waha, self._snapshot, self._endpoint, self._placed, self._actor._ways
        )
        await sessions.do(action)

    async def _way_out(self, action: act.LabelAction) -> Result:
        ways = self._actor._ways
        assert ways is not None, "a label was decided on without egress=guard"
        async with self._held.effect():
            lacks = await ways.do(self._held.lease, action, self._routes[action.chip_id])
        name = type(action).__name__
        self._actor._steps.announce(Step.EFFECT_DONE, self._held.lease.key, name)
        log = direct().bind(action=name, chip_id=action.chip_id)
        log.info("effect_done", lacks=lacks.value if lacks is not None else None)
        if lacks is None:
            return Result(action, Verdict.DONE)
        return Result(action, Verdict.REFUSED, lacks.value)

    async def _do_container(self, action: Action) -> Record | None:
        actor, lease = self._actor, self._held.lease
        scheduler, store = actor._scheduler, actor._store
        job = job_id(self._user_id)
        match action:
            case act.WriteVariables():
                wanted = actor._loader.job(self._snapshot.container)
                await scheduler.write_variables(variable_path(self._user_id), wanted.variables)
                return partial(store.record_variables, lease, wanted.variables_hash)
            case act.RegisterJob(expected_index=expected):
                wanted = actor._loader.job(self._snapshot.container)
                seen = await scheduler.register(wanted.job, expected, wanted.submission)
                registered = Registered(wanted.hashes, seen.modify_index, actor._loader.release)
                return partial(store.record_registered, lease, registered)
            case act.AdoptJob(modify_index=index, hashes=hashes):
                await store.record_registered(lease, Registered(hashes, index, actor._loader.release))
            case act.AskSeat(release=release, restart_hash=hash_):
                await store.ask_seat(lease, release, hash_)
            case act.LeaveSeat():
                await store.leave_seat(lease)
            case act.SettleSeat(ok=ok, why=why):
                await store.settle_seat(lease, ok=ok, why=why)
            case act.ReplaceAllocation(allocation_id=allocation_id, key_refused=key_refused):
                if key_refused:
                    # Remembered first: a crash in between may cost the remedy's effect, never repeats it for
                    # ever. While this very allocation stands the remedy may be taken again.
                    await store.record_renewal(lease, allocation_id)
                    self._held.require(scheduler.timeout_s)
                await scheduler.stop_allocation(allocation_id)
            case act.RestartAllocation(allocation_id=allocation_id, generation=wish, restarts=restarts):
                # Remembered first: whoever comes after a crash sees by it whether it took place.
                await store.record_restart_begun(lease, restarts)
                self._held.require(scheduler.timeout_s)
                await scheduler.restart_allocation(allocation_id)
                return partial(store.record_restarted, lease, wish)
            case act.EvaluateJob():
                await scheduler.evaluate(job)
            case act.StopJob():
                await scheduler.stop(job)
            case act.PurgeJob():
                # First: a purge takes the allocations out of Nomad's lists, and a pass that still knows of a
                # registered job but not of this purge would wait for a container whose end was seen.
                await store.record_registered(lease, None)
                self._held.require(scheduler.timeout_s)
                await scheduler.purge(job)
            case act.DeleteVariables():
                await scheduler.delete_variables(variable_path(self._user_id))
                return partial(store.record_variables, lease, None)
            case act.DeleteStorage():
                await self._storage().drop(self._snapshot.container.namespace)
            case act.RemoveContainer():
                if not await store.remove_container(lease):
                    raise StaleWrite("postgres", "the user has chips again")
        return None

    def _storage(self) -> Storage:
        if self._actor._storages is None:
            raise Unavailable("storage", "no storage server is set up")
        return self._actor._storages.on(self._snapshot.container.storage_id)

    def _generation(self, action: Action) -> int:
        if isinstance(action, _CHIP_ACTIONS):
            return self._generations[action.chip_id]
        return self._snapshot.container.generation

    def _timeout_s(self, action: Action) -> float:
        if isinstance(action, _STORE_ACTIONS):
            return STORE_TIMEOUT_S
        if isinstance(action, act.ReadExit):
            return STORE_TIMEOUT_S + (self._actor._ways.reading_s if self._actor._ways is not None else 0.0)
        if isinstance(action, OF_LABELS):
            return STORE_TIMEOUT_S
        if isinstance(action, _CHIP_ACTIONS):
            return self._actor._waha_timeout_s
        if isinstance(action, act.DeleteStorage):
            return self._actor._storage_timeout_s
        # The register and the job read back; the job read and its evaluation.
        calls = 2 if isinstance(action, (act.RegisterJob, act.EvaluateJob)) else 1
        return self._actor._scheduler.timeout_s * calls + STORE_TIMEOUT_S


def _failed(action: Action, error: DependencyError) -> Result:
    if isinstance(error, Rejected):
        return Result(action, Verdict.REFUSED, error.code)
    if isinstance(error, (Missing, StaleWrite, WrongState)):
        return Result(action, Verdict.STALE, error.code)
    after_s = error.after_s if isinstance(error, Throttled) else 0.0
    return Result(action, Verdict.FAILED, error.code, after_s)


def waits_for_next_pass(results: Sequence[Result]) -> bool:
    """Whether some action was left to the next pass and nothing else stands in its way."""
    return any(r.verdict is Verdict.DEFERRED and r.code not in (BLOCKED, PACED) for r in results)
