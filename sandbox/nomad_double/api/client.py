"""What a client agent answers about an allocation: stats, restart, logs."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from sandbox.nomad_double.alloc_runner import AllocRunner
from sandbox.nomad_double.api.web import Reply, Request, check_uuid
from sandbox.nomad_double.double import NomadDouble
from sandbox.nomad_double.drivers import Usage
from sandbox.nomad_double.errors import ApiError
from sandbox.nomad_double.jobspec import group_of
from sandbox.nomad_double.model import Allocation, Json, Node

FRAME_BYTES = 64 * 1024
FOLLOW_INTERVAL_S = 0.25
HEARTBEAT_S = 10.0


class ClientRoutes:
    """Handlers of /v1/client/..."""

    def __init__(self, double: NomadDouble) -> None:
        self._double = double

    async def allocation(self, request: Request) -> Reply:
        path = request.path.removeprefix("/v1/client/allocation/")
        alloc_id, _, action = path.partition("/")
        if action == "stats":
            request.allow("GET")
            return self._stats(self._alloc(alloc_id))
        if action == "restart":
            request.allow("PUT", "POST")
            return await self._restart(self._alloc(alloc_id), request.json() if request.body else {})
        if action == "gc":
            request.allow("PUT", "POST", "GET")
            alloc = self._alloc(alloc_id)
            self._double.clients[alloc.node_id].forget(alloc_id)
            return Reply()
        raise ApiError(404, "resource not found")

    async def logs(self, request: Request) -> Reply:
        """Frames of {Data, File, Offset}, or plain text."""
        request.allow("GET")
        alloc_id = request.path.removeprefix("/v1/client/fs/logs/")
        if not alloc_id:
            raise ApiError(400, "must provide alloc id")
        task, kind, origin = request.get("task"), request.get("type"), request.get("origin") or "start"
        if not task:
            raise ApiError(400, "must provide task name")
        if kind not in ("stdout", "stderr"):
            raise ApiError(400, "must provide log type (stdout/stderr)")
        if origin not in ("start", "end"):
            raise ApiError(400, "origin must be start or end")
        alloc = self._alloc(alloc_id)
        group = group_of(alloc.job, alloc.task_group) or {}
        if task not in {t["Name"] for t in group["Tasks"]}:
            raise ApiError(400, f'unknown task name "{task}"')
        if not alloc.task_states or alloc.task_states[task].started_at is None:
            raise ApiError(404, f'task "{task}" not started yet. No logs available')
        file = self._double.data_dir / "alloc" / alloc_id / "alloc" / "logs" / f"{task}.{kind}.0"
        size = file.stat().st_size if file.exists() else 0
        offset = request.number("offset")
        start = max(0, size - offset) if origin == "end" else min(offset, size)
        plain, follow = request.flag("plain"), request.flag("follow")
        content_type = "text/plain" if plain else "application/json"
        stream = self._frames(alloc_id, file, start, plain=plain, follow=follow)
        return Reply(stream=stream, headers={"Content-Type": content_type})

    async def _frames(
        self, alloc_id: str, file: Path, start: int, *, plain: bool, follow: bool
    ) -> AsyncIterator[bytes]:
        name = f"alloc/logs/{file.name}"
        silent_s = 0.0
        while True:
            data = _read(file, start)
            if data:
                start += len(data)
                silent_s = 0.0
                if plain:
                    yield data
                else:
                    frame = {"Data": base64.b64encode(data).decode(), "File": name, "Offset": start}
                    yield msgspec.json.encode(frame)
                continue
            if not follow or not self._alive(alloc_id):
                return
            await asyncio.sleep(FOLLOW_INTERVAL_S)
            silent_s += FOLLOW_INTERVAL_S
            if silent_s >= HEARTBEAT_S and not plain:
                silent_s = 0.0
                yield b"{}"

    def _alive(self, alloc_id: str) -> bool:
        alloc = self._double.state.allocs.get(alloc_id)
        return alloc is not None and not alloc.client_terminal

    def _stats(self, alloc: Allocation) -> Reply:
        runner = self._runner(alloc)
        node = self._double.state.nodes[alloc.node_id]
        tasks = {name: _task_stats(usage, node) for name, usage in runner.usage().items()}
        parts = [task["ResourceUsage"] for task in tasks.values()]
        memory = {key: sum(part["MemoryStats"][key] for part in parts) for key in _MEMORY}
        cpu = {key: sum(part["CpuStats"][key] for part in parts) for key in _CPU}
        measured_memory = parts[0]["MemoryStats"]["Measured"] if parts else None
        measured_cpu = parts[0]["CpuStats"]["Measured"] if parts else None
        return Reply(
            {
                "ResourceUsage": {
                    "MemoryStats": {**memory, "Measured": measured_memory},
                    "CpuStats": {**cpu, "Measured": measured_cpu},
                    "DeviceStats": [],
                },
                "Tasks": tasks,
                "Timestamp": max((task["Timestamp"] for task in tasks.values()), default=0),
            }
        )

    async def _restart(self, alloc: Allocation, body: Json) -> Reply:
        name = body.get("TaskName") or None
        runner = self._runner(alloc)
        if name is not None and body.get("AllTasks"):
            raise ApiError(500, "task name cannot be set when restarting all tasks")
        if name is not None and name not in runner.tasks:
            raise ApiError(500, f"Could not find task runner for task: {name}")
        if not any(task.running for task in runner.tasks.values()):
            raise ApiError(500, "Task not running")
        await runner.restart(name)
        return Reply({"Index": 0})

    def _alloc(self, alloc_id: str) -> Allocation:
        check_uuid(alloc_id, "alloc")
        alloc = self._double.state.allocs.get(alloc_id)
        if alloc is None:
            raise ApiError(404, f'Unknown allocation "{alloc_id}"')
        return alloc

    def _runner(self, alloc: Allocation) -> AllocRunner:
        if not self._double.reachable(alloc.node_id):
            raise ApiError(404, "No path to node")
        runner = self._double.runner(alloc)
        if runner is None:
            raise ApiError(404, f'Unknown allocation "{alloc.id}"')
        return runner


_MEMORY = ("RSS", "Cache", "Swap", "MappedFile", "Usage", "MaxUsage", "KernelUsage", "KernelMaxUsage")
_CPU = ("SystemMode", "UserMode", "TotalTicks", "ThrottledPeriods", "ThrottledTime", "Percent")


def _task_stats(usage: Usage, node: Node) -> Json:
    frequency = node.cpu_mhz / int(node.attributes["cpu.numcores"])
    memory = {**dict.fromkeys(_MEMORY, 0), "RSS": usage.rss, "Usage": usage.rss}
    cpu = {
        "SystemMode": 0.0,
        "UserMode": usage.cpu_percent,
        "TotalTicks": usage.cpu_percent / 100 * frequency,
        "ThrottledPeriods": 0,
        "ThrottledTime": 0,
        "Percent": usage.cpu_percent,
    }
    resource: Json = {
        "MemoryStats": {**memory, "Measured": ["RSS", "Swap", "Usage"]},
        "CpuStats": {**cpu, "Measured": ["System Mode", "User Mode", "Percent"]},
        "DeviceStats": None,
    }
    pids = {str(pid): resource for pid in usage.pids}
    return {"ResourceUsage": resource, "Timestamp": usage.at_ns, "Pids": pids}


def _read(file: Path, start: int) -> bytes:
    if not file.exists():
        return b""
    with file.open("rb") as log:
        log.seek(start)
        return log.read(FRAME_BYTES)
