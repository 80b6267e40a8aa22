"""The evaluation worker: takes evaluations that are due, asks the scheduler, and writes down what it decided."""

from __future__ import annotations

import asyncio
from random import Random

import msgspec
import structlog

from sandbox.nomad_double.clock import NS_PER_S, Clock
from sandbox.nomad_double.commit import Commit
from sandbox.nomad_double.durations import parse_iso_time
from sandbox.nomad_double.model import Allocation, Evaluation, Json
from sandbox.nomad_double.scheduler import Plan, View, schedule
from sandbox.nomad_double.settings import DoubleSettings
from sandbox.nomad_double.state import StateStore

log = structlog.get_logger(__name__)

_DUPLICATE = 'existing blocked evaluation exists for job "{}"'


class EvaluationWorker:
    """Works evaluations off one by one. Delayed ones have a timer; blocked ones wait for room."""

    def __init__(self, state: StateStore, settings: DoubleSettings, clock: Clock, rng: Random) -> None:
        self.state = state
        self.settings = settings
        self.clock = clock
        self.rng = rng
        self._news = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.Task[None]] = {}
        self._unblock = False
        self._ready: dict[str, None] = {}

    def start(self) -> None:
        """Take up the evaluations that are open, also those a former double left behind."""
        for evaluation in self.state.evals.values():
            self._admit(evaluation)
        self._worker = asyncio.create_task(self._work())

    async def stop(self) -> None:
        tasks = [*self._timers.values()]
        if self._worker is not None:
            tasks.append(self._worker)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._timers.clear()

    def on_commit(self, commit: Commit) -> None:
        """Queue evaluations that became pending; look at blocked ones again when room may have been made."""
        for eval_id in commit.touched_evals:
            evaluation = self.state.evals.get(eval_id)
            if evaluation is not None:
                self._admit(evaluation)
        if "nodes" in commit.tables or any(self._freed(i) for i in commit.touched_allocs):
            self._unblock = True
            self._news.set()

    def _freed(self, alloc_id: str) -> bool:
        alloc = self.state.allocs.get(alloc_id)
        return alloc is None or alloc.client_terminal

    def _admit(self, evaluation: Evaluation) -> None:
        if evaluation.status != "pending":
            return
        if evaluation.wait_until is not None:
            delay_s = (parse_iso_time(evaluation.wait_until) - self.clock.time_ns()) / NS_PER_S
            if delay_s > 0:
                if evaluation.id not in self._timers:
                    self._timers[evaluation.id] = asyncio.create_task(self._later(evaluation.id, delay_s))
                return
        self._ready[evaluation.id] = None
        self._news.set()

    async def _later(self, eval_id: str, delay_s: float) -> None:
        await self.clock.sleep(delay_s)
        self._timers.pop(eval_id, None)
        self._ready[eval_id] = None
        self._news.set()

    async def _work(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            if self.settings.delays.scheduling_s:
                await self.clock.sleep(self.settings.delays.scheduling_s)
            while self._ready or self._unblock:
                if self._unblock:
                    self._unblock = False
                    for evaluation in [e for e in self.state.evals.values() if e.status == "blocked"]:
                        self._ready[evaluation.id] = None
                while self._ready:
                    eval_id = next(iter(self._ready))
                    del self._ready[eval_id]
                    try:
                        self._process(eval_id)
                    except Exception:
                        # One job must not end the scheduling of all others; Nomad too fails the evaluation.
                        log.exception("evaluation_failed", eval_id=eval_id)
                        self._fail(eval_id)
                await asyncio.sleep(0)

    def _process(self, eval_id: str) -> None:
        evaluation = self.state.evals.get(eval_id)
        if evaluation is None or evaluation.terminal:
            return
        job = self.state.jobs.get((evaluation.namespace, evaluation.job_id))
        snapshot = self.state.index
        plan = schedule(
            view_of(self.state, self.settings, job, evaluation), evaluation, self.clock.time_ns(), self.rng
        )
        if evaluation.status == "blocked" and plan.empty and plan.failed:
            return
        for follow_up in plan.follow_ups:
            with self.state.commit("EvaluationUpdated") as commit:
                commit.put_eval(follow_up)
        if not plan.empty:
            self._apply(plan, evaluation)
        blocked = self._block(plan, evaluation)
        still_blocked = evaluation.status == "blocked" and bool(plan.failed)
        with self.state.commit("EvaluationUpdated") as commit:
            commit.put_eval(
                msgspec.structs.replace(
                    evaluation,
                    status="blocked" if still_blocked else "complete",
                    queued_allocations=plan.queued,
                    failed_tg_allocs=plan.failed or None,
                    blocked_eval=blocked,
                    snapshot_index=snapshot,
                )
            )
        if job is None or job["Stop"]:
            self._cancel_blocked(evaluation.namespace, evaluation.job_id, keep="")

    def _fail(self, eval_id: str) -> None:
        evaluation = self.state.evals.get(eval_id)
        if evaluation is not None and not evaluation.terminal:
            with self.state.commit("EvaluationUpdated") as commit:
                commit.put_eval(msgspec.structs.replace(evaluation, status="failed"))

    def _apply(self, plan: Plan, evaluation: Evaluation) -> None:
        """The plan as one commit. Allocations that vanished since (a purge) are left out."""
        with self.state.commit("PlanResult") as commit:
            commit.put_eval(evaluation)
            gone = [a.id for a in [*plan.annotated, *plan.in_place] if a.id not in self.state.allocs]
            for alloc in plan.placed:
                commit.put_alloc(alloc, by_server=True)
            for alloc in [*plan.in_place, *plan.annotated]:
                if alloc.id not in gone:
                    commit.put_alloc(_merged(self.state.allocs[alloc.id], alloc), by_server=True)
            for stop in plan.stops:
                current = self.state.allocs.get(stop.alloc.id)
                if current is not None:
                    commit.put_alloc(
                        msgspec.structs.replace(
                            current,
                            desired_status="stop",
                            desired_description=stop.description,
                            client_status=stop.client_status or current.client_status,
                            followup_eval_id=stop.followup or current.followup_eval_id,
                        ),
                        by_server=True,
                    )

    def _block(self, plan: Plan, evaluation: Evaluation) -> str:
        """Store the blocked evaluation of unplaced allocations; an older one of the job is cancelled."""
        if plan.blocked is None:
            return ""
        with self.state.commit("EvaluationUpdated") as commit:
            commit.put_eval(plan.blocked)
        self._cancel_blocked(evaluation.namespace, evaluation.job_id, keep=plan.blocked.id)
        return plan.blocked.id

    def _cancel_blocked(self, namespace: str, job_id: str, keep: str) -> None:
        stale = [
            e for e in self.state.evals_of_job(namespace, job_id) if e.status == "blocked" and e.id != keep
        ]
        if stale:
            with self.state.commit("EvaluationUpdated") as commit:
                for old in stale:
                    text = (
                        _DUPLICATE.format(job_id) if keep else "evaluation is outdated by later evaluations"
                    )
                    commit.put_eval(msgspec.structs.replace(old, status="canceled", status_description=text))


def view_of(state: StateStore, settings: DoubleSettings, job: Json | None, evaluation: Evaluation) -> View:
    """What the scheduler sees when it looks at `job`, a stored one or a candidate."""
    namespace, job_id = evaluation.namespace, evaluation.job_id
    deployments = state.deployments_of_job(namespace, job_id)
    return View(
        job=job,
        allocs=state.allocs_of_job(namespace, job_id),
        nodes=state.nodes,
        allocs_of_node=state.allocs_of_node,
        deployment=deployments[0] if deployments else None,
        reschedule_trigger="alloc-reschedule" if settings.release >= (2,) else "alloc-failure",
        speed=settings.speed,
    )


def _merged(current: Allocation, planned: Allocation) -> Allocation:
    """What a plan may change of an allocation that stays; of the client's side only that it is unknown."""
    return msgspec.structs.replace(
        current,
        job=planned.job,
        followup_eval_id=planned.followup_eval_id,
        reschedule_tracker=planned.reschedule_tracker,
        alloc_states=planned.alloc_states,
        client_status="unknown" if planned.client_status == "unknown" else current.client_status,
    )
