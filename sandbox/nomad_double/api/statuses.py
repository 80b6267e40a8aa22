"""/v1/jobs/statuses: jobs bundled with their allocations."""

from __future__ import annotations

from sandbox.nomad_double.api.web import Outcome, Reply, Request, blocking, page, read_reply
from sandbox.nomad_double.double import NomadDouble
from sandbox.nomad_double.model import Json


class StatusRoutes:
    """The handler that Nomad's own user interface lives on."""

    def __init__(self, double: NomadDouble) -> None:
        self._double = double
        self._state = double.state

    async def statuses(self, request: Request) -> Reply:
        """Jobs with their allocations; by name in a POST body, or all of them."""
        request.allow("GET", "POST")
        names = request.json().get("Jobs") if request.body else None
        wanted = {(name.get("Namespace") or "default", name["ID"]) for name in names} if names else None

        def look() -> Outcome:
            index = max(self._state.table_index[table] for table in ("jobs", "allocs", "deployment"))
            return index, lambda: reply(index)

        def reply(index: int) -> Reply:
            jobs = [
                job
                for key, job in self._state.jobs.items()
                if (key in wanted if wanted is not None else request.sees(key[0], "read-job"))
            ]
            found, token = page(
                request,
                sorted(jobs, key=lambda job: -job["ModifyIndex"]),
                token_of=lambda job: str(job["ModifyIndex"]),
                full=lambda job: job,
                stub=self._status,
            )
            return read_reply(index, found, next_token=token)

        return await blocking(self._double, request, look)

    def _status(self, job: Json) -> Json:
        allocs = self._state.allocs_of_job(job["Namespace"], job["ID"])
        same = ("ID", "Namespace", "Name", "Type", "NodePool", "Datacenters", "Priority", "Version")
        later = ("SubmitTime", "ModifyIndex", "ParentID", "Stop", "Status")
        return {
            **{field: job[field] for field in (*same, *later)},
            "Allocs": [
                {
                    "ID": alloc.id,
                    "Group": alloc.task_group,
                    "ClientStatus": alloc.client_status,
                    "NodeID": alloc.node_id,
                    "DeploymentStatus": {"Canary": False, "Healthy": None},
                    "JobVersion": alloc.job["Version"],
                    "FollowupEvalID": alloc.followup_eval_id,
                    "HasPausedTask": False,
                }
                for alloc in allocs
            ],
            "GroupCountSum": sum(group["Count"] for group in job["TaskGroups"]),
            "ChildStatuses": None,
            "LatestDeployment": None,
            "IsPack": False,
        }
