"""The server side of the double: accepted writes, the evaluation worker, and what becomes of client reports."""

from __future__ import annotations

import asyncio
from random import Random

import msgspec
import structlog

from sandbox.nomad_double.client import ClientReport
from sandbox.nomad_double.clock import NS_PER_S, Clock
from sandbox.nomad_double.durations import parse_iso_time
from sandbox.nomad_double.errors import ApiError, multierror
from sandbox.nomad_double.jobspec import canonical, group_of, spec_of
from sandbox.nomad_double.model import Allocation, DesiredTransition, Evaluation, Json
from sandbox.nomad_double.reschedule import next_reschedule
from sandbox.nomad_double.scheduler import Plan, View, new_id, schedule
from sandbox.nomad_double.settings import DoubleSettings
from sandbox.nomad_double.state import Commit, StateStore
from sandbox.nomad_double.summary import with_groups
from sandbox.nomad_double.validation import unsupported, validate, warnings

log = structlog.get_logger(__name__)

_DUPLICATE = 'existing blocked evaluation exists for job "{}"'


class Server:
    """Takes writes, turns them into commits and evaluations, and works the evaluations off one by one."""

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

    # --- life

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

    # --- writes

    def checked(self, raw: Json, namespace: str) -> Json:
        """The canonical job of a request, or the refusal.

        Raises:
            ApiError: 500 with the validator's texts.
        """
        job = canonical(raw, namespace, self.settings.release)
        problems = []
        if job["Namespace"] not in self.settings.namespaces:
            problems.append(f'job "{job["ID"]}" is in nonexistent namespace "{job["Namespace"]}"')
        else:
            problems = validate(job) or unsupported(job)
        if problems:
            raise ApiError(500, multierror(problems))
        return job

    async def register(
        self,
        raw: Json,
        namespace: str,
        *,
        enforce_index: int | None,
        submission: Json | None,
        eval_priority: int = 0,
    ) -> Json:
        """Accept a job. `enforce_index` is the JobModifyIndex that the caller believes in, 0 for "new".

        Raises:
            ApiError: 500, validation or EnforceIndex.
        """
        job = self.checked(raw, namespace)
        key = (job["Namespace"], job["ID"])
        if enforce_index is not None:
            self._enforce(key, enforce_index)
        existing = self.state.jobs.get(key)
        await self.clock.sleep(self.settings.delays.raft_s)
        if self.settings.atomic_cas:
            if enforce_index is not None:
                self._enforce(key, enforce_index)
            existing = self.state.jobs.get(key)
        # Otherwise the write lands on whatever came in between, as in every release before 2.0.1.
        evaluation = Evaluation(
            id=new_id(self.rng),
            namespace=key[0],
            priority=eval_priority or job["Priority"],
            type=job["Type"],
            triggered_by="job-register",
            job_id=key[1],
            status="pending",
        )
        if existing is not None and spec_of(existing) == spec_of(job):
            index = existing["JobModifyIndex"]
            with self.state.commit("EvaluationUpdated") as commit:
                commit.put_eval(msgspec.structs.replace(evaluation, job_modify_index=index))
        else:
            with self.state.commit("JobRegistered") as commit:
                index = commit.index
                self._store_job(commit, job, self.state.jobs.get(key), submission)
                commit.put_eval(msgspec.structs.replace(evaluation, job_modify_index=index))
        return {
            "EvalID": evaluation.id,
            "EvalCreateIndex": commit.index,
            "JobModifyIndex": index,
            "Warnings": warnings(job, self.settings.release),
            "Index": commit.index,
        }

    def _store_job(self, commit: Commit, job: Json, existing: Json | None, submission: Json | None) -> None:
        key = (job["Namespace"], job["ID"])
        stored = {
            **job,
            "Status": existing["Status"] if existing else "pending",
            "Version": existing["Version"] + 1 if existing else 0,
            "SubmitTime": commit.now_ns,
            "CreateIndex": existing["CreateIndex"] if existing else commit.index,
            "JobModifyIndex": commit.index,
        }
        commit.put_job(stored)
        commit.put_summary(key, with_groups(self.state.summaries[key], stored, commit.index))
        if not submission and existing is not None:
            # Without a source of its own a new version shows that of the version the request names, which is
            # 0 unless it says otherwise (measured on Nomad 1.10.5).
            submission = self.state.submissions.get((*key, job["Version"]))
        if submission and submission.get("Source"):
            commit.put_submission(
                *key,
                stored["Version"],
                {
                    "Source": submission["Source"],
                    "Format": submission.get("Format", ""),
                    "VariableFlags": submission.get("VariableFlags"),
                    "Variables": submission.get("Variables") or "",
                    "Namespace": key[0],
                    "JobID": key[1],
                    "Version": stored["Version"],
                    "JobModifyIndex": commit.index,
                },
            )

    def _enforce(self, key: tuple[str, str], index: int) -> None:
        existing = self.state.jobs.get(key)
        prefix = f"Enforcing job modify index {index}:"
        if existing is None and index != 0:
            raise ApiError(500, f"{prefix} job does not exist")
        if existing is not None and index == 0:
            raise ApiError(500, f"{prefix} job already exists")
        if existing is not None and index != existing["JobModifyIndex"]:
            found = existing["JobModifyIndex"]
            raise ApiError(500, f"{prefix} job exists with conflicting job modify index: {found}")

    async def deregister(self, namespace: str, job_id: str, *, purge: bool, eval_priority: int = 0) -> Json:
        """Stop a job, or purge its record. A job that does not exist is no error and makes no evaluation."""
        await self.clock.sleep(self.settings.delays.raft_s)
        job = self.state.jobs.get((namespace, job_id))
        if job is None:
            return _deregistered("", 0, 0)
        with self.state.commit("JobDeregistered") as commit:
            if purge:
                commit.delete_job(namespace, job_id)
            else:
                commit.put_job(
                    {
                        **job,
                        "Stop": True,
                        "Version": job["Version"] + 1,
                        "JobModifyIndex": commit.index,
                        "SubmitTime": commit.now_ns,
                    }
                )
            evaluation = commit.put_eval(
                Evaluation(
                    id=new_id(self.rng),
                    namespace=namespace,
                    priority=eval_priority or job["Priority"],
                    type=job["Type"],
                    triggered_by="job-deregister",
                    job_id=job_id,
                    job_modify_index=commit.index,
                    status="pending",
                )
            )
        return _deregistered(evaluation.id, commit.index, commit.index)

    async def evaluate(self, namespace: str, job_id: str, *, force_reschedule: bool) -> Json:
        """Force an evaluation; `force_reschedule` replaces failed allocations without waiting.

        Raises:
            ApiError: 500 `job not found`.
        """
        await self.clock.sleep(self.settings.delays.raft_s)
        job = self.state.jobs.get((namespace, job_id))
        if job is None:
            raise ApiError(500, "job not found")
        with self.state.commit("AllocationUpdateDesiredStatus") as commit:
            if force_reschedule:
                for alloc in self.state.allocs_of_job(namespace, job_id):
                    if (
                        alloc.client_status == "failed"
                        and not alloc.server_terminal
                        and not alloc.next_allocation
                    ):
                        transition = msgspec.structs.replace(alloc.desired_transition, force_reschedule=True)
                        commit.put_alloc(
                            msgspec.structs.replace(alloc, desired_transition=transition), by_server=True
                        )
            evaluation = commit.put_eval(self._evaluation(job, "job-register", job["ModifyIndex"]))
        return {
            "EvalID": evaluation.id,
            "EvalCreateIndex": commit.index,
            "JobModifyIndex": job["ModifyIndex"],
            "Warnings": "",
            "Index": commit.index,
        }

    async def stop_alloc(self, alloc: Allocation, *, no_shutdown_delay: bool) -> Json:
        """Stop one allocation; its job places a new one."""
        await self.clock.sleep(self.settings.delays.raft_s)
        with self.state.commit("AllocationUpdateDesiredStatus") as commit:
            transition = DesiredTransition(migrate=True, no_shutdown_delay=no_shutdown_delay)
            current = self.state.allocs.get(alloc.id, alloc)
            commit.put_alloc(msgspec.structs.replace(current, desired_transition=transition), by_server=True)
            evaluation = commit.put_eval(self._evaluation(alloc.job, "alloc-stop", alloc.job["ModifyIndex"]))
        return {"EvalID": evaluation.id, "Index": commit.index}

    def plan(self, raw: Json, namespace: str) -> tuple[Json, Json | None, Plan]:
        """(candidate, existing job, plan) of a dry run; nothing is written."""
        job = self.checked(raw, namespace)
        existing = self.state.jobs.get((job["Namespace"], job["ID"]))
        unchanged = existing is not None and spec_of(existing) == spec_of(job)
        now = self.clock.time_ns()
        candidate = {
            **job,
            "Status": "pending",
            "CreateIndex": existing["CreateIndex"] if existing else self.state.index + 1,
            "JobModifyIndex": existing["JobModifyIndex"] if existing and unchanged else self.state.index + 1,
            "Version": 0 if existing is None else existing["Version"] + (0 if unchanged else 1),
        }
        evaluation = self._evaluation(candidate, "job-register", candidate["JobModifyIndex"])
        # A generator of its own: a dry run must not change what is drawn later.
        plan = schedule(self._view(candidate, evaluation), evaluation, now, Random(self.rng.getrandbits(64)))  # noqa: S311
        return candidate, existing, plan

    # --- reports of clients

    def client_update(self, node_id: str, reports: list[ClientReport]) -> None:
        """What clients say becomes state; failures and orphans make evaluations (Node.UpdateAlloc)."""
        with self.state.commit("AllocationUpdated") as commit:
            triggers: list[tuple[Allocation, str]] = []
            for report in reports:
                alloc = self.state.allocs.get(report.alloc_id)
                if alloc is None:
                    continue
                alloc = commit.put_alloc(
                    msgspec.structs.replace(
                        alloc,
                        client_status=report.client_status,
                        client_description=report.client_description,
                        task_states=report.task_states,
                    ),
                    by_server=False,
                )
                job = self.state.jobs.get((alloc.namespace, alloc.job_id))
                failed = alloc.client_status == "failed" and not alloc.followup_eval_id
                if (
                    failed
                    and job is not None
                    and group_of(job, alloc.task_group)
                    and next_reschedule(alloc)[1]
                ):
                    triggers.append((alloc, "alloc-failure"))
            for alloc, trigger in triggers:
                commit.put_eval(self._evaluation(alloc.job, trigger, 0))
            node = self.state.nodes.get(node_id)
            if node is not None:
                marked = msgspec.structs.replace(node, last_alloc_update_index=commit.index)
                commit.put_node(marked, own_change=False)

    # --- the worker

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
        plan = schedule(self._view(job, evaluation), evaluation, self.clock.time_ns(), self.rng)
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

    def _view(self, job: Json | None, evaluation: Evaluation) -> View:
        namespace, job_id = evaluation.namespace, evaluation.job_id
        deployments = self.state.deployments_of_job(namespace, job_id)
        return View(
            job=job,
            allocs=self.state.allocs_of_job(namespace, job_id),
            nodes=self.state.nodes,
            allocs_of_node=self.state.allocs_of_node,
            deployment=deployments[0] if deployments else None,
            reschedule_trigger="alloc-reschedule" if self.settings.release >= (2,) else "alloc-failure",
        )

    def _evaluation(self, job: Json, trigger: str, job_modify_index: int) -> Evaluation:
        return Evaluation(
            id=new_id(self.rng),
            namespace=job["Namespace"],
            priority=job["Priority"],
            type=job["Type"],
            triggered_by=trigger,
            job_id=job["ID"],
            job_modify_index=job_modify_index,
            status="pending",
        )


def _merged(current: Allocation, planned: Allocation) -> Allocation:
    """What a plan may change of an allocation that stays; the client's side is never taken from a plan."""
    return msgspec.structs.replace(
        current,
        job=planned.job,
        followup_eval_id=planned.followup_eval_id,
        reschedule_tracker=planned.reschedule_tracker,
    )


def _deregistered(eval_id: str, eval_index: int, index: int) -> Json:
    return {
        "EvalID": eval_id,
        "EvalCreateIndex": eval_index,
        "JobModifyIndex": index,
        "VolumeEvalID": "",
        "VolumeEvalIndex": 0,
        "Index": index,
    }
