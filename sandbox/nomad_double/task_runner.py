"""The life of one task on a client: templates, start, restarts, end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from sandbox.nomad_double import task_events
from sandbox.nomad_double.clock import NS_PER_S, Clock
from sandbox.nomad_double.drivers import DriverError, ExitResult, TaskDriver, TaskHandle, TaskSpec, Usage
from sandbox.nomad_double.durations import iso_time
from sandbox.nomad_double.host_agent import HostAgent
from sandbox.nomad_double.interpolate import interpolate, task_env
from sandbox.nomad_double.model import Allocation, Json, Node, TaskState
from sandbox.nomad_double.registrar import ServiceRegistrar, task_services
from sandbox.nomad_double.restart import Decision, RestartTracker
from sandbox.nomad_double.settings import Delays
from sandbox.nomad_double.templates import Lookup, Template, TemplateError, parse_env, parse_template

_MISSING_NOTICE_S = 3.0
"""A template that waits this long for its variable says so in a task event."""


class ProcessNote(msgspec.Struct, frozen=True):
    """A task's process began (`runs`) or ended."""

    alloc_id: str
    job_id: str
    task: str
    runs: bool


class TaskContext(msgspec.Struct, frozen=True):
    """What every task of a client shares."""

    clock: Clock
    delays: Delays
    rng: Random
    drivers: dict[str, TaskDriver]
    registrar: ServiceRegistrar | None
    variables: Callable[[str], Lookup]
    """Look-up of variables in a namespace."""
    changed: Callable[..., asyncio.Future[Any]]
    """A future for the next change of these variables (namespace, path); of anything without any."""
    data_dir: Path
    agent: HostAgent = HostAgent()
    """Whether the host's agent can act."""
    speed: float = 1.0
    """Durations of a job take this many times less than they say."""
    journal: Callable[[ProcessNote], None] = lambda _note: None
    """Told of every start and end of a task's process."""


class TaskRunner:
    """Runs one task until it is over; `report` is called after every change of `state`."""

    def __init__(
        self, context: TaskContext, alloc: Allocation, node: Node, task: Json, report: Callable[[], None]
    ) -> None:
        self._context = context
        self._alloc = alloc
        self._node = node
        self._task = task
        self._report = report
        self._kill = asyncio.Event()
        self._restart: str | None = None
        self._woken = asyncio.Event()
        self._handle: TaskHandle | None = None
        self._rendered: dict[int, str] = {}
        self._abandoned = False
        self._process_runs = False
        self.env: dict[str, str] = {}
        previous = (alloc.task_states or {}).get(task["Name"])
        self.state = previous or TaskState()
        self._tracker = RestartTracker(
            task["RestartPolicy"],
            on_success=alloc.job["Type"] != "batch",
            now_ns=context.clock.time_ns(),
            rng=context.rng,
        )
        if previous is None:
            self._note(task_events.received())

    @property
    def name(self) -> str:
        return str(self._task["Name"])

    @property
    def running(self) -> bool:
        """The client believes that it runs."""
        return self.state.state == "running"

    @property
    def alive(self) -> bool:
        """There is a process that has not ended."""
        return self._process_runs

    def update(self, alloc: Allocation, task: Json) -> None:
        """Take over what an in-place update may change: restart policy, kill timeout, services."""
        self._alloc = alloc
        self._task = task
        self._tracker.policy = task["RestartPolicy"]
        if self._handle is not None:
            self._register_services()

    def abandon(self) -> None:
        """The host is gone: the process dies at once and nothing more is done or said about it."""
        self._abandoned = True
        if self._handle is not None:
            self._handle.kill()

    def kill(self) -> None:
        """Stop the task for good."""
        self._kill.set()
        self._woken.set()

    async def restart(self, reason: str) -> None:
        """Stop the running task and start it again, outside the restart policy. Returns when it has ended."""
        handle = self._handle
        if handle is not None:
            self._restart = reason
            self._woken.set()
            await handle.wait()

    def usage(self) -> Usage | None:
        return self._handle.usage() if self._handle is not None else None

    async def run(self) -> None:
        """Run until the task is dead. Its outcome is in `state`."""
        if self.state.started_at is None:
            self._note(task_events.task_setup())
        else:
            # This double goes on from the data of an earlier one whose tasks died with it.
            self._note(task_events.failed_restoring())
        templates = [parse_template(t["EmbeddedTmpl"]) for t in self._task["Templates"] or ()]
        while not self._kill.is_set():
            extra = await self._render(templates)
            if extra is None:
                break
            await self._sleep(self._context.delays.task_start_s)
            await self._context.agent.until_awake()
            if self._kill.is_set():
                break
            decision = await self._run_once(templates, extra)
            if decision is None or not await self._follow(decision):
                break
        self._finish(failed=self.state.failed)

    async def _run_once(self, templates: list[Template], extra: dict[str, str]) -> Decision | None:
        """Start the task and see it end; what follows, or None when it was told to stop."""
        try:
            self._handle = await self._context.drivers[self._task["Driver"]].start(self._spec(extra))
        except DriverError as error:
            self._note(task_events.driver_failure(str(error)))
            if not error.recoverable:
                return Decision("failed", reason="Error was unrecoverable")
            return self._tracker.after_exit(self._context.clock.time_ns(), success=False)
        self._note_process(True)
        now = self._context.clock.time_ns()
        self.state = msgspec.structs.replace(
            self.state, state="running", started_at=iso_time(now), finished_at=None
        )
        self._note(task_events.started())
        self._register_services()
        handle = self._handle
        ended = asyncio.create_task(self._ended(handle))
        watcher = asyncio.create_task(self._watch_templates(templates))
        try:
            while not (ended.done() or self._kill.is_set() or self._restart is not None):
                self._woken.clear()
                woken = asyncio.create_task(self._woken.wait())
                await asyncio.wait({ended, woken}, return_when=asyncio.FIRST_COMPLETED)
                woken.cancel()
            await self._context.agent.until_awake()
            killed, restarted, self._restart = self._kill.is_set(), self._restart, None
            if not ended.done():
                await self._end(handle, restarted if not killed else None)
            result = await ended
        finally:
            watcher.cancel()
            self._handle = None
            if self._context.registrar is not None and not self._abandoned:
                self._context.registrar.deregister([s["ID"] for s in self._services()])
        self._note(task_events.terminated(result))
        if killed:
            self._note(task_events.killed())
            return None
        if restarted is not None:
            return Decision("restart")
        return self._tracker.after_exit(self._context.clock.time_ns(), success=result.success)

    async def _end(self, handle: TaskHandle, restart_reason: str | None) -> None:
        """Signal, wait for the kill timeout, then kill."""
        timeout_ns = min(self._task["KillTimeout"], self._node.max_kill_timeout_ns)
        if restart_reason is not None:
            self._note(task_events.restart_signaled(restart_reason))
        else:
            delay = self._task["ShutdownDelay"] / NS_PER_S / self._context.speed
            if delay:
                await self._context.clock.sleep(delay)
            self._note(task_events.killing(timeout_ns))
        handle.signal(_signal_number(self._task["KillSignal"]))
        waiting = asyncio.create_task(handle.wait())
        timer = asyncio.create_task(self._context.clock.sleep(timeout_ns / NS_PER_S / self._context.speed))
        await asyncio.wait({waiting, timer}, return_when=asyncio.FIRST_COMPLETED)
        timer.cancel()
        await self._context.agent.until_awake()
        if not waiting.done():
            handle.kill()
        await waiting

    async def _follow(self, decision: Decision) -> bool:
        """Wait out a restart's delay; False when the task is over."""
        if decision.action == "failed":
            self._note(task_events.not_restarting(decision.reason))
            self.state = msgspec.structs.replace(self.state, failed=True)
            return False
        if decision.action == "complete":
            return False
        now = self._context.clock.time_ns()
        self.state = msgspec.structs.replace(
            self.state, state="pending", restarts=self.state.restarts + 1, last_restart=iso_time(now)
        )
        self._note(task_events.restarting(decision.delay_ns, decision.reason))
        await self._sleep(decision.delay_ns / NS_PER_S / self._context.speed)
        await self._context.agent.until_awake()
        return not self._kill.is_set()

    async def _render(self, templates: list[Template]) -> dict[str, str] | None:
        """The templates' env; waits while a variable is missing. None when killed meanwhile."""
        lookup = self._context.variables(self._alloc.namespace)
        started_ns, told = self._context.clock.time_ns(), False
        while True:
            if not self._rendered:
                await self._context.agent.until_reachable()
            news = self._news_of(templates)
            missing = sorted({path for t in templates for path in t.paths if lookup(path) is None})
            if not missing:
                news.cancel()
                return self._write_templates(templates, lookup)
            waited_s = (self._context.clock.time_ns() - started_ns) / NS_PER_S
            if not told and waited_s >= _MISSING_NOTICE_S:
                told = True
                self._note(task_events.template_missing(missing, self._alloc.namespace))
            timer = asyncio.create_task(self._context.clock.sleep(max(0.05, _MISSING_NOTICE_S - waited_s)))
            kill = asyncio.create_task(self._kill.wait())
            waiters: set[asyncio.Future[Any]] = {news, kill} if told else {news, kill, timer}
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
            for waiter in (timer, kill, news):
                waiter.cancel()
            if self._kill.is_set():
                return None

    def _write_templates(self, templates: list[Template], lookup: Lookup) -> dict[str, str]:
        env: dict[str, str] = {}
        for number, (template, raw) in enumerate(zip(templates, self._task["Templates"] or (), strict=True)):
            text = template.render(lookup) or ""
            self._rendered[number] = text
            target = self._dir() / interpolate(raw["DestPath"], self._node, {})
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch(mode=int(raw["Perms"] or "0644", 8))
            target.write_text(text)
            if raw["Envvars"]:
                try:
                    env |= parse_env(text)
                except TemplateError as error:
                    self._note(task_events.driver_failure(str(error)))
        return env

    async def _watch_templates(self, templates: list[Template]) -> None:
        """A changed variable restarts the task when its template says so (`change_mode = "restart"`)."""
        raw = self._task["Templates"] or []
        if not any(t["ChangeMode"] == "restart" for t in raw):
            return
        lookup = self._context.variables(self._alloc.namespace)
        while True:
            news = self._news_of(templates)
            stale = [
                number
                for number, template in enumerate(templates)
                if raw[number]["ChangeMode"] == "restart"
                and template.render(lookup) not in (None, self._rendered[number])
            ]
            if stale:
                news.cancel()
                wait_s = self._context.delays.template_wait_s
                if wait_s:
                    splay_s = max(raw[number]["Splay"] for number in stale) / NS_PER_S
                    await self._context.clock.sleep(wait_s + self._context.rng.uniform(0, splay_s))
                await self._context.agent.until_awake()
                await self.restart("Template with change_mode restart re-rendered")
                return
            await news
            await self._context.agent.until_reachable()

    def _news_of(self, templates: list[Template]) -> asyncio.Future[Any]:
        paths = sorted({path for template in templates for path in template.paths})
        return self._context.changed(*((self._alloc.namespace, path) for path in paths))

    def _spec(self, extra: dict[str, str]) -> TaskSpec:
        base = self._dir()
        logs = base.parent / "alloc" / "logs"
        for folder in (base / "local", base / "secrets", base / "tmp", base.parent / "alloc" / "data", logs):
            folder.mkdir(parents=True, exist_ok=True)
        dirs = {
            "alloc": str(base.parent / "alloc"),
            "local": str(base / "local"),
            "secrets": str(base / "secrets"),
        }
        self.env = task_env(self._alloc, self._node, self._task, dirs, extra)
        ports = self._alloc.ports
        return TaskSpec(
            alloc_id=self._alloc.id,
            job_id=self._alloc.job_id,
            task_name=self.name,
            user=self._task["User"],
            config=interpolate(self._task["Config"] or {}, self._node, self.env),
            env=self.env,
            host_ip=ports[0]["HostIP"] if ports else self._node.address,
            ports={port["Label"]: port["Value"] for port in ports},
            task_dir=base,
            stdout=logs / f"{self.name}.stdout.0",
            stderr=logs / f"{self.name}.stderr.0",
        )

    def _dir(self) -> Path:
        return self._context.data_dir / "alloc" / self._alloc.id / self.name

    @property
    def registered(self) -> list[str]:
        """Ids of the services of its own that are known while it runs."""
        return [service["ID"] for service in self._services()] if self._process_runs else []

    def _services(self) -> list[Json]:
        return task_services(self._alloc, self._node, self._task, self.env)

    def _register_services(self) -> None:
        services = self._services()
        if services and self._context.registrar is not None:
            self._context.registrar.register(services, self._node.name)

    async def _ended(self, handle: TaskHandle) -> ExitResult:
        result = await handle.wait()
        self._note_process(False)
        return result

    def _note_process(self, runs: bool) -> None:
        if runs != self._process_runs:
            self._process_runs = runs
            self._context.journal(ProcessNote(self._alloc.id, self._alloc.job_id, self.name, runs))

    def _finish(self, *, failed: bool) -> None:
        now = iso_time(self._context.clock.time_ns())
        self.state = msgspec.structs.replace(self.state, state="dead", failed=failed, finished_at=now)
        self._report()

    def never_started(self) -> None:
        """The allocation was stopped before this task could start."""
        self._finish(failed=False)

    def broken(self) -> None:
        """The client itself failed."""
        self._finish(failed=True)

    def fail_with(self, event: Json) -> None:
        """Record why this task is being ended by something else."""
        self._note(event)

    def _note(self, event: Json) -> None:
        event = {**event, "Time": self._context.clock.time_ns()}
        events = [*self.state.events, event][-task_events.MAX_EVENTS :]
        self.state = msgspec.structs.replace(self.state, events=events)
        self._report()

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not past a kill."""
        if seconds <= 0:
            return
        timer = asyncio.create_task(self._context.clock.sleep(seconds))
        kill = asyncio.create_task(self._kill.wait())
        await asyncio.wait({timer, kill}, return_when=asyncio.FIRST_COMPLETED)
        for waiter in (timer, kill):
            waiter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiter


def _signal_number(name: str) -> int:
    """raw_exec interrupts by default (measured on Nomad 1.10.5: "Sent interrupt. Waiting 5s ...")."""
    return signal.Signals[name].value if name else signal.SIGINT.value


__all__ = ["ExitResult", "TaskContext", "TaskRunner"]
