"""One pass over one user: claim, load, observe, decide, act, write, release."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Mapping, Sequence

import msgspec
import structlog
from structlog.contextvars import bind_contextvars, reset_contextvars

from core.clients.scheduler import Scheduler
from core.clock import Clock
from core.domain.actions import (
    Action,
    ChipStatus,
    ContainerStatus,
    Decision,
    RemoveContainer,
    is_start,
)
from core.domain.decide import decide
from core.domain.desired import Desired
from core.domain.endpoints import CLIENT_ENDED
from core.domain.evidence import Evidence, evidence_of
from core.domain.facts import Observation, Unknown
from core.domain.looks import Look, look_of
from core.domain.policy import Policy
from core.domain.seat import SeatState
from core.domain.states import ContainerPhase, Reason
from core.errors import DependencyError, Missing, StaleWrite, Unavailable
from core.logging import direct
from core.settings import LoopSettings
from core.store.interface import Answered, Busy, PortTaken, ReconcileStore, Release, UserSnapshot, Written
from daemon.act import Actor, waits_for_next_pass
from daemon.announce import Step, Steps
from daemon.janitor.sessions import Strangers
from daemon.lease import HeldLease, kept
from daemon.load import Loader, generation_of
from daemon.mail import Mailroom
from daemon.metrics import Metrics
from daemon.observe import Caches, Observer
from daemon.outcome import PACED, Result, Verdict, opens_next_step, sent, told, unsuccessful
from daemon.refusals import Refusals

_log = structlog.get_logger(__name__)

_DEPENDENCIES = frozenset(
    {Reason.DEPENDENCY_NOMAD, Reason.DEPENDENCY_CONSUL, Reason.DEPENDENCY_WAHA, Reason.WAHA_KEY_REJECTED}
)


class PassEnd(msgspec.Struct, frozen=True):
    """How a pass ended.

    Attributes:
        again_in_s: when to look again; None when nobody needs to before there is news.
        failed: something did not answer: pause longer with each such pass in a row, `again_in_s` at least.
        routine: a person is to scan, and a webhook tells when; the next look is there in case that gets lost, and
            lets those pass for which somebody waits.
        busy: another owner works on the key: the news are still to be answered.
        answered: another owner looked since the news came; no pass took place.
    """

    again_in_s: float | None
    failed: bool = False
    routine: bool = False
    busy: bool = False
    answered: bool = False


class _Seen(msgspec.Struct, frozen=True):
    """What a pass writes, and how the key is freed with it; None: not at all."""

    container: ContainerStatus
    chips: Mapping[str, ChipStatus]
    evidence: Evidence
    look: Look
    release: Release | None


class Reconciler:
    """Runs passes. Safe to use for different keys at once; the queue sees to it that no key runs twice."""

    def __init__(
        self,
        *,
        owner: str,
        store: ReconcileStore,
        scheduler: Scheduler,
        loader: Loader,
        observer: Observer,
        actor: Actor,
        caches: Caches,
        mailroom: Mailroom,
        refusals: Refusals,
        clock: Clock,
        steps: Steps,
        policy: Policy,
        settings: LoopSettings,
        metrics: Metrics | None = None,
        strangers: Strangers | None = None,
    ) -> None:
        """`strangers`: hears of sessions that no chip explains; None = nobody does."""
        self._owner = owner
        self._store = store
        self._scheduler = scheduler
        self._loader = loader
        self._observer = observer
        self._actor = actor
        self._caches = caches
        self._mailroom = mailroom
        self._refusals = refusals
        self._clock = clock
        self._steps = steps
        self._policy = policy
        self._settings = settings
        self._metrics = metrics or Metrics()
        self._strangers = strangers
        # Passes are told apart in the log by where they ran and a number: randomness costs a system call.
        self._started = secrets.token_hex(4)
        self._numbers = itertools.count()
        self._last_actions: dict[str, tuple[Action, ...]] = {}

    async def run(self, key: str, news_at: float | None = None) -> PassEnd:
        """One pass over the user `key`. Raises DependencyError when the store does not play along.

        `news_at`: when the news came for which to look, on the clock's monotonic half; None looks in any
        case. All daemons hear the same news, so all come here with them. One of them gets the lease. The
        others keep the key and ask again shortly, not at the lease's end: had the holder looked before the
        news came, they would wait for nothing. Whoever began a look after the news, and saw everything, has
        answered them for all, and plans what is next: the others forget the key, timers of their own too.
        """
        bound = bind_contextvars(user_id=key, reconcile=f"{self._started}{next(self._numbers):x}")
        try:
            return await self._claimed(key, news_at)
        finally:
            reset_contextvars(**bound)

    async def _claimed(self, key: str, news_at: float | None) -> PassEnd:
        age_s = None if news_at is None else self._clock.monotonic() - news_at
        claim = await self._store.claim(key, self._owner, self._settings.lease_ttl_s, news_age_s=age_s)
        if isinstance(claim, Busy):
            return PassEnd(claim.look_again_s, busy=True)
        if isinstance(claim, Answered):
            self._forget(key)
            return PassEnd(None, answered=True)
        self._steps.announce(Step.CLAIMED, key)
        deadline_at = self._clock.monotonic() + self._settings.pass_deadline_s
        held = HeldLease(claim, self._clock, deadline_at=deadline_at)
        loaded = 0
        end: PassEnd | None = None
        self._metrics.leases_held.inc()
        try:
            async with kept(held, self._store, self._settings.lease_heartbeat_s):
                snapshot = await self._store.load(key, held.lease)
                if snapshot is None:
                    await self._answer_late_mail(key)
                    self._forget(key)
                    end = PassEnd(None)
                else:
                    loaded = generation_of(snapshot)
                    end = await self._look_and_act(key, held, snapshot)
        finally:
            self._metrics.leases_held.dec()
            newest = await held.give_back(self._store, looked=end is not None and not end.failed)
        self._steps.announce(Step.RELEASED, key)
        if newest is not None and newest > loaded:
            return PassEnd(0.0)
        return end

    async def _answer_late_mail(self, key: str) -> None:
        """What a container that is gone still sent hints at nothing; left alone it would ask for a pass for ever."""
        up_to = await self._mailroom.before_look(key)
        if up_to is not None:
            await self._mailroom.answered(key, up_to)

    async def _look_and_act(self, key: str, held: HeldLease, snapshot: UserSnapshot) -> PassEnd:
        desired = self._loader.desired(snapshot)
        mail_up_to = await self._mailroom.before_look(key)
        observation = await self._observe(held, snapshot, desired)
        if self._strangers is not None:
            await self._strangers.heard(snapshot, observation)
        self._steps.announce(Step.OBSERVED, key)
        decision = decide(desired, observation, self._clock.now(), self._policy)
        changes = decision.actions or decision.container.phase != snapshot.container.phase
        log = direct()
        (log.info if changes else log.debug)(
            "decided",
            phase=decision.container.phase,
            reason=decision.container.reason,
            actions=[type(action).__name__ for action in decision.actions],
            requeue_after_s=decision.requeue_after,
        )
        results = await self._actor.perform(held, snapshot, decision) if decision.actions else []
        self._metrics.count_effects(results)
        if any(isinstance(r.action, RemoveContainer) and r.verdict is Verdict.DONE for r in results):
            await self._caches.endpoint_changed(key)
            self._forget(key)
            return PassEnd(0.0)  # a chip may have come since; without one the next load finds nothing
        container, chips = told(decision, results, desired)
        secret = (snapshot.container.secrets.api_key, snapshot.container.secrets.hook_key)
        evidence = evidence_of(desired, observation, unsuccessful(results), secret)
        look = look_of(desired, observation, sent(results), secret)
        end = self._end(key, decision, results, observation)
        seat = snapshot.seat
        if desired.container.superseded and seat is not None and seat.state is SeatState.MOVING:
            # Only a daemon with the newer settings can do it: this look must not count as everybody's.
            end = PassEnd(self._policy.poll_waiting_s, failed=True)
        release = Release.UNLOOKED if end.failed else Release.LOOKED
        status = _Seen(container, chips, evidence, look, release if held.may_be_freed else None)
        conflict = await self._write(held, snapshot, status)
        self._last_actions[key] = decision.actions
        self._steps.announce(Step.STATUS_WRITTEN, key)
        if mail_up_to is not None:
            if _dependencies_away(observation):
                self._mailroom.expect(key)  # what it hinted at could not be seen
            else:
                await self._mailroom.answered(key, mail_up_to)
        if conflict and end.again_in_s is None:
            return PassEnd(self._policy.poll_waiting_s)
        return end

    async def _observe(self, held: HeldLease, snapshot: UserSnapshot, desired: Desired) -> Observation:
        left_s = held.deadline_at - self._clock.monotonic()
        try:
            async with asyncio.timeout(left_s):
                return await self._observer.observe(snapshot.container, desired)
        except TimeoutError as error:
            raise Unavailable("pass", "looking took longer than a pass may take") from error

    async def _write(self, held: HeldLease, snapshot: UserSnapshot, seen: _Seen) -> bool:
        """The guarded write; settles a port that the ledger has under another allocation's name.

        Returns whether the port stays booked for somebody else.
        """
        container, chips = seen.container, seen.chips
        generations = {chip.id: chip.generation for chip in snapshot.chips}
        generation = snapshot.container.generation

        async def write(status: ContainerStatus, freed: tuple[str, ...] = ()) -> Written | PortTaken:
            with held.freeing():
                return await self._store.write_status(
                    held.lease,
                    status,
                    chips,
                    generations,
                    generation,
                    release_ports_of=freed,
                    evidence=seen.evidence,
                    look=seen.look,
                    release=seen.release,
                )

        outcome = await write(container)
        if isinstance(outcome, PortTaken) and await self._is_dead(outcome.holder_allocation_id):
            outcome = await write(container, (outcome.holder_allocation_id,))
        conflict = isinstance(outcome, PortTaken)
        if isinstance(outcome, PortTaken):
            _log.error(
                "port_conflict",
                address=outcome.address,
                port=outcome.port,
                holder_user_id=outcome.holder_user_id,
                holder_allocation_id=outcome.holder_allocation_id,
            )
            outcome = await write(_without_port(container))
        if isinstance(outcome, PortTaken):
            raise StaleWrite("postgres", "a status without a port was refused for its port")
        if outcome.released:
            held.freed(outcome.generation)
        await self._drop_cached(snapshot, chips, changed=outcome.changed)
        return conflict

    async def _is_dead(self, allocation_id: str) -> bool:
        """Whether a client itself reported the allocation's end, or it is gone; `lost` may still run."""
        try:
            holder = await self._scheduler.allocation(allocation_id)
        except Missing:
            return True
        except DependencyError as error:
            _log.warning("port_holder_not_read", code=error.code, error=error.message)
            return False
        return holder.client in CLIENT_ENDED

    async def _drop_cached(
        self, snapshot: UserSnapshot, chips: Mapping[str, ChipStatus], *, changed: bool
    ) -> None:
        if not changed:
            return
        await self._caches.endpoint_changed(snapshot.container.user_id)
        moved = tuple(
            row.id
            for row in snapshot.chips
            if row.id not in chips or (row.phase, row.status) != (chips[row.id].phase, chips[row.id].status)
        )
        if moved:
            await self._caches.chips_changed(moved)

    def _end(
        self, key: str, decision: Decision, results: Sequence[Result], observation: Observation
    ) -> PassEnd:
        repeated = decision.actions != () and self._last_actions.get(key) == decision.actions
        verdicts = {result.verdict for result in results}
        if Verdict.FAILED in verdicts:
            failed = (result.after_s for result in results if result.verdict is Verdict.FAILED)
            return PassEnd(max(failed), failed=True)
        if Verdict.STALE in verdicts:
            return PassEnd(0.0, failed=repeated)
        if blind := _dependencies_away(observation):
            _log.info("seen_in_part", away=blind)
            pause_s = min(decision.requeue_after or 0.0, self._policy.poll_moving_s)
            return PassEnd(pause_s, failed=True)
        done = [result.action for result in results if result.verdict is Verdict.DONE]
        if not repeated and (waits_for_next_pass(results) or any(map(opens_next_step, done))):
            return PassEnd(0.0)
        if Verdict.REFUSED in verdicts:
            return PassEnd(max(decision.requeue_after or 0.0, self._policy.poll_waiting_s))
        again_in_s = _next_look(decision, results)
        return PassEnd(again_in_s, routine=again_in_s == self._policy.poll_qr_s)

    def _forget(self, key: str) -> None:
        self._last_actions.pop(key, None)
        self._refusals.forget_user(key)
        self._mailroom.forget(key)


def _next_look(decision: Decision, results: Sequence[Result]) -> float | None:
    """As decided; starts that wait for their tokens are looked at when those are due, and not before."""
    paced = [result.after_s for result in results if result.code == PACED]
    if not paced:
        return decision.requeue_after
    started = any(is_start(result.action) and result.code != PACED for result in results)
    others = decision.requeue_after if started else decision.without_starts
    return min(paced if others is None else [others, *paced])


def _without_port(container: ContainerStatus) -> ContainerStatus:
    """The status of a container whose port is booked for somebody else: it may not be spoken to."""
    ready = container.phase == ContainerPhase.READY
    placed = container.placed
    return msgspec.structs.replace(
        container,
        phase=ContainerPhase.BOOTING if ready else container.phase,
        reason=Reason.PORT_CONFLICT,
        placed=msgspec.structs.replace(placed, address=None, port=None) if placed else None,
        address=None,
        port=None,
        endpoint=None,
        at_rest=False,
    )


def _dependencies_away(seen: Observation) -> list[str]:
    facts = (seen.job, seen.allocations, seen.evaluation, seen.instances, seen.sessions, seen.storage)
    away = [fact.why for fact in facts if isinstance(fact, Unknown) and fact.why in _DEPENDENCIES]
    return sorted(set(away)) if away else away
