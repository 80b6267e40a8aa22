"""The server side of the double: accepted writes, and what becomes of client reports."""

from __future__ import annotations

from random import Random

import msgspec

from sandbox.nomad_double.alloc_runner import ClientReport
from sandbox.nomad_double.clock import Clock
from sandbox.nomad_double.commit import Commit
from sandbox.nomad_double.durations import iso_time
from sandbox.nomad_double.errors import ApiError, multierror
from sandbox.nomad_double.jobspec import canonical, group_of, spec_of
from sandbox.nomad_double.journal import Journal, spec_hash
from sandbox.nomad_double.model import Allocation, DeploymentStatus, DesiredTransition, Evaluation, Json
from sandbox.nomad_double.reschedule import next_reschedule
from sandbox.nomad_double.scheduler import Plan, new_id, schedule
from sandbox.nomad_double.settings import DoubleSettings
from sandbox.nomad_double.state import StateStore
from sandbox.nomad_double.summary import with_groups
from sandbox.nomad_double.validation import unsupported, validate, warnings
from sandbox.nomad_double.worker import view_of


class Server:
    """Takes writes and clients' reports, and turns them into commits and evaluations."""

    def __init__(self, state: StateStore, settings: DoubleSettings, clock: Clock, rng: Random) -> None:
        self.state = state
        self.settings = settings
        self.clock = clock
        self.rng = rng
        self.journal = Journal(clock)
        self.atomic_cas = settings.atomic_cas
        """True: EnforceIndex is checked inside the write, as from 2.0.1 on. May be turned while it runs."""

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
        if self.atomic_cas:
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
        unchanged = existing is not None and spec_of(existing) == spec_of(job)
        before = self.state.jobs.get(key)
        if existing is not None and unchanged:
            index = existing["JobModifyIndex"]
            with self.state.commit("EvaluationUpdated") as commit:
                commit.put_eval(msgspec.structs.replace(evaluation, job_modify_index=index))
        else:
            with self.state.commit("JobRegistered") as commit:
                index = commit.index
                self._store_job(commit, job, self.state.jobs.get(key), submission)
                commit.put_eval(msgspec.structs.replace(evaluation, job_modify_index=index))
        self.journal.note(
            "register",
            key[1],
            namespace=key[0],
            eval_id=evaluation.id,
            spec_hash=spec_hash(job),
            job_modify_index_before=before["JobModifyIndex"] if before is not None else 0,
            job_modify_index=index,
            changed=not unchanged,
        )
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
        self.journal.note(
            "deregister",
            job_id,
            namespace=namespace,
            eval_id=evaluation.id,
            purge=purge,
            job_modify_index_before=job["JobModifyIndex"],
            job_modify_index=commit.index,
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
        self.journal.note("evaluate", job_id, namespace=namespace, eval_id=evaluation.id)
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
        self.journal.note(
            "alloc-stop", alloc.job_id, namespace=alloc.namespace, eval_id=evaluation.id, alloc_id=alloc.id
        )
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
        generator = Random(self.rng.getrandbits(64))  # noqa: S311 - draws ports of a simulation
        plan = schedule(view_of(self.state, self.settings, candidate, evaluation), evaluation, now, generator)
        return candidate, existing, plan

    def client_update(self, node_id: str, reports: list[ClientReport]) -> None:
        """What clients say becomes state; failures and orphans make evaluations (Node.UpdateAlloc)."""
        with self.state.commit("AllocationUpdated") as commit:
            triggers: list[tuple[Allocation, str]] = []
            for report in reports:
                alloc = self.state.allocs.get(report.alloc_id)
                if alloc is None:
                    continue
                was_unknown = alloc.client_status == "unknown"
                alloc = commit.put_alloc(_told(alloc, report, commit), by_server=False)
                job = self.state.jobs.get((alloc.namespace, alloc.job_id))
                if was_unknown:
                    triggers.append((alloc, "reconnect"))
                    continue
                # A task that its client stopped in the servers' silence is complete and makes no evaluation:
                # nothing replaces it until something else looks at the job (measured on Nomad 1.10.5).
                failed = alloc.client_status == "failed" and not alloc.followup_eval_id
                if (
                    failed
                    and job is not None
                    and group_of(job, alloc.task_group)
                    and next_reschedule(alloc, self.settings.speed)[1]
                ):
                    triggers.append((alloc, "alloc-failure"))
            for alloc, trigger in triggers:
                commit.put_eval(self._evaluation(alloc.job, trigger, 0))
            node = self.state.nodes.get(node_id)
            if node is not None:
                marked = msgspec.structs.replace(node, last_alloc_update_index=commit.index)
                commit.put_node(marked, own_change=False)

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


def _told(alloc: Allocation, report: ClientReport, commit: Commit) -> Allocation:
    """The allocation as its client sees it."""
    status = alloc.deployment_status
    if report.healthy is not None and (status is None or status.healthy != report.healthy):
        status = DeploymentStatus(
            healthy=report.healthy, timestamp=iso_time(commit.now_ns), modify_index=commit.index
        )
    return msgspec.structs.replace(
        alloc,
        client_status=report.client_status,
        client_description=report.client_description,
        task_states=report.task_states,
        deployment_status=status,
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
