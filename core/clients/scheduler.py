"""The scheduler (Nomad) as the daemon needs it: facts in, a few effects out.

Plain calls go through python-nomad in threads of a bounded executor of its own, one client a thread (its
requests sessions are not documented as thread-safe). Every call names its namespace and its timeout: the
constructor's namespace is not sent for variables and evaluations. The event stream is in
`scheduler_watch.py`.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

import msgspec
import nomad
import requests
from requests.adapters import BaseAdapter

from core.clients import scheduler_facts as facts
from core.clients.scheduler_errors import SYSTEM, of_client, translated
from core.clients.scheduler_watch import RELIST, JobWatch, Relist
from core.domain.facts import (
    AllocationFact,
    ClientStatus,
    EvaluationFact,
    JobFact,
    ListedAllocation,
    ListedJob,
)
from core.domain.names import JOB_PREFIX, TASK_NAME, VARIABLE_PREFIX
from core.errors import AppError, Missing, Rejected, Unavailable
from core.settings import NomadSettings

T = TypeVar("T")
S = TypeVar("S")

__all__ = ["RELIST", "NomadScheduler", "Relist", "Scheduler"]

# An allocation keeps its ports for life, so they are read once; the bound is for memory alone.
_ADDRESSES_KEPT = 20_000
# An allocation's stub is about 0.7 kB, so a page stays below a megabyte (measured on Nomad 1.10.5).
_PER_PAGE: Final = 1000
_MOST_PAGES: Final = 1000
_PATH_PART = re.compile(r"[a-zA-Z0-9._~-]+\Z")


class Scheduler(Protocol):
    """What the daemon asks of Nomad. Every method may raise Unavailable, Throttled or Rejected.

    `timeout_s`: the longest that one call may take, which is what a lease must outlive before an effect.
    """

    timeout_s: float

    async def job(self, job_id: str) -> JobFact:
        """Raises Missing when there is no such job."""

    async def allocations(self, job_id: str) -> tuple[AllocationFact, ...]:
        """All that are still listed for the job id, of earlier lives too, oldest first."""

    async def newest_placement(self, job_id: str) -> EvaluationFact:
        """The newest evaluation that placed or failed to place. Raises Missing when there is none."""

    async def allocation(self, allocation_id: str) -> AllocationFact:
        """One allocation of whatever job. Raises Missing."""

    async def jobs(self) -> tuple[ListedJob, ...]:
        """Every job whose id has our prefix, by id.

        Lists are read page by page and each page is a snapshot of its own (Nomad API docs, pagination): what
        changes meanwhile may be missed. What a list lacks is a reason to look, never a proof of absence.
        """

    async def all_allocations(self) -> tuple[ListedAllocation, ...]:
        """Every allocation of a job with our prefix, ended ones that are still listed too, oldest first."""

    async def variable_paths(self) -> tuple[str, ...]:
        """Paths of the variables of jobs with our prefix, in order."""

    async def register(
        self, job: Mapping[str, Any], expected_index: int, submission: Mapping[str, Any] | None = None
    ) -> JobFact:
        """Register if the job's JobModifyIndex is still `expected_index` (0 = it must not exist).

        Returns the job as read back afterwards: the reply to an unchanged register names another index
        (Nomad 2.0). Raises StaleWrite when somebody else registered first, Rejected when the
        specification is refused.
        """

    async def stop(self, job_id: str) -> None:
        """Stop the job and keep its record; no error when it is gone already."""

    async def purge(self, job_id: str) -> None:
        """Stop the job and remove its record; no error when it is gone already."""

    async def stop_allocation(self, allocation_id: str) -> None:
        """Stop it and have another placed, which starts when this one is dead; no error when it is gone already.

        Nomad does that for an allocation that ended, too, so it is only for one that runs.
        """

    async def restart_allocation(self, allocation_id: str) -> None:
        """Have its task started again in place. Answers once what ran has ended.

        Raises StaleWrite when its task does not run at this moment, Missing when there is no such allocation.
        """

    async def evaluate(self, job_id: str) -> None:
        """Have the job looked at again; no error when there is none.

        It skips the wait of a replacement for a host that is cut off (Nomad 1.0.18 to 2.0.5), so never then.
        """

    async def write_variables(self, path: str, items: Mapping[str, str]) -> None:
        """Create or replace the variable at `path`."""

    async def delete_variables(self, path: str) -> None:
        """Remove the variable; no error when it is gone already."""

    async def leader(self) -> str:
        """Address of the servers' leader. Raises Unavailable when there is none."""

    def watch(self) -> AsyncIterator[frozenset[str] | Relist]:
        """User ids that something happened to, for ever; `RELIST` after every (re)connect, an empty set as a
        sign of life.

        Raises Unavailable or Rejected when the stream ends or cannot be had: call again.
        """


class NomadScheduler:
    """`Scheduler` on Nomad's HTTP API. `aclose()` ends its threads; calls under way finish first."""

    def __init__(
        self, settings: NomadSettings, *, threads: int = 16, adapter: BaseAdapter | None = None
    ) -> None:
        """`threads`: calls at a time. `adapter`: carries requests in place of the network, for tests."""
        self.timeout_s = settings.timeout_s
        self._settings = settings
        self._adapter = adapter
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="scheduler")
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._watch = JobWatch(settings)
        self._addresses: OrderedDict[str, facts.Address] = OrderedDict()

    async def aclose(self) -> None:
        await self._watch.aclose()
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)
        for session in self._sessions:
            session.close()

    async def job(self, job_id: str) -> JobFact:
        return facts.job_fact(await self._job(job_id))

    async def allocations(self, job_id: str) -> tuple[AllocationFact, ...]:
        path = ("job", job_id, "allocations")
        stubs = await self._read(list[facts.Allocation] | None, *path, params={"all": "true"})
        whole = await asyncio.gather(*(self._with_address(stub) for stub in stubs or ()))
        return tuple(sorted(whole, key=lambda a: (a.create_index, a.id)))

    async def newest_placement(self, job_id: str) -> EvaluationFact:
        path = ("job", job_id, "evaluations")
        found = facts.newest_placement(await self._read(list[facts.Evaluation] | None, *path) or ())
        if found is None:
            raise Missing(SYSTEM, "no evaluation yet")
        return found

    async def allocation(self, allocation_id: str) -> AllocationFact:
        whole = await self._read(facts.Allocation, "allocation", allocation_id)
        return _fact(whole, facts.address_of(whole))

    async def jobs(self) -> tuple[ListedJob, ...]:
        stubs = await self._list(facts.JobStub, "jobs", {"prefix": JOB_PREFIX})
        ours = {stub.id: stub for stub in stubs if stub.id.startswith(JOB_PREFIX)}
        return tuple(_read_as(facts.listed_job, ours[job_id]) for job_id in sorted(ours))

    async def all_allocations(self) -> tuple[ListedAllocation, ...]:
        params = {"resources": "true", "task_states": "false"}
        stubs = await self._list(facts.Allocation, "allocations", params)
        ours = {stub.id: stub for stub in stubs if stub.job_id.startswith(JOB_PREFIX)}
        by_age = sorted(ours.values(), key=lambda stub: (stub.create_index, stub.id))
        return tuple(_read_as(facts.listed_allocation, stub) for stub in by_age)

    async def variable_paths(self) -> tuple[str, ...]:
        prefix = VARIABLE_PREFIX + JOB_PREFIX
        stubs = await self._list(facts.VariableStub, "vars", {"prefix": prefix})
        return tuple(sorted({stub.path for stub in stubs if stub.path.startswith(prefix)}))

    async def register(
        self, job: Mapping[str, Any], expected_index: int, submission: Mapping[str, Any] | None = None
    ) -> JobFact:
        body: dict[str, Any] = {"Job": job, "EnforceIndex": True, "JobModifyIndex": expected_index}
        if submission is not None:
            body["Submission"] = submission
        await self.call("put", "jobs", json=body)
        return facts.job_fact(await self._job(str(job["ID"])))

    async def stop(self, job_id: str) -> None:
        await self._deregister(job_id, purge=False)

    async def purge(self, job_id: str) -> None:
        await self._deregister(job_id, purge=True)

    async def stop_allocation(self, allocation_id: str) -> None:
        try:
            await self.call("put", "allocation", allocation_id, "stop")
        except Missing:
            return

    async def restart_allocation(self, allocation_id: str) -> None:
        body = {"TaskName": TASK_NAME}
        with of_client():
            await self.call("put", "client/allocation", allocation_id, "restart", json=body)

    async def evaluate(self, job_id: str) -> None:
        # Nomad answers 500 "job not found" for a job that is gone, so that is asked first.
        try:
            await self._job(job_id)
            await self.call("post", "job", job_id, "evaluate", json={"JobID": job_id})
        except Missing:
            return

    async def write_variables(self, path: str, items: Mapping[str, str]) -> None:
        await self.call("put", "variable", *path.split("/"), json={"Items": dict(items)})

    async def delete_variables(self, path: str) -> None:
        try:
            await self.call("delete", "variable", *path.split("/"))
        except Missing:
            return

    async def leader(self) -> str:
        leader: str = await self._read(str, "leader")
        if not leader:
            raise Unavailable(SYSTEM, "no cluster leader")
        return leader

    def watch(self) -> AsyncIterator[frozenset[str] | Relist]:
        return self._watch.news()

    async def _job(self, job_id: str) -> facts.Job:
        job: facts.Job = await self._read(facts.Job, "job", job_id)
        return job

    async def _deregister(self, job_id: str, *, purge: bool) -> None:
        try:
            await self.call("delete", "job", job_id, params={"purge": "true" if purge else "false"})
        except Missing:
            return

    async def _with_address(self, stub: facts.Allocation) -> AllocationFact:
        """The stub as a fact; the list of a job's allocations carries no resources, hence no ports.

        Ports matter only while something may answer there.
        """
        address = self._addresses.get(stub.id) or facts.address_of(stub)
        if address is None and stub.client in (ClientStatus.PENDING, ClientStatus.RUNNING):
            try:
                whole = await self._read(facts.Allocation, "allocation", stub.id)
            except Missing:
                return _fact(stub, None)  # collected since the list: its stub is the last word
            address = facts.address_of(whole)
            if address is not None:
                self._addresses[stub.id] = address
                if len(self._addresses) > _ADDRESSES_KEPT:
                    self._addresses.popitem(last=False)
        return _fact(stub, address)

    async def _read(self, type_: Any, *path: str, params: dict[str, object] | None = None) -> Any:
        """The answer as `type_`. Raises Unavailable when it does not fit: misread facts are worse than none."""
        area, *rest = path
        answer = await self.call("get", area, *rest, params=params)
        return _decoded(type_, area, answer.content)

    async def _list(self, type_: type[T], area: str, params: Mapping[str, str]) -> list[T]:
        """All pages of a list. An element may come twice: it moved from one page to another meanwhile."""
        found: list[T] = []
        token = ""
        for _ in range(_MOST_PAGES):
            query = {**params, "per_page": str(_PER_PAGE), **({"next_token": token} if token else {})}
            answer = await self.call("get", area, params=query)
            found += _decoded(list[type_] | None, area, answer.content) or ()  # type: ignore[valid-type]
            before, token = token, answer.headers.get("X-Nomad-NextToken", "")
            if not token:
                return found
            if token == before:
                break
        raise Unavailable(SYSTEM, f"{area}: the list does not come to an end", code="malformed")

    async def call(
        self,
        method: str,
        area: str,
        *path: str,
        params: Mapping[str, object] | None = None,
        json: object = None,
    ) -> requests.Response:
        """One HTTP call in a thread; its 2xx answer, wholly read.

        Time spent waiting for a thread counts: an effect that was allowed to start now must not start
        after its lease has run out.
        """
        for part in path:
            # The library puts path parts into the address as they are.
            if not _PATH_PART.match(part):
                raise Rejected(SYSTEM, "a name that Nomad cannot take in a path")
        asked_at = time.monotonic()

        def send() -> requests.Response:
            left_s = self.timeout_s - (time.monotonic() - asked_at)
            if left_s <= 0:
                raise Unavailable(SYSTEM, "no free connection in time")
            try:
                query = {"namespace": self._settings.namespace, **(params or {})}
                client = self._area(area)
                return client.request(*path, method=method, params=query, json=json, timeout=left_s)
            except AppError:
                raise
            # Whatever the two libraries raise ends here; nothing of theirs crosses the border.
            except Exception as error:
                raise translated(error) from error

        try:
            # The thread's own timeout counts each wait for bytes alone, so a trickling answer needs this one.
            async with asyncio.timeout(self.timeout_s + 1.0):
                return await asyncio.get_running_loop().run_in_executor(self._executor, send)
        except TimeoutError as error:
            raise Unavailable(SYSTEM, "no complete answer in time") from error

    def _area(self, name: str) -> nomad.Requester:
        client: nomad.Nomad | None = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = self._new_client()
        areas = {
            "job": client.job,
            "jobs": client.jobs,
            "allocation": client.allocation,
            "allocations": client.allocations,
            "client/allocation": client.client.allocation,
            "client/fs/logs": client.client.stream_logs,
            "variable": client.variable,
            "vars": client.variables,
            "leader": client.status.leader,
        }
        return areas[name]

    def _new_client(self) -> nomad.Nomad:
        settings = self._settings
        session = requests.Session()
        # Proxies, .netrc and CA bundles of the surroundings must not steer calls that carry our token.
        session.trust_env = False
        if self._adapter is not None:
            session.mount("http://", self._adapter)
            session.mount("https://", self._adapter)
        self._sessions.append(session)
        return nomad.Nomad(
            address=settings.address,
            namespace=settings.namespace,
            token=settings.token.reveal() if settings.token else None,
            timeout=settings.timeout_s,
            verify=settings.ca_file or True,
            session=session,
        )


def _decoded(type_: Any, what: str, content: bytes) -> Any:
    try:
        return msgspec.json.decode(content, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unavailable(SYSTEM, f"{what}: the answer does not have the agreed form") from error


def _fact(allocation: facts.Allocation, address: facts.Address | None) -> AllocationFact:
    return _read_as(lambda whole: facts.allocation_fact(whole, address), allocation)


def _read_as(reader: Callable[[S], T], value: S) -> T:
    """`reader(value)`; a moment that cannot be is an answer that cannot be read."""
    try:
        return reader(value)
    except ValueError as error:
        raise Unavailable(SYSTEM, "the answer does not have the agreed form") from error
