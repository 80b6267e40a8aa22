"""A Nomad client: runs the allocations of one node and reports what became of them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import structlog

from sandbox.nomad_double import task_events
from sandbox.nomad_double.clock import NS_PER_S
from sandbox.nomad_double.commit import Commit
from sandbox.nomad_double.drivers import Usage
from sandbox.nomad_double.interpolate import task_env
from sandbox.nomad_double.jobspec import group_of
from sandbox.nomad_double.model import Allocation, Json, Node, TaskState
from sandbox.nomad_double.registrar import group_services
from sandbox.nomad_double.state import StateStore
from sandbox.nomad_double.task_runner import TaskContext, TaskRunner

log = structlog.get_logger(__name__)


class ClientReport(msgspec.Struct, frozen=True):
    """What a client says of one allocation."""

    alloc_id: str
    client_status: str
    client_description: str
    task_states: dict[str, TaskState]


class ReportSink(Protocol):
    """The server side that takes reports."""

    def client_update(self, node_id: str, reports: list[ClientReport]) -> None: ...


class Client:
    """The client of one node. It watches commits for its allocations, as a real one watches its servers."""

    def __init__(self, state: StateStore, node_id: str, context: TaskContext, sink: ReportSink) -> None:
        self._state = state
        self._node_id = node_id
        self._context = context
        self._sink = sink
        self._runners: dict[str, AllocRunner] = {}
        self._dirty: dict[str, None] = {}
        self._flusher: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def node(self) -> Node | None:
        return self._state.nodes.get(self._node_id)

    def start(self) -> None:
        """Go on with what is placed here: after a restart the tasks are gone and are started anew, on their ports."""
        for alloc in self._state.allocs_of_node(self._node_id):
            self._look_at(alloc)

    def on_commit(self, commit: Commit) -> None:
        if self._stopping:
            return
        for alloc_id in commit.touched_allocs:
            alloc = self._state.allocs.get(alloc_id)
            if alloc is not None and alloc.node_id == self._node_id:
                self._look_at(alloc)
            elif alloc is None and alloc_id in self._runners:
                self._runners[alloc_id].stop()

    def runner(self, alloc_id: str) -> AllocRunner | None:
        return self._runners.get(alloc_id)

    async def stop(self) -> None:
        """End every task of this client (its signal, its kill timeout, then SIGKILL) without reporting it.

        Nothing is reported, so that a double which goes on from the same data brings the tasks back.
        """
        self._stopping = True
        if self._flusher is not None:
            self._flusher.cancel()
        for runner in self._runners.values():
            runner.stop()
        await asyncio.gather(*(runner.ended() for runner in list(self._runners.values())))

    def _look_at(self, alloc: Allocation) -> None:
        runner = self._runners.get(alloc.id)
        if runner is None:
            if alloc.client_terminal or self.node is None:
                return
            runner = AllocRunner(self._state, self._context, self.node, alloc, self._report, self._over)
            self._runners[alloc.id] = runner
            runner.start()
        else:
            runner.update(alloc)
        if alloc.server_terminal:
            runner.stop()

    def _report(self, alloc_id: str) -> None:
        if self._stopping:
            return
        self._dirty[alloc_id] = None
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush_later())

    async def _flush_later(self) -> None:
        await self._context.clock.sleep(self._context.delays.client_update_s)
        while self._dirty:
            reports = [self._runners[i].report() for i in self._dirty if i in self._runners]
            self._dirty.clear()
            news = [report for report in reports if self._is_news(report)]
            if news:
                self._sink.client_update(self._node_id, news)

    def _is_news(self, report: ClientReport) -> bool:
        alloc = self._state.allocs.get(report.alloc_id)
        if alloc is None:
            return False
        same_status = alloc.client_status == report.client_status
        return not (same_status and alloc.task_states == report.task_states)

    def _over(self, alloc_id: str) -> None:
        """The runner has ended; keep it only while its last report is on the way."""
        if alloc_id not in self._state.allocs:
            self._runners.pop(alloc_id, None)
            shutil.rmtree(self._context.data_dir / "alloc" / alloc_id, ignore_errors=True)

    def forget(self, alloc_id: str) -> None:
        """Garbage collection of one terminal allocation and its files."""
        runner = self._runners.get(alloc_id)
        if runner is not None and not runner.done:
            return
        self._runners.pop(alloc_id, None)
        shutil.rmtree(self._context.data_dir / "alloc" / alloc_id, ignore_errors=True)


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
        for task in group["Tasks"]:
            self.tasks[task["Name"]] = TaskRunner(context, alloc, node, task, self._changed)

    @property
    def done(self) -> bool:
        return self._life is not None and self._life.done()

    def start(self) -> None:
        self._life = asyncio.create_task(self._run())

    def stop(self) -> None:
        self._stopped.set()

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
        return ClientReport(self._alloc.id, status, description, states)

    def _changed(self) -> None:
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
            self._deregister()
            self._over(self._alloc.id)

    async def _await_previous(self) -> bool:
        """Wait until the predecessor is over; False when told to stop meanwhile.

        Nomad waits until it is complete, failed, lost, unknown or gone.
        """
        previous_id = self._alloc.previous_allocation
        while not self._stopped.is_set():
            previous = self._state.allocs.get(previous_id) if previous_id else None
            if previous is None or previous.client_terminal or previous.client_status == "unknown":
                return True
            changed = self._context.changed()
            stopped = asyncio.create_task(self._stopped.wait())
            await asyncio.wait({changed, stopped}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            stopped.cancel()
        return False

    async def _run_tasks(self) -> None:
        running: dict[asyncio.Future[Any], TaskRunner] = {
            asyncio.ensure_future(task.run()): task for task in self.tasks.values()
        }
        stopped: asyncio.Future[Any] = asyncio.ensure_future(self._stopped.wait())
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

    async def _before_kill(self) -> None:
        """Leave Consul first, then give clients the group's shutdown delay to notice."""
        self._deregister()
        delay = (self._group["ShutdownDelay"] or 0) / NS_PER_S
        no_delay = self._alloc.desired_transition.no_shutdown_delay
        if delay and not no_delay and any(task.running for task in self.tasks.values()):
            await self._context.clock.sleep(delay)

    def _kill_all(self) -> None:
        for task in self.tasks.values():
            task.kill()

    def _register(self) -> None:
        if self._context.registrar is None:
            return
        services = self._services()
        wanted = [service["ID"] for service in services]
        self._context.registrar.deregister([i for i in self._registered if i not in wanted])
        self._context.registrar.register(services)
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
