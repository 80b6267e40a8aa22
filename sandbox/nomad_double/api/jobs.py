"""/v1/jobs, /v1/job/:id and what hangs below them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from sandbox.nomad_double.api.web import (
    Outcome,
    Reply,
    Request,
    blocking,
    not_found,
    page,
    read_reply,
    write_reply,
)
from sandbox.nomad_double.diff import job_diff
from sandbox.nomad_double.double import NomadDouble
from sandbox.nomad_double.errors import ApiError, multierror
from sandbox.nomad_double.jobspec import canonical
from sandbox.nomad_double.model import Json
from sandbox.nomad_double.validation import unsupported, validate, warnings
from sandbox.nomad_double.views import alloc_stub, deployment_view, eval_view, job_stub

NO_HCL_PARSER = (
    "The Nomad double cannot parse HCL: it has no HCL parser and would have to guess. "
    "Ask a real Nomad agent (nomad job run -output FILE prints the JSON) and register that JSON here."
)


class JobRoutes:
    """Handlers of job paths. Like Nomad they choose by the end of the path, so a job id may hold slashes."""

    def __init__(self, double: NomadDouble) -> None:
        self._double = double
        self._state = double.state
        self._suffixes: dict[str, Callable[[Request, str], Awaitable[Reply]]] = {
            "/evaluate": self.evaluate,
            "/allocations": self.allocations,
            "/evaluations": self.evaluations,
            "/plan": self.plan,
            "/summary": self.summary,
            "/versions": self.versions,
            "/deployments": self.deployments,
            "/deployment": self.latest_deployment,
            "/scale": self.scale,
            "/services": self.services,
            "/submission": self.submission,
        }

    async def specific(self, request: Request) -> Reply:
        path = request.path.removeprefix("/v1/job/")
        for suffix, handler in self._suffixes.items():
            if path.endswith(suffix):
                return await handler(request, path.removesuffix(suffix))
        return await self.job(request, path)

    async def jobs(self, request: Request) -> Reply:
        if request.method in ("PUT", "POST"):
            return await self._register(request, None)
        request.allow("GET")
        prefix = request.get("prefix")
        meta = request.flag("meta")

        def look() -> Outcome:
            index = max(self._state.table_index["jobs"], self._state.table_index["job_summary"])
            return index, lambda: reply(index)

        def reply(index: int) -> Reply:
            jobs = [
                job
                for (namespace, job_id), job in sorted(self._state.jobs.items())
                if request.sees(namespace, "list-jobs") and job_id.startswith(prefix)
            ]
            found, token = page(
                request,
                jobs,
                token_of=lambda job: f"{job['Namespace']}.{job['ID']}",
                full=lambda job: job,
                stub=lambda job: job_stub(
                    job, self._state.summaries.get((job["Namespace"], job["ID"])), meta=meta
                ),
            )
            return read_reply(index, found, next_token=token)

        return await blocking(self._double, request, look)

    async def parse(self, request: Request) -> Reply:
        request.allow("PUT", "POST")
        if not request.json().get("JobHCL"):
            raise ApiError(400, "Job spec is empty")
        raise ApiError(501, NO_HCL_PARSER)

    async def validate(self, request: Request) -> Reply:
        request.allow("PUT", "POST")
        raw = self._job_of(request.json())
        job = canonical(raw, _namespace_of(request, raw), self._double.settings.release)
        problems = validate(job) or unsupported(job)
        return Reply(
            {
                "DriverConfigValidated": True,
                "ValidationErrors": problems or None,
                "Error": multierror(problems) if problems else "",
                "Warnings": warnings(job, self._double.settings.release),
            }
        )

    async def job(self, request: Request, job_id: str) -> Reply:
        if request.method in ("PUT", "POST"):
            return await self._register(request, job_id)
        if request.method == "DELETE":
            body = await self._double.server.deregister(
                request.namespace,
                job_id,
                purge=request.flag("purge"),
                eval_priority=request.number("eval_priority"),
            )
            return write_reply(body)
        request.allow("GET")
        return await self._one(request, job_id, lambda job: job)

    async def allocations(self, request: Request, job_id: str) -> Reply:
        request.allow("GET")
        every = request.flag("all")

        def make() -> list[Json]:
            job = self._state.jobs.get((request.namespace, job_id))
            allocs = self._state.allocs_of_job(request.namespace, job_id)
            if job is not None and not every:
                allocs = [a for a in allocs if a.job["CreateIndex"] == job["CreateIndex"]]
            return [alloc_stub(alloc) for alloc in sorted(allocs, key=lambda a: a.id)]

        return await self._table(request, "allocs", make)

    async def evaluations(self, request: Request, job_id: str) -> Reply:
        request.allow("GET")

        def make() -> list[Json]:
            # 1.10.5 finds them by the beginning of their job's id, also those of `job_id-2`; 2.0.5 does not.
            exact = self._double.settings.release >= (2,)
            find = self._state.evals_of_job if exact else self._state.evals_of_jobs
            evals = find(request.namespace, job_id)
            return [eval_view(evaluation) for evaluation in sorted(evals, key=lambda e: e.id)]

        return await self._table(request, "evals", make)

    async def deployments(self, request: Request, job_id: str) -> Reply:
        request.allow("GET")

        def make() -> list[Json]:
            return [deployment_view(d) for d in self._state.deployments_of_job(request.namespace, job_id)]

        return await self._table(request, "deployment", make)

    async def latest_deployment(self, request: Request, job_id: str) -> Reply:
        request.allow("GET")

        def look() -> Outcome:
            found = self._state.deployments_of_job(request.namespace, job_id)
            index = found[0].modify_index if found else self._state.table_index["deployment"]
            return index, lambda: read_reply(
                index, deployment_view(found[0]) if found else msgspec.Raw(b"null")
            )

        return await blocking(self._double, request, look)

    async def summary(self, request: Request, job_id: str) -> Reply:
        request.allow("GET")

        def look() -> Outcome:
            summary = self._state.summaries.get((request.namespace, job_id))
            index = summary["ModifyIndex"] if summary else self._state.table_index["job_summary"]
            return index, lambda: _found(index, summary, "job not found")

        return await blocking(self._double, request, look)

    async def versions(self, request: Request, job_id: str) -> Reply:
        request.allow("GET")

        def look() -> Outcome:
            versions = self._state.versions.get((request.namespace, job_id))
            index = versions[0]["ModifyIndex"] if versions else self._state.table_index["job_version"]
            body = {
                "Versions": versions,
                "Diffs": None,
                "Index": index,
                "LastContact": 0,
                "KnownLeader": True,
                "NextToken": "",
            }
            return index, lambda: _found(index, body if versions else None, "job versions not found")

        return await blocking(self._double, request, look)

    async def submission(self, request: Request, job_id: str) -> Reply:
        request.allow("GET")
        version = request.get("version")
        if not version.isdigit():
            raise ApiError(400, "Unable to parse job submission version parameter")

        def look() -> Outcome:
            found = self._state.submissions.get((request.namespace, job_id, int(version)))
            index = found["JobModifyIndex"] if found else self._state.table_index["job_submission"]
            return index, lambda: _found(index, found, "job source not found")

        return await blocking(self._double, request, look)

    async def services(self, request: Request, _job_id: str) -> Reply:
        """Services of provider nomad: the double knows none."""
        request.allow("GET")
        return read_reply(1, [])

    async def scale(self, request: Request, job_id: str) -> Reply:
        if request.method in ("PUT", "POST"):
            return await self._scale(request, job_id)
        request.allow("GET")

        def body(job: Json) -> Json:
            allocs = self._state.allocs_of_job(request.namespace, job_id)
            groups = {}
            for group in job["TaskGroups"]:
                mine = [a for a in allocs if a.task_group == group["Name"] and not a.terminal]
                running = [a for a in mine if a.client_status == "running"]
                groups[group["Name"]] = {
                    "Desired": group["Count"],
                    "Placed": len(mine),
                    "Running": len(running),
                    "Healthy": 0,
                    "Unhealthy": 0,
                    "Events": None,
                }
            return {
                "JobID": job_id,
                "Namespace": request.namespace,
                "JobCreateIndex": job["CreateIndex"],
                "JobModifyIndex": job["ModifyIndex"],
                "JobStopped": job["Stop"],
                "TaskGroups": groups,
            }

        return await self._one(request, job_id, body)

    async def _scale(self, request: Request, job_id: str) -> Reply:
        body = request.json()
        name = (body.get("Target") or {}).get("Group") or ""
        if not name:
            raise ApiError(400, "missing task group name for scaling action")
        job = self._state.jobs.get((request.namespace, job_id))
        if job is None:
            raise ApiError(404, f'job "{job_id}" not found')
        groups = [{**g, "Count": body["Count"]} if g["Name"] == name else g for g in job["TaskGroups"]]
        if groups == job["TaskGroups"] and not any(g["Name"] == name for g in groups):
            raise ApiError(400, f'task group "{name}" specified for scaling does not exist in job')
        raw = {**job, "TaskGroups": groups}
        reply = await self._double.server.register(
            raw, request.namespace, enforce_index=None, submission=None
        )
        return write_reply(reply)

    async def evaluate(self, request: Request, job_id: str) -> Reply:
        request.allow("PUT", "POST")
        body = request.json() if request.body else {}
        if body.get("JobID") not in (None, "", job_id):
            raise ApiError(400, "JobID not same as job name")
        force = bool((body.get("EvalOptions") or {}).get("ForceReschedule"))
        return write_reply(
            await self._double.server.evaluate(request.namespace, job_id, force_reschedule=force)
        )

    async def plan(self, request: Request, job_id: str) -> Reply:
        request.allow("PUT", "POST")
        body = request.json()
        raw = self._job_of(body)
        if raw.get("ID") != job_id:
            raise ApiError(400, "Job ID does not match")
        candidate, existing, plan = self._double.server.plan(raw, _namespace_of(request, raw))
        created = [eval_view(plan.blocked)] if plan.blocked else None
        index = existing["JobModifyIndex"] if existing else 0
        value = {
            "Annotations": {"DesiredTGUpdates": plan.desired, "PreemptedAllocs": None},
            "FailedTGAllocs": plan.failed or None,
            "JobModifyIndex": index,
            "CreatedEvals": created,
            "Diff": job_diff(existing, candidate) if body.get("Diff") else None,
            "NextPeriodicLaunch": None,
            "Warnings": warnings(candidate, self._double.settings.release),
            "Index": index,
        }
        return Reply(value, headers={"X-Nomad-Index": str(index)})

    async def _register(self, request: Request, job_id: str | None) -> Reply:
        body = request.json()
        raw = self._job_of(body)
        if job_id is not None and raw["ID"] != job_id:
            raise ApiError(400, "Job ID does not match name")
        enforce = int(body.get("JobModifyIndex") or 0) if body.get("EnforceIndex") else None
        namespace = _namespace_of(request, raw)
        if body.get("PreserveCounts"):
            raw = self._with_counts(raw, namespace)
        reply = await self._double.server.register(
            raw,
            namespace,
            enforce_index=enforce,
            submission=body.get("Submission"),
            eval_priority=int(body.get("EvalPriority") or 0),
        )
        return write_reply(reply)

    def _with_counts(self, raw: Json, namespace: str) -> Json:
        existing = self._state.jobs.get((namespace, raw["ID"]))
        if existing is None:
            return raw
        counts = {group["Name"]: group["Count"] for group in existing["TaskGroups"]}
        groups = [
            {**g, "Count": counts.get(g.get("Name"), g.get("Count"))} for g in raw.get("TaskGroups") or ()
        ]
        return {**raw, "TaskGroups": groups}

    @staticmethod
    def _job_of(body: Json) -> Json:
        job = body.get("Job")
        if not isinstance(job, dict):
            raise ApiError(400, "Job must be specified")
        if not job.get("ID"):
            raise ApiError(400, "Job ID hasn't been provided")
        return job

    async def _one(self, request: Request, job_id: str, view: Callable[[Json], Json]) -> Reply:
        def look() -> Outcome:
            job = self._state.jobs.get((request.namespace, job_id))
            index = job["ModifyIndex"] if job else self._state.table_index["jobs"]
            return index, lambda: _found(index, view(job) if job else None, "job not found")

        return await blocking(self._double, request, look)

    async def _table(self, request: Request, table: str, make: Callable[[], list[Json]]) -> Reply:
        def look() -> Outcome:
            index = self._state.table_index[table]
            return index, lambda: read_reply(index, make())

        return await blocking(self._double, request, look)


def _namespace_of(request: Request, raw: Json) -> str:
    """The query's namespace goes before the job's own (measured on Nomad 1.10.5)."""
    return request.get("namespace") or str(raw.get("Namespace") or "default")


def _found(index: int, value: Json | None, text: str) -> Reply:
    if value is None:
        raise not_found(index, text)
    return read_reply(index, value)
