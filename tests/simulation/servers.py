"""Nomad's servers: jobs, evaluations, placements, and what they make of a silent node.

The rules are those measured on Nomad 1.10.5: a count of 1, no canary, no deployments, and
`disconnect { stop_on_client_after = S }` with nothing else in it.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.domain.facts import (
    AllocationFact,
    ClientStatus,
    EvaluationFact,
    JobFact,
    ListedAllocation,
    ListedJob,
    PlacementFailure,
    TaskEvent,
)
from core.domain.names import JOB_PREFIX
from core.errors import Missing, StaleWrite, Unavailable
from tests.simulation.world import World, short

if TYPE_CHECKING:
    from tests.simulation.hosts import Container, Host

HAND = "hand"  # who registers, stops or purges what no daemon does
STOP_AFTER_S = 60.0
KILL_S = 45.0
_RESCHEDULE_S, _RESCHEDULE_CAP_S = 15.0, 300.0
_KEEP_S = 900.0  # ended allocations are collected after this (Nomad: an hour; fewer make a pass cheaper)
_ENDED = (ClientStatus.COMPLETE, ClientStatus.FAILED)
_TERMINAL = (ClientStatus.COMPLETE, ClientStatus.FAILED, ClientStatus.LOST)


class Job:
    __slots__ = (
        "_spec_hash",
        "blocked",
        "by_hand",
        "create_index",
        "modify_index",
        "retry",
        "spec",
        "stopped",
        "submitted",
        "wait",
        "wait_until",
    )

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.set_spec(spec)
        self.modify_index = self.create_index = 0
        self.stopped = False
        self.submitted = 0.0
        self.by_hand = False  # its newest register was no daemon's
        self.blocked: PlacementFailure | None = None
        self.retry: Any = None  # timer of a rescheduled failure
        self.wait: Any = None  # timer of the stop-on-disconnect wait
        self.wait_until = 0.0

    def set_spec(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self._spec_hash: str | None = None

    @property
    def spec_hash(self) -> str:
        """What it carries of it in its service's meta; asked at each look."""
        if self._spec_hash is None:
            (service,) = self.spec["TaskGroups"][0]["Services"]
            self._spec_hash = str(service["Meta"]["spec"])
        return self._spec_hash


class Alloc:
    """One allocation as the servers know it; `container` is what really is."""

    __slots__ = (
        "by_hand",
        "client",
        "container",
        "create_index",
        "created",
        "desired",
        "ended_at",
        "events",
        "fact",
        "failures",
        "followup",
        "host",
        "id",
        "job_id",
        "listed",
        "lost_at",
        "modified",
        "port",
        "previous",
        "pulled",
        "registrar_looked_at",
        "restarts",
        "spec",
        "trigger",
        "user",
    )

    def __init__(
        self, job_id: str, host: Host, port: int, index: int, now: float, spec: Any, trigger: str
    ) -> None:
        self.id = str(uuid.UUID(int=(0xA << 64) | index))
        self.job_id = job_id
        self.user = job_id[len(JOB_PREFIX) :]
        self.host = host
        self.port = port
        self.create_index = index
        self.created = self.modified = now
        self.desired = "run"
        self.client = ClientStatus.PENDING
        self.previous: Alloc | None = None
        # When the daemon whose register placed it had read the allocations.
        self.registrar_looked_at = math.inf
        self.container: Container | None = None
        self.pulled = False  # its host knows of it
        self.lost_at: float | None = None
        self.ended_at: float | None = None
        self.followup = ""
        self.failures = 0
        self.restarts = 0
        self.events: tuple[TaskEvent, ...] = ()
        self.spec = spec
        self.trigger = trigger  # of the evaluation that placed it
        self.by_hand = False  # of a job that no daemon registered so
        self.fact: AllocationFact | None = None
        self.listed: ListedAllocation | None = None

    @property
    def terminal(self) -> bool:
        return self.client in _TERMINAL


class Servers:
    """Effects are called by the network; everything else by hosts and faults."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.index = 100
        self.jobs: dict[str, Job] = {}
        self.allocs: dict[str, list[Alloc]] = {}
        self.by_id: dict[str, Alloc] = {}
        self.evaluations: dict[str, EvaluationFact] = {}
        self.variables: dict[str, Mapping[str, str]] = {}
        self.changed_by_hand: set[str] = set()

    # --- reads ------------------------------------------------------------------------------------------
    def job(self, job_id: str) -> JobFact:
        job = self.jobs.get(job_id)
        if job is None:
            raise Missing("nomad", "job not found")
        first = job.create_index == job.modify_index
        status = self._status(job_id, job)
        return JobFact(job.modify_index, job.stopped, status, spec=job.spec_hash, first=first)

    def allocations(self, job_id: str) -> tuple[AllocationFact, ...]:
        return tuple([self._fact(alloc) for alloc in self.allocs.get(job_id, ())])

    def newest_placement(self, job_id: str) -> EvaluationFact:
        if job_id not in self.evaluations:
            raise Missing("nomad", "no evaluation yet")
        return self.evaluations[job_id]

    def allocation(self, allocation_id: str) -> AllocationFact:
        if allocation_id not in self.by_id:
            raise Missing("nomad", "alloc not found")
        return self._fact(self.by_id[allocation_id])

    def all_jobs(self) -> tuple[ListedJob, ...]:
        moment = self.world.moment
        return tuple(
            [
                ListedJob(
                    job_id, job.modify_index, job.stopped, self._status(job_id, job), moment(job.submitted)
                )
                for job_id, job in sorted(self.jobs.items())
            ]
        )

    def all_allocations(self) -> tuple[ListedAllocation, ...]:
        found = []
        for of_job in self.allocs.values():
            for alloc in of_job:
                if alloc.listed is None:
                    alloc.listed = ListedAllocation(alloc.job_id, self._fact(alloc))
                found.append(alloc.listed)
        return tuple(found)

    def variable_paths(self) -> tuple[str, ...]:
        return tuple(sorted(self.variables))

    # --- effects ----------------------------------------------------------------------------------------
    def check_index(self, job_id: str, expected: int) -> None:
        """The first half of a register: the index is compared on a snapshot, the write comes later."""
        job = self.jobs.get(job_id)
        if (job.modify_index if job else 0) != expected:
            raise StaleWrite("nomad", "Enforcing job modify index")

    def register(self, spec: Mapping[str, Any], by: str) -> None:
        job_id = spec["ID"]
        job = self.jobs.get(job_id)
        if job is None or job.stopped or job.spec != spec:
            self.index += 1
            if job is None:
                job = self.jobs[job_id] = Job(spec)
                job.create_index = self.index
            job.set_spec(spec)
            job.stopped = False
            job.modify_index = self.index
            job.submitted = self.world.now
        job.by_hand = by == HAND
        self._cancel_retry(job)
        self.world.trace.note("register", short(job_id), f"{by} index {job.modify_index}")
        self.evaluate(job_id, "job-register")

    def stop(self, job_id: str, by: str) -> None:
        job = self.jobs.get(job_id)
        self.world.trace.note("stop", short(job_id), by)
        if job is not None and not job.stopped:
            job.stopped = True
            self.index += 1
            job.modify_index = self.index
            self.evaluate(job_id, "job-deregister")

    def purge(self, job_id: str, by: str, *, drop: bool) -> None:
        """`drop`: its allocations are collected at once; else as long as one is alive they stay listed."""
        self.world.trace.note("purge", short(job_id), by)
        job = self.jobs.pop(job_id, None)
        if job is not None:
            self._cancel_retry(job)
            self._cancel_wait(job)
            self._stop_all(job_id)
            self.evaluations.pop(job_id, None)
        if drop:
            for alloc in self.allocs.pop(job_id, ()):
                self.by_id.pop(alloc.id, None)
        self.tell(job_id)

    # --- the scheduler ----------------------------------------------------------------------------------
    def stop_allocation(self, allocation_id: str, by: str) -> None:
        """Stop it and place another, whose task waits for its end."""
        alloc = self.by_id.get(allocation_id)
        if alloc is None or alloc.terminal or alloc.desired != "run":
            return
        self.world.trace.note("stop-allocation", short(alloc.job_id), by)
        self._want_stopped(alloc)
        self.evaluate(alloc.job_id, "alloc-stop")

    def restart_allocation(self, allocation_id: str, by: str) -> None:
        """Its process ends and begins again in place."""
        alloc = self.by_id.get(allocation_id)
        if alloc is None:
            raise Missing("nomad", "Unknown allocation")
        if not alloc.host.working:
            raise Unavailable("nomad", "no path to the node", code="no_path_to_node")
        if alloc.container is None or alloc.container.stopping:
            raise StaleWrite("nomad", "the task does not run at this moment")
        self.world.trace.note("restart-allocation", short(alloc.job_id), by)
        alloc.host.crash(alloc.container, for_good=False)

    def evaluate(self, job_id: str, trigger: str) -> None:
        """One evaluation. `trigger` matters for the stop-on-disconnect wait alone: whatever is not the
        node's own silence or the wait's end skips it."""
        job = self.jobs.get(job_id)
        if job is None or job.stopped:
            if job is not None:
                self._cancel_retry(job)
                self._cancel_wait(job)
                job.blocked = None
            self._stop_all(job_id)
            self.tell(job_id)
            return
        now = self.world.now
        self._collect(job_id)
        held = False
        newest: Alloc | None = None
        for alloc in self.allocs.get(job_id, ()):
            if alloc.desired == "run" and alloc.host.down and not alloc.terminal:
                # Whether it ever ran makes no difference (Nomad 1.10.5 and 2.0.5, allocSet.delayByStopAfter).
                self._lose(alloc)
                held = True
            newest = alloc
        live = [a for a in self.allocs.get(job_id, ()) if a.desired == "run" and not a.terminal]
        if live:
            current = live[-1]
            if current.host.draining or _restart_part(current.spec) != _restart_part(job.spec):
                fresh = self._place(job_id, job, current, trigger)
                if fresh is not None:
                    self._want_stopped(current)
            else:
                current.spec = job.spec
                job.blocked = None
                self._evaluated(job_id, trigger, None)
            self.tell(job_id)
            return
        if held:
            # The wait of `stop_on_client_after`: a pending follow-up evaluation, and nothing else.
            wait = STOP_AFTER_S + max(5.0, KILL_S)
            self._cancel_wait(job)
            job.wait_until = now + wait
            job.wait = self.world.loop.after(wait, self._wait_over, job_id, job)
            if newest is not None:
                newest.followup = f"w{newest.create_index}"
                self._touch(newest)
            self.tell(job_id)
            return
        if job.wait is not None and trigger == "node-update":
            return
        skipped = job.wait is not None
        self._cancel_wait(job)
        if newest is not None and newest.client is ClientStatus.FAILED and newest.desired == "run":
            due = newest.modified + min(
                _RESCHEDULE_CAP_S, _RESCHEDULE_S * 2.0 ** max(0, min(newest.failures, 6) - 1)
            )
            if due > now:
                if job.retry is None:
                    job.retry = self.world.loop.at(due, self._retry, job_id, job)
                self._evaluated(job_id, trigger, None)
                self.tell(job_id)
                return
        if skipped:
            self.world.counts["waits_skipped"] += 1
        self._place(job_id, job, newest, trigger)
        self.tell(job_id)

    def _place(self, job_id: str, job: Job, previous: Alloc | None, trigger: str) -> Alloc | None:
        world = self.world
        ready = [host for host in world.hosts if host.eligible]
        with_room = [host for host in ready if host.free_ports()]
        if not with_room:
            if ready:
                failure = PlacementFailure(
                    len(world.hosts), 0, len(ready), {"network: dynamic port selection failed": len(ready)}
                )
            else:
                failure = PlacementFailure(0, 0, 0)
            job.blocked = failure
            self._evaluated(job_id, trigger, failure)
            world.trace.note("blocked", short(job_id))
            return None
        host = world.random.choice(with_room)
        port = world.random.choice(host.free_ports())
        self.index += 1
        alloc = Alloc(job_id, host, port, self.index, world.now, job.spec, trigger)
        alloc.by_hand = job.by_hand
        if previous is not None:
            alloc.previous = previous
            if previous.client is ClientStatus.FAILED:
                alloc.failures = previous.failures
        self.allocs.setdefault(job_id, []).append(alloc)
        self.by_id[alloc.id] = alloc
        host.allocs[alloc.id] = alloc
        job.blocked = None
        self._evaluated(job_id, trigger, None)
        world.trace.note("placed", short(job_id), f"{alloc.create_index} on {host.name}:{port} ({trigger})")
        host.poke()
        return alloc

    def _evaluated(self, job_id: str, trigger: str, failure: PlacementFailure | None) -> None:
        self.index += 1
        self.evaluations[job_id] = EvaluationFact(
            f"e{self.index}", "blocked" if failure else "complete", trigger, self.index, failure
        )

    def unblock(self) -> None:
        """A port came free or a host came back: whoever waits for a place gets another try."""
        for job_id, job in list(self.jobs.items()):
            if job.blocked is not None and not job.stopped:
                self.evaluate(job_id, "queued-allocs")

    def _wait_over(self, job_id: str, job: Job) -> None:
        if self.jobs.get(job_id) is job and job.wait is not None:
            job.wait = None
            self.evaluate(job_id, "alloc-failure")

    def _retry(self, job_id: str, job: Job) -> None:
        job.retry = None
        if self.jobs.get(job_id) is job:
            self.evaluate(job_id, "alloc-failure")

    def _cancel_retry(self, job: Job) -> None:
        if job.retry is not None:
            job.retry.cancel()
            job.retry = None

    def _cancel_wait(self, job: Job) -> None:
        if job.wait is not None:
            job.wait.cancel()
            job.wait = None

    # --- allocations ------------------------------------------------------------------------------------
    def node_down(self, host: Host) -> None:
        self.world.trace.note("node-down", host.name)
        # Stopped ones of which nothing was heard are lost as well; nothing is placed for them.
        for alloc in list(host.allocs.values()):
            if alloc.desired == "stop" and not alloc.terminal:
                self._lose(alloc)
                self.tell(alloc.job_id)
        for job_id in list(dict.fromkeys(a.job_id for a in host.allocs.values() if not a.terminal)):
            self.evaluate(job_id, "node-update")

    def reported(
        self, alloc: Alloc, client: ClientStatus, events: tuple[TaskEvent, ...], restarts: int
    ) -> None:
        """The client's own word arrived."""
        alloc.events, alloc.restarts = events, restarts
        if alloc.client in _ENDED or (alloc.client is ClientStatus.LOST and client not in _ENDED):
            return
        if alloc.client is client:
            self._touch(alloc, status=False)
            self.tell(alloc.job_id)
            return
        alloc.client = client
        self._touch(alloc)
        self.world.trace.note("client-says", short(alloc.job_id), f"{alloc.create_index} {client.value}")
        if client in _ENDED:
            alloc.ended_at = self.world.now
            if client is ClientStatus.FAILED:
                alloc.failures += 1
            alloc.host.gone(alloc)
            self._terminal(alloc)
            if alloc.desired == "run":
                self.evaluate(alloc.job_id, "alloc-failure")
            self.unblock()
        elif client is ClientStatus.RUNNING:
            alloc.failures = 0 if alloc.previous is None else alloc.failures
        self.tell(alloc.job_id)

    def stop_alloc(self, alloc: Alloc) -> None:
        """`nomad alloc stop`, by hand."""
        job = self.jobs.get(alloc.job_id)
        if job is None or job.stopped or alloc.terminal or alloc.desired != "run":
            return
        if self._place(alloc.job_id, job, alloc, "alloc-stop") is not None:
            self._want_stopped(alloc)
        self.tell(alloc.job_id)

    def tell(self, job_id: str) -> None:
        self.world.network.scheduler_news(job_id[len(JOB_PREFIX) :])

    def _stop_all(self, job_id: str) -> None:
        for alloc in self.allocs.get(job_id, ()):
            if alloc.desired == "run" and not alloc.terminal:
                if alloc.host.down:
                    self._lose(alloc)
                else:
                    self._want_stopped(alloc)
            elif alloc.desired == "run":
                alloc.desired = "stop"
                self._touch(alloc, status=False)

    def _want_stopped(self, alloc: Alloc) -> None:
        alloc.desired = "stop"
        self._touch(alloc, status=False)
        alloc.host.poke()

    def _lose(self, alloc: Alloc) -> None:
        alloc.desired = "stop"
        alloc.client = ClientStatus.LOST
        alloc.lost_at = self.world.now
        self._touch(alloc)
        self.world.trace.note("lost", short(alloc.job_id), alloc.create_index)
        self._terminal(alloc)

    def _terminal(self, alloc: Alloc) -> None:
        """A successor may have waited for it on its own host."""
        for other in self.allocs.get(alloc.job_id, ()):
            if other.previous is alloc and not other.terminal:
                other.host.poke()

    def _touch(self, alloc: Alloc, *, status: bool = True) -> None:
        if status:
            alloc.modified = self.world.now
        alloc.fact = alloc.listed = None

    def _collect(self, job_id: str) -> None:
        of_job = self.allocs.get(job_id)
        if not of_job or len(of_job) < 2:
            return
        limit = self.world.now - _KEEP_S
        old = [a for a in of_job[:-1] if a.client in _ENDED and (a.ended_at or 0.0) < limit]
        for alloc in old:
            of_job.remove(alloc)
            del self.by_id[alloc.id]

    def _status(self, job_id: str, job: Job) -> str:
        for alloc in self.allocs.get(job_id, ()):
            if alloc.client not in _TERMINAL:
                return "running"
        return "dead" if job.stopped else "pending"

    def _fact(self, alloc: Alloc) -> AllocationFact:
        if alloc.fact is None:
            moment = self.world.moment
            alloc.fact = AllocationFact(
                id=alloc.id,
                node_id=alloc.host.name,
                node_name=alloc.host.name,
                desired=alloc.desired,
                client=alloc.client,
                create_index=alloc.create_index,
                created_at=moment(alloc.created),
                modified_at=moment(alloc.modified),
                address=alloc.host.address,
                port=alloc.port,
                followup_evaluation=alloc.followup,
                restarts=alloc.restarts,
                task_state="running" if alloc.client is ClientStatus.RUNNING else "dead",
                events=alloc.events,
            )
        return alloc.fact


def _restart_part(spec: Mapping[str, Any]) -> tuple[Any, ...]:
    """What of a job restarts its container when it changes; service meta is changed in place."""
    group = spec["TaskGroups"][0]
    return group.get("Tasks"), group.get("Networks")
