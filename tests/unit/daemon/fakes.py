"""Nomad, Consul and WAHA in memory, in virtual time, each of which can be made to fail.

They keep the rules that the daemon's decisions rest on: EnforceIndex, ports of an allocation, a container
that takes time to boot and to stop, one API key a container.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from core.clients.scheduler import RELIST, Relist
from core.clients.scheduler_facts import Job, job_fact
from core.clients.waha_models import AlreadyExists, WahaProbe, WahaProxy, WahaSession, WahaSessionConfig
from core.clock import Clock
from core.domain.facts import (
    AllocationFact,
    ClientStatus,
    EvaluationFact,
    JobFact,
    ListedAllocation,
    ListedJob,
    PlacementFailure,
    ServiceInstance,
    WahaStatus,
)
from core.domain.names import user_of_job
from core.errors import DependencyError, Missing, Rejected, StaleWrite, Unavailable
from tests.memory_store import api_key_of


@dataclass
class Faults:
    """What goes wrong. Keys are `system.method`, such as `nomad.register`, or a whole `system`.

    before: raised instead of the effect. after: raised once the effect took place. slow_s: time it takes.
    """

    clock: Clock
    before: dict[str, DependencyError] = field(default_factory=dict)
    after: dict[str, DependencyError] = field(default_factory=dict)
    slow_s: dict[str, float] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    args: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    async def enter(self, call: str, *args: Any) -> None:
        self.calls.append(call)
        self.args[call].append(args)
        system = call.split(".", 1)[0]
        await self.clock.sleep(self.slow_s.get(call, 0.001))
        for name in (call, system):
            if name in self.before:
                raise self.before[name]

    def leave(self, call: str) -> None:
        if call in self.after:
            raise self.after[call]

    def down(self, system: str) -> None:
        self.before[system] = Unavailable(system, "down")

    def up(self, system: str) -> None:
        for faults in (self.before, self.after, self.slow_s):
            for name in [name for name in faults if name.split(".", 1)[0] == system]:
                del faults[name]

    def count(self, call: str) -> int:
        return self.calls.count(call)


class FakeNomad:
    """`Scheduler`. Placement and boot take virtual time; `capacity` limits live allocations."""

    def __init__(self, clock: Clock, faults: Faults) -> None:
        self.timeout_s = 10.0
        self.clock = clock
        self.faults = faults
        self.index = 10
        self.held: dict[str, JobFact] = {}
        self.specs: dict[str, Mapping[str, Any]] = {}
        self.allocs: dict[str, list[AllocationFact]] = defaultdict(list)
        self.evaluations: dict[str, EvaluationFact] = {}
        self.variables: dict[str, dict[str, str]] = {}
        self.capacity = 100
        self.boot_s = 0.5
        self.stop_s = 0.5
        self.ports = iter(range(3100, 100_000))
        self.restarted: Callable[[str], None] = lambda _user: None  # told whose process began again
        self.streams: list[asyncio.Queue[frozenset[str] | Relist | DependencyError]] = []
        self.tasks: set[asyncio.Task[None]] = set()

    # --- Scheduler -----------------------------------------------------------------------------------
    async def job(self, job_id: str) -> JobFact:
        await self.faults.enter("nomad.job", job_id)
        if job_id not in self.held:
            raise Missing("nomad", "job not found")
        return self.held[job_id]

    async def allocations(self, job_id: str) -> tuple[AllocationFact, ...]:
        await self.faults.enter("nomad.allocations", job_id)
        return tuple(self.allocs[job_id])

    async def newest_placement(self, job_id: str) -> EvaluationFact:
        await self.faults.enter("nomad.newest_placement", job_id)
        if job_id not in self.evaluations:
            raise Missing("nomad", "no evaluation yet")
        return self.evaluations[job_id]

    async def allocation(self, allocation_id: str) -> AllocationFact:
        await self.faults.enter("nomad.allocation", allocation_id)
        for allocation in self._all():
            if allocation.id == allocation_id:
                return allocation
        raise Missing("nomad", "alloc not found")

    async def jobs(self) -> tuple[ListedJob, ...]:
        await self.faults.enter("nomad.jobs")
        return tuple(
            ListedJob(job_id, job.modify_index, job.stopped, job.status, self.clock.now())
            for job_id, job in sorted(self.held.items())
        )

    async def all_allocations(self) -> tuple[ListedAllocation, ...]:
        await self.faults.enter("nomad.all_allocations")
        return tuple(ListedAllocation(job_id, one) for job_id, of in self.allocs.items() for one in of)

    async def variable_paths(self) -> tuple[str, ...]:
        await self.faults.enter("nomad.variable_paths")
        return tuple(sorted(self.variables))

    async def register(
        self, job: Mapping[str, Any], expected_index: int, submission: Mapping[str, Any] | None = None
    ) -> JobFact:
        await self.faults.enter("nomad.register", expected_index)
        job_id = job["ID"]
        held = self.held.get(job_id)
        if (held.modify_index if held else 0) != expected_index:
            raise StaleWrite("nomad", "Enforcing job modify index")
        if job_id not in self.variables and f"nomad/jobs/{job_id}" not in self.variables:
            raise AssertionError("registered before its secrets were written")
        self.index += 1
        indexes = {"JobModifyIndex": self.index, "CreateIndex": self.index if held is None else 0}
        self.held[job_id] = job_fact(msgspec.convert({**job, **indexes, "Status": "pending"}, Job))
        before, self.specs[job_id] = self.specs.get(job_id), job
        running = next((a for a in self.allocs[job_id] if a.client is ClientStatus.RUNNING), None)
        if before is not None and running is not None and _tasks(before) != _tasks(job):
            self.edit(running.id, desired="stop")  # another task, another allocation
            self.background(self.move(job_id, running.id))
        else:
            self.background(self.place(job_id))
        self.faults.leave("nomad.register")
        return self.held[job_id]

    async def stop(self, job_id: str) -> None:
        await self.faults.enter("nomad.stop", job_id)
        if job_id in self.held:
            self.index += 1
            self.held[job_id] = JobFact(self.index, stopped=True, status="dead")
            for allocation in self.allocs[job_id]:
                if allocation.client in (ClientStatus.RUNNING, ClientStatus.PENDING):
                    self.edit(allocation.id, desired="stop")
                    self.background(self.end(allocation.id))
        self.faults.leave("nomad.stop")

    async def purge(self, job_id: str) -> None:
        await self.faults.enter("nomad.purge", job_id)
        self.held.pop(job_id, None)
        # Nomad lists none of them any more; what still runs stays, for tests must be able to see it.
        alive = (ClientStatus.RUNNING, ClientStatus.PENDING)
        self.allocs[job_id] = [a for a in self.allocs[job_id] if a.client in alive]
        self.faults.leave("nomad.purge")

    async def stop_allocation(self, allocation_id: str) -> None:
        await self.faults.enter("nomad.stop_allocation", allocation_id)
        for job_id, of_job in self.allocs.items():
            for allocation in of_job:
                if allocation.id == allocation_id and allocation.client is ClientStatus.RUNNING:
                    self.edit(allocation.id, desired="stop")
                    self.background(self.move(job_id, allocation.id))
        self.faults.leave("nomad.stop_allocation")

    async def restart_allocation(self, allocation_id: str) -> None:
        await self.faults.enter("nomad.restart_allocation", allocation_id)
        found = [(job, a) for job, of in self.allocs.items() for a in of if a.id == allocation_id]
        if not found:
            raise Missing("nomad", "Unknown allocation")
        ((job_id, allocation),) = found
        if allocation.client is not ClientStatus.RUNNING:
            raise StaleWrite("nomad", "the task does not run at this moment")
        self.edit(allocation_id, client=ClientStatus.PENDING, restarts=allocation.restarts + 1)
        self.restarted(user_of_job(job_id) or "")
        self.background(self.boot(allocation_id))
        self.faults.leave("nomad.restart_allocation")

    async def boot(self, allocation_id: str) -> None:
        await self.clock.sleep(self.boot_s)
        self.edit(allocation_id, client=ClientStatus.RUNNING, only_from=ClientStatus.PENDING)

    async def move(self, job_id: str, allocation_id: str) -> None:
        await self.end(allocation_id)
        await self.place(job_id)

    async def evaluate(self, job_id: str) -> None:
        await self.faults.enter("nomad.evaluate", job_id)
        if job_id in self.held and not any(a.client is ClientStatus.RUNNING for a in self.allocs[job_id]):
            self.background(self.place(job_id))
        self.faults.leave("nomad.evaluate")

    async def write_variables(self, path: str, items: Mapping[str, str]) -> None:
        await self.faults.enter("nomad.write_variables", path)
        self.variables[path] = dict(items)
        self.faults.leave("nomad.write_variables")

    async def delete_variables(self, path: str) -> None:
        await self.faults.enter("nomad.delete_variables", path)
        self.variables.pop(path, None)
        self.faults.leave("nomad.delete_variables")

    async def leader(self) -> str:
        return "127.0.0.1:4647"

    async def watch(self) -> AsyncIterator[frozenset[str] | Relist]:
        await self.faults.enter("nomad.watch")
        stream: asyncio.Queue[frozenset[str] | Relist | DependencyError] = asyncio.Queue()
        stream.put_nowait(RELIST)
        self.streams.append(stream)
        while True:
            item = await stream.get()
            if isinstance(item, DependencyError):
                raise item
            yield item

    # --- the cluster ---------------------------------------------------------------------------------
    def background(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def place(self, job_id: str) -> None:
        await self.clock.sleep(0.01)
        if any(a.desired == "run" and a.client is not ClientStatus.COMPLETE for a in self.allocs[job_id]):
            return
        self.index += 1
        alive = [a for a in self._all() if a.client in (ClientStatus.RUNNING, ClientStatus.PENDING)]
        failure = None
        if len(alive) >= self.capacity:
            failure = PlacementFailure(1, 0, 1, {"network: dynamic port selection failed": 1})
        self.evaluations[job_id] = EvaluationFact("e", "complete", "job-register", self.index, failure)
        self.tell(job_id)
        if failure is not None:
            return
        now = self.clock.now()
        self.index += 1
        allocation = AllocationFact(
            id=str(uuid.UUID(int=self.index)),
            node_id="n1",
            node_name="host-1",
            desired="run",
            client=ClientStatus.PENDING,
            create_index=self.index,
            created_at=now,
            modified_at=now,
            address="10.0.0.1",
            port=next(self.ports),
        )
        self.allocs[job_id].append(allocation)
        self.tell(job_id)
        await self.boot(allocation.id)

    async def end(self, allocation_id: str) -> None:
        await self.clock.sleep(self.stop_s)
        self.edit(allocation_id, client=ClientStatus.COMPLETE)

    def edit(self, allocation_id: str, *, only_from: ClientStatus | None = None, **changes: Any) -> None:
        for job_id, of_job in self.allocs.items():
            for place, allocation in enumerate(of_job):
                if allocation.id == allocation_id and only_from in (None, allocation.client):
                    changed = {"modified_at": self.clock.now(), **changes}
                    of_job[place] = msgspec.structs.replace(allocation, **changed)
                    self.tell(job_id)

    def tell(self, job_id: str) -> None:
        user = user_of_job(job_id)
        assert user is not None
        for stream in self.streams:
            stream.put_nowait(frozenset({user}))

    def cut_streams(self) -> None:
        for stream in self.streams:
            stream.put_nowait(Unavailable("nomad", "event stream ended"))
        self.streams.clear()

    def _all(self) -> list[AllocationFact]:
        return [allocation for of_job in self.allocs.values() for allocation in of_job]


class FakeConsul:
    """`Discovery`: what runs in Nomad is passing, unless `hidden`."""

    def __init__(self, clock: Clock, faults: Faults, nomad: FakeNomad) -> None:
        self.clock = clock
        self.faults = faults
        self.nomad = nomad
        self.hidden: set[str] = set()

    async def instances(self, user_id: str | None = None) -> tuple[ServiceInstance, ...]:
        await self.faults.enter("consul.instances", user_id)
        return tuple(one for one in self._now() if user_id in (None, one.user_id))

    async def watch(self) -> AsyncIterator[tuple[ServiceInstance, ...]]:
        last: tuple[ServiceInstance, ...] | None = None
        while True:
            seen = self._now()
            if seen != last:
                yield seen
            last = seen
            await self.clock.sleep(0.1)

    def _now(self) -> tuple[ServiceInstance, ...]:
        found = []
        for job_id, of_job in self.nomad.allocs.items():
            user = user_of_job(job_id)
            assert user is not None
            for a in of_job:
                if a.client is ClientStatus.RUNNING and a.id not in self.hidden:
                    assert a.address is not None
                    assert a.port is not None
                    found.append(ServiceInstance(f"_nomad-task-{a.id}", user, a.id, a.address, a.port, True))
        return tuple(found)


@dataclass
class FakeSession:
    status: WahaStatus = WahaStatus.STOPPED
    me: str | None = None
    starts: int = 0
    activity_ms: int | None = None
    deaf: bool = False
    dead: bool = False  # its credentials are kept and worth nothing: it fails again and again (NOWEB)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> WahaSessionConfig:
        proxy = self.config.get("proxy")
        return WahaSessionConfig(proxy=WahaProxy(**proxy) if proxy else None)


class FakeWaha:
    """`WahaContainers`: one container a port, whose sessions outlive it (its storage does)."""

    def __init__(self, clock: Clock, faults: Faults, nomad: FakeNomad) -> None:
        self.clock = clock
        self.faults = faults
        self.nomad = nomad
        self.sessions: dict[str, dict[str, FakeSession]] = defaultdict(dict)
        self.start_s = 0.3
        self.tell: Any = None
        # What a guard says to a session's config at an endpoint; without one everybody comes out.
        self.takes: Callable[[Mapping[str, Any], tuple[str, int]], bool] | None = None
        self.refused: list[Mapping[str, Any]] = []
        nomad.restarted = self.ended

    def ended(self, user: str) -> None:
        """The process is gone; its storage keeps what the sessions are."""
        for session in self.sessions[user].values():
            session.status = WahaStatus.STOPPED

    def at(self, address: str, port: int, api_key: str) -> _FakeContainer:
        return _FakeContainer(self, address, port, api_key)


class _FakeContainer:
    def __init__(self, waha: FakeWaha, address: str, port: int, api_key: str) -> None:
        self.waha = waha
        self.place = (address, port)
        self.api_key = api_key

    async def sessions(self) -> tuple[WahaSession, ...]:
        held = await self._enter("sessions")
        return tuple(
            WahaSession(name, s.status, me_id=s.me, activity_ms=s.activity_ms, config=s.kept)
            for name, s in held.items()
        )

    async def probe(self, name: str) -> WahaProbe:
        session = self._known(await self._enter("probe", name), name)
        live = WahaSession(name, session.status, me_id=session.me, activity_ms=session.activity_ms)
        return WahaProbe(live, session.status is WahaStatus.WORKING and not session.deaf)

    async def update_session(self, name: str, config: Mapping[str, Any]) -> WahaSession:
        session = self._known(await self._enter("update_session", name), name)
        session.config = config
        if session.status is not WahaStatus.STOPPED:
            self._start(session)
        return self._left("update_session", name, session)

    async def logout(self, name: str) -> WahaSession:
        session = self._known(await self._enter("logout", name), name)
        session.me, session.dead = None, False
        if session.status is not WahaStatus.STOPPED:
            self._start(session)
        return self._left("logout", name, session)

    async def create_session(
        self, name: str, config: Mapping[str, Any], *, start: bool = False
    ) -> WahaSession | AlreadyExists:
        held = await self._enter("create_session", name)
        if name in held:
            return AlreadyExists(name)
        held[name] = FakeSession(config=config)
        if start:
            self._start(held[name])
        return self._left("create_session", name, held[name])

    async def start(self, name: str) -> WahaSession:
        session = self._known(await self._enter("start", name), name)
        if session.status is WahaStatus.STOPPED:
            self._start(session)
        return self._left("start", name, session)

    async def restart(self, name: str) -> WahaSession:
        session = self._known(await self._enter("restart", name), name)
        self._start(session)
        return self._left("restart", name, session)

    async def stop(self, name: str) -> WahaSession | None:
        session = (await self._enter("stop", name)).get(name)
        if session is None:
            return None
        session.status = WahaStatus.STOPPED
        return self._left("stop", name, session)

    async def delete(self, name: str) -> None:
        (await self._enter("delete", name)).pop(name, None)
        self.waha.faults.leave("waha.delete")

    async def _enter(self, call: str, *args: Any) -> dict[str, FakeSession]:
        await self.waha.faults.enter(f"waha.{call}", *args)
        user = self._user()
        if self.api_key != api_key_of(user):
            raise Rejected("waha", "401", code="waha_key_rejected")
        return self.waha.sessions[user]

    def _user(self) -> str:
        for job_id, of_job in self.waha.nomad.allocs.items():
            if any(a.client is ClientStatus.RUNNING and (a.address, a.port) == self.place for a in of_job):
                user = user_of_job(job_id)
                assert user is not None
                return user
        raise Unavailable("waha", "nobody listens there", code="unreachable")

    def _known(self, held: dict[str, FakeSession], name: str) -> FakeSession:
        if name not in held:
            raise Missing("waha", "no such session")
        return held[name]

    def _left(self, call: str, name: str, session: FakeSession) -> WahaSession:
        self.waha.faults.leave(f"waha.{call}")
        return WahaSession(name, session.status, me_id=session.me)

    def _start(self, session: FakeSession) -> None:
        session.starts += 1
        session.status = WahaStatus.STARTING
        user = self._user()
        taken = self.waha.takes is None or self.waha.takes(session.config, self.place)
        if not taken:
            self.waha.refused.append(session.config)

        async def come_up() -> None:
            await self.waha.clock.sleep(self.waha.start_s)
            if session.status is WahaStatus.STARTING:
                session.status = WahaStatus.WORKING if session.me else WahaStatus.SCAN_QR_CODE
                if session.dead or not taken:
                    session.status = WahaStatus.FAILED
                session.deaf = False
                if self.waha.tell is not None:
                    self.waha.tell(user)

        self.waha.nomad.background(come_up())


def _tasks(job: Mapping[str, Any]) -> Any:
    return job["TaskGroups"][0]["Tasks"]
