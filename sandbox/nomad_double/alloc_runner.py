"""The life of one allocation on its client: its predecessor's end, its services, its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from sandbox.nomad_double import task_events
from sandbox.nomad_double.clock import NS_PER_S
from sandbox.nomad_double.drivers import Usage
from sandbox.nomad_double.interpolate import task_env
from sandbox.nomad_double.jobspec import group_of
from sandbox.nomad_double.model import Allocation, Json, Node, TaskState
from sandbox.nomad_double.registrar import group_services
from sandbox.nomad_double.state import StateStore
from sandbox.nomad_double.task_runner import TaskContext, TaskRunner

log = structlog.get_logger(__name__)


class ClientReport(msgspec.Struct, frozen=True):
    """What a client says of one allocation. `healthy` None: it has not made up its mind."""

    alloc_id: str
    client_status: str
    client_description: str
    task_states: dict[str, TaskState]
    healthy: bool | None = None


class AllocRunner:
    """The life of one allocation on its client."""

    def __init__(
        self,
        state: StateStore,
        context: TaskContext,
        node: Node,
        alloc: Allocation,
        report: Callable[[str], None],
        over: Callable[[str], None],
    ) -> None:
        self._state = state
        self._context = context
        self._node = node
        self._alloc = alloc
        self._over = over
        self._report = report
        self._stopped = asyncio.Event()
        group = group_of(alloc.job, alloc.task_group)
        assert group is not None
        self._group = group
        self.tasks: dict[str, TaskRunner] = {}
        self._life: asyncio.Task[None] | None = None
        self._registered: list[str] = []
        self._begun = False
        self._healthy: bool | None = None
        self._no_wait = asyncio.Event()
        self._task_changed = asyncio.Event()
        self._abandoned = False
        for task in group["Tasks"]:
            self.tasks[task["Name"]] = TaskRunner(context, alloc, node, task, self._changed)

    @property
    def alloc(self) -> Allocation:
        """The allocation as this client knows it."""
        return self._alloc

    @property
    def alive(self) -> bool:
        """Does any of its tasks run."""
        return any(task.alive for task in self.tasks.values())

    @property
    def registered(self) -> list[str]:
        """Ids of the services it has made known."""
        return [*self._registered, *(i for task in self.tasks.values() for i in task.registered)]

    @property
    def done(self) -> bool:
        return self._life is not None and self._life.done()

    def start(self) -> None:
        self._life = asyncio.create_task(self._run())

    def stop(self) -> None:
        self._stopped.set()

    def abandon(self) -> None:
        """The host is gone: its tasks are killed, and nothing is said, waited for or deregistered."""
        self._abandoned = True
        for task in self.tasks.values():
            task.abandon()
        if self._life is not None:
            self._life.cancel()

    def taken_over(self) -> None:
        """A new agent took the tasks over. It does not remember that it was to wait for a predecessor."""
        self._no_wait.set()

    async def ended(self) -> None:
        if self._life is not None:
            await asyncio.wait([self._life])

    def update(self, alloc: Allocation) -> None:
        """An in-place update: the new spec without touching what runs."""
        if alloc.job is self._alloc.job:
            self._alloc = alloc
            return
        self._alloc = alloc
        group = group_of(alloc.job, alloc.task_group)
        if group is None or alloc.server_terminal or self.done:
            return
        self._group = group
        for task in group["Tasks"]:
            if task["Name"] in self.tasks:
                self.tasks[task["Name"]].update(alloc, task)
        if self._registered:
            self._register()

    async def restart(self, task_name: str | None) -> None:
        """Restart one task or all; returns when what ran has ended, as Nomad's call does."""
        chosen = [task for name, task in self.tasks.items() if task_name in (None, name)]
        await asyncio.gather(*(task.restart("User requested task to restart") for task in chosen))

    def usage(self) -> dict[str, Usage]:
        found = {name: task.usage() for name, task in self.tasks.items()}
        return {name: usage for name, usage in found.items() if usage is not None}

    def report(self) -> ClientReport:
        states = {name: task.state for name, task in self.tasks.items()}
        status, description = client_status(states)
        return ClientReport(self._alloc.id, status, description, states, self._healthy)

    def _changed(self) -> None:
        self._task_changed.set()
        # As in Nomad nothing is told of an allocation that still waits for its predecessor.
        if self._begun:
            self._report(self._alloc.id)

    async def _run(self) -> None:
        try:
            proceed = await self._await_previous()
            self._begun = True
            if proceed:
                self._register()
                await self._run_tasks()
            else:
                for task in self.tasks.values():
                    task.never_started()
        except Exception:
            # Reported as a failed allocation, which is how a client shows its own trouble.
            log.exception("alloc_runner_failed", alloc_id=self._alloc.id)
            for task in self.tasks.values():
                task.kill()
                task.broken()
        finally:
            if not self._abandoned:
                self._deregister()
                self._over(self._alloc.id)

    async def _await_previous(self) -> bool:
        """Wait until the predecessor is over; False when told to stop meanwhile.

        Nomad waits until it is complete, failed, lost, unknown or gone.
        """
        previous_id = self._alloc.previous_allocation
        while not self._stopped.is_set():
            await self._context.agent.until_reachable()
            if self._no_wait.is_set():
                return True
            previous = self._state.allocs.get(previous_id) if previous_id else None
            if previous is None or previous.client_terminal or previous.client_status == "unknown":
                return True
            changed = self._context.changed()
            stopped = asyncio.create_task(self._stopped.wait())
            restored = asyncio.create_task(self._no_wait.wait())
            try:
                await asyncio.wait({changed, stopped, restored}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for waiter in (changed, stopped, restored):
                    waiter.cancel()
        return False

    async def _run_tasks(self) -> None:
        running: dict[asyncio.Future[Any], TaskRunner] = {
            asyncio.ensure_future(task.run()): task for task in self.tasks.values()
        }
        stopped: asyncio.Future[Any] = asyncio.ensure_future(self._stopped.wait())
        health = asyncio.create_task(self._watch_health())
        killing = False
        try:
            while running:
                watched = [*running] if killing else [*running, stopped]
                done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
                if stopped in done and not killing:
                    killing = True
                    await self._before_kill()
                    self._kill_all()
                for ended in done - {stopped}:
                    task = running.pop(ended)
                    ended.result()
                    if task.state.failed and running and not killing:
                        killing = True
                        for sibling in running.values():
                            sibling.fail_with(task_events.sibling_failed(task.name))
                        self._kill_all()
        finally:
            stopped.cancel()
            health.cancel()
            if self._abandoned:
                for ended in running:
                    ended.cancel()

    async def _watch_health(self) -> None:
        """Healthy once all tasks have run for `migrate.min_healthy_time`: also without a deployment.

        A drain moves an allocation only then, or at its deadline (measured on Nomad 1.10.5). Checks are not
        looked at: the double knows no more of Consul than it tells it.
        """
        migrate = self._group["Migrate"]
        if self._alloc.job["Type"] != "service" or not migrate or self._known_health() is not None:
            return
        while True:
            since = self._running_since()
            if since is None:
                self._task_changed.clear()
                await self._task_changed.wait()
                continue
            await self._context.clock.sleep(migrate["MinHealthyTime"] / NS_PER_S / self._context.speed)
            await self._context.agent.until_awake()
            if self._running_since() == since:
                self._healthy = True
                self._changed()
                return

    def _running_since(self) -> list[str | None] | None:
        """When each task was started, None unless all of them run."""
        if not all(task.running for task in self.tasks.values()):
            return None
        return [task.state.started_at for task in self.tasks.values()]

    def _known_health(self) -> bool | None:
        status = self._alloc.deployment_status
        return status.healthy if status is not None else None

    async def _before_kill(self) -> None:
        """Leave Consul first, then give clients the group's shutdown delay to notice."""
        self._deregister()
        delay = (self._group["ShutdownDelay"] or 0) / NS_PER_S
        no_delay = self._alloc.desired_transition.no_shutdown_delay
        if delay and not no_delay and any(task.running for task in self.tasks.values()):
            await self._context.clock.sleep(delay / self._context.speed)

    def _kill_all(self) -> None:
        for task in self.tasks.values():
            task.kill()

    def _register(self) -> None:
        if self._context.registrar is None:
            return
        services = self._services()
        wanted = [service["ID"] for service in services]
        self._context.registrar.deregister([i for i in self._registered if i not in wanted])
        self._context.registrar.register(services, self._node.name)
        self._registered = wanted

    def _deregister(self) -> None:
        if self._context.registrar is not None and self._registered:
            self._context.registrar.deregister(self._registered)
        self._registered = []

    def _services(self) -> list[Json]:
        # Group services see the variables of the allocation, not those of a task's templates.
        base = self._context.data_dir / "alloc" / self._alloc.id
        dirs = {"alloc": str(base / "alloc"), "local": "", "secrets": ""}
        env = task_env(self._alloc, self._node, self._group["Tasks"][0], dirs, {})
        return group_services(self._alloc, self._node, env)


def client_status(states: dict[str, TaskState]) -> tuple[str, str]:
    """(client status, description) of an allocation from its tasks."""
    if any(state.state == "dead" and state.failed for state in states.values()):
        return "failed", "Failed tasks"
    kinds = {state.state for state in states.values()}
    if "running" in kinds:
        return "running", "Tasks are running"
    if "pending" in kinds:
        return "pending", "No tasks have started"
    return "complete", "All tasks have completed"
